"""Figures of IsoFLOPs and laws, from runs and from what was fitted to them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures import style
from sparsity_lab.figures.style import (
    GREY,
    ORDERED,
    Look,
    Trace,
    halvings,
    line,
    lines_with_intervals,
    log_axis,
    styled,
)
from sparsity_lab.laws.curves import Curve
from sparsity_lab.laws.isoflop import Surface
from sparsity_lab.units import flops

ROWS, COLUMNS = 90, 150  # of a surface
# Lines of budgets, from small to large. Blue and orange are the sparse and the dense model.
BUDGETS = tuple(
    Look(colour, symbol=look.symbol)
    for colour, look in zip(
        (style.GREEN, style.PINK, style.VERMILION, style.BROWN, GREY, style.OLIVE), ORDERED, strict=True
    )
)
SIZES = {"params_active": "active weights", "params_total": "all weights"}


def isoflops(runs: pd.DataFrame, fitted: Sequence[Curve], size: str = "params_active") -> go.Figure:
    """Loss against size at one budget: a dot for each run, a fitted curve and its minimum for each sparsity. ``runs``:
    those of the budget. There are always two traces per sparsity, so that a slider can move them."""
    traces = []
    for curve, look in zip(fitted, cycle(ORDERED), strict=False):
        here = runs[runs["sparsity"] == curve.sparsity]
        name, look = style.sparsity_name(curve.sparsity), look._replace(dash="solid" if curve.sparsity else "dash")
        hover = (
            f"width %{{customdata[0]}}, seed %{{customdata[1]}}: %{{y:.3f}} nats per byte at %{{x:.3s}} {SIZES[size]}"
        )
        more = {"customdata": here[["width", "seed"]], "legendgroup": name, "marker_size": 8}
        traces.append(line(here[size], here["val_loss"], name, look, hover, "markers", **more))

        places = np.append(np.linspace(*curve.edges, 60), curve.best[0][0])
        x, y = list(curve.at(places, size)), list(curve.loss(np.exp(places)))
        x.insert(60, None)
        y.insert(60, None)
        star = {"symbol": "star", "size": [0] * 61 + [15], "color": look.colour, "line": {"width": 0}}
        traces.append(line(x, y, name, look, hover="", marker=star, legendgroup=name, showlegend=False))
    xaxis = log_axis(SIZES[size], **style.fine_ticks(runs[size]))
    return styled(traces, 420, xaxis=xaxis, yaxis={"title": style.LOSS})


def best_sizes(optima: pd.DataFrame, size: str) -> go.Figure:
    """The best size against sparsity, a line for each budget, with 95 % intervals. ``optima``: as
    `laws.isoflop.optima` gives it; ``size``: n_active or n_total. Hollow where the best width was the last one tried.
    """
    kind = SIZES["params_active" if size == "n_active" else "params_total"]
    ticks = style.fine_ticks(optima[[f"{size}_low", f"{size}_high"]].to_numpy().ravel())
    yaxis = log_axis(f"best number of {kind}", **ticks)
    traces = _by_budget(optima, size, f"%{{y:.3s}} {kind}")
    return styled(traces, 380, xaxis=style.sparsity_axis(optima["sparsity"]), yaxis=yaxis)


def loss_against_sparsity(optima: pd.DataFrame) -> go.Figure:
    """Loss of the best model against sparsity, a line for each budget, with 95 % intervals."""
    traces = _by_budget(optima, "loss", "%{y:.3f} nats per byte")
    return styled(traces, 420, xaxis=style.sparsity_axis(optima["sparsity"]), yaxis={"title": style.LOSS})


def _by_budget(optima: pd.DataFrame, value: str, hover: str) -> list[Trace]:
    rows = optima.assign(at=halvings(optima["sparsity"])).sort_values("budget", kind="stable")
    ends = f"{value}_low", f"{value}_high"
    traces = lines_with_intervals(rows, "at", value, ends, hover, BUDGETS, by="budget", named=flops)
    for trace, (_, part) in zip(traces, rows.groupby("budget"), strict=True):
        symbol = trace["marker"]["symbol"]
        trace["marker"]["symbol"] = [symbol if known else f"{symbol}-open" for known in part["bracketed"]]
    return traces


def surface_3d(surface: Surface, runs: pd.DataFrame, own: pd.DataFrame | None = None) -> go.Figure:
    """The IsoFLOP surface of a budget: loss over all weights and sparsity; the reader's own runs are diamonds."""
    traces = [_area(surface, runs) | {"type": "surface", "opacity": 0.85, "hoverinfo": "skip"}]
    for dots in _dots(runs, own, "%{z:.3f} nats per byte at %{x:.3s} weights", ("circle", 4), ("diamond", 4)):
        traces.append(dots | {"type": "scatter3d", "z": dots["customdata"]})
    plain = dict.fromkeys(("gridcolor", "linecolor"), style.GRID) | {"backgroundcolor": style.CLEAR, "color": GREY}
    scene = {
        "xaxis": plain | {"title": "all weights", "type": "log", "dtick": 1},
        "yaxis": plain | style.sparsity_axis(runs["sparsity"], "S"),
        "zaxis": plain | {"title": "loss (nats per byte)"},
        "camera": {"eye": {"x": 1.5, "y": -1.6, "z": 0.8}},
    }
    return styled(traces, 520, margin={"l": 0, "r": 0, "b": 0}, scene=scene)


def contours(surface: Surface, runs: pd.DataFrame, own: pd.DataFrame | None = None) -> go.Figure:
    """The same from above."""
    area = _area(surface, runs) | {
        "type": "contour",
        "ncontours": 20,
        "hovertemplate": "%{z:.3f} nats per byte<extra></extra>",
    }
    dots = _dots(runs, own, "%{customdata:.3f} nats per byte", ("circle", 7), ("star", 12))
    yaxis = style.sparsity_axis(runs["sparsity"], "sparsity S")
    xaxis = log_axis("all weights", **style.fine_ticks(runs["params_total"]))
    return styled([area, *dots], 420, xaxis=xaxis, yaxis=yaxis)


def _area(surface: Surface, runs: pd.DataFrame) -> Trace:
    """Returns all weights x (COLUMNS,), sparsities y (ROWS,) and the loss z there (ROWS, COLUMNS); NaN where no run is
    near, because a polynomial knows nothing beyond its points."""
    levels = np.sort(runs["sparsity"].unique())
    edges = runs.groupby("sparsity")["params_total"].agg(["min", "max"])
    sizes = np.geomspace(runs["params_total"].min(), runs["params_total"].max(), COLUMNS)
    places = np.linspace(halvings(levels[0]), halvings(levels[-1]), ROWS)
    loss = surface.loss(*np.broadcast_arrays(sizes, 1 - 2.0 ** -places[:, None]))

    low, high = (np.exp(np.interp(places, halvings(levels), np.log(edges[side]))) for side in ("min", "max"))
    known = (sizes >= low[:, None]) & (sizes <= high[:, None])
    look = {"reversescale": True, "colorbar": {"title": {"text": "loss (nats<br>per byte)"}}}
    return {"x": sizes, "y": places, "z": np.where(known, loss, np.nan)} | look


def _dots(runs: pd.DataFrame, own: pd.DataFrame | None, hover: str, *symbols: tuple[str, int]) -> Iterator[Trace]:
    """Yields the measured runs and the reader's own, each in its symbol and size."""
    kinds = (runs, "measured runs", "white", "black"), (own, "your runs", style.VERMILION, "white")
    for (part, name, colour, edge), (symbol, size) in zip(kinds, symbols, strict=True):
        if part is not None and len(part):
            marker = {"color": colour, "line": {"color": edge, "width": 1}, "symbol": symbol, "size": size}
            more = {"marker": marker, "customdata": part["val_loss"]}
            yield line(part["params_total"], halvings(part["sparsity"]), name, ORDERED[0], hover, "markers", **more)


def predicted_against_measured(table: pd.DataFrame) -> go.Figure:
    """``table``: columns sparsity, measured, predicted, low, high. On the dotted line the law is right."""
    ends = [float(table[["measured", "low"]].min().min()), float(table[["measured", "high"]].max().max())]
    diagonal = line(ends, ends, "", style.ROLES["reference"], hover="", mode="lines", showlegend=False)
    rows, hover = table.sort_values("sparsity", kind="stable"), "predicted %{y:.3f}, measured %{x:.3f}"
    more: Trace = {"by": "sparsity", "named": style.sparsity_name, "mode": "markers"}
    points = lines_with_intervals(rows, "measured", "predicted", ("low", "high"), hover, ORDERED, **more)
    xaxis, yaxis = ({"title": f"{name} loss (nats per byte)"} for name in ("measured", "predicted"))
    return styled([diagonal, *points], 420, xaxis=xaxis, yaxis=yaxis)


def curves(lines: Mapping[str, pd.Series], x: str, y: str) -> go.Figure:
    """A line for each series: its index along ``x``, its values along ``y``. One that is called dense comes first."""
    traces, colours = [], ORDERED if "dense" in lines else BUDGETS
    for (name, values), order, look in zip(lines.items(), cycle(colours), cycle(style.AGAINST), strict=False):
        told_apart = look._replace(colour=order.colour, width=2.5)
        traces.append(line(values.index, values, name, told_apart, f"%{{y:.4g}} at %{{x:.3g}} {x}", "lines"))
    return styled(traces, 380, xaxis=log_axis(x), yaxis={"title": y})
