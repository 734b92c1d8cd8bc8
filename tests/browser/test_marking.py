"""The teacher's page for written answers, with the keyboard alone; what students write runs nowhere."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from playwright.sync_api import Page, expect

from sparsity_lab.classroom.collect import Submission
from sparsity_lab.classroom.grading import Course, Limits
from sparsity_lab.classroom.marking import serve_marking
from sparsity_lab.classroom.nbgrader import marks_of
from sparsity_lab.classroom.sandbox import choose
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, browsing
from tests.browser.test_app import assert_accessible
from tests.notebooks.test_course import about, answered, find, find_parameters, small

pytestmark = pytest.mark.browser
EVIL = '<img src=x onerror="document.title = \'owned\'"><script>document.title = "owned"</script>'
STUDENTS = {
    "ada": f"My **answer** {EVIL}", "bob": r"$x^2$ [a](javascript:alert(1))", "eve": "words of Eve", "kim": "short",
    "zoe": "words of Zoe",
}  # fmt: skip
LIMITS = Limits(cell_seconds=10, seconds=60)


def grade(course: Course, folder: Path, answers: dict[str, str]) -> None:
    course.prepare()
    todo = []
    for student, text in answers.items():
        book = nbformat.read(course.folder / "release" / "small" / "small.ipynb", as_version=4)
        answered(why=text, double=f"double = 2  # {EVIL}\nprint({EVIL!r})")(book)
        find_parameters(book).source = f"STUDENT = {student!r}"
        path = folder / student / "small" / "small.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, path)
        todo.append(Submission(student, "small", path, (student,)))
    sandbox = choose(None, True, 1 << 30, [])
    assert len(list(course.grade_all(todo, sandbox, LIMITS, 2))) == len(answers)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    folder = tmp_path_factory.mktemp("course")
    (folder / "source" / "small").mkdir(parents=True)
    book = small()
    find(book, "why").source = "Because.\n\n**Rubric.**\n\n- Reason (3): a point each.\n- Words (1): plain ones."
    book.cells.insert(len(book.cells) - 1, v4.new_markdown_cell("Why?"))
    nbformat.write(book, folder / "source" / "small" / "small.ipynb")
    course = Course(folder / "source", folder / "marks")
    grade(course, folder / "in", STUDENTS)
    return course


@pytest.fixture(scope="module")
def address(course: Course) -> Iterator[str]:
    loop, ready = asyncio.new_event_loop(), threading.Event()
    found: list[str] = []

    async def start() -> None:
        found.append(serve_marking(course.folder, course.source)[1])
        ready.set()

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.create_task(start())
        loop.run_forever()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(30)
    yield found[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    with browsing(address) as page:
        page.goto(address)
        yield page


def marks(course: Course) -> dict[str, tuple[float, bool]]:
    found = {}
    for student, assignment in course.graded():
        (mark,) = [mark for mark in marks_of(course.folder, student, assignment) if mark.name == "why"]
        found[student] = mark.points, mark.waiting
    return found


def test_five_answers_are_marked_by_keyboard(page: Page, course: Course) -> None:
    for left in range(5, 0, -1):
        expect(page.get_by_role("status")).to_contain_text(f"{left} to be read", timeout=PATIENCE)
        assert page.title() == "why · small"
        assert not any(name in page.inner_text("main") for name in ("ada", "bob", "zoe"))
        if left == 5:
            assert_accessible(page)
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(SCREENSHOTS / "marking.png"))
        page.keyboard.press("2")
        page.keyboard.press("1")
        page.keyboard.press("c")
        page.keyboard.type("2 good")
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("0 to be read", timeout=PATIENCE)
    assert marks(course) == dict.fromkeys(STUDENTS, (3.0, False))
    assert "2 good" in (course.folder / "feedback" / "ada" / "small" / "small.html").read_text()


def test_a_new_test_keeps_marks_and_a_new_answer_is_shown(page: Page, course: Course) -> None:
    path = course.source / "small" / "small.ipynb"
    book = nbformat.read(path, as_version=4)
    find(book, "second").source = "assert square(4) == 16"
    about(find(book, "second"))["points"] = 5
    nbformat.write(book, path)
    grade(course, course.source.parent / "in", STUDENTS | {"eve": "other words of Eve"})
    assert marks(course) == dict.fromkeys(STUDENTS, (3.0, False)) | {"eve": (3.0, True)}
    row = course.row("eve", "small")
    assert row["status"] == "to be read by you: why, changed since you marked it"
    assert "second 5/5" in row["parts"]

    page.reload()
    expect(page.get_by_role("status")).to_contain_text("1 to be read", timeout=PATIENCE)
    expect(page.locator("ins")).to_have_text("other")


def test_only_the_teachers_browser_gets_in(page: Page, address: str) -> None:
    base = address.split("?")[0]
    assert page.context.request.get(base).status == 200
    page.context.clear_cookies()
    for url, headers in ((base, {}), (f"{base}?key=x", {}), (address, {"Host": "evil.example:80"})):
        assert page.context.request.get(url, headers=headers).status == 403
    assert page.context.request.post(base, form={"student": "ada", "item0": "3"}).status == 403


def test_what_a_student_writes_runs_nowhere(course: Course) -> None:
    """In the feedback, and in what nbgrader's own pages would show."""
    with browsing("file://") as page:
        for student in STUDENTS:
            page.goto((course.folder / "feedback" / student / "small" / "small.html").as_uri())
            assert page.title() == f"small · {student}"
            if student == "ada":
                assert_accessible(page)
                assert page.locator("strong", has_text="answer").count() == 1
            assert page.locator("script, [onerror], a[href^=javascript]").count() == 0
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter(template_name="basic").from_filename(
        str(course.folder / "autograded" / "ada" / "small" / "small.ipynb")
    )
    assert "<img src=x" not in html
    assert "<script>document" not in html
