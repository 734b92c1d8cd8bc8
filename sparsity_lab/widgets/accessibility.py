"""Adds what widgets lack: names for sliders, a visible focus, wide plots, and answers while a cell runs."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Aid(anywidget.AnyWidget):
    """An invisible widget. Put it last into a box of the class ``sparsity-lab-dial`` or ``sparsity-lab-explorer``."""

    _esm = Path(__file__).with_name("aid.js")
    _css = Path(__file__).with_name("aid.css")
    link = traitlets.Unicode("").tag(sync=True)  # of a dashboard: what its Copy link puts into the address
    opened = traitlets.Unicode("").tag(sync=True)  # what follows ? in the address of the page, once


def answer_at_once(widget: Any) -> None:
    """Lets a widget, with those in it, answer while a cell runs.

    JupyterLab sends what a learner does to a subshell, a thread of the kernel that runs no cells. ipykernel 7.4 does
    not follow: it takes the thread in which the widget was last written to, the one for cells until a callback of some
    widget writes to it. Without that rule a comm follows JupyterLab again; other kernels have no such rule.
    """
    if widget.comm is not None:
        widget.comm._reply_subshell_for = None
    for child in getattr(widget, "children", ()):
        answer_at_once(child)
