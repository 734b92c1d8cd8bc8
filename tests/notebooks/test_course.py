"""Submissions of all kinds, hostile ones too, through the grader and its sandbox: each gets what it deserves, says why,
and harms no other."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode, v4

from sparsity_lab.classroom import assignments as course
from sparsity_lab.classroom.collect import Submission
from sparsity_lab.classroom.grading import Course, Limits
from sparsity_lab.classroom.sandbox import Sandbox, choose
from tests.assignments import about

pytestmark = pytest.mark.notebooks

LIMITS = Limits(cell_seconds=5, seconds=60)
MEMORY = 1 << 30
TESTS = {"first": 2.0, "second": 3.0, "third": 1.0}
SOLUTIONS = {
    "double": "def double(x):\n    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
    "square": "def square(x):\n    ### BEGIN SOLUTION\n    return x * x\n    ### END SOLUTION",
    "plus": "mine = 0\n### BEGIN SOLUTION\nmine = n + 1\n### END SOLUTION",
}
SETUP = "from sparsity_lab.classroom.assignments import dice\nn = int(dice(STUDENT, 'small').integers(1000))"
HIDDEN = "\n### BEGIN HIDDEN TESTS\nassert double(21) == 42, 'kiwi'\n### END HIDDEN TESTS"


def small() -> NotebookNode:
    """An assignment whose kernel starts fast: three tasks of 2, 3 and 1 points and a written one of 4."""

    def cell(name: str, text: str, **what: Any) -> NotebookNode:
        make = v4.new_markdown_cell if name == "why" else v4.new_code_cell
        whole = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False} | what
        return make(text, metadata={"nbgrader": whole | {"grade_id": name}})

    def test(name: str, text: str) -> NotebookNode:
        return cell(name, text, grade=True, locked=True, points=TESTS[name])

    parameters = v4.new_code_cell('STUDENT: str = "nobody"  # you', metadata={"tags": ["parameters"]})
    cells = [
        v4.new_markdown_cell("# Small"),
        parameters,
        cell("setup", SETUP, locked=True),
        cell("double", SOLUTIONS["double"], solution=True),
        test("first", "assert double(1) == 2" + HIDDEN),
        cell("square", SOLUTIONS["square"], solution=True),
        test("second", "import warnings\nwarnings.warn('be careful')\nassert square(3) == 9"),
        cell("plus", SOLUTIONS["plus"], solution=True),
        test("third", "assert mine == n + 1"),
        cell("why", "**Model answer.** Because.", grade=True, solution=True, points=4),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return v4.new_notebook(cells=cells, metadata=kernel)


def find(book: NotebookNode, name: str) -> NotebookNode:
    return next(cell for cell in book.cells if about(cell).get("grade_id") == name)


def find_parameters(book: NotebookNode) -> NotebookNode:
    return next(cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))


def answered(**answers: str) -> Callable[[NotebookNode], None]:
    """Right answers, but for these."""

    def change(book: NotebookNode) -> None:
        for name, text in (SOLUTIONS | answers).items():
            find(book, name).source = text

    return change


def without_tests(book: NotebookNode) -> None:
    answered(double="double = None")(book)
    book.cells = [cell for cell in book.cells if not about(cell).get("grade")]


def with_easy_tests(book: NotebookNode) -> None:
    answered(double="double = None")(book)
    find(book, "first").source = "pass"
    about(find(book, "first"))["points"] = 100
    find(book, "second").cell_type = "markdown"
    find(book, "second").metadata.nbgrader.solution = True
    for key in ("outputs", "execution_count"):
        del find(book, "second")[key]
    extra = v4.new_code_cell("pass", metadata={"nbgrader": dict(about(find(book, "first")), grade_id="bonus")})
    book.cells.append(extra)


def upside_down(book: NotebookNode) -> None:
    answered(double="def double(x):\n    return helper(x) + x")(book)
    book.cells = book.cells[::-1]
    book.cells.append(v4.new_code_cell("def helper(x):\n    return x"))


LOOP = "def double(x):\n    while True:\n        pass"
STUBBORN = """
def square(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass"""
FORKS = """
import os, time
def square(x):
    while True:
        if os.fork() == 0:
            time.sleep(600)"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
def double(x):
    return 2 * x"""
HOG = "import mmap\ndef double(x):\n    return 2 * x + 0 * len([bytearray(1 << 28) for _ in range(64)])"
SHARED_HOG = "import mmap\ndef square(x):\n    m = mmap.mmap(-1, 1 << 34)\n    return x * x"
FLOOD = "def double(x):\n    for _ in range(3000):\n        print('x' * 10_000)\n    return 2 * x"
DEAF = """
from IPython import get_ipython
get_ipython().showtraceback = lambda *a, **k: None
double = None"""
CHEAT = """
from IPython import get_ipython
from IPython.core.interactiveshell import ExecutionResult
async def fine(*args, **kwargs):
    return ExecutionResult(None)
get_ipython().run_cell_async = fine"""
# Right only for one who sees nothing: 0 wherever this finds the course, another process, the network or a way to write.
SPY = """
import os, socket
seen = [path for path in {paths} if os.path.exists(path)]
seen += [pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) > 1] if os.path.isdir('/proc') else []
try:
    socket.create_connection(('127.0.0.1', {port}), timeout=1)
    seen.append('network')
except OSError:
    pass
try:
    open({package!r}, 'a')
    seen.append('writes')
except OSError:
    pass
seen += [name for name in os.environ if 'SECRET' in name]
mine = n + 1 if not seen else 0
print(seen)"""

EQUAL = """
class Anything(int):
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = lambda *_: True
    __hash__ = int.__hash__
    __class__ = property(lambda self: int)
def double(x):
    return Anything(3)
square = plus = lambda x: Anything(3)
"""
LIST = "class List(list):\n    __eq__ = lambda *_: True\nmine = List()"
BUILTINS = """
import builtins
builtins.int = builtins.float = builtins.abs = lambda *_: 0
builtins.__import__ = lambda *_, **__: None
import sparsity_lab.classroom.student as lab
double = None"""
TRANSFORMER = """
import ast
class Nothing(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Nothing())
dice = None"""
CODEC = """
import sys
for module in [m for name, m in list(sys.modules.items()) if "answer_values" in name or "student" in name]:
    module.to_data = lambda *_: 42
    module.to_line = lambda _: b'{"value": 42}\\n'"""
GARBAGE = """
import os
for n in range(3, 64):
    try:
        os.write(n, b'[' * 100_000 + b'\\n')
    except OSError:
        pass"""
ENDLESS = """
import os
while True:
    for n in range(3, 64):
        try:
            os.write(n, b'x' * 1_000_000)
        except OSError:
            pass"""
TIMELESS = "import signal\ndef square(x):\n    signal.setitimer(signal.ITIMER_REAL, 0)\n    while True:\n        pass"
ASKS = """
import gc, socket
def square(x):
    while True:
        for found in gc.get_objects():
            if type(found) is socket.socket:
                found.sendall(b'{"ask": 0, "arguments": []}\\n')"""
HUGE = "def double(x):\n    return list(range(20_000_000))"
NESTED = "def double(x):\n    a = []\n    for _ in range(5_000):\n        a = [a]\n    return a"
DISK = """
import os
def square(x):
    try:
        for n in range(100):
            with open(f"file{n}", "wb") as file:
                file.write(bytes(1 << 26))
    finally:
        for n in range(100):
            if os.path.exists(f"file{n}"):
                os.remove(f"file{n}")"""
FOLDERS = """
import os
def double(x):
    return 2 * x
for _ in range(3_000):
    os.mkdir("d")
    os.chdir("d")"""
HALVES = "print('\\ud800')\ndef double(x):\n    raise ValueError('\\udfff')"

# student → (what they did to the released notebook, points by test, words of the status)
ALL = {"first": 2.0, "second": 3.0, "third": 1.0}
CASES: dict[str, tuple[Callable[[NotebookNode], None], dict[str, float], str]] = {
    "right": (answered(why="Because it is so."), ALL, "to be read by you: why"),
    "empty": (lambda book: None, {}, "graded"),
    "raises": (answered(square="square = 1 / 0"), ALL | {"second": 0}, ""),
    "loops": (answered(double=LOOP), ALL | {"first": 0}, "first took more than 5 s"),
    "stubborn": (answered(square=STUBBORN), {"first": 2.0}, "second did not stop"),
    "forks": (answered(square=FORKS), ALL | {"second": 0}, ""),
    "daemon": (answered(double=DAEMON), ALL, ""),
    "hog": (answered(double=HOG), ALL | {"first": 0}, ""),
    "shared_hog": (answered(square=SHARED_HOG), ALL | {"second": 0}, ""),
    "flood": (answered(double=FLOOD + "\nfor _ in range(30):\n    double(1)"), ALL, "printed more than"),
    "leaves": (answered(square="import os\nos._exit(0)"), {"first": 2.0}, "Python ended in square"),
    "without_tests": (without_tests, ALL | {"first": 0}, ""),
    "easy_tests": (with_easy_tests, ALL | {"first": 0}, ""),
    "upside_down": (upside_down, ALL, ""),
    "deaf": (answered(double=DEAF), ALL | {"first": 0}, ""),
    "patched": (answered(double=CHEAT), {}, ""),
    "equal": (answered(double=EQUAL), ALL | {"first": 0}, ""),
    "list": (answered(plus=LIST), ALL | {"third": 0}, ""),
    "builtins": (answered(double=BUILTINS), {}, ""),
    "transformer": (answered(double=TRANSFORMER), ALL | {"first": 0}, ""),
    "codec": (answered(double=CODEC), ALL | {"first": 0}, ""),
    "garbage": (answered(double=GARBAGE), {}, "sent something that is no answer in double"),
    "endless": (answered(double=ENDLESS), {}, "in double"),
    "timeless": (answered(square=TIMELESS), {"first": 2.0}, "second did not stop"),
    "asks": (answered(square=ASKS), {"first": 2.0}, "later cells were not run"),
    "huge": (answered(double=HUGE), ALL | {"first": 0}, ""),
    "nested": (answered(double=NESTED), ALL | {"first": 0}, ""),
    "disk": (answered(square=DISK), ALL | {"second": 0}, ""),
    "folders": (answered(double=FOLDERS), ALL, ""),
    "halves": (answered(double=HALVES), ALL | {"first": 0}, ""),
}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return choose(None, False, MEMORY, [])
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> tuple[Course, list[Submission]]:
    """The course with everything graded, and what was handed in."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "source" / "small").mkdir(parents=True)
    nbformat.write(small(), folder / "source" / "small" / "small.ipynb")
    teacher = Course(folder / "source", folder / "marks")
    teacher.prepare()
    empty = teacher.folder / "release" / "small" / "small.ipynb"
    hidden = [str(path) for path in (teacher.source, teacher.folder, folder, Path(__file__))]
    paths = {"paths": hidden, "port": 9, "package": course.__file__}
    os.environ["LAB_SECRET"] = "kiwi"
    cases = CASES | {"spy": (answered(plus=SPY.format(**paths)), ALL, ""), "exits": (answered(square="exit()"), {}, "")}
    todo = []
    for student, (change, _, _) in cases.items():
        book = nbformat.read(empty, as_version=4)
        change(book)
        path = folder / "submissions" / student / "small" / "small.ipynb"
        path.parent.mkdir(parents=True)
        find_parameters(book).source = f"STUDENT = {student!r}"
        nbformat.write(book, path)
        todo.append(Submission(student, "small", path, (student,)))
    assert len(list(teacher.grade_all(todo, sandbox, LIMITS, 2))) == len(todo)
    del os.environ["LAB_SECRET"]
    return teacher, todo


@pytest.fixture(scope="module")
def graded(whole: tuple[Course, list[Submission]]) -> dict[str, dict[str, Any]]:
    """Rows by student."""
    return {student: whole[0].row(student, assignment) for student, assignment in whole[0].graded()}


@pytest.mark.parametrize("student", [*CASES, "spy"])
def test_each_gets_what_it_deserves(graded: dict[str, dict[str, Any]], student: str) -> None:
    row = graded[student]
    _, points, words = CASES.get(student, (None, ALL, ""))
    assert row["parts"] == "; ".join(f"{n} {points.get(n, 0):g}/{most:g}" for n, most in TESTS.items()) + "; why 0/4"
    assert (row["auto"], row["auto_max"], row["max"]) == (sum(points.values()), 6, 10)
    assert words in row["status"]


def test_a_kernel_that_was_told_to_exit_may_still_finish(graded: dict[str, dict[str, Any]]) -> None:
    """IPython ends after the cell, some time: what it ran until then counts."""
    assert graded["exits"]["parts"].startswith("first 2/2; second 0/3; third ")


def test_nothing_is_left_running(graded: dict[str, dict[str, Any]], sandbox: Sandbox) -> None:
    assert len(graded) > 10
    command = ["ps", "-U", str(sandbox.uid), "-o", "pid="]
    end = time.monotonic() + 10
    while sandbox.uid is not None and subprocess.run(command, capture_output=True, check=False).stdout.split():
        assert time.monotonic() < end, "a killed process is gone at once, or nearly"
        time.sleep(0.1)


def test_what_has_not_changed_is_not_run_again(
    whole: tuple[Course, list[Submission]], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, todo = whole
    rows = [teacher.row(one.student, "small") for one in todo]
    monkeypatch.setattr("sparsity_lab.classroom.grading._examined", None)
    late = Submission("late", "small", None, ("late",), trouble="no small.ipynb was handed in")
    assert len(list(teacher.grade_all(todo, sandbox, LIMITS, 2))) == len(todo)
    assert [teacher.row(one.student, "small") for one in todo] == rows

    monkeypatch.undo()
    row = teacher.grade(late, sandbox, LIMITS)
    assert (row["points"], row["max"], row["status"]) == (0, 10, "no small.ipynb was handed in")
    assert ("late", "small") in teacher.graded()
    assert [teacher.row(one.student, "small") for one in todo] == rows, "with the words of the first grading"


def test_feedback_says_what_was_tried(whole: tuple[Course, list[Submission]]) -> None:
    page = (whole[0].folder / "feedback" / "deaf" / "small" / "small.html").read_text()
    assert "its cell double raised" in page or "double(1) raised" in page
    page = (whole[0].folder / "feedback" / "list" / "small" / "small.html").read_text()
    assert "this does not hold: mine == n + 1" in page
    assert "mine is []" in page
    for student, assignment in whole[0].graded():
        page = (whole[0].folder / "feedback" / student / assignment / f"{assignment}.html").read_text()
        assert str(Path(course.__file__).parents[2]) not in page
        assert "http" not in page.replace("http-equiv", "")


def test_nbgraders_pages_find_the_assignments(whole: tuple[Course, list[Submission]]) -> None:
    text = (whole[0].folder / "nbgrader_config.py").read_text()
    assert repr(str(whole[0].source.resolve())) in text
