"""Figures of what models answer: right answers by task, by how common a fact is, by kind of word. No state."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.analysis.task_scores import mean_scores
from sparsity_lab.figures.laws import LOOKS, asleep, sparsity_axis
from sparsity_lab.figures.style import GHOST, SPARSE, TEXT, styled
from sparsity_lab.training.tasks import RANKS, TASKS

APART = 0.12  # between the sparsities of one place, so that their intervals can be told apart
SHARE = {"tickformat": ".0%", "range": [-0.03, 1.03]}
RANK, CLOZE = "recall rank ", "cloze "  # what `task_scores.score_tasks` writes before a rank and a kind


def accuracy(scores: pd.DataFrame, budget: float, tasks: Sequence[str] = tuple(TASKS), height: int = 0) -> go.Figure:
    """Right answers against sparsity, a panel for each task. ``scores``: as `task_scores.score_table` gives them. Dots
    are seeds, the line is their mean with its 95 % interval, the dotted line is chance. Always three traces a panel, so
    that a slider can move them."""
    columns = min(len(tasks), 2)
    rows = math.ceil(len(tasks) / columns)
    figure = make_subplots(rows, columns, subplot_titles=tasks, vertical_spacing=0.16, horizontal_spacing=0.1)
    stops = scores.loc[scores["budget"] == budget, "sparsity"]
    ends = asleep([stops.min(), stops.max()]).tolist()
    for i, task in enumerate(tasks):
        here = scores[(scores["budget"] == budget) & (scores["task"] == task)]
        mean = mean_scores(here).sort_values("sparsity")
        traces = (
            go.Scatter(
                x=ends, y=[TASKS[task].chance] * 2, mode="lines", name="chance", legendgroup="chance",
                line={"color": TEXT, "dash": "dot"}, hovertemplate="chance: %{y:.3%}<extra></extra>",
            ),
            go.Scatter(
                x=asleep(here["sparsity"]), y=here["accuracy"], mode="markers", name="a seed", legendgroup="seed",
                customdata=here["seed"], marker={"color": GHOST, "size": 7},
                hovertemplate="seed %{customdata}: %{y:.1%}<extra></extra>",
            ),
            go.Scatter(
                x=asleep(mean["sparsity"]), y=mean["accuracy"], mode="lines+markers", name="mean, 95 % interval",
                legendgroup="mean", line={"color": SPARSE, "width": 2}, marker={"size": 9}, error_y=_bars(mean["half"]),
                hovertemplate="%{y:.1%}<extra></extra>",
            ),
        )  # fmt: skip
        for trace in traces:
            trace.showlegend = i == 0
            figure.add_trace(trace, i // columns + 1, i % columns + 1)
    axis = sparsity_axis(stops)
    figure.update_xaxes(tickvals=axis["tickvals"], ticktext=axis["ticktext"]).update_yaxes(SHARE)
    figure.update_xaxes(title="sparsity S", row=rows)
    styled(figure, height or 60 + 270 * rows, margin={"l": 60, "r": 20, "t": 70, "b": 50})
    return figure.update_layout(legend={"y": 1 + 40 / (270 * rows)})  # above the names of the panels


def recall_by_rank(summary: pd.DataFrame, budget: float, height: int = 420) -> go.Figure:
    """Facts known against how common they are, a line for each sparsity, with 95 % intervals; the dotted line is chance
    as in the task itself. ``summary``: as `task_scores.mean_scores` gives it."""
    ranks = {int(task.removeprefix(RANK)): task for task in summary["task"].unique() if task.startswith(RANK)}
    names = {ranks[rank]: f"{rank}–{min(2 * rank, RANKS[1]) - 1}" for rank in sorted(ranks)}
    figure = _side_by_side(summary, budget, names, "accuracy", "lines+markers")
    figure.add_hline(TASKS["recall"].chance, line={"color": TEXT, "dash": "dot"})
    axis = {"title": "rank of the fact (to the right ever rarer)"}
    return styled(figure, height, yaxis=SHARE | {"title": "facts recalled"}, xaxis=axis)


def cloze_by_kind(summary: pd.DataFrame, budget: float, chance: Mapping[str, float], height: int = 420) -> go.Figure:
    """Words of source completed, by kind, a mark for each sparsity, with 95 % intervals. ``chance``: of each kind, as
    `task_scores.cloze` gives it; a short line."""
    names = {t: t.removeprefix(CLOZE) for t in summary["task"].unique() if t.startswith(CLOZE)}
    figure = _side_by_side(summary, budget, names, "accuracy", "markers")
    figure.add_scatter(
        x=list(range(len(names))), y=[chance.get(kind) for kind in names.values()], mode="markers",
        name="chance: the commonest word", hovertemplate="chance: %{y:.1%}<extra></extra>",
        marker={"symbol": "line-ew", "size": 45, "line": {"color": TEXT, "width": 2}},
    )  # fmt: skip
    return styled(figure, height, yaxis=SHARE | {"title": "words completed"})


def gains(paired: pd.DataFrame, budget: float, tasks: Sequence[str] = tuple(TASKS), height: int = 380) -> go.Figure:
    """How much more sparse models get right than the dense one, by task, with 95 % intervals. ``paired``: as
    `task_scores.score_gains` gives it."""
    figure = _side_by_side(paired, budget, {task: task for task in tasks}, "gain", "markers", first=1)
    figure.add_hline(0, line={"color": TEXT, "dash": "dot"})
    return styled(figure, height, yaxis={"title": "right answers, sparse minus dense", "tickformat": "+.0%"})


def _side_by_side(
    rows: pd.DataFrame, budget: float, names: Mapping[str, str], value: str, mode: str, first: int = 0
) -> go.Figure:
    """A trace for each sparsity, a place for each of ``names`` (task → what it is called); looks from the ``first``."""
    here = rows[(rows["budget"] == budget) & rows["task"].isin(list(names))]
    places = {task: i for i, task in enumerate(names)}
    stops = sorted(here["sparsity"].unique())
    figure = go.Figure()
    for i, (s, (colour, symbol)) in enumerate(zip(stops, cycle(LOOKS[first:] + LOOKS[:first]), strict=False)):
        own = here[here["sparsity"] == s].sort_values("task", key=lambda task: task.map(places))
        name = "dense" if s == 0 else f"S = {s:.3g}"
        figure.add_scatter(
            x=own["task"].map(places) + (i - (len(stops) - 1) / 2) * APART, y=own[value], mode=mode, name=name,
            customdata=own["task"].map(names), error_y=_bars(own["half"]), line={"color": colour, "width": 2},
            marker={"symbol": symbol, "size": 9}, hovertemplate="%{customdata}: %{y:.1%}<extra>" + name + "</extra>",
        )  # fmt: skip
    return figure.update_xaxes(tickvals=list(places.values()), ticktext=list(names.values()))


def _bars(half: "pd.Series[float]") -> dict[str, Any]:
    return {"type": "data", "array": half, "thickness": 1.5, "width": 4}
