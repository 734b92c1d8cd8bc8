"""Figures of repeated runs: means over seeds with their intervals."""

import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures import style
from sparsity_lab.figures.style import lines_with_intervals, styled
from sparsity_lab.units import flops

HOVER = "%{y:.3f} nats per byte"


def loss_by_sparsity(summary: pd.DataFrame) -> go.Figure:
    """Held-out loss against S with intervals. ``summary``: columns line, sparsity, loss, half."""
    placed = summary.assign(at=style.halvings(summary["sparsity"]))
    lines = lines_with_intervals(placed, "at", "loss", "half", HOVER)
    return styled(lines, 400, xaxis=style.sparsity_axis(summary["sparsity"]), yaxis={"title": style.LOSS})


def loss_by_budget(summary: pd.DataFrame) -> go.Figure:
    """Held-out loss against training FLOPs with intervals. ``summary``: columns line, budget, loss, half; the first
    line is the dense model."""
    lines = lines_with_intervals(summary, "budget", "loss", "half", HOVER, style.AGAINST)
    return styled(lines, 400, xaxis=style.log_axis("training FLOPs"), yaxis={"title": style.LOSS})


def gain_by_budget(gains: pd.DataFrame) -> go.Figure:
    """How much lower the sparse model ends, with intervals. ``gains``: columns budget, gain, half."""
    rows = gains.assign(line="", at=gains["budget"].map(flops))
    points = lines_with_intervals(rows, "at", "gain", "half", HOVER, **style.ALONE)
    yaxis = {"title": "dense loss − sparse loss<br>(nats per byte)"}
    figure = styled(points, 360, xaxis={"title": "training budget"}, yaxis=yaxis)
    return figure.add_hline(y=0, line=style.ROLES["reference"].line)
