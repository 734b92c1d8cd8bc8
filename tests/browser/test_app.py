"""The dashboard alone, as `make app` serves it: what axe-core says of it, the keyboard alone, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from sparsity_lab.widgets import MagicDial
from sparsity_lab.widgets.session import Session
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, Dial, app_served, browsing, open_notebook, prepare, run_all
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

FILLED = """() => {
    const { bottom } = document.querySelector('.sl-race .main-svg').getBoundingClientRect();
    return bottom <= innerHeight && bottom > innerHeight - 90; }"""
LESSON = "s=.75&b=3e10&w=12&d=3&hold=total&seed=5&text=tasks&twin=0&backend=naive&lesson=Which%3F&hide=d&fix=w"
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
    for _ in range(40):  # the explained words too
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
    dial.wait_for_curve()
    assert_accessible(page)  # with all that a run adds


def test_words_are_explained_by_pointer_keyboard_and_touch(address: str) -> None:
    with browsing(address, height=844, viewport={"width": 390, "height": 844}, has_touch=True) as page:
        page.goto(address, timeout=PATIENCE, wait_until="commit")
        expect(page.get_by_role("status").filter(has_text="1 of 3: starting a Python for you")).to_be_visible()
        word, means = page.locator(".app-head .app-word", has_text="dense twin"), page.get_by_role("tooltip")
        word.focus()  # while the dashboard is still loaded
        expect(means).to_contain_text("The dense twin is the model that a sparse model is raced against")
        assert word.get_attribute("aria-describedby") == means.get_attribute("id")
        page.keyboard.press("Escape")
        expect(means).to_be_hidden()
        dial = Dial(page)
        expect(page.locator(".app-loading")).to_have_count(0)

        active = dial.facts.locator(".app-word", has_text="active parameters")
        active.tap()
        expect(means).to_contain_text("Active weights, also called active parameters")
        box = means.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        page.locator(".app-head h1").tap()
        expect(means).to_be_hidden()
        dial.press("width", "ArrowRight")  # which writes the table anew
        expect(dial.facts).to_contain_text("1 of 16")
        active.hover()
        expect(means).to_contain_text("also called active parameters")


def test_the_tour_and_a_full_window(page: Page) -> None:
    for size in ({"width": 1366, "height": 768}, {"width": 1920, "height": 1080}, {"width": 800, "height": 1000}):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        page.wait_for_function(FILLED)
        assert page.evaluate("() => document.querySelector('#rendered_cells').scrollWidth <= innerWidth")
    page.get_by_role("button", name="Show me around").click()
    tour = page.get_by_role("dialog")
    for step in range(1, 6):
        expect(tour.get_by_role("status")).to_contain_text(f"{step} of 5: ")
        expect(page.locator(".tour-here")).to_be_in_viewport()
        assert_accessible(page, ".tour")
        page.keyboard.press("Enter")
    expect(tour).to_have_count(0)
    expect(page.get_by_role("button", name="Show me around")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(tour).to_have_count(0)


def test_a_link_goes_through_every_door(address: str, server: str, folder: Path, tmp_path: Path) -> None:
    """From an app to JupyterLab, to Python, and back."""

    def shown(page: Page) -> str:
        dial = Dial(page)
        expect(dial.question).to_have_text("Which?")
        expect(dial.handle("layers")).to_be_hidden()
        expect(dial.facts).to_contain_text("1 of 4")
        return dial.link.input_value()

    with browsing(address) as page:
        page.goto(f"{address}&{LESSON}", timeout=PATIENCE)
        link = shown(page)
    prepare(folder)
    with browsing(server) as page:
        open_notebook(page, f"{server}&{link}", "00_start_here.ipynb")
        run_all(page)
        link = shown(page)
    dial = MagicDial.from_link(link, session=Session(tmp_path), calibrate=False)
    assert dial.link("Which?", hide=["n_layers"], fix=["width"]) == dial.share.value == link
    with browsing(address) as page:
        page.goto(f"{address}&{link}&w=<script>alert(1)</script>&b=1e99", timeout=PATIENCE)
        assert shown(page) == link
        expect(Dial(page).note).to_have_text(
            "The link has w more than once: the first is used. The link has b more than once: the first is used."
        )
