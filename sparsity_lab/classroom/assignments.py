"""The course: assignments with solutions (`notebooks/assignments`) → notebooks for students, and marks (`grading`)."""

import argparse
import hashlib
import io
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sparsity_lab.classroom.grading import Course

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


# ---- the command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="STEP")
    build = verbs.add_parser("build", help="the students' notebooks, without solutions and hidden tests")
    build.set_defaults(work=_build)
    build.add_argument("--out", type=Path, default=Path("build"), help="they come into OUT/release (default build)")
    grade = verbs.add_parser("grade", help="run what students handed in, in a sandbox; write marks and feedback")
    grade.set_defaults(work=_grade)
    grade.add_argument("submissions", type=Path, help="a folder of STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb")
    grade.add_argument("--user", help="as root: whom student code runs as (default: a number that is nobody's)")
    grade.add_argument("--unsandboxed", action="store_true", help="run student code as you, if no sandbox works")
    grade.add_argument("--cell-seconds", type=int, default=CELL_SECONDS, help="a cell may take (default 30)")
    grade.add_argument("--seconds", type=int, default=SECONDS, help="a submission may take (default 300)")
    grade.add_argument("--memory", type=float, default=MEMORY, help="bytes it may take (default 2 GB)")
    marks = verbs.add_parser("marks", help="marks and feedback anew, after you have marked written answers")
    marks.set_defaults(work=_marks)
    for verb in (build, grade, marks):
        verb.add_argument("--source", type=Path, default=ASSIGNMENTS, help="the assignments, with solutions")
    for verb in (grade, marks):
        verb.add_argument("--out", type=Path, default=Path("build/marks"), help="the gradebook's folder")


def _build(options: argparse.Namespace) -> int:
    target = options.out / "release"
    with tempfile.TemporaryDirectory() as folder:
        made = release(options.source, Path(folder))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
    for name in names(options.source):
        print(target / name / f"{name}.ipynb")
    return 0


def _grade(options: argparse.Namespace) -> int:
    from sparsity_lab.classroom.grading import Limits, submissions, write_marks
    from sparsity_lab.classroom.sandbox import choose

    if not options.submissions.is_dir():
        raise ValueError(f"submissions={str(options.submissions)!r} is no folder")
    todo = list(submissions(options.submissions, names(options.source)))
    course = _open(options)
    root = Path(__file__).resolve().parents[2]
    hidden = [options.source, course.folder, options.submissions, root / ".git", root / "tests"]
    sandbox = choose(options.user, options.unsandboxed, int(options.memory), [p.resolve() for p in hidden])
    print(f"Sandbox: {sandbox}", flush=True)
    release(options.source, course.folder)
    limits = Limits(options.cell_seconds, options.seconds)
    rows = []
    for submission in todo:
        start = time.monotonic()
        row = course.grade(submission, sandbox, limits)
        course.feedback(submission.student, submission.assignment)
        rows.append(row)
        what, points = f"{submission.student} {submission.assignment}", f"{row['points']:g} of {row['max']:g}"
        print(f"{what}: {points} in {time.monotonic() - start:.0f} s; {row['status']}", flush=True)
        write_marks(course.folder / "marks.csv", rows)
    print(f"Marks: {course.folder / 'marks.csv'}; feedback: {course.folder / 'feedback'}")
    return 0


def _marks(options: argparse.Namespace) -> int:
    from sparsity_lab.classroom.grading import write_marks

    course = _open(options)
    rows = []
    for student in sorted(path.name for path in (course.folder / "submitted").glob("*")):
        for path in sorted((course.folder / "submitted" / student).iterdir()):
            course.feedback(student, path.name)
            rows.append(course.row(student, path.name))
    write_marks(course.folder / "marks.csv", rows)
    print(f"Marks: {course.folder / 'marks.csv'}; feedback: {course.folder / 'feedback'}")
    return 0


def _open(options: argparse.Namespace) -> "Course":
    from sparsity_lab.classroom.grading import Course

    options.out.mkdir(parents=True, exist_ok=True)
    options.out.chmod(0o700)
    return Course(options.source, options.out)
