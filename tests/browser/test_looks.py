"""The dial on one screen: nothing cut off and nothing below the fold, on a laptop, zoomed, on a tablet and a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, Dial, app_served, browsing, open_and_run
from tests.browser.test_app import assert_accessible

pytestmark = pytest.mark.browser

SMALL = """
from sparsity_lab.widgets import MagicDial
MagicDial(sparsity=0.9375, width=8, budget=5e9)
"""
WAITS = "import time; time.sleep(3600)"
TALLEST = 620  # px: what JupyterLab leaves for a notebook at 1366 × 768, and a bit
# Parts whose text is wider or higher than its place, or that stick out of the dashboard.
CUT = """dial => {
    const whole = dial.querySelector('.sl-main').getBoundingClientRect(), cut = [];
    for (const part of dial.querySelectorAll('.widget-readout, .widget-label, .jupyter-button, td, th, .sl-note, '
            + '.sl-sizes, .sparsity-lab-status, .sparsity-lab-verdict, .sl-line, .sl-main-svg, svg[role=img]')) {
        const box = part.getBoundingClientRect();
        if (!box.width || getComputedStyle(part).clipPath !== 'none') continue;
        const hidden = part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).overflowX !== 'visible';
        const outside = box.right > whole.right + 2 || box.left < whole.left - 2;
        if (hidden || outside) cut.push(part.className + ': ' + part.textContent);
    }
    return cut; }"""


def assert_whole(dial: Dial, tallest: int | None = None) -> None:
    assert dial.box.evaluate(CUT) == []
    box = dial.box.locator(".sl-main").bounding_box()
    assert box is not None
    if tallest is not None:
        assert box["height"] <= tallest, box


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_one_screen_in_jupyterlab(address: str, folder: Path, theme: str) -> None:
    with browsing(address, height=768) as page:
        dial = open_and_run(page, address, folder, SMALL, WAITS)
        page.wait_for_selector(".sparsity-lab-dial .js-plotly-plot .main-svg")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        assert_whole(dial, TALLEST)
        dial.button("Train").click()
        expect(dial.status).to_contain_text("left", timeout=PATIENCE)
        assert_whole(dial, TALLEST)
        expect(dial.verdict).not_to_be_empty(timeout=PATIENCE)
        assert_whole(dial, TALLEST)
        assert_accessible(page, ".sparsity-lab-dial")
        page.screenshot(path=str(SCREENSHOTS / f"dial_{theme}.png"))
        for size in ({"width": 1024, "height": 768}, {"width": 911, "height": 512}):  # the latter is 150 % zoom
            page.set_viewport_size(size)
            page.wait_for_timeout(500)
            assert_whole(dial)
            page.screenshot(path=str(SCREENSHOTS / f"dial_{size['width']}_{theme}.png"))

        # Zoomed, and without the list of files: the sliders, the experts, the race and who won, above the numbers
        page.evaluate("() => { window.jupyterapp.commands.execute('application:toggle-left-area'); return 0; }")
        page.wait_for_timeout(500)
        dial.box.evaluate("dial => dial.scrollIntoView()")
        assert_whole(dial)
        seen = page.locator(".jp-WindowedPanel-outer").bounding_box()
        assert seen is not None
        for part in (".sl-buttons", ".sl-sizes", ".sl-race", ".sparsity-lab-verdict"):
            text = dial.box.locator(part).bounding_box()
            assert text is not None
            assert text["y"] + text["height"] <= seen["y"] + seen["height"] + 1, part
        page.screenshot(path=str(SCREENSHOTS / f"dial_zoomed_{theme}.png"))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    with app_served(tmp_path_factory.mktemp("looks") / "server", cache) as url:
        yield url


@pytest.mark.parametrize("width", [390, 800])
def test_the_app(app: str, width: int) -> None:
    with browsing(app, viewport={"width": width, "height": 844}) as page:
        page.goto(app, timeout=PATIENCE)
        dial = Dial(page)
        page.wait_for_selector(".sparsity-lab-dial .js-plotly-plot .main-svg")
        page.wait_for_timeout(1_000)
        assert_whole(dial)
        box = dial.box.locator(".sl-main").bounding_box()
        assert box is not None
        if width == 800:  # it fills the window, and no more
            assert 650 < box["height"] <= 844 - box["y"]
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert_accessible(page)
        dial.button("runs").click()
        dial.more()
        page.wait_for_timeout(1_000)
        assert_whole(dial)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert_accessible(page)
        page.screenshot(path=str(SCREENSHOTS / f"app_{width}.png"), full_page=True)
