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
