"""What students hand in → marks and feedback, by nbgrader.

Student code runs in a sandbox, one process for each submission (`grading_worker`); marks are made here, outside of it,
of what came out.
"""

import contextlib
import copy
import csv
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
from nbformat import NotebookNode
from nbgrader import preprocessors as steps
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateFeedback

from sparsity_lab.classroom.assignments import course_directory, quietly
from sparsity_lab.classroom.sandbox import Sandbox
from sparsity_lab.classroom.worker import not_run

LARGEST = 10_000_000  # bytes of a notebook that is handed in
GRACE = 90  # seconds that starting and ending a kernel may add to a submission's time
COLUMNS = ["student", "assignment", "points", "max", "auto", "auto_max", "written", "written_max", "parts", "status"]

# ---- what was handed in


@dataclass(frozen=True)
class Limits:
    cell_seconds: int
    seconds: int  # of all cells of a submission


@dataclass(frozen=True)
class Submission:
    student: str
    assignment: str
    path: Path


def submissions(folder: Path, assignments: list[str]) -> Iterator[Submission]:
    """``folder/STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb``: for every student each assignment that anybody handed in, whether
    it is there or not. Raises ValueError for a folder without students, or without a known assignment."""
    students = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for student in students:
        if not re.fullmatch(r"\w[\w.@-]*", student, re.ASCII):
            raise ValueError(f"student={student!r}: use letters, digits, and . _ @ - for the folder of a student")
    some = [name for name in assignments if any((folder / student / name).is_dir() for student in students)]
    if not some:
        raise ValueError(
            f"submissions={str(folder)!r} must hold STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, with assignments "
            f"{', '.join(assignments)}"
        )
    for student in students:
        for name in some:
            yield Submission(student, name, folder / student / name / f"{name}.ipynb")


def read(path: Path) -> NotebookNode:
    """A notebook that a student handed in. Raises ValueError that says why it can't be read."""
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
    """The notebook that is graded: the source's cells in the source's order, with hidden tests and with the student's
    answers in the place of solutions; cells that a student added come where they stood. Nothing that a student did to
    tests, points or order is left.

    ``empty``: the source as released; what was not answered stays as in it.
    """
    book = copy.deepcopy(empty)
    places = {_grade_id(cell): place for place, cell in enumerate(book.cells) if _grade_id(cell)}
    given = {cell.get("id") for cell in book.cells} | {cell.source for cell in book.cells}
    added: dict[int, list[NotebookNode]] = {}
    last = -1
    for cell in [] if handed_in is None else handed_in.cells:
        place = places.get(_grade_id(cell))
        if place is not None:
            last = place
            if _about(book.cells[place]).get("solution"):  # the last one, if it was copied
                book.cells[place].source = cell.source
        elif cell.cell_type == "code" and not {cell.get("id"), cell.source} & given and not _has_parameters(cell):
            added.setdefault(last, []).append(nbformat.v4.new_code_cell(cell.source))
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
    """Where the teacher's side is: nobody else may look into ``folder``."""

    source: Path
    folder: Path

    def grade(self, submission: Submission, sandbox: Sandbox, limits: Limits) -> dict[str, Any]:
        """Marks of one submission, a row of the table. Whatever a student did, it is a row."""
        name = f"{submission.assignment}.ipynb"
        source = nbformat.read(self.source / submission.assignment / name, as_version=4)
        empty = nbformat.read(self.folder / "release" / submission.assignment / name, as_version=4)
        try:
            trouble, handed_in = "", read(submission.path)
        except ValueError as error:
            trouble, handed_in = str(error), None
        book = rebuilt(source, empty, handed_in, submission.student)
        executed = None
        if handed_in is not None:
            executed, trouble = execute(book, sandbox, limits)
        if executed is None:
            not_run(book.cells, trouble)
        else:
            book = executed
        target = self.folder / "submitted" / submission.student / submission.assignment / name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, target)
        self._record(submission)
        row = self.row(submission.student, submission.assignment)
        return row | {"status": trouble or row["status"]}

    def _record(self, submission: Submission) -> None:
        """Into the gradebook, by nbgrader, which takes cells, points and checksums from its database once more."""
        which = {"student_id": submission.student, "assignment_id": submission.assignment}
        grader = Autograde(coursedir=course_directory(self.folder, self.source, **which), force=True)
        grader.sanitize_preprocessors = [steps.DeduplicateIds, steps.OverwriteCells, steps.CheckCellMetadata]
        grader.autograde_preprocessors = [steps.LimitOutput, steps.SaveAutoGrades, steps.CheckCellMetadata]
        quietly(grader)

    def row(self, student: str, assignment: str) -> dict[str, Any]:
        """Marks as the gradebook has them now, those given by hand too."""
        with Gradebook(f"sqlite:///{self.folder.resolve() / 'gradebook.db'}") as book:
            (notebook,) = book.find_submission(assignment, student).notebooks
            grades = {grade.name: grade for grade in notebook.grades}
            order = [cell.name for cell in notebook.notebook.source_cells if cell.name in grades]
            tests = [n for n in order if not _is_written(grades[n])]
            written = [n for n in order if _is_written(grades[n])]
            waits = [n for n in written if grades[n].needs_manual_grade]
            return {
                "student": student,
                "assignment": assignment,
                "points": sum(grades[n].score for n in order),
                "max": sum(grades[n].max_score for n in order),
                "auto": sum(grades[n].score for n in tests),
                "auto_max": sum(grades[n].max_score for n in tests),
                "written": sum(grades[n].score for n in written),
                "written_max": sum(grades[n].max_score for n in written),
                "parts": "; ".join(f"{n} {grades[n].score:g}/{grades[n].max_score:g}" for n in order),
                "status": f"to be read by you: {', '.join(waits)}" if waits else "graded",
            }

    def feedback(self, student: str, assignment: str) -> None:
        """An HTML page for the student, with hidden tests and comments. What student code displayed is sanitised."""
        which = {"student_id": student, "assignment_id": assignment}
        writer = GenerateFeedback(coursedir=course_directory(self.folder, self.source, **which), force=True)
        writer.config.HTMLExporter.sanitize_html = True
        quietly(writer)


def _is_written(grade: Any) -> bool:
    return bool(grade.cell.cell_type == "markdown")


def execute(book: NotebookNode, sandbox: Sandbox, limits: Limits) -> tuple[NotebookNode | None, str]:
    """The notebook with outputs, and what went wrong; None if nothing came back. In a process group of its own, none of
    which is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="lab-grade-") as folder:  # for this user alone
        job = {"notebook": f"{folder}/in.ipynb", "out": f"{folder}/out.ipynb", "sandbox": asdict(sandbox)}
        nbformat.write(book, job["notebook"])
        command = [sys.executable, "-m", "sparsity_lab.classroom.worker"]
        worker = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=-1, text=True, start_new_session=True, cwd=folder
        )
        text = json.dumps(job | {"cell_seconds": limits.cell_seconds, "seconds": limits.seconds})
        try:
            said, errors = worker.communicate(text, timeout=limits.seconds + limits.cell_seconds + GRACE)
            if worker.returncode == 0:
                return nbformat.read(job["out"], as_version=4), json.loads(said.splitlines()[-1])
            return None, f"could not be run: {(errors.strip().splitlines() or ['ended'])[-1][:200]}"
        except subprocess.TimeoutExpired:
            return None, f"took more than {limits.seconds} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
            sandbox.clean_up()


def write_marks(path: Path, rows: list[dict[str, Any]]) -> None:
    """As CSV, for a learning-management system: a row a student and assignment."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows({name: _short(value) for name, value in row.items()} for row in rows)


def _short(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value
