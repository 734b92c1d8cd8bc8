"""The dashboard alone, as `make app` serves it: what axe-core says of it, the keyboard alone, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, Dial, app_served, browsing
from tests.contrast import colour, contrast, over

pytestmark = pytest.mark.browser

# The element that has the focus, from the same element without it.
LOOKS_DIFFERENT = """() => {
    const e = document.activeElement, look = () => { const s = getComputedStyle(e); return s.outline + s.boxShadow; };
    const with_focus = look();
    e.blur();
    const without = look();
    e.focus();
    return with_focus !== without; }"""

FILLS = """() => [...document.querySelectorAll('.js-plotly-plot .main-svg text')].filter(t => t.textContent)
    .map(t => getComputedStyle(t).fill)"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    with app_served(tmp_path_factory.mktemp("app") / "server", cache) as url:
        yield url


@pytest.fixture
def scheme(request: pytest.FixtureRequest) -> str:
    return "dark" if "dark" in request.node.name else "light"


@pytest.fixture
def page(address: str, scheme: str) -> Iterator[Page]:
    with browsing(address, height=768, color_scheme=scheme) as page:
        page.goto(address, timeout=PATIENCE)
        page.wait_for_selector(".sparsity-lab-dial .js-plotly-plot .main-svg")
        yield page


def assert_accessible(page: Page, within: str | None = None) -> None:
    """No serious or critical finding of axe-core, on the page or in what this selector finds."""
    # Preloading fetches style sheets anew, which a page from disk may not; one rule, about turned screens, needs it.
    found = Axe().run(page, within, options={"preload": False}).response["violations"]
    bad = [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]
    assert not bad, bad


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page(page: Page, theme: str) -> None:
    assert page.title() == "Sparsity Lab"
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 1366
    assert page.evaluate("() => document.body.dataset.jpThemeLight") == str(theme == "light").lower()
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (contrast(colour(background), (255, 255, 255)) < 2) == (theme == "light")
    lines = page.locator(".js-plotly-plot .scatterlayer .trace path.js-line")
    expect(lines).not_to_have_count(0)  # the measured runs, which the figure got after it was made
    assert_accessible(page)
    for fill in page.evaluate(FILLS):  # which axe-core does not look at
        assert contrast(over(colour(fill), colour(background)), colour(background)) >= 4.5, fill
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"app_{theme}.png"))


def test_keyboard_alone(page: Page) -> None:
    dial = Dial(page)
    names = ("sparsity", "budget", "width", "layers", "Train")
    reached: list[str] = []
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => { const e = document.activeElement;
                const box = e.closest('.jupyter-widgets[class*=sparsity-lab-]');
                return [e.ariaLabel, e.labels?.[0]?.innerText, e.innerText, box?.className].join(' '); }"""
            )
        )
        assert page.evaluate(LOOKS_DIFFERENT), f"no focus to see on {reached[-1]}"
        if "Train" in reached[-1]:
            break
    places = [next((i for i, text in enumerate(reached) if name in text), None) for name in names]
    assert None not in places, (names, places, reached)
    assert places == sorted(place for place in places if place is not None), "from top to bottom"

    page.keyboard.press("Tab")
    dial.press("budget", "Home")
    dial.press("width", "Home")
    before = dial.readout("sparsity")
    dial.press("sparsity", "ArrowRight")
    assert dial.readout("sparsity") != before
    dial.button("Train").focus()
    page.keyboard.press("Enter")
    expect(dial.status).to_contain_text("finished", timeout=PATIENCE)
    assert dial.points() > 0
    assert_accessible(page)  # with all that a run adds
