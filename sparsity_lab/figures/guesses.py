"""Figures of guesses: how often they are right by how sure people were, and a class's answers to one question."""

from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.style import ALONE, GREY, ROLES, Trace, line, share_axis, styled

BINS = 15
WRAP = 20  # characters of a choice on one line


def calibration(table: pd.DataFrame) -> go.Figure:
    """Share of hits against stated confidence, with 95 % intervals. On the dotted diagonal people are right as often
    as they say. ``table``: as `sparsity_lab.guesses.calibration` gives it."""
    ends = [0.5, 1]
    diagonal = line(ends, ends, "right as often as stated", ROLES["reference"], "", "lines")
    error = {
        "type": "data",
        "array": table["high end"] - table["share of hits"],
        "arrayminus": table["share of hits"] - table["low end"],
    }
    hover = "%{x:.0%} sure: right in %{customdata[0]} of %{customdata[1]}"
    counts = table[["hits", "guesses"]].to_numpy()
    points = line(
        table["how sure"], table["share of hits"], "guesses", ROLES["this"], hover, customdata=counts, error_y=error,
        **ALONE,
    )  # fmt: skip
    xaxis = share_axis("how sure people said they were", range=[0.47, 1.03])
    return styled([diagonal, points], 400, xaxis=xaxis, yaxis=share_axis("share of hits", range=[-0.03, 1.03]))


def class_guesses(table: pd.DataFrame) -> go.Figure:
    """The answers of a class to one question: how many chose each answer, or a histogram of numbers, with the result
    and its interval above. ``table``: rows of one key, as `sparsity_lab.guesses.guess_table` gives them. There are
    always two traces, so that a menu of questions can move them."""
    known = table[table["result"].notna()]
    last = None if known.empty else known.sort_values("time").iloc[-1]
    width: float | None = None
    if table["kind"].iloc[0] == "number":
        counts, edges = np.histogram(table["guess"].astype(float), BINS)
        places: list[Any] = ((edges[:-1] + edges[1:]) / 2).tolist()
        width = float(edges[1] - edges[0])
        unit = table["unit"].iloc[0]
        xaxis: Trace = {"title": f"guess ({unit})" if unit else "guess", "type": "linear"}
    else:
        chosen = table["guess"].value_counts()
        places, counts = list(chosen.index), chosen.to_numpy()
        if last is not None and last["result"] not in places:
            places, counts = [*places, last["result"]], np.append(counts, 0)
        names = ["<br>".join(wrap(place, WRAP)) for place in places]
        xaxis = {"title": "guess", "type": "category", "tickvals": places, "ticktext": names}

    hover = "%{x}: %{y}<extra>guesses</extra>"
    bars: Trace = {"type": "bar", "x": places, "y": counts.tolist(), "name": "guesses", "hovertemplate": hover}
    result = [None] if last is None else [last["result"]]
    above = [None] if last is None else [1.1 * float(counts.max())]
    point = line(result, above, "result", ROLES["this"], "%{x}", **ALONE | {"marker_symbol": "triangle-down"})
    if last is not None and np.isfinite([last["low end"], last["high end"]]).all():
        ends = {"array": [last["high end"] - last["result"]], "arrayminus": [last["result"] - last["low end"]]}
        point["error_x"] = {"type": "data", "width": 8} | ends
    yaxis = {"title": "people", "rangemode": "tozero", "tickformat": "~d"}
    return styled([bars | {"width": width, "marker": {"color": GREY}}, point], 380, xaxis=xaxis, yaxis=yaxis)
