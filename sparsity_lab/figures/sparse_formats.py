"""Figures of what sparsity and dropped data buy: DataFrames in, plotly figures out."""

from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.style import GREY, LOOKS, styled


def times(summary: pd.DataFrame, crossings: pd.DataFrame, height: int = 480) -> go.Figure:
    """Time of a layer over sparsity, a line a format, with a star where it gets faster than dense for good.

    ``summary``: columns format, sparsity, seconds, low, high; a format with one sparsity is drawn as a level.
    ``crossings``: columns format, at. The axis is −log₂(1 − S): every step to the right halves what is left.
    """
    figure = go.Figure()
    stops = sorted(summary.loc[summary.duplicated("format", keep=False), "sparsity"].unique())
    for (name, part), look in zip(summary.groupby("format", sort=False), cycle(LOOKS), strict=False):
        colour, dash, symbol = look
        level = len(part) == 1
        part = part.iloc[[0] * len(stops)].assign(sparsity=stops) if level else part.sort_values("sparsity")
        figure.add_scatter(
            x=_halvings(part["sparsity"]),
            y=1e3 * part["seconds"],
            error_y={
                "type": "data",
                "array": 1e3 * (part["high"] - part["seconds"]),
                "arrayminus": 1e3 * (part["seconds"] - part["low"]),
                "thickness": 1.5,
                "width": 4,
            },
            name=str(name),
            mode="lines" if level else "lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 9},
            customdata=part["sparsity"],
            hovertemplate="%{y:.3g} ms" + ("" if level else " at S = %{customdata:.4g}") + f"<extra>{name}</extra>",
        )
    found = crossings[np.isfinite(crossings["at"])]
    dense = 1e3 * float(summary.loc[summary["format"] == "dense", "seconds"].iloc[0])
    figure.add_scatter(
        x=_halvings(found["at"]),
        y=[dense] * len(found),
        name="break-even",
        mode="markers",
        marker={"symbol": "star", "size": 15, "color": GREY, "line": {"width": 1, "color": "white"}},
        customdata=found[["format", "at"]].to_numpy(),
        hovertemplate="%{customdata[0]} is faster from S = %{customdata[1]:.3g} on<extra></extra>",
    )
    return styled(
        figure,
        height,
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
        xaxis={
            "title": "sparsity S (each step to the right: half as much is left)",
            "tickvals": _halvings(pd.Series(stops)),
            "ticktext": [f"{s:.3g}" for s in stops],
        },
        yaxis={"title": "time of the layer (ms)", "type": "log", "dtick": "D2"},
    )


def _halvings(sparsity: pd.Series) -> list[float]:
    return [float(-np.log2(1 - s)) for s in sparsity]


def losses(summary: pd.DataFrame, height: int = 480) -> go.Figure:
    """Held-out loss over the share of the data that is kept, with intervals. ``summary``: columns line, kept, loss,
    half; a line with one share is drawn as a level. Loss and share are on logarithmic axes."""
    figure = go.Figure()
    stops = sorted(summary["kept"].unique())
    for (line, part), (colour, dash, symbol) in zip(summary.groupby("line", sort=False), cycle(LOOKS), strict=False):
        level = len(part) == 1
        part = part.iloc[[0] * len(stops)].assign(kept=stops) if level else part.sort_values("kept")
        figure.add_scatter(
            x=part["kept"],
            y=part["loss"],
            error_y={"type": "data", "array": part["half"], "thickness": 1.5, "width": 4, "visible": not level},
            customdata=part["half"],
            name=str(line),
            mode="lines" if level else "lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 9},
            hovertemplate="%{y:.3f} ± %{customdata:.3f} with %{x:.0%} kept<extra>" + str(line) + "</extra>",
        )
    return styled(
        figure,
        height,
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
        xaxis={
            "title": "share of the windows that is kept; FLOPs are the same everywhere",
            "type": "log",
            "tickvals": stops,
            "ticktext": [f"{s:.0%}" for s in stops],
        },
        yaxis={"title": "held-out loss (nats a byte)", "type": "log", "tickvals": [1, 1.5, 2, 2.5, 3, 4, 5, 7, 10]},
    )
