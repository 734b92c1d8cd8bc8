"""The experts as cells: they follow the dial at once, and light up for the characters that the router gave them."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.lanes import LINE
from sparsity_lab.training.reading import read
from sparsity_lab.training.trainer import Training
from tests.browser.lab import PATIENCE, open_and_run

pytestmark = pytest.mark.browser

TRAINING = """
from sparsity_lab.widgets import MagicDial
MagicDial(sparsity=0.9375, width=16, budget=1e13)
"""
SHORT = """
from sparsity_lab.widgets import MagicDial
MagicDial(sparsity=0.75, width=8, budget=2e9, dense_twin=False)
"""


def test_cells_follow_the_dial_while_training(page: Page, address: str, folder: Path) -> None:
    """The browser does it alone: how soon, ``python -m benchmarks browser`` says."""
    dial = open_and_run(page, address, folder, TRAINING, "import time; time.sleep(3600)")
    expect(dial.cells).to_have_attribute("data-experts", "16")
    dial.button("Train").click()
    expect(dial.status).to_contain_text("left", timeout=PATIENCE)
    dial.wait_for_curve()
    dial.handle("sparsity").focus()
    for key, experts in (("ArrowLeft", "8"), ("ArrowLeft", "4"), ("ArrowRight", "8")):
        page.keyboard.press(key)
        expect(dial.cells).to_have_attribute("data-experts", experts)


def test_play_lights_what_the_router_chose(page: Page, address: str, folder: Path) -> None:
    """Of a run that has ended: the same training, made again here, routes the line alike."""
    dial = open_and_run(page, address, folder, SHORT, "import time; time.sleep(3600)")
    dial.button("Train").click()
    expect(dial.status).to_contain_text("finished", timeout=PATIENCE)
    expect(dial.box.locator(".sl-note")).to_contain_text("live routing: trained")

    training = Training(ModelConfig.on_dial(8, 0.75), RunConfig(budget=2e9))
    while not training.done:
        training.step()
    chosen = read(training.model, LINE.encode())

    seen: dict[int, list[list[int]]] = {}
    pause = dial.box.get_by_role("button", name="pause the reading")
    expect(pause).to_be_visible()  # it plays since Train
    collected = page.evaluate(
        """async () => {
        const cells = document.querySelector('.sl-cells'), line = document.querySelector('.sl-line'), seen = {};
        for (let i = 0; i < 200 && Object.keys(seen).length < line.children.length; i++) {
            seen[line.dataset.at] = cells.dataset.lit;
            await new Promise((done) => setTimeout(done, 90));
        }
        return seen; }"""
    )
    seen = {int(at): json.loads(lit) for at, lit in collected.items()}
    assert len(seen) == len(LINE)
    for at, lit in seen.items():
        assert lit == [layer[at] for layer in chosen], LINE[at]

    pause.click()
    line = dial.box.locator(".sl-line")
    line.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(line).to_have_attribute("aria-valuetext", json.dumps(LINE[1]) + ", " + _words(chosen, 1))


def _words(chosen: list[list[list[int]]], at: int) -> str:
    return "; ".join(f"layer {i + 1}: expert {layer[at][0] + 1}" for i, layer in enumerate(chosen))


def test_recorded_routing_is_played_before_any_training(page: Page, address: str, folder: Path) -> None:
    from sparsity_lab.runs import measured

    dial = open_and_run(page, address, folder, SHORT, "import time; time.sleep(3600)")
    recorded = measured.routes()["layers"]["2"]
    for experts, key in ((4, "End"), (256, "Home")):
        expect(dial.cells).to_have_attribute("data-experts", str(experts))
        expect(dial.cells).to_have_attribute(
            "data-lit", json.dumps([layer[0] for layer in recorded[str(experts)]["trained"]], separators=(",", ":"))
        )
        dial.press("sparsity", key)
    expect(dial.cells).to_have_attribute("data-experts", "1")
    expect(dial.cells).to_have_attribute("aria-label", "One network, which works on every character.")
