"""What a learner can do while a cell runs: everything that a dashboard, an explorer and a sweep's panel offer."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.lab import DIAL, PATIENCE, SLEEPS, TRAINS, open_and_run

pytestmark = pytest.mark.browser

PLAIN = """
import os
os.environ["SPARSITY_LAB_COMPILE"] = "0"  # a long run's first step waits for the compiler
"""
EXPLORER = """
import plotly.graph_objects as go
from sparsity_lab.widgets import Explorer, slide
Explorer(lambda x: go.Figure(go.Bar(y=[x])), lambda x: f"x is {x:g}", x=slide("x", 1, 0, 5, 1))
"""
PANEL = """
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.widgets import SweepPanel
SweepPanel([(ModelConfig.on_dial(16, 0.5), RunConfig(budget=1e12))], "sweep", workers=1)
"""

GROWS = """
import plotly.graph_objects as go
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs import run_all
pairs = [(ModelConfig.on_dial(8, 0.75), RunConfig(budget=budget)) for budget in (1e9, 2e9, 3e9, 4e9)]
_ = run_all(pairs, draw=lambda own: go.Figure(go.Scatter(y=list(own["val_loss"]), mode="markers"), {"height": 380}))
"""
# Notes how many points each picture outside of the dashboard shows, whenever that changes, and how high the cells are
NOTE = """() => {
    window.counts = [], window.heights = [];
    setInterval(() => {
        const plots = [...document.querySelectorAll('.jp-OutputArea .js-plotly-plot')]
            .filter(plot => !plot.closest('.sparsity-lab-dial') && plot.querySelector('.main-svg'));
        const points = plots.map(plot => plot.querySelectorAll('.scatterlayer .point').length);
        if (window.counts.length) window.heights.push(document.querySelector('.jp-WindowedPanel-inner').scrollHeight);
        if (plots.length && points.join() !== window.counts.at(-1)?.join()) window.counts.push(points);
    }, 20);
}"""


@pytest.mark.parametrize("cell", [SLEEPS, TRAINS], ids=["sleeps", "trains"])
def test_the_dial_while_a_cell(page: Page, address: str, folder: Path, cell: str) -> None:
    dial = open_and_run(page, address, folder, PLAIN, DIAL, cell)
    expect(dial.facts).to_contain_text("1 of 16")
    dial.press("sparsity", "ArrowLeft")
    expect(dial.facts).to_contain_text("1 of 8", timeout=PATIENCE)

    dial.button("Train").click()
    expect(dial.status).to_contain_text("Training", timeout=PATIENCE)
    dial.wait_for_curve()
    dial.press("sparsity", "ArrowRight")
    expect(dial.facts).to_contain_text("1 of 16", timeout=PATIENCE)
    dial.button("Pause").click()
    expect(dial.status).to_contain_text("Paused", timeout=PATIENCE)
    dial.button("Resume").click()
    expect(dial.status).to_contain_text("Training", timeout=PATIENCE)
    dial.button("Stop").click()
    expect(dial.status).to_contain_text("stopped", timeout=PATIENCE)
    assert page.evaluate("() => window.ran") == 0, "the cell still runs"


def test_other_panels_while_a_cell_sleeps(page: Page, address: str, folder: Path) -> None:
    open_and_run(page, address, folder, PLAIN, DIAL, EXPLORER, PANEL, SLEEPS)
    explorer, panel = page.locator(".sparsity-lab-explorer"), page.locator(".sparsity-lab-sweep")
    explorer.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    expect(explorer.get_by_role("status")).to_contain_text("x is 2")

    panel.get_by_role("button", name="Start").click()
    stop = panel.get_by_role("button", name="Stop")
    expect(stop).to_be_enabled(timeout=PATIENCE)
    stop.click()
    expect(panel.get_by_role("status")).to_contain_text("Stopp", timeout=PATIENCE)
    assert page.evaluate("() => window.ran") == 0, "the cell still runs"


def test_a_picture_grows_while_its_cell_trains(page: Page, address: str, folder: Path) -> None:
    open_and_run(page, address, folder, PLAIN, DIAL, GROWS)
    page.evaluate(NOTE)
    page.wait_for_function("() => window.counts.at(-1)?.includes(4)", timeout=PATIENCE)
    counts = page.evaluate("() => window.counts")
    assert {len(count) for count in counts} == {1}, "one picture, which changes in its place"
    assert len(counts) > 2, "it changes while the cell trains"
    assert page.evaluate("() => Math.max(...window.heights) - Math.min(...window.heights)") < 25, "nothing jumps"
