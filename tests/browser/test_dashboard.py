"""What a learner does in JupyterLab, by keyboard and mouse, and what they see."""

import re
import time

import pytest
from playwright.sync_api import Page, expect

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.widgets.link import link_of, write_link
from sparsity_lab.widgets.settings import Settings
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, Dial, open_notebook, run_all

pytestmark = pytest.mark.browser


def assert_facts(dial: Dial) -> None:
    """The derived numbers become those the package computes for where the dials stand."""
    deadline = time.monotonic() + 20
    while True:
        now, shown = dial.settings, dial.facts.inner_text()
        params = count_parameters(now.model)
        wanted = (
            f"{now.model.top_k} of {now.model.n_experts}",
            f"{params.total:,}",
            f"{params.active:,}",
            f"{plan(now.model, now.run).tokens:,}",
        )
        if all(text in shown for text in wanted):
            return
        assert time.monotonic() < deadline, f"{wanted} not all in {shown!r} for {now}"
        dial.page.wait_for_timeout(100)


def idle(dial: Dial) -> None:
    expect(dial.status).to_contain_text(re.compile("finished|stopped|Ready|Cleared"), timeout=PATIENCE)


def test_a_first_visit(page: Page, address: str) -> None:
    open_notebook(page, address, "00_start_here.ipynb")
    run_all(page)
    dial = Dial(page)
    expect(dial.status).to_contain_text("finished")
    expect(page.locator(".jp-Notebook")).to_contain_text("nats per byte")
    assert dial.points() > 10
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    dial.box.screenshot(path=str(SCREENSHOTS / "dashboard.png"))

    # the dials, by keyboard and by mouse
    dial.press("sparsity", "Home")
    expect(dial.facts).to_contain_text("1 of 1")
    assert_facts(dial)
    dial.press("sparsity", "End")
    expect(dial.facts).to_contain_text("1 of 256")
    assert dial.settings.sparsity < 1
    assert_facts(dial)
    dial.press("sparsity", "ArrowLeft", "ArrowLeft")
    expect(dial.facts).to_contain_text("1 of 64")
    assert "63 of 64 experts sleep" in dial.readout("sparsity")
    tokens = dial.fact("tokens")
    dial.press("budget", "ArrowRight", "ArrowRight")
    expect(dial.facts).not_to_contain_text(tokens)
    assert_facts(dial)
    dial.handle("sparsity").scroll_into_view_if_needed()
    box = dial.handle("sparsity").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 60, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(dial.facts).not_to_contain_text("1 of 64")
    assert_facts(dial)
    dial.more()
    dial.button("total").click()
    expect(dial.link).to_have_value(re.compile("&hold=total&"))
    assert_facts(dial)

    # links that are pasted, a bad one first
    before = dial.settings
    dial.set("s=1&w=<script>")
    expect(dial.note).to_contain_text("The link's s=1 is not between 0 and 0.99609375")
    wanted = Settings(sparsity=0.875, budget=2e10, width=12, seed=3)
    dial.set(wanted)
    expect(dial.facts).to_contain_text("1 of 8")
    expect(dial.note).to_have_count(0)
    expect(dial.link).to_have_value(write_link(link_of(wanted)))
    assert_facts(dial)
    assert wanted != before

    dial.button("code").click()
    expect(dial.box.locator(".sparsity-lab-code")).to_contain_text("ModelConfig.on_dial(12, 0.875)")


def test_training_by_hand_and_running_again(page: Page, address: str) -> None:
    open_notebook(page, address, "00_start_here.ipynb")
    run_all(page)
    dial = Dial(page)
    idle(dial)
    expect(dial.button("Stop")).to_be_disabled()  # before anything was started
    dial.more()
    dial.button("Clear").click()
    expect(dial.status).to_contain_text("Cleared")
    dial.wait_for_curve(lambda points: points == 0)
    dial.button("Undo clear").click()
    expect(dial.status).to_contain_text("shown again")
    dial.wait_for_curve()
    dial.button("Clear").click()

    dial.set(Settings(sparsity=0.9375, budget=1e12, width=16, dense_twin=False))
    expect(dial.facts).to_contain_text("1 of 16")
    for _ in range(3):  # impatience
        dial.button("Train").click()
    expect(dial.status).to_contain_text("left", timeout=PATIENCE)
    points = dial.points()
    page.wait_for_timeout(1_500)
    assert dial.points() > points, "the curve grows"
    expect(dial.problem).to_have_count(0)

    # while it trains the dials move and the numbers follow
    dial.press("sparsity", "ArrowLeft")
    expect(dial.facts).to_contain_text("1 of 8")
    assert_facts(dial)
    dial.press("sparsity", "ArrowRight")

    dial.button("Pause").click()
    expect(dial.status).to_contain_text("Paused")
    page.wait_for_timeout(500)
    points = dial.points()
    page.wait_for_timeout(1_000)
    assert dial.points() == points, "a pause is a pause"
    dial.button("Step").click()
    page.wait_for_timeout(500)
    assert points <= dial.points() <= points + 1
    dial.button("Resume").click()
    expect(dial.status).to_contain_text("Training")

    # all cells again, while it trains: the new dashboard shows the run; stopping it lets the waiting cell end
    run_all(page, wait=False)
    page.wait_for_function("() => window.ran !== 0 || document.querySelector('.sparsity-lab-dial')")
    dial = Dial(page)
    page.wait_for_function("() => window.ran !== 0", timeout=2 * PATIENCE)
    idle(dial)
    threads = page.evaluate(
        """async () => {
        const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
        const future = kernel.requestExecute({code:
            'import threading; print([t.name for t in threading.enumerate()].count("training"))'});
        let text = '';
        future.onIOPub = m => { if (m.header.msg_type === 'stream') text += m.content.text; };
        await future.done;
        return text; }"""
    )
    assert int(threads) <= 1
    dial.button("runs").click()
    expect(dial.runs).to_contain_text("stopped")  # the run that was ended is kept
    assert page.evaluate("() => window.ran") == 1
