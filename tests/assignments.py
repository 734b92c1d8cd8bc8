"""Assignments run without a kernel: cells in a plain namespace, which is what a notebook's Python does with them."""

from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from sparsity_lab.classroom import assignments as course

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebooks" / "assignments"
NAMES = course.names(SOURCE)


def source(name: str) -> NotebookNode:
    return nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)


def about(cell: NotebookNode) -> dict[str, Any]:
    return cell.metadata.get("nbgrader", {})


def is_test(cell: NotebookNode) -> bool:
    return bool(about(cell).get("grade") and not about(cell)["solution"])


def with_answers(book: NotebookNode, answers: dict[str, str]) -> NotebookNode:
    """``book`` with other code in the solution cells of these names."""
    cells = {about(cell).get("grade_id"): cell for cell in book.cells if about(cell).get("solution")}
    for name, code in answers.items():
        cells[name].source = code
    return book


def run(book: NotebookNode, student: str, whole: bool = True) -> dict[str, float]:
    """Points of each test: all of them unless it raises. Cells other than tests may raise too, as in a notebook.

    Unless ``whole``, cells tagged `demonstration` are left out: no test depends on them, and they take time."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    earned: dict[str, float] = {}
    for cell in book.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or ("demonstration" in tags and not whole):
            continue
        text = cell.source
        if "parameters" in tags:
            text += f"\nSTUDENT = {student!r}"
        try:
            exec(compile(text, about(cell).get("grade_id", "cell"), "exec"), scope)
            fine = True
        except Exception:
            fine = False
        if is_test(cell):
            earned[about(cell)["grade_id"]] = about(cell)["points"] if fine else 0
    return earned
