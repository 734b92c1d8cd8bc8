"""What a learner can do while a cell runs: everything that a dashboard, an explorer and a sweep's panel offer."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.lab import PATIENCE, Dial, open_notebook, run_all, write_notebook

pytestmark = pytest.mark.browser

DIAL = """
from sparsity_lab.widgets import MagicDial
MagicDial(sparsity=0.9375, width=16, budget=1e13, dense_twin=False)
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
# Neither ends before the test does.
SLEEPS = "import time\nwhile True:\n    time.sleep(1)"
TRAINS = """
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.repeat import run_all
run_all([(ModelConfig.on_dial(16, 0.9375), RunConfig(budget=1e13, seed=seed)) for seed in range(4)])
"""


def open_and_run(page: Page, address: str, folder: Path, *cells: str) -> Dial:
    """Runs all cells at once, of which the last does not end."""
    write_notebook(folder / "lab/notebooks/alive.ipynb", *cells)
    open_notebook(page, address, "alive.ipynb")
    run_all(page, wait=False)
    page.get_by_text("[*]:").last.wait_for()
    return Dial(page)


@pytest.mark.parametrize("cell", [SLEEPS, TRAINS], ids=["sleeps", "trains"])
def test_the_dial_while_a_cell(page: Page, address: str, tmp_path: Path, cell: str) -> None:
    dial = open_and_run(page, address, tmp_path, DIAL, cell)
    expect(dial.facts).to_contain_text("1 of 16")
    dial.press("sparsity", "ArrowLeft")
    expect(dial.facts).to_contain_text("1 of 8", timeout=PATIENCE)

    dial.button("Train").click()
    expect(dial.status).to_contain_text("Training", timeout=PATIENCE)
    dial.page.wait_for_timeout(1_000)
    assert dial.points() > 1
    dial.press("sparsity", "ArrowRight")
    expect(dial.facts).to_contain_text("1 of 16", timeout=PATIENCE)
    dial.button("Pause").click()
    expect(dial.status).to_contain_text("Paused", timeout=PATIENCE)
    dial.button("Resume").click()
    expect(dial.status).to_contain_text("Training", timeout=PATIENCE)
    dial.button("Stop").click()
    expect(dial.status).to_contain_text("stopped", timeout=PATIENCE)
    assert page.evaluate("() => window.ran") == 0, "the cell still runs"


def test_other_panels_while_a_cell_sleeps(page: Page, address: str, tmp_path: Path) -> None:
    open_and_run(page, address, tmp_path, DIAL, EXPLORER, PANEL, SLEEPS)
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
