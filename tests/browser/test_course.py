"""The release of an assignment as a student has it: JupyterLab, and the Validate button above the notebook."""

import shutil
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect

from sparsity_lab.classroom import assignments as course
from tests.assignments import SOURCE, about, is_test, source, with_answers
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, open_notebook, run_all

pytestmark = pytest.mark.browser
NAME = "ps1_the_dial"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(SOURCE / NAME, folder / "source" / NAME)
    return course.release(folder / "source", folder / "course") / NAME / f"{NAME}.ipynb"


def validated(page: Page, address: str, name: str) -> str:
    """What the button answers."""
    open_notebook(page, address, name)
    page.get_by_role("button", name="Validate").click()
    dialog = page.locator(".jp-Dialog", has_text="Validation Results")
    dialog.wait_for(timeout=PATIENCE)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"validate_{name.split('.')[0]}.png"))
    return dialog.inner_text()


def test_validate(page: Page, address: str, released: Path, folder: Path) -> None:
    notebooks = folder / "notebooks"
    shutil.copy(released, notebooks / "empty.ipynb")
    answers = {about(cell)["grade_id"]: cell.source for cell in source(NAME).cells if about(cell).get("solution")}
    book = with_answers(nbformat.read(released, as_version=4), answers)
    nbformat.write(book, notebooks / "solved.ipynb")

    assert "Success" in validated(page, address, "solved.ipynb")
    page.locator(".jp-Dialog").get_by_role("button").last.click()
    run_all(page)  # the last cell is the student's own check
    expect(page.get_by_text("STUDENT is not set")).to_be_visible(timeout=PATIENCE)
    told = validated(page, address, "empty.ipynb")
    tests = sum(is_test(cell) for cell in book.cells)
    assert told.count("NotImplementedError: nothing here yet: put your code in place of this line") == tests
    assert told.count("You did not provide a response.") == 1  # to the written question
    page.locator(".jp-Dialog").get_by_role("button").last.click()
    expect(page.locator(".jp-Dialog")).to_have_count(0)
