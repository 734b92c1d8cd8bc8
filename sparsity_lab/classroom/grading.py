"""From what students hand in to marks and feedback.

Student code runs in a sandbox, one process for each submission (`worker`). Marks are made here, outside of it, from the
outputs that came back.
"""

import contextlib
import copy
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from nbformat import NotebookNode
from nbgrader.api import Gradebook

from sparsity_lab.classroom.nbgrader import enter_marks, write_feedback
from sparsity_lab.classroom.sandbox import Sandbox
from sparsity_lab.classroom.worker import mark_not_run

LARGEST = 10_000_000  # bytes of a notebook that is handed in
GRACE = 90  # seconds that starting and ending a kernel may add to a submission's time
COLUMNS = ["student", "assignment", "points", "max", "auto", "auto_max", "written", "written_max", "parts", "status"]

# ---- what was handed in


@dataclass(frozen=True)
class Limits:
    cell_seconds: int
    seconds: int  # for all cells of a submission


@dataclass(frozen=True)
class Submission:
    student: str
    assignment: str
    path: Path


def submissions(folder: Path, assignments: list[str]) -> Iterator[Submission]:
    """Yields ``folder/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb``: for every student each assignment that anybody handed in,
    whether it is there or not. Raises ValueError for a folder without students, or without a known assignment."""
    students = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for student in students:
        if not re.fullmatch(r"\w[\w.@-]*", student, re.ASCII):
            raise ValueError(f"student={student!r}: use letters, digits, and . _ @ - for the folder of a student")

    some = [name for name in assignments if any((folder / student / name).is_dir() for student in students)]
    if not some:
        form = f"STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, with assignments {', '.join(assignments)}"
        raise ValueError(f"submissions={str(folder)!r} must hold {form}")
    for student in students:
        for name in some:
            yield Submission(student, name, folder / student / name / f"{name}.ipynb")


def read_submission(path: Path) -> NotebookNode:
    """Reads a notebook that a student handed in. Raises ValueError that says why it can't be read."""
    if path.is_symlink() or path.parent.is_symlink():
        raise ValueError("the notebook is a link, not a file")
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.ipynb"))
        raise ValueError(f"no {path.name} was handed in" + (f", but {', '.join(others)}" if others else ""))
    if path.stat().st_size > LARGEST:
        raise ValueError(f"the notebook has {path.stat().st_size:,} bytes, more than {LARGEST:,}: clear its outputs")

    try:
        book: NotebookNode = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(book)
    except (nbformat.ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a notebook: {str(error).splitlines()[0][:200]}") from None
    return book


def rebuilt(source: NotebookNode, empty: NotebookNode, handed_in: NotebookNode | None, student: str) -> Any:
    """Returns the notebook to grade: the source's cells in the source's order, hidden tests included, with the
    student's answers in place of the solutions. Cells that a student added stay where they stood. Whatever a student
    did to tests, points or order is gone.

    ``empty`` is the source as it was released; a question without an answer stays as it is there.
    """
    book = copy.deepcopy(empty)
    places = {_grade_id(cell): place for place, cell in enumerate(book.cells) if _grade_id(cell)}
    given = {cell.get("id") for cell in book.cells} | {cell.source for cell in book.cells}

    # Answers go to their places; a cell of the student's own is kept behind the last known cell above it.
    added: dict[int, list[NotebookNode]] = {}
    last = -1
    for cell in [] if handed_in is None else handed_in.cells:
        place = places.get(_grade_id(cell))
        if place is not None:
            last = place
            if _about(book.cells[place]).get("solution"):  # if an answer was copied, the last copy counts
                book.cells[place].source = cell.source
        elif cell.cell_type == "code" and not {cell.get("id"), cell.source} & given and not _has_parameters(cell):
            added.setdefault(last, []).append(nbformat.v4.new_code_cell(cell.source))

    # Everything else is the source's, hidden tests too.
    for cell, original in zip(book.cells, source.cells, strict=True):
        if not _about(cell).get("solution"):
            cell.source = original.source
        if _has_parameters(cell):
            cell.source += f"\nSTUDENT = {student!r}"
    book.cells = added.get(-1, []) + [c for place, cell in enumerate(book.cells) for c in (cell, *added.get(place, []))]
    return book


def _about(cell: NotebookNode) -> Any:
    about = cell.metadata.get("nbgrader", {})
    return about if isinstance(about, dict) else {}


def _grade_id(cell: NotebookNode) -> str | None:
    name = _about(cell).get("grade_id")
    return name if isinstance(name, str) else None


def _has_parameters(cell: NotebookNode) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


# ---- grading


@dataclass(frozen=True)
class Course:
    """The teacher's side: the assignments with solutions, and the gradebook's folder, which nobody else may read."""

    source: Path
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # nobody else may read marks

    def grade(self, submission: Submission, sandbox: Sandbox, limits: Limits) -> dict[str, Any]:
        """Grades one submission and returns its row of the table. Whatever a student did, there is a row."""
        student, assignment, name = submission.student, submission.assignment, f"{submission.assignment}.ipynb"
        source = nbformat.read(self.source / assignment / name, as_version=4)
        empty = nbformat.read(self.folder / "release" / assignment / name, as_version=4)
        book = rebuilt(source, empty, None, student)
        try:
            book = rebuilt(source, empty, read_submission(submission.path), student)
            book, trouble = execute_submission(book, sandbox, limits)
        except ValueError as error:
            trouble = str(error)
            mark_not_run(book.cells, trouble)

        target = self.folder / "submitted" / student / assignment / name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, target)
        enter_marks(self.folder, self.source, student, assignment)
        row = self.row(student, assignment)
        return row | {"status": trouble or row["status"]}

    def row(self, student: str, assignment: str) -> dict[str, Any]:
        """Returns the marks in the gradebook, including those given by hand, as a row of the table."""
        with Gradebook(f"sqlite:///{self.folder.resolve() / 'gradebook.db'}") as book:
            (notebook,) = book.find_submission(assignment, student).notebooks
            by_name = {grade.name: grade for grade in notebook.grades}
            grades = [by_name[cell.name] for cell in notebook.notebook.source_cells if cell.name in by_name]
            written = [grade for grade in grades if grade.cell.cell_type == "markdown"]
            tests = [grade for grade in grades if grade not in written]
            waiting = [grade.name for grade in written if grade.needs_manual_grade]

            row: dict[str, Any] = {"student": student, "assignment": assignment}
            sums = ("points", "max", grades), ("auto", "auto_max", tests), ("written", "written_max", written)
            for points, most, some in sums:
                row |= {points: sum(grade.score for grade in some), most: sum(grade.max_score for grade in some)}
            row["parts"] = "; ".join(f"{grade.name} {grade.score:g}/{grade.max_score:g}" for grade in grades)
            return row | {"status": f"for you to read: {', '.join(waiting)}" if waiting else "graded"}

    def feedback(self, student: str, assignment: str) -> None:
        """Writes the student's HTML page, with hidden tests and comments, to ``folder/feedback``."""
        write_feedback(self.folder, self.source, student, assignment)


def execute_submission(book: NotebookNode, sandbox: Sandbox, limits: Limits) -> tuple[NotebookNode, str]:
    """Runs a notebook in a process group of its own, none of which is left afterwards.

    Returns the notebook with outputs, and what went wrong. Raises ValueError if nothing came back.
    """
    with tempfile.TemporaryDirectory(prefix="lab-grade-") as folder:  # only this user can look into it
        job = {"notebook": f"{folder}/in.ipynb", "out": f"{folder}/out.ipynb", "sandbox": asdict(sandbox)}
        nbformat.write(book, job["notebook"])
        command = [sys.executable, "-m", "sparsity_lab.classroom.worker"]
        worker = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=-1, text=True, start_new_session=True, cwd=folder
        )
        try:
            seconds = limits.seconds + limits.cell_seconds + GRACE
            answer, errors = worker.communicate(json.dumps(job | asdict(limits)), timeout=seconds)
            if worker.returncode == 0:
                return nbformat.read(job["out"], as_version=4), json.loads(answer.splitlines()[-1])
            raise ValueError(f"could not be run: {(errors.strip().splitlines() or ['ended'])[-1][:200]}")
        except subprocess.TimeoutExpired:
            raise ValueError(f"took more than {limits.seconds} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
            sandbox.clean_up()


def write_marks(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes marks as CSV for a learning-management system: one row per student and assignment."""
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False, float_format="%g", lineterminator="\r\n")
