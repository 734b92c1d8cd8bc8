"""Make assignments for students, and grade in a sandbox what they hand in."""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from sparsity_lab.classroom.assignments import names, release

ASSIGNMENTS = Path("notebooks/assignments")
SECONDS, CELL_SECONDS, MEMORY = 300, 30, 2 << 30  # for a submission, for a cell; bytes
WRITTEN = "Marks: {0}/marks.csv; feedback: {0}/feedback"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(required=True, metavar="STEP")
    build = steps.add_parser("build", help="make the students' notebooks, without solutions and hidden tests")
    build.add_argument("--out", type=Path, default=Path("build"), help="they are put into OUT/release (default build)")

    grade = steps.add_parser("grade", help="run what students handed in, in a sandbox; write marks and feedback")
    grade.add_argument("submissions", type=Path, help="a folder of STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb")
    grade.add_argument("--user", help="as root: the user who runs student code (default: a number that nobody has)")
    grade.add_argument("--unsandboxed", action="store_true", help="run student code as you, if no sandbox works")
    grade.add_argument("--cell-seconds", type=int, default=CELL_SECONDS, help="limit for a cell (default 30)")
    grade.add_argument("--seconds", type=int, default=SECONDS, help="limit for a submission (default 300)")
    grade.add_argument("--memory", type=float, default=MEMORY, help="bytes that a submission may take (default 2 GB)")

    marks = steps.add_parser("marks", help="write marks and feedback again, after you have marked written answers")
    for step, work in ((build, _build), (grade, _grade), (marks, _marks)):
        step.set_defaults(step=work)
        step.add_argument("--source", type=Path, default=ASSIGNMENTS, help="the assignments, with solutions")
    for step in (grade, marks):
        step.add_argument("--out", type=Path, default=Path("build/marks"), help="folder of the gradebook")


def run(options: argparse.Namespace) -> None:
    options.step(options)


def _build(options: argparse.Namespace) -> None:
    target = options.out / "release"
    with tempfile.TemporaryDirectory() as folder:
        made = release(options.source, Path(folder))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
    for name in names(options.source):
        print(target / name / f"{name}.ipynb")


def _grade(options: argparse.Namespace) -> None:
    from sparsity_lab.classroom.grading import Course, Limits, submissions, write_marks
    from sparsity_lab.classroom.sandbox import choose

    if not options.submissions.is_dir():
        raise ValueError(f"submissions={str(options.submissions)!r} is no folder")
    todo = list(submissions(options.submissions, names(options.source)))
    course = Course(options.source, options.out)

    # Student code must see neither solutions nor the work of others.
    root = Path(__file__).resolve().parents[2]
    hidden = [options.source, course.folder, options.submissions, root / ".git", root / "tests"]
    sandbox = choose(options.user, options.unsandboxed, int(options.memory), [path.resolve() for path in hidden])
    print(f"Sandbox: {sandbox}", flush=True)

    release(options.source, course.folder)
    limits = Limits(options.cell_seconds, options.seconds)
    rows = []
    for submission in todo:
        start = time.monotonic()
        row = course.grade(submission, sandbox, limits)
        course.feedback(submission.student, submission.assignment)
        label, points = f"{submission.student} {submission.assignment}", f"{row['points']:g} of {row['max']:g}"
        print(f"{label}: {points} in {time.monotonic() - start:.0f} s; {row['status']}", flush=True)
        rows.append(row)
        write_marks(course.folder / "marks.csv", rows)  # after each one, in case the next is interrupted
    print(WRITTEN.format(course.folder))


def _marks(options: argparse.Namespace) -> None:
    from sparsity_lab.classroom.grading import Course, write_marks

    course, rows = Course(options.source, options.out), []
    for path in sorted((course.folder / "submitted").glob("*/*")):
        student, assignment = path.parts[-2:]
        course.feedback(student, assignment)
        rows.append(course.row(student, assignment))
    write_marks(course.folder / "marks.csv", rows)
    print(WRITTEN.format(course.folder))
