"""DataFrames in, plotly figures out. No state, no widgets, no training.

Colours are after Okabe and Ito, which colour-blind readers can tell apart; lines differ in their dashes too.
Backgrounds are transparent and text is mid-grey: one figure is legible in JupyterLab's light and dark themes.
"""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

SPARSE, DENSE, GHOST, THIRD = "#2b8fd6", "#e69f00", "rgba(128,128,128,0.55)", "#009e73"
FOURTH, FIFTH, SIXTH = "#cc79a7", "#d55e00", "#56b4e9"
GREY, GRID = "#7f8790", "rgba(128,128,128,0.25)"
TEXT = GREY
LOOKS = (  # of lines that are told apart: colour, dash, symbol
    (SPARSE, "solid", "circle"),
    (DENSE, "dash", "square"),
    (THIRD, "dot", "diamond"),
    (FOURTH, "dashdot", "cross"),
    (FIFTH, "longdash", "triangle-up"),
    (GREY, "longdashdot", "x"),
    (SIXTH, "solid", "triangle-down"),
    ("#8c564b", "dash", "pentagon"),
)
LIVE_POINTS = 400


def styled(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """The suite's look: transparent, explicit margins (plotly's own squash short figures), a legend on top."""
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
        "linecolor": GRID,
        "ticks": "outside",
        "tickcolor": GRID,
    }
    return (
        figure.update_layout(
            **{
                "height": height,
                "autosize": True,
                "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
                "paper_bgcolor": "rgba(0,0,0,0)",
                "plot_bgcolor": "rgba(0,0,0,0)",
                "font": {"color": TEXT, "size": 13},
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "hovermode": "closest",
            }
            | layout
        )
        .update_xaxes(**axis)
        .update_yaxes(**axis)
    )


def smooth(flops: Any, loss: Any, points: int = LIVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A loss curve to look at: means over the last twelfth of the run so far, at most ``points`` of them, float32.

    One batch's loss jumps about; the mean of the last steps shows where the model is.
    """
    x, y = np.asarray(flops, np.float64), np.asarray(loss, np.float64)
    n = len(y)
    total = np.concatenate([[0.0], np.cumsum(y)])
    ends = np.unique(np.linspace(1, n, min(n, points)).astype(int)) if n else np.zeros(0, int)
    starts = np.maximum(0, ends - np.maximum(1, ends // 12))
    return x[ends - 1].astype(np.float32), ((total[ends] - total[starts]) / (ends - starts)).astype(np.float32)


def loss_trace(label: str, role: str, flops: Any, loss: Any) -> dict[str, Any]:
    """One line of `loss_figure`; ``role`` is this, dense, measured, measured dense or ghost."""
    colour, dash, width = {
        "this": (SPARSE, "solid", 3),
        "dense": (DENSE, "dash", 3),
        "measured": (SPARSE, "dot", 1.5),
        "measured dense": (DENSE, "dot", 1.5),
        "ghost": (GHOST, "solid", 1.5),
    }[role]
    x, y = smooth(flops, loss)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "x": x,
        "y": y,
        "line": {"color": colour, "dash": dash, "width": width},
        "hovertemplate": "%{y:.3f} nats a byte at %{x:.2s}FLOPs<extra>" + label + "</extra>",
    }


def loss_figure(curves: pd.DataFrame, height: int = 400) -> go.Figure:
    """Training loss against FLOPs. ``curves``: columns label, role (as in `loss_trace`), flops, loss."""
    traces = [
        loss_trace(str(label), str(role), part["flops"], part["loss"])
        for (label, role), part in curves.groupby(["label", "role"], sort=False)
    ]
    figure = styled(go.Figure(data=traces), height, **loss_axes())
    xs, ys = loss_window([(trace["x"], trace["y"]) for trace in traces])
    return figure.update_xaxes(range=xs).update_yaxes(range=ys)


def loss_window(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float] | None, list[float] | None]:
    """Ranges (log10 FLOPs, loss) that show the last factor of 20 in compute and the lowest nat and a bit: the first
    fall from blind guessing is the same for every model and would squash what differs. None, None without data."""
    lines = [(x, y) for x, y in lines if len(y)]
    if not lines:
        return None, None
    end = max(float(x[-1]) for x, _ in lines)
    low = math.floor(min(float(y.min()) for _, y in lines) * 10 - 0.5) / 10
    return [math.log10(end / 20), math.log10(end * 1.05)], [low, low + 1.2]


def loss_axes() -> dict[str, Any]:
    return {
        "xaxis": {"title": "training FLOPs used", "type": "log", "exponentformat": "power", "dtick": 1},
        "yaxis": {"title": "training loss (nats a byte)"},
    }


def load_figure(load: Any, height: int = 180) -> go.Figure:
    """Who works, in multiples of the even share. ``load``: shares, (layers, experts), rows sum to 1."""
    return styled(go.Figure(data=[load_trace(load)]), height, **load_axes())


def load_trace(load: Any) -> dict[str, Any]:
    share = np.asarray(load, np.float32)
    return {
        "type": "heatmap",
        "z": share * (share.shape[1] if share.ndim == 2 else 1),
        "zmin": 0,
        "zmax": 3,
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "load,<br>× even"}, "thickness": 12},
        "hovertemplate": "expert %{x}, layer %{y}: %{z:.2f} × the even share<extra></extra>",
    }


def load_axes() -> dict[str, Any]:
    return {
        "xaxis": {"title": "expert", "showgrid": False},
        "yaxis": {"title": "layer", "dtick": 1, "showgrid": False, "autorange": "reversed"},
    }


def loss_by_sparsity(summary: pd.DataFrame, height: int = 400) -> go.Figure:
    """Held-out loss against S with intervals. ``summary``: columns line, sparsity, loss, half.

    The axis is −log₂(1 − S): every step to the right halves the share of experts that work, and 1 lies at infinity.
    """
    figure = _lines_with_intervals(summary, -np.log2(1 - summary["sparsity"]))
    stops = sorted(summary["sparsity"].unique())
    ticks = {"tickvals": [-np.log2(1 - s) for s in stops], "ticktext": [f"{s:.4g}" for s in stops]}
    return styled(
        figure,
        height,
        xaxis={"title": "sparsity S (each step to the right: half as many experts work)"} | ticks,
        yaxis={"title": "held-out loss (nats a byte)"},
    )


def loss_by_budget(summary: pd.DataFrame, height: int = 400) -> go.Figure:
    """Held-out loss against training FLOPs with intervals. ``summary``: columns line, budget, loss, half."""
    return styled(
        _lines_with_intervals(summary, summary["budget"]),
        height,
        xaxis={"title": "training FLOPs", "type": "log", "dtick": 1, "exponentformat": "power"},
        yaxis={"title": "held-out loss (nats a byte)"},
    )


def _lines_with_intervals(summary: pd.DataFrame, x: pd.Series) -> go.Figure:
    """A line of loss ± half for each value of the column line, at ``x``, a value for each row."""
    figure = go.Figure()
    looks = cycle(((SPARSE, "solid", "circle"), (DENSE, "dash", "square"), (THIRD, "dot", "diamond")))
    for (line, part), (colour, dash, symbol) in zip(summary.groupby("line", sort=False), looks, strict=False):
        figure.add_scatter(
            x=x[part.index],
            y=part["loss"],
            error_y={"type": "data", "array": part["half"], "thickness": 1.5, "width": 4},
            name=str(line),
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 9},
            hovertemplate="%{y:.3f} nats a byte<extra>" + str(line) + "</extra>",
        )
    return figure


def gain_by_budget(gains: pd.DataFrame, height: int = 360) -> go.Figure:
    """How much lower the sparse model ends, with intervals. ``gains``: columns budget, gain, half."""
    figure = go.Figure()
    figure.add_hline(y=0, line={"color": TEXT, "dash": "dot"})
    figure.add_scatter(
        x=[f"{budget:.0e} FLOPs".replace("e+", "e") for budget in gains["budget"]],
        y=gains["gain"],
        error_y={"type": "data", "array": gains["half"], "thickness": 2, "width": 8},
        mode="markers",
        marker={"color": SPARSE, "size": 12},
        hovertemplate="%{y:.3f} nats a byte<extra></extra>",
    )
    return styled(
        figure, height, xaxis={"title": "training budget"}, yaxis={"title": "dense loss − sparse loss<br>(nats a byte)"}
    )
