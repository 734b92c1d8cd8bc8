"""JupyterLab as a learner has it, and Chromium to drive it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, expect, sync_playwright

from sparsity_lab.classroom.execute import profile
from sparsity_lab.cli.doctor import find_browser
from sparsity_lab.pages import gallery
from sparsity_lab.widgets.link import link_of, read_link, write_link
from sparsity_lab.widgets.settings import Settings

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
APP = NOTEBOOKS / "app/serve.py"
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = """() => {
    const context = window.jupyterapp?.shell?.currentWidget?.sessionContext, kernel = context?.session?.kernel;
    return context?.isReady && kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
PATIENCE = 90_000  # ms
# What anywidget says when a busy machine takes more than two seconds over plotly's 5 MB; the figure comes all the same.
SLOW_START = "[anywidget] Failed to initialize model."
# JupyterLab takes a cell's output away when the cell is run again; plotly's view of a figure that still gets updates
# then writes this to the console, once for each, until the kernel makes the new figure. Nothing is lost or shown.
UPDATE_AFTER_RERUN = "Error setting state: Cannot read properties of undefined (reading 'length')"
# What JupyterLab's debugger says when a kernel is restarted while it asks it for something.
RESTARTED = "Could not restore the debugger state"
# Cells: a dashboard, and two that last longer than any test
DIAL = """
from sparsity_lab.widgets import MagicDial
MagicDial(sparsity=0.9375, width=16, budget=1e13, dense_twin=False)
"""
SLEEPS = "import time\nwhile True:\n    time.sleep(1)"
TRAINS = """
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.repeat import run_all
run_all([(ModelConfig.on_dial(16, 0.9375), RunConfig(budget=1e13, seed=seed)) for seed in range(4)])
"""


@contextlib.contextmanager
def served(folder: Path, cache: Path) -> Iterator[str]:
    """Serves what `prepare` puts into ``folder``; gives the address with its token."""
    prepare(folder)
    try:
        with _server("jupyterlab", ["--LabApp.expose_app_in_browser=True"], folder, folder, cache) as address:
            yield address
    finally:
        shutil.rmtree(folder / "notebooks", ignore_errors=True)


def prepare(folder: Path, dark: bool = False) -> None:
    """Puts copies of the notebooks, with small parameters, and settings into the folder of a server; takes away the
    runs and guesses that an earlier user left."""
    for used in ("notebooks", "lab"):
        shutil.rmtree(folder / used, ignore_errors=True)
    work = folder / "notebooks"
    work.mkdir(parents=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        _with_parameters(notebook, work / notebook.name, profile(NOTEBOOKS, "ci", notebook))
    settings = {
        "notification": {"fetchNews": "false", "checkForUpdates": False},
        "themes": {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"},
    }
    for name, values in settings.items():
        path = folder / "settings/@jupyterlab/apputils-extension" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def end_kernels(address: str) -> None:
    """Ends every kernel of a server, whatever it is doing."""
    base, query = address.split("?")

    def ask(method: str, path: str) -> bytes:
        answer: bytes = urllib.request.urlopen(
            urllib.request.Request(f"{base}api/{path}?{query}", method=method)
        ).read()
        return answer

    for kernel in json.loads(ask("GET", "kernels")):
        ask("POST", f"kernels/{kernel['id']}/interrupt")  # or it would be given five seconds to end its cell
        ask("DELETE", f"kernels/{kernel['id']}")


@contextlib.contextmanager
def app_served(folder: Path, cache: Path, *options: str) -> Iterator[str]:
    """Serves the dashboard alone, as `make app` does; gives the address of its page, with its token."""
    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(APP), "--Voila.ip=127.0.0.1", f"--port={port}", "--Voila.token=secret"]
    command += [f"--Voila.connection_dir_root={folder}", *options]
    with _process(command, folder, folder, cache) as server:
        deadline = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/voila/static/voila.js", timeout=1)
                break
            time.sleep(0.1)
        else:
            raise RuntimeError("the dashboard was not served; the log is server.log in the test's folder")
        yield f"http://127.0.0.1:{port}/?token=secret"


@contextlib.contextmanager
def _server(module: str, options: list[str], folder: Path, where: Path, cache: Path) -> Iterator[str]:
    """A Jupyter server; gives the address with its token."""
    command = ["-m", module, "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    command += ["--IdentityProvider.token=secret", *options]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    with _process(command, folder, where, cache) as server:
        yield _address(folder / "runtime", server)


@contextlib.contextmanager
def _process(command: list[str], folder: Path, where: Path, cache: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that Python runs, with settings and state of its own in ``folder``."""
    own = {
        "HOME": "home",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "SPARSITY_LAB_HOME": "lab",
    }
    environment = os.environ | {name: str(folder / path) for name, path in own.items()}
    environment["SPARSITY_LAB_CACHE"] = str(cache)
    (folder / "home").mkdir()
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, *command, "--no-browser"], cwd=where, env=environment,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):  # ended by the test
            os.killpg(server.pid, signal.SIGKILL)  # at once: its kernels see that it is gone, and end as well
        server.wait()


def gallery_page(folder: Path) -> str:
    """Builds a gallery of one small notebook in ``folder``; gives the address of the page with the dial."""
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell("1")]
    run = {"papermill": {"duration": 1.0, "parameters": {}}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=run), folder / "01_one.ipynb")
    gallery.build(folder, folder / "site", folder / "README.md")
    return (folder / "site/index.html").as_uri()


@contextlib.contextmanager
def browsing(address: str, height: int = 900, reruns: bool = False, **context: Any) -> Iterator[Page]:
    """A page; raises AssertionError at the end for errors on its console and for requests that left this machine.

    ``reruns`` forgives `UPDATE_AFTER_RERUN`, for a test that runs cells again during training; ``context`` goes to
    Playwright, say color_scheme="dark".
    """
    base = "/".join(address.split("/")[:3])
    faults: list[str] = []
    allowed = (base, base.replace("http", "ws", 1), "data:", "blob:")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=CHROMIUM)
        page = browser.new_context(**{"viewport": {"width": 1366, "height": height}} | context).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: faults.append(f"console: {m.text[:300]}") if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(f"page error: {str(error)[:300]}"))
        page.on("request", lambda r: None if r.url.startswith(allowed) else faults.append(f"left localhost: {r.url}"))
        yield page
        browser.close()
    noise = (SLOW_START, RESTARTED, *([UPDATE_AFTER_RERUN] if reruns else []))
    faults = [fault for fault in faults if not any(text in fault for text in noise)]
    assert not faults, faults


def open_notebook(page: Page, address: str, name: str) -> None:
    base, query = address.split("?")
    page.goto(f"{base}lab/tree/notebooks/{name}?reset&{query}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function(READY, timeout=PATIENCE)


def run_all(page: Page, wait: bool = True) -> None:
    page.evaluate(
        """() => { window.ran = 0;
        window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.ran = 1, () => window.ran = -1);
        return 0; }"""
    )
    if wait:
        page.wait_for_function("() => window.ran !== 0", timeout=2 * PATIENCE)
        expect(page.locator("[data-mime-type='application/vnd.jupyter.error']")).to_have_count(0)


class Dial:
    """The dashboard, by what a learner sees of it."""

    def __init__(self, page: Page, which: int = 0):
        self.page = page
        self.box = page.locator(".sparsity-lab-dial").nth(which)
        self.facts = self.box.locator(".sparsity-lab-facts")
        self.status = self.box.locator(".sparsity-lab-news")
        self.verdict = self.box.locator(".sparsity-lab-verdict")
        self.problem = self.box.get_by_role("alert")
        self.note = self.box.locator(".sparsity-lab-lesson").get_by_role("status")
        self.question = self.box.locator(".sl-question")
        self.runs = self.box.locator(".sparsity-lab-runs")
        self.cells = self.box.locator(".sl-cells")
        self.box.wait_for()

    def button(self, name: str) -> Locator:
        return self.box.get_by_role("button", name=name, exact=True)

    def more(self) -> None:
        """Opens the fold of further settings."""
        fold = self.box.locator(".sparsity-lab-link")
        if not fold.is_visible():
            self.box.get_by_text("More", exact=True).click()
            fold.wait_for()

    @property
    def link(self) -> Locator:
        """The field with the link to what the dials show."""
        return self.box.locator(".sparsity-lab-link input")

    @property
    def settings(self) -> Settings:
        """The settings in that link."""
        return Settings(**read_link(self.link.input_value()).values)

    def set(self, link: str | Settings) -> None:
        """Pastes a link, or that to these settings."""
        self.more()
        self.link.fill(link if isinstance(link, str) else write_link(link_of(link)))
        self.link.press("Enter")

    def handle(self, name: str) -> Locator:
        return self.box.locator(f".sparsity-lab-{name} .noUi-handle")

    def press(self, name: str, *keys: str) -> None:
        self.handle(name).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def time_presses(self, watch: str, presses: int) -> list[float]:
        """Milliseconds from each key press on the sparsity slider to what ``watch``, a script, notes as window.took."""
        self.handle("sparsity").focus()
        times = []
        for press in range(presses):
            self.page.evaluate(watch)
            self.page.keyboard.press("ArrowRight" if press % 4 < 2 else "ArrowLeft")
            self.page.wait_for_function("() => window.took !== null")
            times.append(float(self.page.evaluate("() => window.took")))
            self.page.wait_for_timeout(200)
        return times

    def readout(self, name: str) -> str:
        return self.box.locator(f".sparsity-lab-{name} .widget-readout").inner_text()

    def fact(self, row: str, column: int = 1) -> str:
        cells = self.facts.locator("tr", has_text=row).locator("td")
        return cells.nth(column).inner_text()

    def points(self) -> int:
        """Of the line of the run on the dial."""
        count: int = self.box.evaluate(
            """dial => { const plot = dial.querySelector('.sl-race .js-plotly-plot');
            return Math.max(...plot.data.filter(t => t.line?.width === 3 && t.line?.dash === 'solid')
                .map(t => t.x?.length ?? 0)); }"""
        )
        return count

    def wait_for_curve(self, points: Callable[[int], bool] = lambda points: points >= 2) -> None:
        """Waits until the line of the run on the dial has so many `points`."""
        deadline = time.monotonic() + PATIENCE / 1e3
        while not points(self.points()):
            assert time.monotonic() < deadline, self.status.inner_text()
            self.page.wait_for_timeout(10)


def open_and_run(page: Page, address: str, folder: Path, *cells: str) -> Dial:
    """Runs a notebook of these cells, of which the last does not end, all at once."""
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}  # or JupyterLab asks for a kernel
    code = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    book = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": spec})
    nbformat.write(book, folder / "notebooks/cells.ipynb")
    open_notebook(page, address, "cells.ipynb")
    run_all(page, wait=False)
    page.get_by_text("[*]:").last.wait_for()
    return Dial(page)


def _with_parameters(notebook: Path, copy: Path, values: dict[str, Any]) -> None:
    book = nbformat.read(notebook, as_version=4)
    (cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    nbformat.write(book, copy)


def _address(runtime: Path, server: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(OSError, ValueError):
                url = json.loads(path.read_text())["url"].replace("localhost", "127.0.0.1")
                urllib.request.urlopen(f"{url}api/status?token=secret", timeout=1)
                return f"{url}?token=secret"
        time.sleep(0.1)
    raise RuntimeError("JupyterLab did not start; its log is server.log in the test's folder")
