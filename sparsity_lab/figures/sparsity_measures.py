"""Figures of how sparse vectors and models are."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.analysis.sparsity_measures import Array
from sparsity_lab.figures import style
from sparsity_lab.figures.style import (
    BLUE,
    DOWN,
    GREY,
    OTHERS,
    line,
    lines_with_intervals,
    log_axis,
    share_axis,
    styled,
)

BEFORE_AFTER = (style.Look(GREY, "dot", "diamond"), style.ROLES["this"])


def bars(vectors: Mapping[str, Array]) -> go.Figure:
    """A panel of bars for each vector, all on one scale."""
    figure = make_subplots(1, len(vectors), subplot_titles=list(vectors), shared_yaxes=True, horizontal_spacing=0.03)
    for column, (name, c) in enumerate(vectors.items(), 1):
        hover = "number %{x}: %{y:.3g}<extra>" + name + "</extra>"
        numbers = list(range(1, len(c) + 1))
        figure.add_bar(x=numbers, y=c, marker={"color": BLUE}, hovertemplate=hover, row=1, col=column)
    top = max(float(c.max()) for c in vectors.values())
    styled(figure, 240, showlegend=False, bargap=0.15)
    return figure.update_xaxes(showgrid=False, dtick=4).update_yaxes(range=[-0.02 * top, 1.05 * top])


def ranks(values: pd.DataFrame) -> go.Figure:
    """Who is how sparse, by whom. ``values``: sparsity by measure (rows) and vector (columns), larger is sparser.

    1 and the darkest blue: sparsest of its row. Equal values share the better rank.
    """
    order = values.round(9).rank(axis=1, ascending=False, method="min").astype(int)
    more: style.Trace = {"x": list(values.columns), "y": list(values.index), "customdata": values.to_numpy()}
    more |= {"text": order.astype(str).to_numpy(), "texttemplate": "%{text}", "textfont": {"size": 15}}
    more |= {"colorscale": "Blues", "reversescale": True, "showscale": False, "xgap": 2, "ygap": 2}
    trace = style.heatmap(order.to_numpy(), "%{y} of %{x}: %{customdata:.4g}", **more)
    xaxis = {"side": "top", "showgrid": False}
    return styled([trace], 440, margin={"l": 110, "b": 20}, xaxis=xaxis, yaxis=DOWN)


def lorenz(vectors: Mapping[str, Array]) -> go.Figure:
    """The share of the sum that the smallest numbers hold; Gini is twice the area between a curve and the diagonal."""
    traces = [line([0, 1], [0, 1], "all alike", style.Look(GREY, width=1), hover="", mode="lines")]
    hover = "the smallest %{x:.0%} hold %{y:.1%}"
    for (name, c), look in zip(vectors.items(), cycle(OTHERS), strict=False):
        held = np.concatenate([[0.0], np.cumsum(np.sort(c))]) / c.sum()
        traces.append(line(np.linspace(0, 1, len(held)), held, name, look, hover, marker_size=7))
    ends = [-0.02, 1.02]
    xaxis = share_axis("share of the numbers, smallest first", range=ends)
    return styled(traces, 420, xaxis=xaxis, yaxis=share_axis("share of the sum", range=ends))


def moved(before: Array, after: Array, changes: Mapping[str, float]) -> go.Figure:
    """A vector before and after a change, and by how much each measure finds it sparser (right) or less sparse (left).

    ``changes``: relative, drawn up to ± 1.
    """
    figure = make_subplots(1, 2, column_widths=[0.55, 0.45], horizontal_spacing=0.2)
    for name, c, colour, pattern in (("before", before, GREY, "/"), ("after", after, BLUE, "")):
        hover = "number %{x}: %{y:.3g}<extra>" + name + "</extra>"
        look = {"color": colour, "pattern_shape": pattern}
        numbers = [str(n) for n in range(1, len(c) + 1)]
        figure.add_bar(x=numbers, y=list(c), name=name, marker=look, hovertemplate=hover, row=1, col=1)
    drawn = {name: min(max(value, -1.0), 1.0) for name, value in changes.items()}
    colours = [BLUE if value > 0 else GREY for value in changes.values()]
    said = [f"{value:+.3g} of its value" for value in changes.values()]
    change = style.labelled_bars(drawn, said, colours, name="change", showlegend=False, textposition="none")
    figure.add_trace(change | {"customdata": list(changes.values())}, row=1, col=2)

    xaxis = {"title": "number", "type": "category", "showgrid": False}
    yaxis = {"title": "magnitude", "rangemode": "tozero"}
    ends = {"range": [-1.05, 1.05], "dtick": 0.5, "tickformat": "+.0%", "zeroline": True}
    axes = {"xaxis": xaxis, "yaxis": yaxis, "xaxis2": {"title": "less sparse  ←   →  sparser"} | ends, "yaxis2": DOWN}
    return styled(figure, 420, bargap=0.25, margin={"l": 50, "t": 60}, **axes)


def by_layer(values: pd.DataFrame, axis: str) -> go.Figure:
    """Means with intervals, a mark for each line, untrained before trained. ``values``: columns line, at (a place on
    the x axis), value, half."""
    hover = "%{y:.3f} ± %{error_y.array:.3f}"
    traces = lines_with_intervals(values, "at", "value", "half", hover, BEFORE_AFTER, **style.ALONE)
    side_by_side = {"scattermode": "group", "scattergap": 0.6, "xaxis": {"type": "category", "showgrid": False}}
    return styled(traces, 380, yaxis={"title": axis, "rangemode": "tozero"}, **side_by_side)


def by_density(values: pd.DataFrame, axis: str) -> go.Figure:
    """Lines with intervals over the share of edges that are kept, untrained before trained. ``values``: columns line,
    kept, value, half."""
    hover = "%{y:.3f} ± %{error_y.array:.3f} with %{x:.1%} of the edges"
    traces = lines_with_intervals(values, "kept", "value", "half", hover, BEFORE_AFTER)
    xaxis = log_axis("share of the edges that is kept, the largest weights", **style.stops(values["kept"], ".3g"))
    return styled(traces, 380, xaxis=xaxis, yaxis={"title": axis, "rangemode": "tozero"})
