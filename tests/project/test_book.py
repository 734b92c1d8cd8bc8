"""Checks that the notebooks read as one book: a map, each one's place in it, final questions, a glossary, links."""

import re
import runpy
import tomllib
from pathlib import Path

import nbformat
import pytest

from sparsity_lab.classroom.execute import find_notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = find_notebooks(ROOT / "notebooks", [])
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def prose(path: Path) -> list[str]:
    """Returns the Markdown of a file, without its code blocks; for a notebook, that of its cells."""
    if path.suffix != ".ipynb":
        return [re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)]
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]


def rows(path: Path) -> dict[str, list[str]]:
    """Returns the table of notebooks in a file: name of the notebook → its title and the cells beside it."""
    found = {}
    for line in "\n".join(prose(path)).splitlines():
        link = re.match(r"\| \[(\d\d [^\]]+)\]\((?:notebooks/)?([^)]+)\)", line)
        if link:
            found[link[2]] = [link[1], *(cell.strip() for cell in line.split("|")[2:-1])]
    return found


# --- The map, and the place of each notebook in it -----------------------------------------------------------

LISTED = rows(ROOT / "README.md")
MAP = rows(NOTEBOOKS[0])


def test_readme_and_map_list_all_notebooks_in_order_with_the_same_questions() -> None:
    names = [path.name for path in NOTEBOOKS]
    assert list(LISTED) == names
    assert list(MAP) == names[1:], "the map is in the first notebook, so it does not link to it"
    for name, (title, question, builds_on) in MAP.items():
        assert [title, question] == LISTED[name][:2]
        assert builds_on
        assert all(before < title[:2] for before in builds_on.split(", "))


def place(number: int) -> str:
    """Returns the line that stands at both ends of a notebook."""
    names = list(LISTED)
    here = [f"You are here: **{names[number][:2]}**"]
    if number:
        here.append(f"← [{LISTED[names[number - 1]][0]}]({names[number - 1]})")
    here.append(f"[the map]({names[0] if number else ''}#The-map)")
    if number + 1 < len(names):
        here.append(f"[{LISTED[names[number + 1]][0]}]({names[number + 1]}) →")
    return f"*{' · '.join(here)}*"


@each_notebook
def test_notebook_says_where_it_stands(path: Path) -> None:
    first, *_, last = prose(path)
    number, _, title = LISTED[path.name][0].partition(" ")
    assert first.startswith(f"# {number} · {title}")
    assert first.splitlines()[1:4] == ["", place(NOTEBOOKS.index(path)), ""]
    assert last.splitlines()[-2:] == ["", place(NOTEBOOKS.index(path))]


@each_notebook
def test_notebook_ends_in_three_questions_and_an_open_one(path: Path) -> None:
    end = prose(path)[-1].partition("## Three questions\n\n")[2]
    assert re.findall(r"^(\d)\. ", end, re.MULTILINE) == ["1", "2", "3"]
    third, separator, rest = end.partition("\n\n**And an open one:** ")
    assert separator
    assert "\n3. " in third
    open_one = rest.split("\n\n")[0]
    for question in [*re.split(r"\n\d\. ", third), open_one]:
        assert "?" in question


# --- The glossary --------------------------------------------------------------------------------------------

TERMS = tomllib.loads((ROOT / "docs" / "glossary.toml").read_text())


def test_glossary_is_up_to_date_and_sorted() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text()
    assert page == runpy.run_path(str(ROOT / "docs" / "glossary.py"))["page"](), "`make format` writes it"
    shown = re.findall(r"^- \*\*(.+?)\*\*: ", page, re.MULTILINE)
    assert shown == sorted(TERMS, key=str.lower) == list(TERMS)


@pytest.mark.parametrize("term", TERMS)
def test_term_stands_in_the_notebook_that_introduces_it(term: str) -> None:
    entry = TERMS[term]
    (path,) = find_notebooks(ROOT / "notebooks", [entry["notebook"]])
    text = re.sub(r"\s+", " ", " ".join(prose(path)).replace("*", ""))
    assert re.search(rf"(?<!\w){re.escape(term)}", text, re.IGNORECASE)
    assert {"means", "notebook"} <= set(entry) <= {"means", "notebook", "source"}
    assert re.fullmatch(r"\[[^\]]+\]\(https://\S+\)", entry.get("source", "[none](https://none)"))
    assert entry["means"][0].isupper()
    assert entry["means"].endswith(".")


@pytest.mark.parametrize("term", TERMS)
def test_no_earlier_notebook_introduces_the_term(term: str) -> None:
    bold = re.compile(rf"\*\*{re.escape(term)}s?\*\*", re.IGNORECASE)
    first = [path.name[:2] for path in NOTEBOOKS if any(bold.search(cell) for cell in prose(path))][:1]
    assert first in ([], [TERMS[term]["notebook"]]), "a term is in bold where it is explained"


# --- Links ---------------------------------------------------------------------------------------------------

PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "data").glob("*.md"),
    *(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts),
]


def anchors(path: Path) -> set[str]:
    """Returns what may follow #: names of headings as JupyterLab (notebooks) or GitHub (Markdown) makes them."""
    headings = re.findall(r"^#+ (.+)$", "\n".join(prose(path)), re.MULTILINE)
    if path.suffix == ".ipynb":
        return {heading.replace(" ", "-") for heading in headings}
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    for text, target in LINK.findall("\n".join(prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"[{text}]({target})"
        assert not anchor or anchor in anchors(there), f"[{text}]({target})"
