"""Runs as dots of loss against sparsity: a learner's own in front, the shipped ones behind."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.style import BLUE, LOSS, PALE, Trace, halvings, sparsity_axis, styled
from sparsity_lab.units import power

HEIGHT = 230
STOPS = (0.0, 0.5, 0.75, 0.875, 0.9375, 0.96875, 0.984375, 0.9921875, 0.99609375)


def runs_so_far(own: pd.DataFrame, shipped: pd.DataFrame) -> go.Figure:
    """Dots of held-out loss against sparsity. Both tables are of `runs.store.to_frame`; only runs with a loss count."""
    *traces, layout = runs_so_far_parts(own, shipped)
    return styled(traces, HEIGHT, **layout)


def runs_so_far_parts(own: pd.DataFrame, shipped: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the traces of `runs_so_far` and its layout, without what plotly does to check them."""
    axis = sparsity_axis(STOPS, "sparsity S")
    axis["ticktext"] = [text.lstrip("0") or "0" for text in (f"{stop:.3g}" for stop in STOPS)]
    layout = {
        "xaxis": axis | {"range": [-0.4, 8.4]},
        "yaxis": {"title": LOSS.replace(" (", "<br>(")},
        "margin": {"l": 62, "r": 8, "t": 8, "b": 44},
        "showlegend": False,
    }
    return [_dots(shipped, "ships with the lab", PALE, 5), _dots(own, "yours", BLUE, 11), layout]


def _dots(runs: pd.DataFrame, name: str, colour: str, size: int) -> Trace:
    runs = runs.dropna(subset="val_loss")
    text = [
        f"{power(budget)} FLOPs, width {width}, {n} layer{'s'[: n != 1]}, seed {seed}"
        for budget, width, n, seed in zip(runs["budget"], runs["width"], runs["n_layers"], runs["seed"], strict=True)
    ]
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": halvings(runs["sparsity"]).tolist(),
        "y": runs["val_loss"].tolist(), "text": text, "marker": {"color": colour, "size": size},
        "hovertemplate": "held-out loss %{y:.3f}: %{text}<extra>" + name + "</extra>",
    }  # fmt: skip
