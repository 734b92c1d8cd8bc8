"""Training in a page from disk, offline: both curves, the result that Node has too, Stop, light and dark, phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sparsity_lab.figures.style import ROLES
from sparsity_lab.pages import training
from sparsity_lab.pages.gallery import SITE
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, browsing
from tests.browser.test_app import assert_accessible
from tests.pages.engine import engine_text, in_node, page_corpus

pytestmark = pytest.mark.browser

BUDGET, WIDTH, DEPTH, SPARSITY, SEED = 1e9, 16, 1, 0.9375, 3
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Training</title><link rel="stylesheet" href="style.css"></head>
<body><main class="index"><h1>Sparsity Lab</h1><section id="train"></section></main><script src="train.js"></script>
</body></html>"""
# Pixels in the colour of a line, in the upper half, where the lines' names are not.
DRAWN = """(colour) => {
    const canvas = document.querySelector("#train canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height / 2);
    const wanted = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    let found = 0;
    for (let i = 0; i < data.length; i += 4) found += wanted.every((part, j) => Math.abs(part - data[i + j]) < 8);
    return found; }"""
COLOURS = [ROLES[role].colour for role in ("this", "dense")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "index.html").write_text(PAGE)
    (folder / "train.js").write_text(training.script())
    (folder / "style.css").write_text((SITE / "style.css").read_text())
    return folder


@pytest.fixture(params=["light", "dark", "phone"])
def page(site: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    address, width = (site / "index.html").as_uri(), 390 if request.param == "phone" else 1366
    scheme = "light" if request.param == "light" else "dark"
    with browsing(address, viewport={"width": width, "height": 768}, color_scheme=scheme, offline=True) as page:
        page.goto(address)
        yield page


def choose(page: Page, budget: float) -> None:
    for name, value in {"budget": budget, "width": WIDTH, "depth": DEPTH, "sparsity": SPARSITY}.items():
        page.select_option(f"select[name={name}]", str(value))
    page.fill("input[name=seed]", str(SEED))


def in_nodes(sparsity: float) -> float:
    """The held-out loss of the same run in Node."""
    model, place = training.models()[f"{WIDTH}/{DEPTH}/{sparsity:g}"], training.BUDGETS.index(BUDGET)
    run = training.runs_by_budget()[place] | {"seed": SEED}
    script = """const training = begin(input);
    while (!training.done) training.step();
    console.log(JSON.stringify(training.evaluate()));"""
    loss: float = in_node(
        script, config=model["config"], run=run, steps=model["steps"][place], text=engine_text(page_corpus())
    )
    return loss


def test_training(page: Page, request: pytest.FixtureRequest) -> None:
    choose(page, BUDGET)
    expect(page.locator("#train-code")).to_contain_text(f"on_dial({WIDTH}, {SPARSITY}).replace(n_layers={DEPTH})")
    expect(page.locator("#train-code")).to_contain_text(f"budget=1e9, seed={SEED}")
    page.click("#train [type=submit]")
    page.click("#train summary")  # the page answers while it trains
    expect(page.locator("#train-code")).to_be_visible()

    expect(page.locator("#train-verdict b")).to_contain_text("nats per byte lower", timeout=PATIENCE)
    expect(page.locator("#train-verdict span")).to_contain_text("not a finding")
    told = page.locator("#train canvas").get_attribute("aria-label")
    assert told is not None
    ends = [float(loss) for loss in re.findall(r"ends at (\d\.\d{4})", told)]
    assert ends == pytest.approx([in_nodes(SPARSITY), in_nodes(0)], abs=1e-4)
    assert all(page.evaluate(DRAWN, colour) > 100 for colour in COLOURS)

    size = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1]
    assert_accessible(page)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SCREENSHOTS / f"training_{request.node.callspec.id}.png"), full_page=True)


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_stop(page: Page) -> None:
    train, stop, progress = page.locator("#train [type=submit]"), page.locator("#train-stop"), "#train-progress"
    choose(page, training.BUDGETS[-1])
    for _ in range(2):  # what was stopped can be begun again
        train.click()
        for colour in COLOURS:  # the lines grow before the end
            page.wait_for_function(DRAWN, arg=colour)
        expect(page.locator(progress)).to_have_text(re.compile(r"^[1-9]\d? %, about \d+ s left$"))
        expect(train).to_be_disabled()
        stop.focus()
        page.keyboard.press("Enter")
        expect(page.locator(progress)).to_have_text(re.compile(r"^Stopped at \d+ % of the budget\.$"))
        expect(train).to_be_focused()
        expect(stop).to_be_disabled()
        picture = page.evaluate("() => document.querySelector('#train canvas').toDataURL()")
        page.wait_for_timeout(500)
        assert page.evaluate("() => document.querySelector('#train canvas').toDataURL()") == picture
        expect(page.locator("#train-verdict b")).to_have_text("No winner: the race was stopped.")


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_a_wrong_seed_trains_nothing(page: Page) -> None:
    for wrong in ("-1", "1.5", "", "1e9"):
        page.fill("input[name=seed]", wrong)
        page.click("#train [type=submit]")
        expect(page.locator("#train-stop")).to_be_disabled()
        assert page.text_content("#train-progress") == ""
