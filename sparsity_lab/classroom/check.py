"""A student's own check before handing in: is every answer in its place, and do the visible tests pass?

The notebook carries a list of its questions, which the release writes into it. `python -m sparsity_lab.classroom.check
FILE` runs the saved notebook from a fresh start; in a notebook, `check_notebook` does that.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from sparsity_lab.classroom.handed_in import paper, read_cells, unanswered

SECONDS = 600  # for the whole notebook


def with_questions(empty: NotebookNode) -> NotebookNode:
    """Returns a released notebook that carries itself, so that what became of it can be compared with it."""
    kept = ("id", "cell_type", "source", "metadata")
    empty.metadata["sparsity_lab"] = {"cells": [{key: cell[key] for key in kept} for cell in empty.cells]}
    return empty


def check_notebook(path: str | None = None) -> None:
    """Prints what is missing in this notebook, as it was saved last, and which tests fail. ``path``: another one."""
    found = path or os.environ.get("JPY_SESSION_NAME", "")
    if not Path(found).is_file():
        print("This cell checks the notebook in JupyterLab. Save the notebook and run the cell there.")
        return
    environment = {key: value for key, value in os.environ.items() if key != "JPY_SESSION_NAME"}
    environment["PLOTLY_RENDERER"] = "json"  # shows nothing
    command = [sys.executable, "-m", "sparsity_lab.classroom.check", str(Path(found).resolve())]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"The notebook took more than {SECONDS} s.")
            return
    print(done.stdout.rpartition("\f")[2] or done.stderr[-500:])


def problems(path: Path) -> list[str]:
    """Returns what is wrong with a saved notebook before it is run. Raises ValueError for one without its list."""
    data = path.read_bytes()
    questions = _questions(data)
    handed = read_cells(data)
    sheet = paper(questions, questions, handed)
    said = list(sheet.notes)
    if sheet.student in (None, "", "nobody"):
        said.append('STUDENT is not set: write your name into the first cell of code, as in STUDENT: str = "ada"')
    said += [f"{cell.name} has no answer yet" for cell in sheet.cells if unanswered(cell)]
    copies = Counter(cell["name"] for cell in handed if cell["name"])
    return said + [f"{name} is there {n} times" for name, n in copies.items() if n > 1 and name not in " ".join(said)]


def _questions(data: bytes) -> NotebookNode:
    try:
        kept = json.loads(data.decode("utf-8-sig"))["metadata"]["sparsity_lab"]["cells"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("this notebook has lost its list of questions: put your answers into a fresh copy") from None
    return nbformat.from_dict({"cells": kept})


def failed_tests(path: Path) -> list[str]:
    """Runs the notebook's code from a fresh start; returns each test that fails, with what it says."""
    from sparsity_lab.classroom.student import Room

    data = path.read_bytes()
    questions = _questions(data)
    room, failed = Room(lambda _: {}), []
    for cell in paper(questions, questions, read_cells(data)).cells:
        if cell.kind in ("text", "written") or cell.demonstration:
            continue
        error = room.run({"code": cell.source, "seconds": SECONDS})["error"]
        if error and cell.kind == "test":
            failed.append(f"{cell.name} ({cell.points:g} points): {error[0]}: {error[1]}")
    return failed


def _report(path: Path) -> str:
    try:
        said, failed = problems(path), failed_tests(path)
    except (ValueError, OSError) as error:
        return str(error)
    lines = [f"- {line}" for line in (*said, *failed)]
    return "\n".join(lines) if lines else "All answers are in their places, and all visible tests pass. Hand it in."


if __name__ == "__main__":
    print("\f" + _report(Path(sys.argv[1])))
