"""Figures of a run on its way: its loss against what it has spent, and the load of its experts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.style import DOWN, ROLES, Trace, line, load_map, log_axis, styled

LIVE_POINTS = 400


def loss_figure(curves: pd.DataFrame) -> go.Figure:
    """Training loss against FLOPs. ``curves``: columns label, role (of `style.ROLES`), flops, loss."""
    traces = [
        loss_trace(str(label), str(role), part["flops"], part["loss"])
        for (label, role), part in curves.groupby(["label", "role"], sort=False)
    ]
    xs, ys = loss_window([(trace["x"], trace["y"]) for trace in traces])
    return styled(traces, 400, **loss_axes()).update_xaxes(range=xs).update_yaxes(range=ys)


def loss_trace(label: str, role: str, flops: Any, loss: Any) -> Trace:
    """Returns one line of `loss_figure`."""
    hover = "%{y:.3f} nats per byte at %{x:.2s}FLOPs"
    return line(*smooth(flops, loss), label, ROLES[role], hover, mode="lines")


def loss_axes() -> dict[str, Any]:
    return {"xaxis": log_axis("training FLOPs used"), "yaxis": {"title": "training loss (nats per byte)"}}


def loss_window(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[float] | None, list[float] | None]:
    """Returns ranges (log10 FLOPs, loss) that show the last factor of 20 in compute and the lowest nat and a bit: the
    first fall from blind guessing is the same for every model and would squash what differs. None, None without data.
    """
    lines = [(x, y) for x, y in lines if len(y)]
    if not lines:
        return None, None
    end = max(float(x[-1]) for x, _ in lines)
    low = math.floor(min(float(y.min()) for _, y in lines) * 10 - 0.5) / 10
    return [math.log10(end / 20), math.log10(end * 1.05)], [low, low + 1.2]


def smooth(flops: Any, loss: Any, points: int = LIVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Returns a loss curve to look at: means over the last twelfth of the run so far, at most ``points`` of them,
    float32. One batch's loss jumps about; the mean of the last steps shows where the model is.
    """
    x, y = np.asarray(flops, np.float64), np.asarray(loss, np.float64)
    n = len(y)
    total = np.concatenate([[0.0], np.cumsum(y)])
    ends = np.unique(np.linspace(1, n, min(n, points)).astype(int)) if n else np.zeros(0, int)
    starts = np.maximum(0, ends - np.maximum(1, ends // 12))
    return x[ends - 1].astype(np.float32), ((total[ends] - total[starts]) / (ends - starts)).astype(np.float32)


def load_trace(load: Any) -> Trace:
    """Returns the map of who is active. ``load``: shares, (layers, experts), rows sum to 1."""
    share = np.asarray(load, np.float32)
    return load_map(share * (share.shape[1] if share.ndim == 2 else 1), "expert %{x}, layer %{y}")


def load_axes() -> dict[str, Any]:
    return {"xaxis": {"title": "expert", "showgrid": False}, "yaxis": {"title": "layer", "dtick": 1} | DOWN}
