"""Adds what widgets lack in the browser: names for sliders, a visible focus, plots as wide as their place."""

from pathlib import Path

import anywidget


class Aid(anywidget.AnyWidget):
    """An invisible widget. Put it last into a box of the class ``sparsity-lab-dial`` or ``sparsity-lab-explorer``."""

    _esm = Path(__file__).with_name("aid.js")
    _css = Path(__file__).with_name("aid.css")
