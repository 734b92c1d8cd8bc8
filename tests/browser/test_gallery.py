"""The gallery from disk, without a server: drawn, legible in light and dark, and within reach of the keyboard."""

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest
from nbformat import v4
from playwright.sync_api import Page, expect

from sparsity_lab import guesses
from sparsity_lab.figures.routing import loads_by_expert
from sparsity_lab.pages import gallery, outputs
from sparsity_lab.widgets.explorer import Explorer, choice, pick, slide
from sparsity_lab.widgets.predict import Predict
from sparsity_lab.widgets.stops import SWITCH, Stops
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
    shown = [
        v4.new_output("display_data", {outputs.PLOTLY: json.loads(figure)}),
        v4.new_output("execute_result", {outputs.WIDGET: {}, "text/plain": "Explorer()"}),
        v4.new_output("stream", text="printed\n"),
    ]
    cells = [
        v4.new_markdown_cell(
            "# One\n\nA [paper](https://arxiv.org/abs/2501.12370), $S = 1$,\n\n$$L = \\frac{a}{N^\\alpha}$$\n\n## Part"
        ),
        v4.new_code_cell(CODE, outputs=shown),
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
        page.locator(".figure").first.scroll_into_view_if_needed()  # which is when it is drawn
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
    if request.node.callspec.id == "phone":
        expect(shown).to_be_hidden()
        page.locator("summary").first.press("Enter")
    expect(shown).to_have_attribute("tabindex", "0")  # wider than the page: arrows scroll it
    expect(folded).to_be_hidden()
    page.locator("summary").last.focus()
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


def line(slope: float, name: str) -> go.Figure:
    if slope < 0:
        raise ValueError(f"slope={slope:g} must not be negative")
    lines = [{"type": "scatter", "x": [0, 1], "y": [k, slope], "name": f"{name} {k}"} for k in range(1 + (slope > 1))]
    return go.Figure(lines, {"title": {"text": name}} if slope else {"xaxis": {"title": {"text": name}}})


def wave(n: float) -> go.Figure:
    points = np.linspace(0, 1, 5 + int(10 * n))
    long_ticks = go.Layout(yaxis={"automargin": True, "tickprefix": "about " * int(1 + 2 * n)})
    return go.Figure(go.Scatter(x=points, y=np.sin(points * n)), long_ticks)


EXPLORERS = (
    Explorer(
        line, "{name} & {slope}".format, slope=choice("slope", [-1, 0, 1, 2.5], 1), name=pick("of", ["a", "b"], "b")
    ),
    Explorer(wave, "of {n}".format, n=slide("waves", 0.5, 0.1, 2, 0.1)),
)
SHOWN = (
    "place => [place._fullData.map(({x, y, name}) => ({x: [...x], y: [...y], name})), place.getAttribute('aria-label')]"
)


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with explorers, a question and its result, as executed for the gallery."""
    folder = tmp_path_factory.mktemp("moving")
    guess = Predict("share", "How much?", unit="%", near=5, default=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "100")
        patch.setenv(guesses.SWITCH, "0")
        shown = [*EXPLORERS, guess, guess.reveal(42.0, "So it is.", low=40, high=44)]
        outputs = [v4.new_output("execute_result", each._repr_mimebundle_()) for each in shown]
    cells = [v4.new_markdown_cell("# One\n\n## Part"), *(v4.new_code_cell("x", outputs=[each]) for each in outputs)]
    run = {"papermill": {"duration": 1.0, "parameters": {}, "exception": None}}
    book = json.loads(json.dumps(v4.new_notebook(cells=cells, metadata=run)))
    (folder / "01_one.ipynb").write_text(json.dumps(book))
    gallery.build(folder, folder / "site", folder / "README.md")
    return folder / "site"


@pytest.fixture
def lively(moving: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    phone = "phone" in request.node.name
    look = {"color_scheme": "dark" if "dark" in request.node.name else "light", "has_touch": phone}
    with browsing(
        moving.as_uri() + "/", viewport={"width": 390 if phone else 1366, "height": 768}, offline=True, **look
    ) as page:
        page.goto((moving / "01_one.html").as_uri())
        yield page


@pytest.mark.parametrize("look", ["light", "dark_phone"])
def test_every_stop_of_the_explorers_is_what_python_draws(lively: Page, look: str) -> None:
    """By keyboard from stop to stop, as a reader without a mouse goes."""
    for explorer, place in zip(EXPLORERS, lively.locator(".explorer").all(), strict=True):
        place.scroll_into_view_if_needed()
        expect(place.locator(".main-svg").first).to_be_visible()
        slider, menu = place.locator("input"), place.locator("select")
        for name in explorer.controls["name"].options if "name" in explorer.controls else ("",):
            if name:
                menu.select_option(name)
            slider.press("Home")
            stops = Stops.of(next(iter(explorer.controls.values())))
            for value, says in zip(stops.values, stops.says, strict=True):
                at = dict(zip(explorer.controls, (value, name), strict=False))
                expect(slider).to_have_attribute("aria-valuetext", says)
                try:
                    figure = json.loads(plotly.io.to_json(explorer._draw(**at), engine="json"))
                except ValueError as error:
                    expect(place.get_by_role("alert")).to_have_text(str(error))
                else:
                    expect(place.get_by_role("status")).to_have_text(explorer._describe(**at))
                    expect(place.get_by_role("alert")).to_have_text("")
                    drawn, label = place.locator(".figure").evaluate(SHOWN)
                    assert label == outputs.described(figure)
                    for trace, own in zip(drawn, explorer._draw(**at).data, strict=True):
                        assert trace["x"] == pytest.approx(list(own.x), abs=0)
                        assert trace["y"] == pytest.approx(list(own.y), abs=0)
                        assert own.name in (trace["name"], None)
                slider.press("ArrowRight")
    assert_accessible(lively)
    assert lively.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_a_slider_follows_the_finger_on_a_phone(lively: Page) -> None:
    place = lively.locator(".explorer").nth(1)
    place.scroll_into_view_if_needed()
    expect(place.locator(".main-svg").first).to_be_visible()
    box = place.locator("input").bounding_box()
    assert box is not None
    assert box["height"] >= 40
    lively.touchscreen.tap(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    expect(place.get_by_role("status")).to_have_text("of 2.0")


def test_a_figure_keeps_its_margins_while_a_slider_moves(lively: Page) -> None:
    """Its stops are drawn out of sight before a slider moves, and the last has the longest ticks."""
    place = lively.locator(".explorer").nth(1)

    place.scroll_into_view_if_needed()
    expect(place.locator(".figure .main-svg").first).to_be_visible()

    def room_at(key: str) -> float:
        place.locator("input").press(key)
        left: float = place.locator(".figure").evaluate("place => place._fullLayout._size.l")
        return left

    room_at("End")
    expect(place.get_by_role("status")).to_have_text("of 2.0")
    widest = room_at("End")
    lively.reload()
    place.scroll_into_view_if_needed()
    expect(place.locator(".figure .main-svg").first).to_be_visible()
    lively.wait_for_function("widest => [...rooms.values()].some(({ margin }) => margin.l >= widest)", arg=widest)
    assert room_at("Home") == room_at("PageUp") == widest


def test_a_guess_opens_its_result(lively: Page) -> None:
    answer, result = lively.get_by_label("Your guess"), lively.locator("details.result")
    expect(result.get_by_text("So it is.")).to_be_hidden()
    answer.fill("many")
    answer.press("Enter")
    expect(lively.locator(".question [role=status]")).to_have_text(
        "“many” is not a number: write it as 1500, 0.5 or 3e11"
    )
    for guess, verdict in (("47 %", "A hit."), ("36", "Not a hit.")):
        answer.fill(guess)
        answer.press("Enter")
        expect(result.locator(".verdict")).to_have_text(f"Your guess: {guess}. {verdict}")
        expect(result.get_by_text("So it is.")).to_be_visible()
    assert_accessible(lively)
