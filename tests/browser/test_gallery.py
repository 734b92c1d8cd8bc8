"""The gallery from disk, without a server: drawn, legible in light and dark, and within reach of the keyboard."""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import plotly.io
import pytest
from nbformat import v4
from playwright.sync_api import Page, expect

from sparsity_lab.figures.routing import loads_by_expert
from sparsity_lab.pages import gallery
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import browsing
from tests.browser.test_app import FILLS, LOOKS_DIFFERENT, assert_accessible
from tests.contrast import colour, contrast, over

pytestmark = pytest.mark.browser

CODE = f'''def f(x: int) -> str:
    """What it does."""
    return f"{{x + 1}} of {{[2.5, None]}}"  # why, at {"great " * 30}length'''
LOAD = np.array([[0.2, 0.8], [0.5, 0.5]])  # of two experts, at two steps


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a notebook as if executed: a kernel takes seconds, and tests/notebooks has one."""
    folder = tmp_path_factory.mktemp("gallery")
    figure = plotly.io.to_json(loads_by_expert(LOAD, 180))
    outputs = [
        v4.new_output("display_data", {gallery.PLOTLY: json.loads(figure)}),
        v4.new_output("execute_result", {gallery.WIDGET: {}, "text/plain": "Explorer()"}),
        v4.new_output("stream", text="printed\n"),
    ]
    cells = [
        v4.new_markdown_cell(
            "# One\n\nA [paper](https://arxiv.org/abs/2501.12370), $S = 1$,\n\n$$L = \\frac{a}{N^\\alpha}$$\n\n## Part"
        ),
        v4.new_code_cell(CODE, outputs=outputs),
        v4.new_code_cell(CODE, metadata={"jupyter": {"source_hidden": True}}),
    ]
    run = {"papermill": {"duration": 1.0, "parameters": {"n": 1}}}
    for name in ("01_one", "02_two"):
        nbformat.write(v4.new_notebook(cells=cells, metadata=run), folder / f"{name}.ipynb")
    gallery.build(folder, folder / "site", folder / "README.md")
    return folder / "site"


@pytest.fixture(params=["light", "dark", "phone"])
def page(site: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    width = 390 if request.param == "phone" else 1366
    scheme = "dark" if request.param == "dark" else "light"
    address = site.as_uri() + "/index.html"
    with browsing(address, viewport={"width": width, "height": 768}, color_scheme=scheme, offline=True) as page:
        page.goto(address)
        yield page


def test_gallery(page: Page, request: pytest.FixtureRequest) -> None:
    def assert_legible() -> None:
        expect(page.locator(".figure .main-svg").first).to_be_visible()
        size = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert size[0] <= size[1]
        background = colour(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
        for fill in page.evaluate(FILLS):  # which axe-core does not look at
            assert contrast(over(colour(fill), background), background) >= 4.5, fill
        assert_accessible(page)

    assert_legible()
    page.locator(".cards a").first.focus()
    assert page.evaluate(LOOKS_DIFFERENT)
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_one.html")
    assert_legible()
    assert page.locator("[role=img]").get_attribute("aria-label") == "Figure of training step; expert; load, × even"
    expect(page.locator(".formula math")).to_be_visible()
    shown, folded = page.locator(".input pre").all()
    expect(shown).to_have_attribute("tabindex", "0")  # wider than the page: arrows scroll it
    expect(folded).to_be_hidden()
    page.locator("summary").focus()
    assert page.evaluate(LOOKS_DIFFERENT)
    page.keyboard.press("Enter")
    expect(folded).to_be_visible()
    expect(folded).to_have_attribute("tabindex", "0")
    assert_accessible(page)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"gallery_{request.node.callspec.id}.png"))


def test_figures_follow_the_system_into_the_dark(site: Path) -> None:
    with browsing(site.as_uri() + "/", color_scheme="light") as page:
        page.goto((site / "01_one.html").as_uri())
        before = page.evaluate(FILLS)
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(200)
        assert before
        assert set(page.evaluate(FILLS)).isdisjoint(before)
