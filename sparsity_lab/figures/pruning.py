"""Figures of what turning things off costs."""

from collections.abc import Mapping
from itertools import cycle

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.figures import style
from sparsity_lab.figures.style import BLUE, LOOKS, OTHERS, ROLES, Look, line, lines_with_intervals, share_axis, styled
from sparsity_lab.figures.training import smooth

LEAST = 1e-4  # nats; what rises less, or falls, is drawn here on a logarithmic axis
PLACES = LEAST, 1e-3, 1e-2, 0.1, 1, 10
TEXTS = "≤ 0.0001", "0.001", "0.01", "0.1", "1", "10"
RISE = style.log_axis("rise of the held-out loss (nats per byte)", tickvals=PLACES, ticktext=TEXTS)
HOVER = "%{customdata:+.4f} ± %{error_y.array:.4f} at "


def losses(values: pd.DataFrame, x_title: str, share: bool = True) -> go.Figure:
    """How much the loss rises, a line each, with intervals. ``values``: columns line, x, rise, half. ``share``: x is a
    share; else it is one of a few numbers."""
    xaxis = share_axis(x_title) if share else style.log_axis(x_title, **style.stops(values["x"], "g"))
    hover = HOVER + ("%{x:.0%}" if share else "%{x}")
    traces = lines_with_intervals(_drawn(values), "x", "at", "half", hover, OTHERS)
    return styled(traces, 440, margin={"l": 70, "t": 80}, xaxis=xaxis, yaxis=RISE)


def _drawn(values: pd.DataFrame) -> pd.DataFrame:
    return values.assign(at=values["rise"].clip(lower=LEAST), details=values["rise"])


def dial(values: pd.DataFrame, method: str, sparsity: float, left: Mapping[str, float]) -> go.Figure:
    """Where a slider stands: the curve of ``method`` before all others in grey, a ring at ``sparsity``, and beside them
    the share of each part's weights that is ``left``. ``values`` as for `losses`."""
    drawn = _drawn(values)
    others = [part for name, part in drawn.groupby("line", sort=False) if name != method]
    x, y = ([v for part in others for v in (*part[column], None)] for column in ("x", "at"))  # None is a gap
    mine = drawn[drawn["line"] == method].assign(line="this method")
    here = mine[mine["x"] == sparsity]
    ring = {"symbol": "circle-open", "size": 22, "color": BLUE, "line": {"width": 3}}
    curves = (
        line(x, y, "other methods", Look(style.GRID), hover="", mode="lines"),
        *lines_with_intervals(mine, "x", "at", "half", HOVER + "%{x:.0%}"),
        line(here["x"], here["at"], "here", ROLES["this"], hover="", mode="markers", marker=ring),
    )
    figure = make_subplots(1, 2, column_widths=[0.66, 0.34], horizontal_spacing=0.14).add_traces(curves, 1, 1)

    texts = {"text": [f"{share:.0%}" for share in left.values()], "textposition": "outside", "cliponaxis": False}
    bars = go.Bar(x=list(left), y=list(left.values()), showlegend=False, marker={"color": BLUE}, **texts)
    figure.add_trace(bars.update(hovertemplate="%{x}: %{y:.1%} left<extra></extra>"), 1, 2)
    axes = {"xaxis": share_axis("share of weights turned off"), "yaxis": RISE, "xaxis2": {"showgrid": False}}
    axes |= {"yaxis2": share_axis("weights left", range=[0, 1.12])}
    return styled(figure, 400, margin={"l": 70, "t": 60}, **axes)


def healing(runs: pd.DataFrame) -> go.Figure:
    """Sparsity and training loss on the way. ``runs``: columns line, share (of the run), sparsity, loss."""
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.35, 0.65], vertical_spacing=0.06)
    for (name, part), look in zip(runs.groupby("line", sort=False), cycle(OTHERS), strict=False):
        changes = part["sparsity"].diff().ne(0) | (part["share"] == part["share"].iloc[-1])
        x, y, more = part["share"][changes], part["sparsity"][changes], {"line_shape": "hv", "showlegend": False}
        figure.add_trace(line(x, y, str(name), look, "%{y:.1%} at %{x:.0%}", "lines", **more), 1, 1)
        x, y = smooth(part["share"], part["loss"])
        figure.add_trace(line(x, y, str(name), look, "%{y:.3f} at %{x:.0%}", "lines"), 2, 1)
    upper, lower = share_axis("sparsity", range=[-0.05, 1.05]), {"title": "training loss (nats per byte)"}
    xaxis = share_axis("share of the budget spent")
    return styled(figure, 480, margin={"l": 70, "t": 60}, yaxis=upper, yaxis2=lower, xaxis2=xaxis)


def load_against_loss(experts: pd.DataFrame) -> go.Figure:
    """A point for each expert: its load, and how much it would be missed. ``experts``: columns layer, load (in
    multiples of the even share), rise (of the loss without it)."""
    rows, hover = experts.sort_values("layer", kind="stable"), "load %{x:.2f}, missed by %{y:+.4f}"
    more: style.Trace = {"mode": "markers", "marker_size": 11}
    looks = LOOKS[2:]  # the first two stand for sparse and dense models
    points = lines_with_intervals(rows, "load", "rise", None, hover, looks, "layer", "layer {}".format, **more)
    yaxis = {"title": "rise of the loss without it (nats per byte)", "zeroline": True}
    return styled(points, 400, margin={"l": 80}, xaxis={"title": "load (1 is the even share)"}, yaxis=yaxis)
