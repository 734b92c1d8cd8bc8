"""The plot that moves: one FigureWidget, which is sent only what changed."""

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.figures import style, training

GHOSTS = 6  # earlier runs in grey
MEASURED_DENSE, MEASURED, DENSE, THIS, LOAD = range(GHOSTS, GHOSTS + 5)  # the other traces
MEASURED_TRACES = {"measured dense": MEASURED_DENSE, "measured": MEASURED}

Line = tuple[str, str, Any, Any]  # label, role (of `style.ROLES`), FLOPs, loss


class LiveFigure:
    """Loss against compute, and the load of the experts. Display ``widget``; each one costs the browser 5 MB."""

    def __init__(self) -> None:
        figure = make_subplots(cols=2, column_widths=[0.66, 0.34], horizontal_spacing=0.1)
        curves = [training.loss_trace("", "ghost", [], []) | {"showlegend": False}] * GHOSTS
        curves += [training.loss_trace(role, role, [], []) | {"visible": False} for role in MEASURED_TRACES]
        curves += [training.loss_trace(name, role, [], []) for name, role in (("dense", "dense"), ("this run", "this"))]
        figure.add_traces(curves, 1, 1)
        # The browser's side stumbles over an empty map, a hidden one, and in `show` over a range that is taken back.
        figure.add_trace(training.load_trace([[0.0] * 16] * 2) | {"opacity": 0, "showscale": False}, row=1, col=2)
        style.styled(figure, 340)
        for column, axes in ((1, training.loss_axes()), (2, training.load_axes())):
            figure.update_xaxes(axes["xaxis"], row=1, col=column).update_yaxes(axes["yaxis"], row=1, col=column)
        figure.update_layout(
            xaxis_range=[9, 11], yaxis_range=[1.5, 5.5], xaxis2_range=[-0.5, 15.5], yaxis2_range=[1.5, -0.5]
        )
        self.widget = go.FigureWidget(figure)
        self.widget._config = {"responsive": True, "displayModeBar": False}  # plotly has no public name for it
        # A page that is opened or reloaded later asks for the state of the widget. plotly leaves there what the figure
        # began with; let it be what the figure has become.
        now = {"_widget_data": self.widget._data, "_widget_layout": self.widget._layout_obj._props}
        self.widget._trait_values |= now
        self._ghosts: list[str] = []
        self._measured: list[str] = []

    def show_measured(self, lines: list[Line]) -> None:
        """Shows runs that were measured before, to look at while you drag."""
        labels = [label for label, *_ in lines]
        if labels == self._measured:
            return
        self._measured = labels
        found = {line[1]: line for line in lines}
        with self.widget.batch_update():
            for role, i in MEASURED_TRACES.items():
                _set(self.widget.data[i], found.get(role, (role, role, [], [])))
                self.widget.data[i].visible = role in found
            self._zoom()

    def show(self, ghosts: list[Line], live: list[Line], load: list[list[float]]) -> None:
        """Shows what has changed. ``load``: shares, (layers, experts)."""
        traces, layout = self.widget.data, self.widget.layout
        lines = {line[1]: line for line in live}
        with self.widget.batch_update():
            labels = [label for label, *_ in ghosts]
            if labels != self._ghosts:
                self._ghosts = labels
                for i in range(GHOSTS):
                    _set(traces[i], ghosts[i] if i < len(ghosts) else ("", "ghost", [], []))
            for i, role, name in ((DENSE, "dense", "dense"), (THIS, "this", "this run")):
                _set(traces[i], lines.get(role, (name, role, [], [])))
            traces[LOAD].opacity, traces[LOAD].showscale = int(bool(load)), bool(load)
            layout.xaxis2.visible = layout.yaxis2.visible = bool(load)  # no empty axes beside a run that has no map
            if load:
                traces[LOAD].z = training.load_trace(load)["z"]
                layout.xaxis2.range = [-0.5, len(load[0]) - 0.5]
                layout.yaxis2.range = [len(load) - 0.5, -0.5]
            self._zoom()

    def _zoom(self) -> None:
        """Zooms to the runs in front, or else to the measured ones."""
        traces = self.widget.data
        for front in ((traces[DENSE], traces[THIS]), (traces[MEASURED_DENSE], traces[MEASURED])):
            xs, ys = training.loss_window([(t.x, t.y) for t in front if t.x is not None])
            if xs is not None:
                self.widget.layout.xaxis.range, self.widget.layout.yaxis.range = xs, ys
                return


def _set(trace: Any, line: Line) -> None:
    new = training.loss_trace(*line)
    trace.update({key: new[key] for key in ("name", "x", "y", "hovertemplate")})
