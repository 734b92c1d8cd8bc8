"""Make assignments for students, and grade in a sandbox what they hand in."""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from sparsity_lab.classroom.assignments import names, release, students_copy
from sparsity_lab.units import duration

ASSIGNMENTS = Path("notebooks/assignments")
SECONDS, CELL_SECONDS, MEMORY = 300, 30, 2 << 30  # for a submission, for a cell; bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(required=True, metavar="STEP")
    build = steps.add_parser("build", help="make the students' notebooks, without solutions and hidden tests")
    build.add_argument("--out", type=Path, default=Path("build"), help="they are put into OUT/release (default build)")

    grade = steps.add_parser("grade", help="run what students handed in, in a sandbox; write marks and feedback")
    what = "a folder or zip file: STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, or a download from Canvas or Moodle"
    grade.add_argument("submissions", type=Path, help=what)
    grade.add_argument("--user", help="as root: the user who runs student code (default: numbers that nobody has)")
    grade.add_argument("--unsandboxed", action="store_true", help="run student code as you, if no sandbox works")
    grade.add_argument("--cell-seconds", type=int, default=CELL_SECONDS, help="limit for a cell (default 30)")
    grade.add_argument("--seconds", type=int, default=SECONDS, help="limit for a submission (default 300)")
    grade.add_argument("--memory", type=float, default=MEMORY, help="bytes that a submission may take (default 2 GB)")
    grade.add_argument("--jobs", type=int, help="submissions to run at the same time (default: one per core)")

    mark = steps.add_parser("mark", help="open a page of this machine on which you mark written answers")
    mark.add_argument("--port", type=int, default=0, help="port of the page (default: a free one)")
    mark.add_argument("--no-browser", action="store_true", help="only print the page's address")

    marks = steps.add_parser("marks", help="write marks and feedback again, after you have marked written answers")
    for step, work in ((build, _build), (grade, _grade), (mark, _mark), (marks, _marks)):
        step.set_defaults(step=work)
        step.add_argument("--source", type=Path, default=ASSIGNMENTS, help="the assignments, with solutions")
    for step in (grade, mark, marks):
        step.add_argument("--out", type=Path, default=Path("build/marks"), help="folder of the gradebook")
        step.add_argument("--roster", type=Path, help="CSV of your students, e.g. from Canvas or Moodle")
        step.add_argument("--deadlines", type=Path, help="TOML of due dates and extensions")


def run(options: argparse.Namespace) -> None:
    options.step(options)


def _build(options: argparse.Namespace) -> None:
    target, root = options.out / "release", Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        made = release(options.source, Path(folder))
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)
    for name in names(options.source):
        print(target / name / f"{name}.ipynb")
    if (root / "pyproject.toml").exists():
        students_copy(root, target, options.out / "students")
        print(f"{options.out / 'students'}: the whole suite as students install it, without solutions")


def _grade(options: argparse.Namespace) -> None:
    from sparsity_lab.classroom.collect import read_roster, submissions
    from sparsity_lab.classroom.grading import Course, Limits
    from sparsity_lab.classroom.sandbox import choose, forget_the_dead
    from sparsity_lab.runs.pool import cores

    if not options.submissions.exists():
        raise ValueError(f"submissions={str(options.submissions)!r} does not exist")
    course = Course(options.source, options.out)
    roster = read_roster(options.roster) if options.roster else []
    unpacked = course.folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    todo = submissions(options.submissions, names(options.source), unpacked, roster)

    # Student code must see neither solutions nor the work of others.
    root = Path(__file__).resolve().parents[2]
    hidden = [options.source, course.folder, options.submissions, root / ".git", root / "tests"]
    sandbox = choose(options.user, options.unsandboxed, int(options.memory), [path.resolve() for path in hidden])
    print(f"Sandbox: {sandbox}", flush=True)

    forget_the_dead()
    course.prepare()
    limits, start = Limits(options.cell_seconds, options.seconds), time.monotonic()
    done = course.grade_all(todo, sandbox, limits, options.jobs or cores())
    for number, (submission, seconds) in enumerate(done, 1):
        row = course.row(submission.student, submission.assignment)
        label, points = f"{submission.student} {submission.assignment}", f"{row['points']:g} of {row['max']:g}"
        left = (time.monotonic() - start) / number * (len(todo) - number)
        progress = f"[{number}/{len(todo)}, {duration(left)} left]" if number < len(todo) else f"[{number}/{len(todo)}]"
        print(f"{progress} {label}: {points} in {seconds:.0f} s; {row['status']}", flush=True)
    _write(course, options)


def _mark(options: argparse.Namespace) -> None:
    import asyncio
    import contextlib
    import webbrowser

    from sparsity_lab.classroom.grading import Course
    from sparsity_lab.classroom.marking import serve_marking

    if not (options.out / "gradebook.db").exists():
        raise ValueError(f"out={str(options.out)!r} has no gradebook: grade first")

    async def serve() -> None:
        _, address = serve_marking(options.out, options.source, options.port)
        print(f"Mark written answers at {address}\nCtrl-C ends it and writes the marks.", flush=True)
        if not options.no_browser:
            webbrowser.open(address)
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    _write(Course(options.source, options.out), options)


def _marks(options: argparse.Namespace) -> None:
    from sparsity_lab.classroom.grading import Course

    course = Course(options.source, options.out)
    for student, assignment in course.graded():
        course.feedback(student, assignment)
    _write(course, options)


def _write(course: Any, options: argparse.Namespace) -> None:
    """Writes the tables of everything that was ever graded into this gradebook."""
    from sparsity_lab.classroom.collect import read_roster
    from sparsity_lab.classroom.marks import read_deadlines, write_lms, write_marks
    from sparsity_lab.classroom.similar import write_similar

    deadlines = read_deadlines(options.deadlines) if options.deadlines else {}
    rows = []
    for student, assignment in course.graded():
        row, deadline = course.row(student, assignment), deadlines.get(assignment)
        handed_in = course.report(student, assignment).get("handed_in")
        late = deadline.days_late(student, handed_in) if deadline and handed_in else 0
        cost = late * deadline.points_per_day if deadline else 0
        rows.append(row | {"late_days": late, "final": max(0, row["points"] - cost)})
    write_marks(course.folder / "marks.csv", rows)
    print(f"Marks: {course.folder}/marks.csv; feedback: {course.folder}/feedback")
    reports = ((*which, course.report(*which)) for which in course.graded())
    if pairs := write_similar(course.folder / "similar.csv", reports):
        print(f"{pairs} pairs of students have answers in common: {course.folder}/similar.csv")
    if path := write_lms(course.folder, rows, read_roster(options.roster) if options.roster else []):
        print(f"For your learning platform: {path}")
