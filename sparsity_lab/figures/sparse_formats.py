"""Figures of what sparse formats and dropped data buy."""

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.analysis.sparse_formats import EXPERTS
from sparsity_lab.figures import style
from sparsity_lab.figures.style import GREY, LOOKS, OTHERS, Look, Trace, halvings, line, log_axis, styled

MARGIN = {"t": 70}  # room for a legend of two rows
OF_FORMAT = {"dense": style.ROLES["dense"], EXPERTS: style.ROLES["this"]}


def times(summary: pd.DataFrame, crossings: pd.DataFrame) -> go.Figure:
    """Time of a layer over sparsity, a line for each format, with a star where it gets faster than dense for good.

    ``summary``: columns format, sparsity, seconds, low, high; a format with one sparsity is drawn as a level.
    ``crossings``: columns format, at.
    """
    in_ms = summary.assign(line=summary["format"], **{c: 1e3 * summary[c] for c in ("seconds", "low", "high")})
    sparsities = summary.loc[summary.duplicated("format", keep=False), "sparsity"]
    hover = "%{y:.3g} ms", " at S = %{customdata:.4g}"
    others = cycle(LOOKS[len(OF_FORMAT) :])  # the first two are those of `OF_FORMAT`
    looks = [OF_FORMAT.get(name) or next(others) for name in in_ms["line"].unique()]
    traces = _with_levels(in_ms, "sparsity", "seconds", ("low", "high"), sparsities, *hover, looks)
    for trace in traces:
        trace["customdata"], trace["x"] = trace["x"], halvings(trace["x"])

    found = crossings[np.isfinite(crossings["at"])]
    dense = [float(in_ms.loc[in_ms["format"] == "dense", "seconds"].iloc[0])] * len(found)
    faster = "%{customdata[0]} is faster from S = %{customdata[1]:.3g} on"
    star = {"symbol": "star", "size": 15, "color": GREY, "line": {"width": 1, "color": "white"}}
    more = {"marker": star, "customdata": found[["format", "at"]].to_numpy()}
    stars = line(halvings(found["at"]), dense, "break-even", style.Look(GREY), faster, "markers", **more)
    xaxis = style.sparsity_axis(sparsities, "sparsity S (each step to the right: half as much is left)")
    yaxis = log_axis("time of the layer (ms)", **style.fine_ticks(in_ms[["low", "high"]].to_numpy().ravel()))
    return styled([*traces, stars], 480, margin=MARGIN, xaxis=xaxis, yaxis=yaxis)


def losses(summary: pd.DataFrame) -> go.Figure:
    """Held-out loss over the share of the data that is kept, with intervals. ``summary``: columns line, kept, loss,
    half; a line with one share is drawn as a level. Loss and share are on logarithmic axes."""
    hover = "%{y:.3f} ± %{error_y.array:.3f}", " with %{x:.0%} kept"
    traces = _with_levels(summary, "kept", "loss", "half", summary["kept"], *hover, OTHERS)
    title = "share of the windows that is kept; FLOPs are the same everywhere"
    xaxis = log_axis(title, **style.stops(summary["kept"], ".0%"))
    yaxis = log_axis(style.LOSS, tickvals=[1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 10])
    return styled(traces, 480, margin=MARGIN, xaxis=xaxis, yaxis=yaxis)


def _with_levels(
    frame: pd.DataFrame,
    x: str,
    y: str,
    half: style.Half,
    places: Iterable[float],
    value: str,
    place: str,
    looks: Sequence[Look],
) -> list[Trace]:
    """Returns lines with intervals; what has only one row becomes a level over all ``places``. The hover gives the
    ``value`` and, where it is no level, its ``place``."""
    parts = [part for _, part in frame.groupby("line", sort=False)]
    all_x = sorted(set(places))
    spread = [part if len(part) > 1 else part.iloc[[0] * len(all_x)].assign(**{x: all_x}) for part in parts]
    rows = pd.concat([part.sort_values(x) for part in spread])
    traces = style.lines_with_intervals(rows, x, y, half, value + place, looks)
    for trace, part in zip(traces, parts, strict=True):
        if len(part) == 1:
            trace.update(mode="lines", hovertemplate=f"{value}<extra>{trace['name']}</extra>")
    return traces
