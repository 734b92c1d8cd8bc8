"""The race of the model on the dial and its dense twin: the whole fall of the loss, its end enlarged, and the gap."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from sparsity_lab.figures.style import ROLES, Trace, log_axis, styled
from sparsity_lab.figures.training import loss_trace
from sparsity_lab.units import power

GHOSTS = 6  # earlier runs in grey
SIDES = ("dense", "this")
SLOTS = ("ghost",) * GHOSTS + ("measured dense", "measured", *SIDES)  # roles of the lines, the last on top
BLIND = math.log(256)  # the loss of guessing among all bytes
HEIGHT = 268
SMALL = {"size": 11}

Line = tuple[str, str, Any, Any]  # label, role (of `style.ROLES`), FLOPs, loss


class End(NamedTuple):
    """The held-out loss at which a run ended, or is expected to end, then with an interval."""

    role: str  # of `SIDES`
    label: str
    flops: float
    loss: float
    low: float | None = None
    high: float | None = None


def race(
    lines: Sequence[Line],
    budget: float,
    ends: Sequence[End] = (),
    expected: Sequence[End] = (),
    bands: Sequence[Sequence[End]] = (),
) -> go.Figure:
    """Loss against FLOPs, from blind guessing to the ``budget``, with the last part enlarged in the empty corner.

    Of two ``ends`` the gap is drawn. ``bands`` are expected losses along the budgets, one sequence for each side. The
    figure always has the same number of traces and annotations, so `race_parts` is enough to update it.
    """
    *traces, layout = race_parts(lines, budget, ends, expected, bands)
    return styled(traces, HEIGHT, **layout)


def race_parts(
    lines: Sequence[Line],
    budget: float,
    ends: Sequence[End] = (),
    expected: Sequence[End] = (),
    bands: Sequence[Sequence[End]] = (),
) -> list[dict[str, Any]]:
    """Returns the traces of `race` and its layout, without what plotly does to check them."""
    by_role: dict[str, list[Line]] = {role: [] for role in SLOTS}
    for each in lines:
        by_role[each[1]].append(each)
    slots = [by_role[role].pop(0) if by_role[role] else ("", role, [], []) for role in SLOTS]
    drawn = [loss_trace(*slot) | {"showlegend": False} for slot in slots]
    front = [trace for trace, role in zip(drawn, SLOTS, strict=True) if role in SIDES]
    if not any(len(trace["x"]) for trace in front):
        front = [trace for trace, role in zip(drawn, SLOTS, strict=True) if role.startswith("measured")]

    low, high = _window(front, budget, [*ends, *expected])
    enlarged = [trace | {"xaxis": "x2", "yaxis": "y2"} for trace in drawn]
    traces = [*drawn, *enlarged, *(_band(role, bands) for role in SIDES)]
    traces += [_marks(role, found, hollow) for found, hollow in ((expected, True), (ends, False)) for role in SIDES]
    traces.append(_gap(ends))

    end = math.log10(budget)
    layout: dict[str, Any] = {
        "xaxis": log_axis(
            {"text": "training FLOPs used", "font": {"size": 13}}, range=[end - 2.05, end + 0.1], showgrid=False
        ),
        "yaxis": {
            "title": {"text": "loss (nats per byte)", "font": {"size": 13}},
            "range": [min(low, 2.0) - 0.2, BLIND + 0.25],
            "showgrid": False,
        },
        "xaxis2": log_axis("", range=[end - 0.9, end + 1.1], domain=[0.48, 1], anchor="y2", tickfont=SMALL)
        | {"tickvals": [budget / 5, budget], "ticktext": [power(budget / 5), power(budget)], "tickangle": 0}
        | {"showgrid": False},
        "yaxis2": {"range": [low, high], "domain": [0.5, 1], "anchor": "x2", "nticks": 4, "tickfont": SMALL},
        "annotations": [*_labels(ends or expected, high - low), _note(bool(lines or expected or ends))],
        "margin": {"l": 56, "r": 8, "t": 10, "b": 46},
        "showlegend": False,
    }
    return [*traces, layout]


def _window(front: Sequence[Trace], budget: float, ends: Sequence[End]) -> tuple[float, float]:
    """Returns the range of losses that the enlarged part shows."""
    tails = [np.asarray(trace["y"])[np.asarray(trace["x"]) >= budget / 8] for trace in front]
    losses = [float(value) for tail in tails if len(tail) for value in (tail[0], tail.min())]
    reached = [value for end in ends for value in (end.loss, end.low, end.high) if value is not None]
    if not [*losses, *reached]:  # nothing is near its end yet
        latest = [float(trace["y"][-1]) for trace in front if len(trace["y"])]
        losses = [min(latest) - 0.4, max(latest)] if latest else [1.6, 2.4]
    lowest = min([*losses, *reached])
    highest = min(max(losses, default=lowest), lowest + 0.5)
    return lowest - 0.1, max(highest, lowest + 0.25, *reached) + 0.04


def _band(role: str, bands: Sequence[Sequence[End]]) -> Trace:
    found = next((band for band in bands if band and band[0].role == role), [])
    x = [end.flops for end in found]
    y = [end.high for end in found] + [end.low for end in found[::-1]]
    look = ROLES[role]
    trace = {
        "type": "scatter",
        "x": x + x[::-1],
        "y": y,
        "fill": "toself",
        "fillcolor": look.colour + "26",
        "mode": "lines",
    }
    return trace | {"line": {"width": 0}, "xaxis": "x2", "yaxis": "y2", "hoverinfo": "skip"}


def _marks(role: str, ends: Sequence[End], hollow: bool) -> Trace:
    found = [end for end in ends if end.role == role]
    look = ROLES[role]
    what = "expected" if hollow else "held-out loss"
    hover = f"{what} %{{y:.3f}} nats per byte<extra>%{{text}}</extra>"
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [end.flops for end in found],
        "y": [end.loss for end in found],
    }
    trace |= {"text": [end.label for end in found], "hovertemplate": hover, "xaxis": "x2", "yaxis": "y2"}
    trace["marker"] = {"color": look.colour, "symbol": look.symbol + ("-open" if hollow else ""), "size": 10}
    if hollow:
        up, down = [(e.high or e.loss) - e.loss for e in found], [e.loss - (e.low or e.loss) for e in found]
        trace["error_y"] = {"type": "data", "array": up, "arrayminus": down, "color": look.colour, "thickness": 1.5}
    return trace


def _gap(ends: Sequence[End]) -> Trace:
    """Draws a line between two ends, a bit to the right of them."""
    x = [ends[0].flops * 1.16] * 2 if len(ends) == 2 else []
    look = {"color": ROLES["reference"].colour, "width": 2}
    marks = {"symbol": "line-ew", "size": 8, "line": {"width": 2, "color": look["color"]}}
    trace: Trace = {"type": "scatter", "mode": "lines+markers", "x": x, "y": [end.loss for end in ends] if x else []}
    return trace | {"line": look, "marker": marks, "hoverinfo": "skip", "xaxis": "x2", "yaxis": "y2"}


def _note(drawn: bool) -> dict[str, Any]:
    text = "" if drawn else "The race is drawn here."
    place = {"xref": "paper", "yref": "paper", "x": 0.04, "y": 0.1, "xanchor": "left", "yanchor": "middle"}
    return place | {"text": text, "showarrow": False, "font": SMALL}


def _labels(ends: Sequence[End], height: float) -> list[dict[str, Any]]:
    """Returns a label for each end, to its right, and one for the gap; empty ones, so that there are always three. A
    label is about an eighth of the ``height`` high, so those of close ends lie outside of the gap."""
    upper = max(ends, key=lambda end: end.loss, default=None)
    apart = abs(ends[0].loss - ends[1].loss) / height if len(ends) == 2 else 1.0
    notes = []
    for end in ends[:2]:
        name = "dense" if end.label.startswith("dense") else "sparse"
        anchor = "middle" if apart > 0.3 else "bottom" if end is upper else "top"
        notes.append(
            {"text": f"{name} {end.loss:.2f}", "y": end.loss, "x": math.log10(end.flops * 1.3), "yanchor": anchor}
        )
    if len(ends) == 2 and apart > 0.16 and ends[0].low is None:
        middle = (ends[0].loss + ends[1].loss) / 2
        notes.append(
            {"text": f"{abs(ends[0].loss - ends[1].loss):.3f}", "y": middle, "x": math.log10(ends[0].flops * 1.3)}
        )
    empty = {"text": "", "x": 0, "y": 0}
    common: dict[str, Any] = {"xref": "x2", "yref": "y2", "showarrow": False, "xanchor": "left", "yanchor": "middle"}
    common["font"] = SMALL
    return [common | note for note in [*notes, *[empty] * 3][:3]]
