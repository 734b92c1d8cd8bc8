"""nbgrader's part: its converter makes the students' notebook, and its database keeps all marks.

Importing nbgrader takes a second, so this module is imported where it is used.
"""

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgrader.api import Grade, Gradebook
from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory

from sparsity_lab.classroom.handed_in import STUB, TEXT_STUB

CONFIG = """# So that nbgrader's own pages find the assignments of this gradebook.
c = get_config()
c.CourseDirectory.source_directory = {source!r}
c.CourseDirectory.root = {root!r}
"""


@dataclass(frozen=True)
class Mark:
    """Points of one test or written answer. ``waiting``: somebody has to read it."""

    name: str
    points: float
    most: float
    written: bool
    waiting: bool
    by_hand: bool
    comment: str


def make_release(course: Path, source: Path, assignment: str) -> None:
    """Writes the students' notebook to ``course/release`` and the points of its tests to ``course/gradebook.db``."""
    # nbgrader calls `alembic`, which is beside this Python and not on the PATH of someone who activated nothing.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

    places = {"root": str(course.resolve()), "source_directory": str(source.resolve())}
    directory = CourseDirectory(assignment_id=assignment, **places)
    maker = GenerateAssignment(coursedir=directory, force=True)
    maker.config.ClearSolutions.code_stub = {"python": f"# YOUR CODE HERE\n{STUB}"}
    maker.config.ClearSolutions.text_stub = TEXT_STUB

    # Its log is of interest only if it fails: then it is part of the error.
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    maker.log.addHandler(handler)
    maker.log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy's, about what nbgrader does
            maker.start()
    except Exception as error:
        raise ValueError(f"{error}\n{log.getvalue()}") from error
    finally:
        maker.log.removeHandler(handler)


@contextmanager
def gradebook(course: Path) -> Iterator[Any]:
    """Yields the open gradebook of a course; its changes are kept unless an error is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Gradebook(f"sqlite:///{course.resolve() / 'gradebook.db'}") as book:
            yield book
            book.db.commit()


def enter_points(
    course: Path, student: str, assignment: str, earned: dict[str, float], unread: dict[str, bool]
) -> None:
    """Enters the points of tests, and for each written answer whether somebody has to read it. Points and comments
    that were given by hand stay."""
    with gradebook(course) as book:
        book.update_or_create_student(student)
        submission = book.update_or_create_submission(assignment, student)
        (notebook,) = submission.notebooks
        there = {grade.name for grade in notebook.grades}
        for cell in notebook.notebook.grade_cells:
            if cell.name not in there:
                notebook.grades.append(Grade(cell=cell, notebook=notebook))
        for grade in notebook.grades:
            if grade.name in earned:
                grade.auto_score, grade.needs_manual_grade = earned[grade.name], False
            elif grade.name in unread:
                grade.auto_score, grade.needs_manual_grade = 0, unread[grade.name]


def marks_of(course: Path, student: str, assignment: str) -> list[Mark]:
    """Returns the marks in the gradebook in the order of the notebook, including those given by hand."""
    with gradebook(course) as book:
        return _marks(book.find_submission(assignment, student))


def marks_by_student(course: Path, assignment: str) -> dict[str, list[Mark]]:
    """Returns what `marks_of` does, for all students at once."""
    with gradebook(course) as book:
        return {found.student_id: _marks(found) for found in book.assignment_submissions(assignment)}


def _marks(submission: Any) -> list[Mark]:
    (notebook,) = submission.notebooks
    by_name = {grade.name: grade for grade in notebook.grades}
    comments = {comment.name: comment.manual_comment or "" for comment in notebook.comments}
    grades = [by_name[cell.name] for cell in notebook.notebook.source_cells if cell.name in by_name]
    return [
        Mark(
            grade.name, float(grade.score or 0), float(grade.max_score), grade.cell.cell_type == "markdown",
            bool(grade.needs_manual_grade), grade.manual_score is not None, comments.get(grade.name, ""),
        )
        for grade in grades
    ]  # fmt: skip


def mark_by_hand(course: Path, student: str, assignment: str, name: str, points: float, comment: str) -> None:
    """Enters the points and the comment that a teacher gives for a written answer."""
    with gradebook(course) as book:
        grade = book.find_grade(name, assignment, assignment, student)
        grade.manual_score, grade.needs_manual_grade = points, False
        book.find_comment(name, assignment, assignment, student).manual_comment = comment or None
