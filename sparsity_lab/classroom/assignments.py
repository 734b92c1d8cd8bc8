"""The course: assignments with solutions (`notebooks/assignments`) → notebooks for students, and marks (`grading`)."""

import hashlib
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ASSIGNMENTS = Path("notebooks/assignments")
STUB = "# YOUR CODE HERE\nraise NotImplementedError('nothing here yet: put your code in place of this line')"
TEXT_STUB = "*Your answer here, in place of this line.*"
SECONDS, CELL_SECONDS, MEMORY = 300, 30, 2 << 30  # of a submission, of a cell; bytes


def dice(student: str, assignment: str) -> np.random.Generator:
    """Random numbers that belong to one student and one assignment: the same on every machine, so that the grader has
    them too, and others for everybody else."""
    digest = hashlib.sha256(f"{assignment}/{student.strip().lower()}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


# ---- release


def names(source: Path) -> list[str]:
    """Assignments: folders that hold a notebook of their name. Raises ValueError if there are none."""
    found = sorted(path.stem for path in source.glob("*/*.ipynb") if path.stem == path.parent.name)
    if not found:
        raise ValueError(f"source={str(source)!r} has no assignments: each is a folder NAME with NAME.ipynb in it")
    return found


def release(source: Path, course: Path) -> Path:
    """Writes the students' notebooks to ``course/release``, without solutions and hidden tests, and the points of all
    tests into ``course/gradebook.db``; gives the folder."""
    from nbgrader.converters import GenerateAssignment

    # nbgrader calls `alembic`, which is beside this Python and not on the PATH of someone who activated nothing.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    course.mkdir(parents=True, exist_ok=True)
    for name in names(source):
        directory = course_directory(course, source, assignment_id=name)
        maker = GenerateAssignment(coursedir=directory, force=True)
        maker.config.ClearSolutions.code_stub = {"python": STUB}
        maker.config.ClearSolutions.text_stub = TEXT_STUB
        quietly(maker)
    return course / "release"


def course_directory(course: Path, source: Path, **which: str) -> Any:
    from nbgrader.coursedir import CourseDirectory

    return CourseDirectory(root=str(course.resolve()), source_directory=str(source.resolve()), **which)


def quietly(converter: Any) -> None:
    """Starts a converter of nbgrader; its log is of interest only if it fails."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    converter.log.addHandler(handler)
    converter.log.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SQLAlchemy, about what nbgrader does
            converter.start()
    except Exception as error:
        raise ValueError(f"{error}\n{log.getvalue()}") from error
    finally:
        converter.log.removeHandler(handler)
