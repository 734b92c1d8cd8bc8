"""Figures of what was found about the story's sentences."""

from collections.abc import Sequence
from textwrap import wrap

import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.analysis.story import MARGIN, SIGNS, Sentence
from sparsity_lab.figures import style
from sparsity_lab.figures.style import GREY, OTHERS, Look, line, lines_with_intervals, share_axis, styled
from sparsity_lab.units import flops

NATS = "%{y:.3f} nats per byte"
VERDICTS = {  # in the order of the columns
    "holds": Look(style.GREEN, symbol="circle"),
    "undecided": Look(GREY, symbol="diamond"),
    "does not hold": Look(style.VERMILION, symbol="x"),
}


def verdicts(findings: Sequence[Sentence]) -> go.Figure:
    """The story at a glance: a row for each sentence, with a mark in the column of its verdict. ``findings``: as
    `story.judge` gives them."""
    texts = {f.number: f"{f.number} · {f.sentence.rstrip('.')}" for f in findings}
    # Lines of about equal length, of at most 58 letters.
    names = {n: "<br>".join(wrap(text, len(text) // (1 + len(text) // 58) + 8)) for n, text in texts.items()}
    traces = []
    for place, (verdict, look) in enumerate(VERDICTS.items()):
        rows = [names[f.number] for f in findings if f.verdict == verdict]
        if rows:
            more: style.Trace = {"marker_size": 14, "showlegend": False}
            traces.append(line([place] * len(rows), rows, SIGNS[verdict], look, "%{y}", "markers", **more))
    columns = {"tickvals": [0, 1, 2], "ticktext": [SIGNS[verdict].replace(" not", "<br>not") for verdict in VERDICTS]}
    columns |= {"range": [-0.5, 2.5], "side": "top", "tickangle": 0}
    yaxis = {"categoryorder": "array", "categoryarray": list(names.values()), "range": [len(names) - 0.5, -0.5]}
    return styled(traces, 80 + 40 * len(names), margin={"b": 10}, xaxis=columns, yaxis=yaxis)


def fall_by_step(table: pd.DataFrame) -> go.Figure:
    """How much the loss falls in each step of the dial, by budget, with 95 % intervals. ``table``: as `story.steps`
    gives it."""
    places = zip(table["than"], table["sparsity"], strict=True)
    names = [f"S = {less:.4g} to {more:.4g}" if less else f"dense to S = {more:.4g}" for less, more in places]
    rows = table.assign(line=names)
    return _by_budget(rows, "gain", NATS, "fall of the loss<br>(nats per byte)", 0)


def leverage_by_budget(table: pd.DataFrame) -> go.Figure:
    """How many times its FLOPs a dense model needs for the sparse model's loss, by budget, with 95 % intervals.
    ``table``: as `fair.leverages` gives it; an interval without an end reaches as far as the axis."""
    known = table.dropna(subset="leverage").assign(line="")
    return _by_budget(known, "leverage", "%{y:.2f} times", "FLOPs of dense models, ×", 1)


def yardsticks(table: pd.DataFrame) -> go.Figure:
    """A gain by several yardsticks, each in multiples of its value at the smallest budget. ``table``: as
    `story.yardsticks` gives it."""
    return _by_budget(table, "value", "%{y:.2f} times", "× value at the<br>smallest budget", 1)


def rise_by_share(table: pd.DataFrame) -> go.Figure:
    """How much the loss rises with the share of each part that is removed, with 95 % intervals; the dotted line is what
    it may cost. ``table``: as `story.removals` gives it."""
    rows = table.assign(line=table["part"]).sort_values("share", kind="stable")
    traces = lines_with_intervals(rows, "share", "rise", "half", "%{y:+.3f} nats at %{x:.0%}", OTHERS)
    yaxis = {"title": "rise of the loss<br>(nats per byte)"}
    figure = styled(traces, 380, xaxis=share_axis("share removed"), yaxis=yaxis)
    return figure.add_hline(MARGIN, line=style.ROLES["reference"].line)


def _by_budget(rows: pd.DataFrame, value: str, hover: str, title: str, level: float) -> go.Figure:
    """Marks with intervals; one without an end reaches to twice the largest value."""
    rows = rows.sort_values("budget", kind="stable").assign(high=rows["high"].clip(upper=2 * rows[value].max()))
    places = {budget: place for place, budget in enumerate(rows["budget"].unique())}
    order = rows["line"].map({name: i for i, name in enumerate(rows["line"].unique())})
    rows = rows.assign(at=rows["budget"].map(places) + 0.08 * (order - order.max() / 2))
    look = style.ALONE if rows["line"].nunique() == 1 else {}
    points = lines_with_intervals(rows, "at", value, ("low", "high"), hover, OTHERS, **look)
    xaxis = {"title": "training budget", "tickvals": list(places.values()), "ticktext": list(map(flops, places))}
    figure = styled(points, 380, xaxis=xaxis, yaxis={"title": title})
    return figure.add_hline(y=level, line=style.ROLES["reference"].line)
