"""The converters of nbgrader, each run on one assignment: make the students' notebook, take up marks, write feedback.

Importing nbgrader takes a second, so this module is imported where it is used.
"""

import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from nbgrader import preprocessors as steps
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory

STUB = "# YOUR CODE HERE\nraise NotImplementedError('nothing here yet: put your code in place of this line')"
TEXT_STUB = "*Your answer here, in place of this line.*"


def make_release(course: Path, source: Path, assignment: str) -> None:
    """Writes the students' notebook to ``course/release`` and the points of its tests to ``course/gradebook.db``."""
    # nbgrader calls `alembic`, which is beside this Python and not on the PATH of someone who activated nothing.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

    maker = _converter(GenerateAssignment, course, source, assignment_id=assignment)
    maker.config.ClearSolutions.code_stub = {"python": STUB}
    maker.config.ClearSolutions.text_stub = TEXT_STUB
    _run(maker)


def enter_marks(course: Path, source: Path, student: str, assignment: str) -> None:
    """Enters an executed submission into the gradebook. nbgrader takes cells, points and checksums from its database
    once more, whatever the notebook says."""
    grader = _converter(Autograde, course, source, student_id=student, assignment_id=assignment)
    grader.sanitize_preprocessors = [steps.DeduplicateIds, steps.OverwriteCells, steps.CheckCellMetadata]
    grader.autograde_preprocessors = [steps.LimitOutput, steps.SaveAutoGrades, steps.CheckCellMetadata]
    _run(grader)


def write_feedback(course: Path, source: Path, student: str, assignment: str) -> None:
    """Writes the student's HTML page, with hidden tests and comments. What student code displayed is sanitised."""
    writer = _converter(GenerateFeedback, course, source, student_id=student, assignment_id=assignment)
    writer.config.HTMLExporter.sanitize_html = True
    _run(writer)


def _converter(kind: type[Any], course: Path, source: Path, **which: str) -> Any:
    directory = CourseDirectory(root=str(course.resolve()), source_directory=str(source.resolve()), **which)
    return kind(coursedir=directory, force=True)


def _run(converter: Any) -> None:
    """Starts a converter. Its log is of interest only if it fails: then it is part of the ValueError."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    converter.log.addHandler(handler)
    converter.log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy's, about what nbgrader does
            converter.start()
    except Exception as error:
        raise ValueError(f"{error}\n{log.getvalue()}") from error
    finally:
        converter.log.removeHandler(handler)
