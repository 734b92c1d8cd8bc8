"""Adds what widgets lack in the browser: names for sliders, a visible focus, plots as wide as their place."""

from pathlib import Path
from typing import Any

import anywidget


class Aid(anywidget.AnyWidget):
    """An invisible widget. Put it last into a box of the class ``sparsity-lab-dial`` or ``sparsity-lab-explorer``."""

    _esm = Path(__file__).with_name("aid.js")
    _css = Path(__file__).with_name("aid.css")


def answer_at_once(widget: Any) -> None:
    """Lets a widget and those in it answer while a cell runs.

    JupyterLab sends what a learner does to a thread of its own in the kernel, a subshell. Since ipykernel 7.4 the kernel
    sends it on to where the widget was last written from instead, and for a widget that a cell has made this is the
    main thread, which runs the next cell. Without this rule of the kernel's, JupyterLab's choice stands.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = None
    for child in getattr(widget, "children", ()):
        answer_at_once(child)
