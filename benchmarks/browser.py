"""How fast the dashboard comes in JupyterLab, and how fast it answers while it trains and while a cell runs."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

from benchmarks.timing import Row
from sparsity_lab.cli.doctor import find_browser
from sparsity_lab.files import cache_dir
from sparsity_lab.widgets.settings import Settings
from tests.browser.lab import (
    DIAL,
    NOTEBOOKS,
    SLEEPS,
    TRAINS,
    Dial,
    browsing,
    gallery_page,
    open_and_run,
    open_notebook,
    run_all,
    served,
)

PRESSES = 40
BAR = 150  # ms, 95th percentile
FIRST = 3.0  # s from the kernel's being ready to the dashboard with its figure, median
OPENINGS = 3
WHILE_CELL = 300  # ms, 95th percentile
CELLS = 100  # ms, 95th percentile: the browser changes them by itself
STOP = 1.0  # s for the present step to end and the page to say so
ROUNDS = 5  # of Train and Stop
PAGE, OPENED = 50, 1_000  # ms of the dial in a page: from a key press to the picture, and from opening it to the first
# From a key press on the page to the frame that follows it.
PAINTED = """() => {
    window.took = null;
    addEventListener('keydown', ({timeStamp}) => requestAnimationFrame(() => setTimeout(() => {
        window.took = performance.now() - timeStamp;
    })), {once: true, capture: true});
}"""
WATCH_CELLS = """() => {
    const start = performance.now();
    window.took = null;
    const observer = new MutationObserver(() => { window.took = performance.now() - start; observer.disconnect(); });
    observer.observe(document.querySelector('.sl-cells'), {attributes: true, attributeFilter: ['data-experts']});
}"""
WATCH = """() => {
    const start = performance.now();
    window.took = null;
    const observer = new MutationObserver(() => { window.took = performance.now() - start; observer.disconnect(); });
    observer.observe(document.querySelector('.sparsity-lab-facts'),
        {subtree: true, childList: true, characterData: true});
}"""


def rows() -> Iterator[Row]:
    what = f"browser, while training: key press to new numbers, of {PRESSES}"
    if find_browser() is None:
        yield Row(what, f"p95 ≤ {BAR} ms", "no Chromium: sudo apt install chromium", None)
        return
    seconds = statistics.median(first_render() for _ in range(OPENINGS))
    yield Row(
        "browser: kernel ready to the dashboard of notebook 00 drawn",
        f"≤ {FIRST:.0f} s",
        f"{seconds:.1f} s, median of {OPENINGS}",
        seconds <= FIRST,
    )
    numbers, cells = measure()
    yield _p95(what, numbers, BAR)
    yield _p95(f"browser, while training: key press to new cells, of {PRESSES}", cells, CELLS)
    yield from on_the_page()
    for cell, name in ((SLEEPS, "sleeps"), (TRAINS, "trains with run_all")):
        yield from while_a_cell(cell, f"browser, while a cell {name}")


def first_render() -> float:
    """Seconds for the cells of notebook 00 up to the dashboard, as Shift+Enter runs them."""
    cells = nbformat.read(NOTEBOOKS / "00_start_here.ipynb", as_version=4).cells
    presses = 1 + next(i for i, cell in enumerate(cells) if "MagicDial(" in cell.source)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), cache_dir()) as address,
        browsing(address) as page,
    ):
        open_notebook(page, address, "00_start_here.ipynb")
        start = time.monotonic()
        for _ in range(presses):
            page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell-and-select-next'); }")
        page.wait_for_selector(".sparsity-lab-dial .js-plotly-plot .main-svg")
        return time.monotonic() - start


def _p95(what: str, times: list[float], bar: float) -> Row:
    p95 = sorted(times)[int(len(times) * 0.95)]
    return Row(what, f"p95 ≤ {bar} ms", f"p95 {p95:.0f} ms, median {statistics.median(times):.0f} ms", p95 <= bar)


def measure() -> tuple[list[float], list[float]]:
    """Milliseconds from each press to new numbers, and to new cells, while the dashboard trains."""
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), cache_dir()) as address,
        browsing(address) as page,
    ):
        open_notebook(page, address, "00_start_here.ipynb")
        run_all(page)
        dial = Dial(page)
        dial.set(Settings(budget=1e13, dense_twin=False))
        dial.button("Train").click()
        dial.status.get_by_text("left").wait_for()
        times = dial.time_presses(WATCH, PRESSES), dial.time_presses(WATCH_CELLS, PRESSES)
        dial.button("Stop").click()
    return times


def on_the_page() -> Iterator[Row]:
    """Rows for the dial in a page, from disk, with the race in view."""
    times = list[float]()
    with tempfile.TemporaryDirectory() as folder:
        address = gallery_page(Path(folder))
        with browsing(address, offline=True) as page:
            page.goto(address)
            page.get_by_role("radio", name="sparse").check()
            page.get_by_role("button", name="Guess", exact=True).click()
            opened = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
            page.get_by_role("slider", name="sparsity").focus()
            for press in range(PRESSES):
                page.evaluate(PAINTED)
                page.keyboard.press("ArrowRight" if press % 4 < 2 else "ArrowLeft")
                page.wait_for_function("() => window.took !== null")
                times.append(float(page.evaluate("() => window.took")))
                page.wait_for_timeout(200)
    yield Row("page from disk: opened to the first picture", f"≤ {OPENED} ms", f"{opened:.0f} ms", opened <= OPENED)
    yield _p95(f"page from disk: key press to picture, of {PRESSES}", times, PAGE)


def while_a_cell(cell: str, what: str) -> Iterator[Row]:
    """Rows for a dashboard, opened with Run All, below which ``cell`` runs."""
    curves, stops = list[float](), list[float]()
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), cache_dir()) as address,
        browsing(address) as page,
    ):
        dial = open_and_run(page, address, Path(folder), DIAL, cell)
        times = dial.time_presses(WATCH, PRESSES)
        for _ in range(ROUNDS):
            start = time.monotonic()
            dial.button("Train").click()
            dial.status.get_by_text("Training.").wait_for()
            dial.wait_for_curve()
            curves.append(time.monotonic() - start)
            page.wait_for_timeout(1_000)
            start = time.monotonic()
            dial.button("Stop").click()
            dial.status.get_by_text("Training.").wait_for(state="detached")
            stops.append(time.monotonic() - start)
            dial.status.get_by_text("stopped").wait_for()

    yield _p95(f"{what}: key press to new numbers, of {PRESSES}", times, WHILE_CELL)
    measured = f"{statistics.median(curves):.1f} s, median of {ROUNDS}; longest {max(curves):.1f} s"
    yield Row(f"{what}: Train to a curve", "", measured, None)
    measured = f"longest {max(stops):.1f} s, median {statistics.median(stops):.1f} s"
    yield Row(f"{what}: Stop to the end of training, of {ROUNDS}", f"≤ {STOP:.0f} s", measured, max(stops) <= STOP)
