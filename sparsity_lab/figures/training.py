"""Figures of a run on its way: its loss against what it has spent."""

from typing import Any

import numpy as np

from sparsity_lab.figures.style import ROLES, Trace, line

LIVE_POINTS = 400


def loss_trace(label: str, role: str, flops: Any, loss: Any) -> Trace:
    """Returns a line of loss against FLOPs in the look of its role (of `style.ROLES`)."""
    hover = "%{y:.3f} nats per byte at %{x:.2s}FLOPs"
    return line(*smooth(flops, loss), label, ROLES[role], hover, mode="lines")


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
