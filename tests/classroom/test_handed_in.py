"""Careless submissions: what can be understood counts, and what can't is said."""

import base64
import copy
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import NotebookNode, v4

from sparsity_lab.classroom import assignments as course
from sparsity_lab.classroom.collect import Submission, read_roster, submissions
from sparsity_lab.classroom.handed_in import TEXT_STUB, Paper, paper, read_cells
from sparsity_lab.classroom.marks import read_deadlines, write_lms, write_marks
from sparsity_lab.classroom.written_text import safe_html
from tests.assignments import NAMES, SOURCE, about, source

NAME = "ps2_counting"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course.release(SOURCE, tmp_path_factory.mktemp("course"))


@pytest.fixture
def empty(released: Path) -> NotebookNode:
    return nbformat.read(released / NAME / f"{NAME}.ipynb", as_version=4)


def answers(book: NotebookNode) -> dict[str, NotebookNode]:
    return {about(cell)["grade_id"]: cell for cell in book.cells if about(cell).get("solution")}


def solved(empty: NotebookNode) -> NotebookNode:
    book = copy.deepcopy(empty)
    for name, cell in answers(book).items():
        cell.source = f"{name} = 'my answer'" if cell.cell_type == "code" else "In my own words."
    return book


def read(book: NotebookNode | dict[str, Any] | bytes, empty: NotebookNode) -> Paper:
    data = book if isinstance(book, bytes) else json.dumps(book).encode()
    return paper(source(NAME), empty, read_cells(data))


def found(sheet: Paper) -> dict[str, str]:
    """The answers by name; those that were split stand one below the other."""
    texts: dict[str, str] = {}
    for cell in sheet.cells:
        if cell.kind in ("answer", "written"):
            texts[cell.name] = "\n".join(filter(None, (texts.get(cell.name, ""), cell.source)))
    return texts


# ---- one notebook


def no_metadata(book: NotebookNode) -> None:
    for cell in book.cells:
        cell.metadata = {}


def no_ids(book: NotebookNode) -> None:
    no_metadata(book)
    for cell in book.cells:
        cell.pop("id", None)
    names = {"repaired": "def repaired(c):\n    return {}", "my_dollars": "my_dollars: float = 1 + \\\n 2"}
    for cell in book.cells:
        for name, code in names.items():
            if cell.source == f"{name} = 'my answer'":
                cell.source = f"{name} = 'my answer'  # {code[:3]}"


def upside_down(book: NotebookNode) -> None:
    book.cells = book.cells[::-1]


def outputs(book: NotebookNode) -> None:
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = [v4.new_output("stream", text="x" * 500_000)]


@pytest.mark.parametrize("change", [no_metadata, no_ids, upside_down, outputs])
def test_answers_are_found_whatever_became_of_the_rest(
    change: Callable[[NotebookNode], None], empty: NotebookNode
) -> None:
    book = solved(empty)
    change(book)
    wanted = {name: cell.source for name, cell in answers(solved(empty)).items()}
    assert {name: text.split("  #")[0] for name, text in found(read(book, empty)).items()} == wanted


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read(encoding: str, empty: NotebookNode) -> None:
    data = json.dumps(solved(empty), ensure_ascii=False).encode(encoding)
    assert found(read(data, empty))["words"] == "In my own words."


def test_a_copy_below_and_a_split_cell_are_told_apart(empty: NotebookNode) -> None:
    book = solved(empty)
    cell = answers(book)["bill"]
    place = book.cells.index(cell)
    old = copy.deepcopy(cell) | {"id": "other", "source": "bill = 'an old try'"}
    book.cells.insert(place + 1, nbformat.from_dict(old))
    sheet = read(book, empty)
    assert found(sheet)["bill"] == "bill = 'my answer'"
    assert "bill was answered 2 times: the one in its own cell counts" in sheet.notes

    book.cells[place].source = "helper = 1"
    sheet = read(book, empty)
    assert found(sheet)["bill"] == "helper = 1\nbill = 'an old try'"
    assert "bill was split into 2 cells: all of them count" in sheet.notes


def test_an_answer_in_a_copy_of_an_empty_cell_counts(empty: NotebookNode) -> None:
    book = solved(empty)
    place = book.cells.index(answers(book)["missed"])
    stub = answers(empty)["missed"]
    book.cells[place].source, book.cells[place].id = stub.source, stub.id
    book.cells.insert(place + 1, v4.new_code_cell("def missed(config, context):\n    return 1"))
    sheet = read(book, empty)
    assert found(sheet)["missed"].startswith("def missed(config, context):\n    return 1")
    assert "missed was found in another cell" in sheet.notes


@pytest.mark.parametrize("where", ["above", "below", "in the task"])
def test_words_beside_the_stub_are_an_answer(where: str, empty: NotebookNode) -> None:
    book = solved(empty)
    words = answers(book)["words"]
    words.source = TEXT_STUB
    place = book.cells.index(words)
    if where == "in the task":
        book.cells[place - 1].source += "\n\nMy answer."
    else:
        book.cells.insert(place + (where == "below"), v4.new_markdown_cell("My answer."))
    sheet = read(book, empty)
    assert found(sheet)["words"] == "My answer."
    assert "text beside words was added to it" in sheet.notes


def test_what_can_not_be_used_is_said(empty: NotebookNode) -> None:
    book = solved(empty)
    book.cells.remove(answers(book)["bill"])
    book.cells.insert(5, v4.new_markdown_cell("A remark."))
    answers(book)["words"].source = "x" * 100_000
    sheet = read(book, empty)
    assert "the answer cell bill is missing" in sheet.notes
    assert any(note.startswith("text was added below ") for note in sheet.notes)
    assert "words has more than 20,000 characters: the rest was cut off" in sheet.notes
    assert "no answer cells found" in read(v4.new_notebook(cells=[v4.new_code_cell("1")]), empty).notes


def test_pictures_stay_and_other_attachments_do_not(empty: NotebookNode) -> None:
    book = solved(empty)
    text = base64.b64encode(b"<svg onload='alert(1)'/>").decode()
    attached = {"p.png": {"image/png": base64.b64encode(PNG).decode()}, "x.png": {"image/svg+xml": text}}
    answers(book)["words"].attachments = attached
    sheet = read(book, empty)
    (words,) = [cell for cell in sheet.cells if cell.kind == "written"]
    assert list(words.pictures) == ["p.png"]
    assert words.pictures["p.png"].startswith("data:image/png;base64,")
    assert any(note.startswith("a picture was left out") for note in sheet.notes)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["cells", "cell_type", "metadata", "nbgrader", "grade_id", "source", "attachments", "id", "tags", "code"]
    ), inner, max_size=4), max_leaves=20,
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from(["cell_type", "metadata", "source", "id"]), json_values), max_size=4))
def test_any_json_is_read_or_refused(cells: list[Any]) -> None:
    book = source(NAME)
    sheet = paper(book, book, read_cells(json.dumps({"cells": cells}).encode()))
    "".join(cell.source for cell in sheet.cells).encode()  # no half of a pair


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'{"cells": 3}', b"[" * 200_000, b"\xff\xfe\x00", b'{"a": 1}'])
def test_what_is_no_notebook_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a notebook"):
        read_cells(data)


def test_half_a_pair_of_characters_is_replaced(empty: NotebookNode) -> None:
    book = json.loads(json.dumps(solved(empty)))
    next(c for c in book["cells"] if c["id"] == answers(empty)["words"].id)["source"] = "\ud800 \x00 fine"
    sheet = read(book, empty)
    assert found(sheet)["words"].endswith("fine")
    assert "\ud800" not in found(sheet)["words"]
    assert any(note.startswith("words has characters that no page can show") for note in sheet.notes)


@pytest.mark.parametrize("name", NAMES)
def test_the_release_holds_every_cell_of_the_source(name: str, released: Path) -> None:
    book = nbformat.read(released / name / f"{name}.ipynb", as_version=4)
    sheet = paper(source(name), book, read_cells(json.dumps(book).encode()))
    assert [cell.source for cell in sheet.cells if cell.kind == "test"] == [
        cell.source for cell in source(name).cells if about(cell).get("grade") and cell.cell_type == "code"
    ]
    assert not sheet.notes


# ---- text as HTML

EVIL = [
    "<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "[a](javascript:alert(1))",
    "[a](JaVa&#115;cript&colon;alert(1))", "<javascript:alert(1)>", "![a](data:text/html,<script>1</script>)",
    r"$\text{<img src=x onerror=alert(1)>}$", r"$$\href{javascript:alert(1)}{x}$$", '![" onerror="x](attachment:p)',
    "[a]: javascript:alert(1)\n\n[a]", "`<script>`", "~~~html\n<script>1</script>\n~~~", "|a|\n|-|\n|<svg/onload=1>|",
    '[a](https://x.y/" onmouseover="1)', r"$\unicode{x3c}img src=x\unicode{x3e}$",
]  # fmt: skip


@given(st.lists(st.sampled_from(EVIL) | st.text(max_size=20), max_size=5).map(" ".join))
def test_no_text_brings_anything_that_runs(text: str) -> None:
    page = safe_html(text, {"p": "data:image/png;base64,AAAA"})
    tags = re.findall(r"<\s*/?\s*([a-zA-Z]+)((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>", page)
    assert not {name.lower() for name, _ in tags} & {"script", "svg", "iframe", "object", "embed", "style", "form"}
    for _, attributes in tags:
        bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", attributes).lower()
        assert not re.search(r"\bon\w+\s*=?|style|srcdoc|formaction", bare)
        for value in re.findall(r"(?:href|src)=\"([^\"]*)\"", attributes):
            assert value.startswith(("https://", "http://", "data:image/png;"))


def test_formulas_tables_and_pictures_are_shown() -> None:
    page = safe_html("$x^2$ and\n\n|a|\n|-|\n|b|\n\n![p](attachment:p.png)", {"p.png": "data:image/png;base64,AA"})
    assert "<msup>" in page
    assert "<td>b</td>" in page
    assert 'src="data:image/png;base64,AA"' in page


# ---- downloads


def put(path: Path, book: NotebookNode | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book or v4.new_notebook()))
    return path


def collected(folder: Path, tmp_path: Path, *roster: Any) -> dict[str, Submission]:
    return {one.student: one for one in submissions(folder, NAMES, tmp_path / "unpacked", *roster)}


@pytest.mark.parametrize(
    ("file", "student"),
    [
        ("ada/ps2_counting/ps2_counting.ipynb", "ada"),
        ("ada/PS2_Counting/PS2_Counting.ipynb", "ada"),
        ("ada/ps2_counting/ps2_counting-Copy1.ipynb", "ada"),
        ("ada/ps2_counting (1).ipynb", "ada"),
        ("Group A/ada/ps2_counting/homework.ipynb", "ada"),
        ("lovelaceada_12345_67890_ps2_counting-2.ipynb", "lovelaceada"),
        ("submissions/lovelaceada_LATE_12345_67890_ps2_counting.ipynb", "lovelaceada"),
        ("Ada Lovelace_4711_assignsubmission_file/ps2_counting.ipynb", "Ada_Lovelace"),
        ("Ada Lovelace_4711_assignsubmission_file_ps2_counting.ipynb", "Ada_Lovelace"),
        ("ps2_counting/ada.ipynb", "ada"),
        ("ps2_counting/ada/homework.ipynb", "ada"),
        ("Ada Løvelace/ps2_counting/ps2_counting.ipynb", "Ada_Løvelace"),
    ],
)
def test_students_and_assignments_are_found(file: str, student: str, tmp_path: Path) -> None:
    path = put(tmp_path / "in" / file)
    one = collected(tmp_path / "in", tmp_path)[student]
    assert (one.assignment, one.path, one.trouble) == (NAME, path, "")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, file)
    assert collected(tmp_path / "all.zip", tmp_path)[student].assignment == NAME


def test_a_zip_of_a_student_is_opened_and_the_newest_file_counts(tmp_path: Path) -> None:
    notebook = put(tmp_path / "x" / "ps2_counting.ipynb")
    target = tmp_path / "in" / "ada_1_2_homework.zip"
    target.parent.mkdir()
    with zipfile.ZipFile(target, "w") as archive:
        archive.write(notebook, "../../folder/ps2_counting.ipynb")
    put(tmp_path / "in" / "bob_2_3_ps2_counting.ipynb")
    newest = put(tmp_path / "in" / "bob_2_4_ps2_counting-10.ipynb")
    found = collected(tmp_path / "in", tmp_path)
    assert found["ada"].path is not None
    assert (tmp_path / "unpacked") in found["ada"].path.parents
    assert found["bob"].path == newest
    assert found["bob"].note == "ps2_counting-10.ipynb was read, and not ps2_counting.ipynb"


def test_what_can_not_be_read_is_one_row(tmp_path: Path) -> None:
    put(tmp_path / "in" / "ada" / NAME / f"{NAME}.ipynb")
    put(tmp_path / "elsewhere" / f"{NAME}.ipynb")
    (tmp_path / "in" / "bob").mkdir()
    (tmp_path / "in" / "bob" / NAME).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "eve").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "kim" / NAME).mkdir(parents=True)
    (tmp_path / "in" / "zoe").mkdir()
    (tmp_path / "in" / "zoe" / "ps2.zip").write_bytes(b"no zip")
    (tmp_path / "in" / "max" / NAME).mkdir(parents=True)
    os.mkfifo(tmp_path / "in" / "max" / NAME / f"{NAME}.ipynb")
    place = tmp_path / "in" / "deep"
    for _ in range(50):
        place /= "d"
    place.mkdir(parents=True)
    found = collected(tmp_path / "in", tmp_path)
    assert found["ada"].trouble == ""
    assert found["bob"].trouble == f"{NAME} is a link, which is not followed"
    assert found["eve"].trouble == "eve is a link, which is not followed"
    assert found["kim"].trouble == "no notebook was handed in"
    assert found["max"].trouble == f"{NAME}.ipynb can't be read"
    assert "zip" in found["zoe"].trouble


def test_nothing_known_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "in" / "ada" / "homework.ipynb")
    with pytest.raises(ValueError, match="must hold STUDENT/ASSIGNMENT"):
        collected(tmp_path / "in", tmp_path)


CANVAS = "Student,ID,SIS User ID,SIS Login ID,Section\n    Points Possible,,,,\n"
CANVAS += '"Lovelace, Ada",12345,u1,ada,one\n"Turing, Alan",222,u2,alan,one\n'
MOODLE = "Identifier,Full name,Email address,Status,Grade,Maximum Grade\n"
MOODLE += "Participant 4711,Ada Lovelace,ada@uni.edu,Submitted,,32\nParticipant 4712,Alan Turing,alan@uni.edu,,,32\n"


@pytest.mark.parametrize(
    ("text", "file", "student", "written", "line"),
    [
        (CANVAS, "lovelaceada_12345_9_ps2_counting.ipynb", "ada", "canvas.csv", '"Lovelace, Ada",12345,u1,ada,one,17'),
        (MOODLE, "Ada Lovelace_4711_assignsubmission_file/ps2_counting.ipynb", "ada@uni.edu", "moodle_ps2_counting.csv",
         "Participant 4711,Ada Lovelace,ada@uni.edu,Submitted,17,32"),
    ],
)  # fmt: skip
def test_the_roster_names_everyone(text: str, file: str, student: str, written: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "roster.csv").write_text(text)
    roster = read_roster(tmp_path / "roster.csv")
    put(tmp_path / "in" / file)
    found = collected(tmp_path / "in", tmp_path, roster)
    assert len(found) == 2
    assert found[student].trouble == ""
    rows = [{"student": student, "assignment": NAME, "final": 17.0}]
    path = write_lms(tmp_path, rows, roster)
    assert path == tmp_path / written
    assert line in path.read_text().splitlines()


def test_marks_are_no_formulas(tmp_path: Path) -> None:
    write_marks(tmp_path / "marks.csv", [{"student": "=1+1", "assignment": NAME, "status": "@x"}])
    assert "'=1+1," in (tmp_path / "marks.csv").read_text()


def test_deadlines(tmp_path: Path) -> None:
    path = tmp_path / "deadlines.toml"
    path.write_text(
        "[ps2_counting]\ndue = 2030-05-01T12:00:00\npoints_per_day = 2\n[ps2_counting.extensions]\nada = 3\n"
    )
    deadline = read_deadlines(path)[NAME]
    due = deadline.due.timestamp()
    assert [deadline.days_late("bob", due + seconds) for seconds in (-9, 0, 1, 86_401)] == [0, 0, 1, 2]
    assert deadline.days_late("ada", due + 3.5 * 86_400) == 1
    path.write_text("[ps2_counting]\ndue = 'soon'\n")
    with pytest.raises(ValueError, match="deadlines="):
        read_deadlines(path)
