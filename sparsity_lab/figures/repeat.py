"""Figures of repeated runs: means over seeds with their intervals."""

import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures import style
from sparsity_lab.figures.laws import BUDGETS
from sparsity_lab.figures.style import ROLES, lines_with_intervals, styled
from sparsity_lab.units import flops

HOVER = "%{y:.3f} nats per byte"


def loss_by_sparsity(summary: pd.DataFrame) -> go.Figure:
    """Held-out loss against S with intervals. ``summary``: columns line, sparsity, loss, half."""
    placed = summary.assign(at=style.halvings(summary["sparsity"]))
    lines = lines_with_intervals(placed, "at", "loss", "half", HOVER, BUDGETS)
    return styled(lines, 400, xaxis=style.sparsity_axis(summary["sparsity"]), yaxis={"title": style.LOSS})


def loss_by_budget(summary: pd.DataFrame, shipped: pd.DataFrame | None = None) -> go.Figure:
    """Held-out loss against training FLOPs with intervals. ``summary``: columns line (dense or sparse), budget, loss,
    half; ``shipped``: the same of the runs that come with the suite, drawn behind them."""
    hover = f"{HOVER} at %{{x:.2g}} training FLOPs"
    summary, traces = summary.sort_values("budget", kind="stable"), []
    if shipped is not None:
        for line, part in shipped.sort_values("budget", kind="stable").groupby("line", sort=False):
            look = ROLES["measured dense" if line == "dense" else "measured"]
            traces += lines_with_intervals(part, "budget", "loss", "half", hover, [look], named="{}, shipped".format)
    for line, part in summary.groupby("line", sort=False):
        look = ROLES["dense" if line == "dense" else "this"]
        traces += lines_with_intervals(part, "budget", "loss", "half", hover, [look])
    return styled(traces, 400, xaxis=style.log_axis("training FLOPs"), yaxis={"title": style.LOSS})


def two_readings(summary: pd.DataFrame, budget: float, leverage: float) -> go.Figure:
    """`loss_by_budget` with its two readings at a budget: downwards, how much lower the sparse model ends; across, how
    many times the budget the dense one needs for the same loss (``leverage``; NaN: no line)."""
    at = summary[summary["budget"] == budget].set_index("line")["loss"]
    ways = {
        "better: the same FLOPs, a lower loss": ([budget, budget], [at["dense"], at["sparse"]]),
        "cheaper: the same loss, fewer FLOPs": ([budget, budget * leverage], [at["sparse"], at["sparse"]]),
    }
    figure = loss_by_budget(summary)
    for (name, (x, y)), look in zip(ways.items(), (style.LOOKS[2], style.LOOKS[3]), strict=True):
        look = look._replace(dash="solid", width=5)
        figure.add_trace(style.line(x, y, name, look, "", "lines"))
    return figure


def gain_by_budget(gains: pd.DataFrame) -> go.Figure:
    """How much lower the sparse model ends, with intervals. ``gains``: columns budget, gain, half."""
    rows = gains.assign(line="", at=gains["budget"].map(flops))
    hover = "dense loss − sparse loss: %{y:.3f} nats per byte"
    points = lines_with_intervals(rows, "at", "gain", "half", hover, **style.ALONE)
    yaxis = {"title": "dense loss − sparse loss<br>(nats per byte)"}
    figure = styled(points, 360, xaxis={"title": "training budget"}, yaxis=yaxis)
    return figure.add_hline(y=0, line=ROLES["reference"].line)
