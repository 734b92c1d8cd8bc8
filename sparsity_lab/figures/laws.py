"""Figures of IsoFLOPs and laws, from runs and from what was fitted to them. No state, no fitting."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.style import DENSE, FIFTH, FOURTH, GRID, SIXTH, SPARSE, TEXT, THIRD, styled
from sparsity_lab.laws.isoflop import Parabola, Surface

LOOKS = (  # from dense to sparsest, from the smallest budget to the largest
    (DENSE, "square"),
    (FOURTH, "diamond"),
    (SPARSE, "circle"),
    (THIRD, "triangle-up"),
    (FIFTH, "x"),
    (SIXTH, "cross"),
)
ROWS, COLUMNS = 90, 150  # of a surface
LOSS = "held-out loss (nats a byte)"
SIZES = {"params_active": "weights at work on a token", "params_total": "all weights"}


def asleep(sparsity: Any) -> Any:
    """Where S lies on an axis: −log₂(1 − S), each step half as many experts at work."""
    return -np.log2(1 - np.asarray(sparsity, float))


def sparsity_axis(sparsities: Iterable[float]) -> dict[str, Any]:
    stops = sorted(set(sparsities))
    return {
        "title": "sparsity S (to the right ever fewer experts work)",
        "tickvals": asleep(stops).tolist(),
        "ticktext": [f"{s:.3g}" for s in stops],
    }


def isoflops(
    runs: pd.DataFrame, parabolas: Sequence[Parabola], size: str = "params_active", height: int = 420
) -> go.Figure:
    """Loss against size at one budget: a dot for each run, a parabola and its minimum for each sparsity. ``runs``:
    those of the budget. Always two traces a sparsity, so that a slider can move them."""
    figure = go.Figure()
    for parabola, (colour, symbol) in zip(parabolas, cycle(LOOKS), strict=False):
        here = runs[runs["sparsity"] == parabola.sparsity]
        name = "dense" if parabola.sparsity == 0 else f"S = {parabola.sparsity:.3g}"
        look = {"color": colour, "symbol": symbol, "size": 8}
        figure.add_scatter(
            x=here[size], y=here["val_loss"], mode="markers", name=name, marker=look, legendgroup=name,
            customdata=here[["width", "seed"]],
            hovertemplate="width %{customdata[0]}, seed %{customdata[1]}: %{y:.3f}<extra>" + name + "</extra>",
        )  # fmt: skip
        sizes = np.exp(parabola.centre + np.linspace(*parabola.edges, 60))
        at, loss = (float(v[0]) for v in parabola.best)
        figure.add_scatter(
            x=[*sizes, None, math.exp(at)], y=[*parabola.loss(sizes), None, loss], mode="lines+markers",
            line={"color": colour, "width": 2}, legendgroup=name, showlegend=False, hoverinfo="skip",
            marker={"symbol": "star", "size": [0] * 61 + [15], "color": colour, "line": {"width": 0}},
        )  # fmt: skip
    return styled(figure, height, xaxis={"title": SIZES[size], "type": "log", "dtick": "D2"}, yaxis={"title": LOSS})


def best_sizes(optima: pd.DataFrame, size: str, height: int = 380) -> go.Figure:
    """The best size against sparsity, a line a budget, with 95 % intervals. ``optima``: as `laws.isoflop.optima` gives
    it; ``size``: n_active or n_total. Hollow where the best width was the last one tried."""
    figure = _by_budget(optima, size, "%{y:.3s}")
    title = "best number of weights at work" if size == "n_active" else "best number of all weights"
    axis = {"title": title, "type": "log"}
    return styled(figure, height, xaxis=sparsity_axis(optima["sparsity"]), yaxis=axis)


def _by_budget(optima: pd.DataFrame, value: str, hover: str) -> go.Figure:
    figure = go.Figure()
    for (budget, part), (colour, symbol) in zip(optima.groupby("budget"), cycle(LOOKS), strict=False):
        above, below = part[f"{value}_high"] - part[value], part[value] - part[f"{value}_low"]
        figure.add_scatter(
            x=asleep(part["sparsity"]), y=part[value], mode="lines+markers", name=flops(budget),
            error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1.5, "width": 4},
            marker={"symbol": [symbol if b else f"{symbol}-open" for b in part["bracketed"]], "size": 9},
            line={"color": colour, "width": 2}, hovertemplate=hover + "<extra>" + flops(budget) + "</extra>",
        )  # fmt: skip
    return figure


def surface_3d(surface: Surface, runs: pd.DataFrame, own: pd.DataFrame | None = None, height: int = 520) -> go.Figure:
    """The IsoFLOP surface of a budget: loss over all weights and sparsity; the reader's own runs are diamonds."""
    sizes, sparsities, loss = _grid(surface, runs)
    figure = go.Figure(
        go.Surface(
            x=sizes,
            y=asleep(sparsities),
            z=loss,
            colorscale="Cividis",
            reversescale=True,
            opacity=0.85,
            colorbar={"title": {"text": "loss"}, "thickness": 12},
            hoverinfo="skip",
        )
    )
    for part, name, look in _dots(runs, own):
        figure.add_scatter3d(
            x=part["params_total"], y=asleep(part["sparsity"]), z=part["val_loss"], mode="markers", name=name,
            marker=look | {"symbol": "diamond" if part is own else "circle", "size": 4},
            hovertemplate="%{z:.3f} at %{x:.3s} weights<extra>" + name + "</extra>",
        )  # fmt: skip
    plain = {"gridcolor": GRID, "backgroundcolor": "rgba(0,0,0,0)", "color": TEXT}
    return styled(figure, height, margin={"l": 0, "r": 0, "t": 40, "b": 0}).update_layout(
        scene={
            "xaxis": plain | {"title": "all weights", "type": "log", "dtick": 1},
            "yaxis": plain | sparsity_axis(runs["sparsity"]) | {"title": "S"},
            "zaxis": plain | {"title": "loss"},
            "camera": {"eye": {"x": 1.5, "y": -1.6, "z": 0.8}},
        }
    )


def contours(surface: Surface, runs: pd.DataFrame, own: pd.DataFrame | None = None, height: int = 420) -> go.Figure:
    """The same from above."""
    sizes, sparsities, loss = _grid(surface, runs)
    figure = go.Figure(
        go.Contour(
            x=sizes,
            y=asleep(sparsities),
            z=loss,
            colorscale="Cividis",
            reversescale=True,
            ncontours=20,
            colorbar={"title": {"text": "loss"}, "thickness": 12},
            hovertemplate="%{z:.3f}<extra></extra>",
        )
    )
    for part, name, look in _dots(runs, own):
        figure.add_scatter(
            x=part["params_total"], y=asleep(part["sparsity"]), mode="markers", name=name,
            marker=look | ({"symbol": "star", "size": 12} if part is own else {"symbol": "circle", "size": 7}),
            customdata=part["val_loss"], hovertemplate="%{customdata:.3f}<extra>" + name + "</extra>",
        )  # fmt: skip
    return styled(
        figure,
        height,
        xaxis={"title": "all weights", "type": "log", "dtick": "D2"},
        yaxis=sparsity_axis(runs["sparsity"]) | {"title": "sparsity S"},
    )


def _grid(surface: Surface, runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All weights (COLUMNS,), sparsities (ROWS,) and the loss there (ROWS, COLUMNS); NaN where no run is near: a
    polynomial knows nothing beyond its points."""
    levels = np.sort(runs["sparsity"].unique())
    edges = runs.groupby("sparsity")["params_total"].agg(["min", "max"])
    sizes = np.geomspace(runs["params_total"].min(), runs["params_total"].max(), COLUMNS)
    first, last = asleep(levels[[0, -1]]).tolist()
    sparsities = 1 - 2.0 ** -np.linspace(first, last, ROWS)
    loss = surface.loss(*np.broadcast_arrays(sizes, sparsities[:, None]))
    low, high = (np.exp(np.interp(asleep(sparsities), asleep(levels), np.log(edges[side]))) for side in ("min", "max"))
    known = (sizes >= low[:, None]) & (sizes <= high[:, None])
    return sizes, sparsities, np.where(known, loss, np.nan)


def _dots(runs: pd.DataFrame, own: pd.DataFrame | None) -> list[tuple[pd.DataFrame, str, dict[str, Any]]]:
    dots = [(runs, "measured runs", {"color": "white", "line": {"color": "black", "width": 1}})]
    if own is not None and len(own):
        dots.append((own, "your runs", {"color": FIFTH, "line": {"color": "white", "width": 1}}))
    return dots


def loss_against_sparsity(optima: pd.DataFrame, height: int = 420) -> go.Figure:
    """Loss of the best model against sparsity, a line a budget, with 95 % intervals."""
    figure = _by_budget(optima, "loss", "%{y:.3f} nats a byte")
    return styled(figure, height, xaxis=sparsity_axis(optima["sparsity"]), yaxis={"title": LOSS})


def predicted_against_measured(table: pd.DataFrame, height: int = 420) -> go.Figure:
    """``table``: columns sparsity, measured, predicted, low, high. On the dotted line the law is right."""
    figure = go.Figure()
    ends = [float(table[["measured", "low"]].min().min()), float(table[["measured", "high"]].max().max())]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": TEXT, "dash": "dot"}, showlegend=False, hoverinfo="skip"
    )
    for (s, part), (colour, symbol) in zip(table.groupby("sparsity"), cycle(LOOKS), strict=False):
        figure.add_scatter(
            x=part["measured"], y=part["predicted"], mode="markers", name="dense" if s == 0 else f"S = {s:.3g}",
            error_y={
                "type": "data", "array": part["high"] - part["predicted"],
                "arrayminus": part["predicted"] - part["low"], "thickness": 1.5, "width": 4,
            },
            marker={"color": colour, "symbol": symbol, "size": 9},
        )  # fmt: skip
    return styled(
        figure, height, xaxis={"title": "measured loss (nats a byte)"}, yaxis={"title": "predicted loss (nats a byte)"}
    )


def curves(lines: Mapping[str, pd.Series], x: str, y: str, height: int = 380, log_x: bool = True) -> go.Figure:
    """A line for each series: its index along ``x``, its values along ``y``."""
    figure = go.Figure()
    dashes = cycle(("solid", "dash", "dot", "dashdot"))
    for (name, line), (colour, _), dash in zip(lines.items(), cycle(LOOKS), dashes, strict=False):
        figure.add_scatter(
            x=line.index, y=line, mode="lines", name=name, line={"color": colour, "dash": dash, "width": 2.5}
        )
    axis = {"title": x} | ({"type": "log", "exponentformat": "power", "dtick": 1} if log_x else {})
    return styled(figure, height, xaxis=axis, yaxis={"title": y})


def flops(budget: Any) -> str:
    return f"{float(budget):.0e} FLOPs".replace("e+", "e")
