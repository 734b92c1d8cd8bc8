"""The plot that moves: one FigureWidget, sent only what changed."""

import threading
import time
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
from IPython.core.getipython import get_ipython
from plotly.subplots import make_subplots

from sparsity_lab import charts

GHOSTS = 6  # earlier runs in grey
DENSE, THIS, LOAD = GHOSTS, GHOSTS + 1, GHOSTS + 2  # the other traces

PAUSE = 0.5  # seconds without a cell that count as quiet

Line = tuple[str, str, Any, Any]  # label, role (this, dense, ghost), FLOPs, loss


class LiveFigure:
    """Loss against compute, and the load of the experts. Display ``widget``; every figure costs the browser 5 MB."""

    def __init__(self) -> None:
        figure = make_subplots(cols=2, column_widths=[0.66, 0.34], horizontal_spacing=0.1)
        for _ in range(GHOSTS):
            figure.add_trace(charts.loss_trace("", "ghost", [], []) | {"showlegend": False}, row=1, col=1)
        figure.add_trace(charts.loss_trace("dense", "dense", [], []), row=1, col=1)
        figure.add_trace(charts.loss_trace("this run", "this", [], []), row=1, col=1)
        figure.add_trace(charts.load_trace([]), row=1, col=2)
        charts.styled(figure, 340)
        for column, axes in ((1, charts.loss_axes()), (2, charts.load_axes())):
            figure.update_xaxes(axes["xaxis"], row=1, col=column).update_yaxes(axes["yaxis"], row=1, col=column)
        self.widget = go.FigureWidget(figure)
        self._ghosts: list[str] = []

    def show(self, ghosts: list[Line], live: list[Line], load: list[list[float]]) -> None:
        """``load``: shares, (layers, experts)."""
        traces = self.widget.data
        lines = {role: (label, flops, loss) for label, role, flops, loss in live}
        with self.widget.batch_update():
            labels = [label for label, *_ in ghosts]
            if labels != self._ghosts:
                self._ghosts = labels
                for i in range(GHOSTS):
                    label, _, flops, loss = ghosts[i] if i < len(ghosts) else ("", "ghost", [], [])
                    _set(traces[i], charts.loss_trace(label, "ghost", flops, loss))
            for i, role, name in ((DENSE, "dense", "dense"), (THIS, "this", "this run")):
                label, flops, loss = lines.get(role, (name, [], []))
                _set(traces[i], charts.loss_trace(label, role, flops, loss))
            traces[LOAD].visible = bool(load)
            if load:  # the browser's side stumbles over an empty map, and below over a range that is taken back
                traces[LOAD].z = charts.load_trace(load)["z"]
            xs, ys = charts.loss_window([(trace.x, trace.y) for trace in (traces[DENSE], traces[THIS])])
            if xs is not None:
                self.widget.layout.xaxis.range, self.widget.layout.yaxis.range = xs, ys


def _set(trace: Any, new: dict[str, Any]) -> None:
    trace.update({key: new[key] for key in ("name", "x", "y", "hovertemplate")})


class Cells:
    """Whether the notebook is running cells.

    JupyterLab takes away a cell's output when the cell, or all cells, are run again, and a plot that is updated after
    that throws errors into the browser's console. So a live figure holds still while cells run, and catches up after.
    """

    def __init__(self) -> None:
        self._running, self._ended = False, 0.0
        self.when_quiet: Callable[[], None] = lambda: None
        shell = get_ipython()
        if shell is not None:
            shell.events.register("pre_run_cell", self._start)
            shell.events.register("post_run_cell", self._end)

    @property
    def quiet(self) -> bool:
        """False while a cell runs, and between two cells of a Run All."""
        return not self._running and time.monotonic() - self._ended >= PAUSE

    def _start(self, _info: object) -> None:
        self._running = True

    def _end(self, _result: object) -> None:
        self._running, self._ended = False, time.monotonic()
        timer = threading.Timer(PAUSE * 1.2, lambda: self.when_quiet())
        timer.daemon = True
        timer.start()


CELLS = Cells()
