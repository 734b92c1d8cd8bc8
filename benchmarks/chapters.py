"""How soon a reader sees a picture, and how much code: `python -m benchmarks.chapters [NAME …]`, a row per notebook.

Each notebook is run in JupyterLab with its `ci` parameters, in a window of a small laptop. The notebooks of another
checkout are measured with their own package: `PYTHONPATH=THERE python -m benchmarks.chapters --notebooks FOLDER`.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nbformat
from playwright.sync_api import Error, Page

from sparsity_lab.classroom.execute import find_notebooks
from sparsity_lab.cli.doctor import find_browser
from sparsity_lab.files import cache_dir
from tests.browser import lab

HEIGHT = 768
SCREEN = 645  # px that such a window leaves for the notebook
# Walks down the notebook, because cells far away are not drawn, and notes pictures and widgets with their places.
WALK = """async (screen) => {
    const panel = window.jupyterapp.shell.currentWidget.content.node;
    const scroller = panel.querySelector('.jp-WindowedPanel-outer') ?? panel;
    const widgets = new Map();
    let first = null, end = 0;
    for (let top = 0; top <= end; top += screen / 2) {
        scroller.scrollTop = top;
        await new Promise(done => setTimeout(done, 250));
        end = scroller.scrollHeight - scroller.clientHeight;
        const place = node => node.getBoundingClientRect().top - scroller.getBoundingClientRect().top
            + scroller.scrollTop;
        const pictures = '.js-plotly-plot, .sparsity-lab-dial, .sparsity-lab-explorer, .jp-OutputArea-output img, '
            + '[role=figure]';
        for (const node of scroller.querySelectorAll(pictures))
            if (node.getBoundingClientRect().height > 0) first = Math.min(first ?? Infinity, place(node));
        for (const node of scroller.querySelectorAll('[class*=sparsity-lab-]')) {
            const kind = [...node.classList].find(name => name.startsWith('sparsity-lab-'));
            const inner = node.parentElement.closest('[class*=sparsity-lab-]');
            if (kind && !inner && kind !== 'sparsity-lab-reveal') widgets.set(node, kind.slice(13));
        }
    }
    return [first, [...widgets.values()]];
}"""


def visible_lines(path: Path) -> int:
    """Counts lines of code that are neither blank nor folded."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    shown = [cell for cell in cells if not cell.metadata.get("jupyter", {}).get("source_hidden")]
    return sum(bool(line.strip()) for cell in shown for line in cell.source.splitlines())


def row(page: Page, address: str, path: Path) -> str:
    """Runs a notebook and describes it; gives its kernel back."""
    lab.open_notebook(page, address, path.name)
    lab.run_all(page)
    page.wait_for_timeout(3_000)  # for the last plots
    first, kinds = page.evaluate(WALK, SCREEN)
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    screens = "none" if first is None else f"{first / SCREEN:.1f}"
    counted = ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).items())
    return f"{screens} | {visible_lines(path)} | {len(kinds)}{f' ({counted})' * bool(kinds)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which notebooks, e.g. 01 (default: all)")
    parser.add_argument("--notebooks", type=Path, default=lab.NOTEBOOKS, help="folder of the notebooks")
    options = parser.parse_args()
    if find_browser() is None:
        print("no Chromium: sudo apt install chromium", file=sys.stderr)
        return 2

    lab.NOTEBOOKS = options.notebooks.resolve()
    print("| notebook | screens to the first picture | visible lines of code | interactive things |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, lab.served(Path(folder), cache_dir()) as address:
        for path in find_notebooks(lab.NOTEBOOKS, options.names):
            told = "did not open"
            try:
                with lab.browsing(address, HEIGHT) as page:
                    told = row(page, address, path)
            except (AssertionError, Error) as error:  # a fault on the console leaves the measurement as it is
                print(f"{path.stem}: {str(error)[:300]}", file=sys.stderr)
            print(f"| {path.stem} | {told} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
