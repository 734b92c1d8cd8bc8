"""A guess before the result, several dials on a page, and what happens when a tab or a kernel goes away."""

from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from sparsity_lab.widgets.link import read_link
from sparsity_lab.widgets.settings import Settings
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import PATIENCE, READY, Dial, open_notebook, run_all

pytestmark = pytest.mark.browser

IMPORTS = "from sparsity_lab.widgets import MagicDial, Predict"
GUESS = """
guess = Predict("race", "Which has the lower loss?", choices=["sparse", "dense", "too close to call"], default="dense")
guess
"""
DIAL = """
dial = MagicDial(sparsity=0.9375, width=16, budget=1e11, guess=guess)
dial
"""
REVEAL = """
_ = dial.run()
guess.reveal(dial.winner(), dial.verdict())
"""
FAST = "MagicDial(sparsity={}, width=8, budget={}, dense_twin={})"
# Whether these are the beginnings of the names of the measured runs that the race shows
COMPARED = """names => {
    const plot = document.querySelector('.sl-race .js-plotly-plot'), shown = new Set((plot?.data ?? [])
        .filter(trace => trace.name?.startsWith('measured') && trace.x?.length).map(trace => trace.name));
    return shown.size === names.length && names.every(name => [...shown].some(other => other.startsWith(name))); }"""
LONG = Settings(sparsity=0.875, width=16, budget=1e13, dense_twin=False)


def open_cells(page: Page, address: str, folder: Path, *cells: str) -> None:
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    code = [nbformat.v4.new_code_cell(cell.strip()) for cell in (IMPORTS, *cells)]
    book = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": spec})
    nbformat.write(book, folder / "notebooks/cells.ipynb")
    open_notebook(page, address, "cells.ipynb")


def press_shift_enter(page: Page) -> None:
    page.evaluate(
        """async () => { await window.jupyterapp.commands.execute('notebook:run-cell-and-select-next'); return 0; }"""
    )


def test_a_guess_is_asked_given_and_revealed(page: Page, address: str, folder: Path) -> None:
    open_cells(page, address, folder, GUESS, DIAL, REVEAL)
    for _ in range(3):
        press_shift_enter(page)
    dial = Dial(page)
    plan = dial.box.locator(".sparsity-lab-map")
    expect(plan).to_contain_text("hidden until you have made your guess")
    expect(dial.facts).to_contain_text("1 of 16")
    expect(dial.facts).not_to_contain_text("expected loss")
    assert dial.box.locator(".sl-race .js-line").count() == 0, "no measured run gives the answer away"

    page.locator(".sparsity-lab-predict").get_by_label("sparse", exact=True).check()
    expect(plan.locator("svg")).to_be_visible()
    expect(dial.facts).to_contain_text("expected loss")
    expect(dial.box.locator(".sl-race .js-line")).not_to_have_count(0)

    dial.set(Settings(sparsity=0.9375, width=8, budget=1e10))
    page.locator(".jp-CodeCell").last.locator(".jp-InputArea").click()
    press_shift_enter(page)
    expect(dial.verdict).not_to_be_empty(timeout=PATIENCE)
    revealed = page.locator(".sparsity-lab-reveal")
    expect(revealed).to_contain_text("sparse (70 % sure)")
    expect(revealed).to_contain_text("nats per byte")


def test_two_dials_train_one_after_the_other(page: Page, address: str, folder: Path) -> None:
    open_cells(page, address, folder, FAST.format(0.75, 2e9, True), FAST.format(0.875, 2e9, True))
    run_all(page)
    first, second = Dial(page, 0), Dial(page, 1)
    first.button("Train").click()
    expect(first.status).to_contain_text("Sparsity 0.75: finished", timeout=PATIENCE)
    expect(first.verdict).to_contain_text("nats per byte")
    won = first.verdict.inner_text()
    expect(second.verdict).to_be_empty()
    second.button("Train").click()
    expect(second.status).to_contain_text("Sparsity 0.875: finished", timeout=PATIENCE)
    expect(second.verdict).to_contain_text("nats per byte")
    assert first.verdict.inner_text() == won
    assert second.verdict.inner_text() != won
    first.wait_for_curve()
    second.wait_for_curve()

    second.set(LONG)
    second.button("Train").click()
    expect(second.status).to_contain_text("left", timeout=PATIENCE)
    expect(first.status).to_contain_text("Another dial")
    expect(first.button("Stop")).to_be_disabled()
    second.button("Stop").click()
    expect(second.status).to_contain_text("stopped", timeout=PATIENCE)


def test_a_stopped_race_has_no_winner(page: Page, address: str, folder: Path) -> None:
    open_cells(page, address, folder, FAST.format(0.9375, 1e13, True))
    run_all(page)
    dial = Dial(page)
    dial.button("Train").click()
    expect(dial.status).to_contain_text("left", timeout=PATIENCE)
    dial.button("Stop").click()
    expect(dial.status).to_contain_text("stopped", timeout=PATIENCE)
    expect(dial.verdict).to_contain_text("No winner")
    bar = dial.box.locator(".progress .progress-bar")
    assert bar.evaluate("e => e.offsetWidth / e.parentElement.offsetWidth") < 0.05


def test_what_cannot_be_had_is_refused_beside_its_control(page: Page, address: str, folder: Path) -> None:
    open_cells(page, address, folder, FAST.format(0.9375, 1e19, False))
    run_all(page)
    dial = Dial(page)
    expect(dial.facts).not_to_contain_text("measuring", timeout=PATIENCE)
    dial.button("Train").click()
    expect(dial.problem).to_contain_text("days here: choose a smaller one")
    assert_beside(dial, dial.box.locator(".sparsity-lab-budget"))
    dial.set("b=1e10")
    expect(dial.problem).to_have_count(0)

    dial.more()
    field = dial.box.locator(".sparsity-lab-corpus input")
    field.fill("/no/such/text")
    field.press("Enter")
    expect(dial.problem).to_contain_text("corpus='/no/such/text' does not exist")
    expect(field).to_have_value("python")
    assert_beside(dial, field)

    mine = folder / "mine.txt"
    mine.write_text("All happy families are alike; every unhappy family is unhappy in its own way.\n" * 500)
    with page.expect_file_chooser() as chooser:
        dial.box.locator(".sparsity-lab-upload").click()
    chooser.value.set_files(mine)
    expect(field).to_have_value(str(folder / "lab/texts/mine.txt"))
    dial.button("Train").click()
    expect(dial.status).to_contain_text("finished", timeout=PATIENCE)


def assert_beside(dial: Dial, control: Locator) -> None:
    problem, place = dial.problem.bounding_box(), control.bounding_box()
    assert problem is not None
    assert place is not None
    assert 0 <= problem["y"] - place["y"] < 100, "right below it"


def test_a_model_is_compared_with_runs_of_the_same_cut(page: Page, address: str, folder: Path) -> None:
    """The shipped runs hold the active part. With the total held, one of 16 experts is cut as theirs are, and its dense
    twin is another one; at other stops, both are."""
    open_cells(page, address, folder, "MagicDial(sparsity=0.9375, width=16, budget=1e11)")
    run_all(page)
    dial, place = Dial(page), page.locator(".sparsity-lab-map")
    for hold, sparsity, shown in (
        ("active", 0.9375, ["S 0.938, width 16", "dense, width 16"]),
        ("total", 0.9375, ["S 0.938, width 16"]),
        ("total", 0.75, []),
        ("active", 0.75, ["S 0.75, width 16", "dense, width 16"]),
    ):
        dial.set(Settings(sparsity=sparsity, width=16, budget=1e11, hold=hold))  # type: ignore[arg-type]
        page.wait_for_function(COMPARED, arg=[f"measured: {name}" for name in shown])
        if hold == "active":
            expect(place.locator("svg")).to_be_visible()
        else:
            expect(place).to_contain_text("they say nothing about this race")


def test_after_a_restart_the_run_is_offered_again(page: Page, address: str, folder: Path) -> None:
    open_cells(page, address, folder, FAST.format(0.9375, 2e9, False))
    run_all(page)
    dial = Dial(page)
    dial.set(LONG)
    dial.button("Train").click()
    expect(dial.status).to_contain_text("left", timeout=PATIENCE)
    page.wait_for_timeout(4_000)  # a run of some seconds

    # The tab goes away: training goes on, and the page that is opened next says so.
    page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save'); return 0; }")
    base, query = address.split("?")
    page.goto("about:blank")
    page.goto(f"{base}lab/tree/notebooks/cells.ipynb?{query}")
    page.wait_for_function(READY, timeout=PATIENCE)
    expect(Dial(page).status).to_contain_text("left", timeout=PATIENCE)

    page.evaluate("""async () => {
        await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); return 0; }""")
    page.wait_for_function(READY, timeout=PATIENCE)
    run_all(page)
    dial = Dial(page)
    expect(dial.status).to_contain_text("Press Train to resume it")
    assert "7 of 8" in dial.readout("sparsity")
    dial.button("Train").click()
    expect(dial.status).to_contain_text("left", timeout=PATIENCE)
    dial.wait_for_curve()
    dial.button("Stop").click()


def test_a_link_brings_settings_and_a_lesson(page: Page, address: str, folder: Path) -> None:
    open_cells(page, address, folder, FAST.format(0.9375, 2e10, False))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    run_all(page)
    dial = Dial(page)
    dial.press("sparsity", "ArrowLeft", "ArrowLeft")
    expect(dial.facts).to_contain_text("1 of 4")
    dial.more()
    dial.button("Copy link").click()
    expect(dial.button("Copied")).to_be_visible()
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert read_link(link).values == vars(Settings(sparsity=0.75, width=8, budget=2e10, dense_twin=False))
    assert "token" not in link

    dial.button("Reset").click()
    expect(dial.facts).to_contain_text("1 of 16")
    page.goto(f"{link}&lesson=Why+%3Cb%3E4%3C/b%3E%3F&hide=d&fix=w&evil=%3Cscript%3E")
    page.wait_for_function(READY, timeout=PATIENCE)
    run_all(page)
    dial = Dial(page)
    expect(dial.facts).to_contain_text("1 of 4")
    expect(dial.question).to_have_text("Why <b>4</b>?")
    expect(dial.note).to_have_text("The link has evil, which is not known here: it is ignored.")
    assert_lesson(dial)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    dial.box.screenshot(path=str(SCREENSHOTS / "lesson.png"))


def assert_lesson(dial: Dial) -> None:
    """Layers are hidden, and the width is fixed, with the reason."""
    expect(dial.handle("layers")).to_be_hidden()
    width = dial.box.locator(".sparsity-lab-width")
    expect(width).to_be_visible()
    expect(width).to_have_attribute("title", "This lesson keeps it where it is")
    before = dial.readout("width")
    dial.press("width", "End")
    assert dial.readout("width") == before
