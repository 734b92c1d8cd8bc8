"""Figures of how sparse things are: vectors and DataFrames in, plotly figures out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.analysis.sparsity_measures import Array
from sparsity_lab.figures.style import DENSE, GREY, LOOKS, SPARSE, THIRD, styled


def bars(vectors: Mapping[str, Array], height: int = 240) -> go.Figure:
    """A panel of bars for each vector, all on one scale."""
    figure = make_subplots(1, len(vectors), subplot_titles=list(vectors), shared_yaxes=True, horizontal_spacing=0.03)
    for column, (name, c) in enumerate(vectors.items(), 1):
        figure.add_bar(
            x=list(range(1, len(c) + 1)),
            y=c,
            marker={"color": SPARSE},
            hovertemplate="number %{x}: %{y:.3g}<extra>" + name + "</extra>",
            row=1,
            col=column,
        )
    top = max(float(c.max()) for c in vectors.values())
    styled(figure, height, showlegend=False, bargap=0.15)
    return figure.update_xaxes(showgrid=False, dtick=4).update_yaxes(range=[-0.02 * top, 1.05 * top])


def ranks(values: pd.DataFrame, height: int = 440) -> go.Figure:
    """Who is how sparse, by whom. ``values``: sparsity by measure (rows) and vector (columns), larger is sparser.

    1 and the darkest blue: sparsest of its row. Equal values share the better rank.
    """
    order = values.round(9).rank(axis=1, ascending=False, method="min")
    trace = {
        "type": "heatmap",
        "z": order.to_numpy(),
        "x": list(values.columns),
        "y": list(values.index),
        "text": order.astype(int).astype(str).to_numpy(),
        "texttemplate": "%{text}",
        "textfont": {"size": 15},
        "customdata": values.to_numpy(),
        "colorscale": "Blues",
        "reversescale": True,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        "hovertemplate": "%{y} of %{x}: %{customdata:.4g}<extra></extra>",
    }
    return styled(
        go.Figure(data=[trace]),
        height,
        margin={"l": 110, "r": 20, "t": 40, "b": 20},
        xaxis={"side": "top", "showgrid": False},
        yaxis={"autorange": "reversed", "showgrid": False},
    )


def lorenz(vectors: Mapping[str, Array], height: int = 420) -> go.Figure:
    """What share of the sum the smallest numbers hold; Gini is twice the area between a curve and the diagonal."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], name="all alike", mode="lines", line={"color": GREY, "width": 1}, hoverinfo="skip"
    )
    for (name, c), (colour, dash, symbol) in zip(vectors.items(), LOOKS, strict=False):
        held = np.concatenate([[0.0], np.cumsum(np.sort(c))]) / c.sum()
        figure.add_scatter(
            x=np.linspace(0, 1, len(held)),
            y=held,
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 7},
            hovertemplate="the smallest %{x:.0%} hold %{y:.1%}<extra>" + name + "</extra>",
        )
    return styled(
        figure,
        height,
        xaxis={"title": "share of the numbers, smallest first", "tickformat": ".0%", "range": [-0.02, 1.02]},
        yaxis={"title": "share of the sum", "tickformat": ".0%", "range": [-0.02, 1.02]},
    )


def moved(before: Array, after: Array, changes: Mapping[str, float], height: int = 420) -> go.Figure:
    """A vector before and after a change, and by how much each measure finds it sparser (right) or less sparse (left).

    ``changes``: relative, drawn up to ± 1.
    """
    figure = make_subplots(1, 2, column_widths=[0.55, 0.45], horizontal_spacing=0.2)
    for name, c, colour, pattern in (("before", before, GREY, "/"), ("after", after, SPARSE, "")):
        figure.add_bar(
            x=[str(n) for n in range(1, len(c) + 1)],
            y=list(c),
            name=name,
            marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "size": 6}},
            hovertemplate="number %{x}: %{y:.3g}<extra>" + name + "</extra>",
            row=1,
            col=1,
        )
    values = list(changes.values())
    figure.add_bar(
        x=[min(max(value, -1.0), 1.0) for value in values],
        y=list(changes),
        orientation="h",
        name="change",
        showlegend=False,
        marker={"color": [THIRD if value > 0 else DENSE for value in values]},
        customdata=values,
        hovertemplate="%{y}: %{customdata:+.3g} of its value<extra></extra>",
        row=1,
        col=2,
    )
    styled(figure, height, bargap=0.25, margin={"l": 50, "r": 20, "t": 60, "b": 50})
    figure.update_xaxes(title="number", type="category", showgrid=False, row=1, col=1)
    figure.update_yaxes(title="magnitude", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="less sparse  ←   →  sparser", range=[-1.05, 1.05], tickformat="+.0%",
                        dtick=0.5, zeroline=True, zerolinecolor=GREY, row=1, col=2)  # fmt: skip
    return figure.update_yaxes(autorange="reversed", showgrid=False, row=1, col=2)


def by_layer(values: pd.DataFrame, axis: str, height: int = 380) -> go.Figure:
    """Means with intervals, a line each. ``values``: columns line, at (a place on the x axis), value, half."""
    figure = go.Figure()
    for (line, part), (colour, _, symbol) in zip(values.groupby("line", sort=False), LOOKS, strict=False):
        figure.add_scatter(
            x=part["at"],
            y=part["value"],
            error_y={"type": "data", "array": part["half"], "thickness": 2, "width": 8},
            name=str(line),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11},
            hovertemplate="%{y:.3f} ± %{error_y.array:.3f}<extra>" + str(line) + "</extra>",
        )
    return styled(
        figure,
        height,
        scattermode="group",
        scattergap=0.6,
        xaxis={"type": "category", "showgrid": False},
        yaxis={"title": axis, "rangemode": "tozero"},
    )


def by_density(values: pd.DataFrame, axis: str, height: int = 380) -> go.Figure:
    """Lines with intervals over the share of edges that are kept. ``values``: columns line, kept, value, half."""
    figure = go.Figure()
    for (line, part), (colour, dash, symbol) in zip(values.groupby("line", sort=False), LOOKS, strict=False):
        figure.add_scatter(
            x=part["kept"],
            y=part["value"],
            error_y={"type": "data", "array": part["half"], "thickness": 1.5, "width": 4},
            name=str(line),
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 9},
            hovertemplate="%{y:.3f} ± %{error_y.array:.3f} with %{x:.1%} of the edges<extra>" + str(line) + "</extra>",
        )
    stops = sorted(values["kept"].unique())
    return styled(
        figure,
        height,
        xaxis={
            "title": "share of the edges that is kept, the largest weights",
            "type": "log",
            "tickvals": stops,
            "ticktext": [f"{s:.3g}" for s in stops],
        },
        yaxis={"title": axis, "rangemode": "tozero"},
    )
