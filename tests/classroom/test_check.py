"""What students get, and what they can find out before they hand in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode, v4

from sparsity_lab.classroom import assignments as course
from sparsity_lab.classroom.check import check_notebook
from tests.assignments import NAMES, ROOT, SOURCE, about, source, with_answers

NAME = "ps6_measures"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course")
    course.students_copy(ROOT, course.release(SOURCE, folder), folder / "students")
    return folder / "students"


def test_the_students_copy_holds_no_solution(copy: Path) -> None:
    secret, given = set(), set()
    hidden = re.compile(r"### BEGIN (?:SOLUTION|HIDDEN TESTS)(.*?)### END", re.DOTALL)
    for name in NAMES:
        for cell in source(name).cells:
            given |= {line.strip() for line in hidden.sub("", cell.source).splitlines() if not about(cell).get("grade")}
            for part in hidden.findall(cell.source):
                secret |= {line.strip() for line in part.splitlines() if len(line.strip()) > 30}
            if about(cell).get("grade") and cell.cell_type == "markdown":
                secret |= {line.strip() for line in cell.source.splitlines() if len(line.strip()) > 30}
    shown = {line.strip() for name in NAMES for cell in nbformat.read(
        copy / "notebooks" / "assignments" / name / f"{name}.ipynb", 4).cells for line in cell.source.splitlines()
    }  # fmt: skip
    assert len(secret) > 200
    assert not (secret - given) & shown
    for path in (path for path in copy.rglob("*") if path.is_file()):
        text = path.read_text(errors="replace")
        assert path.suffix == ".py" or "### BEGIN SOLUTION" not in text, path
        assert "hidden tests\n" not in text.lower() or path.suffix != ".ipynb", path
    assert not (copy / "tests").exists()
    assert not (copy / "docs" / "teaching.md").exists()


def test_the_students_copy_runs_by_itself(copy: Path) -> None:
    code = "import sparsity_lab, sparsity_lab.files as f; print(sparsity_lab.__file__, f.DATA.exists())"
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(copy / "sparsity_lab" / "__init__.py"), "True"]
    assert (copy / "setup.py").exists(), "or a wheel built there would lack the notebooks"


def solved(copy: Path) -> NotebookNode:
    book = nbformat.read(copy / "notebooks" / "assignments" / NAME / f"{NAME}.ipynb", as_version=4)
    answers = {about(cell)["grade_id"]: cell.source for cell in source(NAME).cells if about(cell).get("solution")}
    with_answers(book, answers)
    next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])).source = 'STUDENT = "ada"'
    return book


def checked(book: NotebookNode, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    nbformat.write(book, folder / "mine.ipynb")
    check_notebook(str(folder / "mine.ipynb"))
    return capsys.readouterr().out


def test_a_solved_notebook_is_ready(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "all visible tests pass" in checked(solved(copy), tmp_path, capsys)


def test_everything_that_would_cost_points_is_said(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = solved(copy)
    cells = {about(cell).get("grade_id"): cell for cell in book.cells}
    next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])).source = 'STUDENT = "nobody"'
    empty = nbformat.read(copy / "notebooks" / "assignments" / NAME / f"{NAME}.ipynb", as_version=4)
    cells["gini"].source = next(cell.source for cell in empty.cells if about(cell).get("grade_id") == "gini")
    cells["hoyer"].source = "def hoyer(c):\n    return 0.5"
    book.cells.remove(cells["babies"])
    book.cells.insert(2, v4.new_markdown_cell("A remark."))
    text = checked(book, tmp_path, capsys)
    assert "STUDENT is not set" in text
    assert "gini has no answer yet" in text
    assert "test_hoyer (2 points): AssertionError: if all but one are 0" in text
    assert "the answer cell babies is missing" in text
    assert "text was added below" in text


def test_another_notebook_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "lost its list of questions" in checked(v4.new_notebook(), tmp_path, capsys)
    check_notebook(str(tmp_path / "none.ipynb"))
    assert "Save the notebook" in capsys.readouterr().out
