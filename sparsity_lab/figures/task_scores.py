"""Figures of what models answer: right answers by task, by how common a fact is, by kind of word."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.figures import style
from sparsity_lab.figures.laws import BUDGETS
from sparsity_lab.figures.style import GREY, ORDERED, Look, Trace, line, lines_with_intervals, styled
from sparsity_lab.training.tasks import RANKS, TASKS
from sparsity_lab.units import flops

APART = 0.12  # between the sparsities of one place, so that their intervals can be told apart
SPREAD = 1.03  # the same as a factor, on an axis of weights
RANK, CLOZE = "recall rank ", "cloze "  # what `task_scores.score_tasks` writes before a rank and a kind
CHANCE = style.ROLES["reference"]


def accuracy(scores: pd.DataFrame, budget: float, tasks: Sequence[str] = tuple(TASKS)) -> go.Figure:
    """Right answers against active weights at one budget, a panel for each task, a line for each sparsity: means over
    seeds, with bars from the worst seed to the best, because many tasks are learnt suddenly or not at all. ``scores``:
    as `task_scores.score_table` gives them. The dotted line is chance. There are always as many traces per panel, so
    that a slider can move them."""
    columns = min(len(tasks), 2)
    rows = math.ceil(len(tasks) / columns)
    figure = make_subplots(rows, columns, subplot_titles=tasks, vertical_spacing=0.16, horizontal_spacing=0.1)
    here = scores[scores["budget"] == budget]
    seeds = here.groupby(["task", "sparsity", "width"], sort=False)["accuracy"]
    means = seeds.agg(accuracy="mean", low="min", high="max").reset_index().sort_values(["sparsity", "width"])
    # Models of one width differ by a few weights of their routers; one place for all keeps intervals apart readable.
    place = here[here["sparsity"] == here["sparsity"].min()].groupby("width")["params_active"].first()
    rank = means["sparsity"].rank(method="dense")
    means = means.assign(at=means["width"].map(place) * SPREAD ** (rank - rank.mean()), details=means["width"])
    for i, task in enumerate(tasks):
        own = means[means["task"] == task]
        more: Trace = {"by": "sparsity", "named": style.sparsity_name}
        hover = "width %{customdata}: %{y:.1%}"
        ends = [own["at"].min(), own["at"].max()]
        chance = line(ends, [TASKS[task].chance] * 2, "chance", CHANCE, "%{y:.3%}", "lines")
        for trace in (*lines_with_intervals(own, "at", "accuracy", ("low", "high"), hover, ORDERED, **more), chance):
            trace.update(legendgroup=trace["name"], showlegend=i == 0)
            figure.add_trace(trace, i // columns + 1, i % columns + 1)

    legend = {"y": 1 + 40 / (270 * rows)}  # above the names of the panels
    styled(figure, 60 + 270 * rows, margin={"t": 70}, legend=legend).update_yaxes(_share(""))
    figure.update_xaxes(style.log_axis("", tickvals=list(place), ticktext=[f"{weights:,}" for weights in place]))
    return figure.update_xaxes(title="active weights", row=rows)


def trend_by_task(table: pd.DataFrame) -> go.Figure:
    """How accuracy changes with each fourfold number of experts, by task, a mark for each budget, with 95 % intervals.
    ``table``: as `task_scores.trends` gives it."""
    names = list(dict.fromkeys(table["task"]))
    rank = table["budget"].rank(method="dense") - 1
    rows = table.assign(at=table["task"].map(names.index) + (rank - rank.max() / 2) * APART, details=table["task"])
    more: Trace = {"by": "budget", "named": flops, "mode": "markers"}
    traces = lines_with_intervals(rows, "at", "slope", "half", "%{customdata}: %{y:+.1%}", BUDGETS, **more)
    yaxis = {"title": "right answers, change with<br>four times as many experts", "tickformat": "+.0%"}
    xaxis = _places({name: name for name in names})
    return styled(traces, 380, xaxis=xaxis, yaxis=yaxis).add_hline(0, line=CHANCE.line)


def recall_by_rank(summary: pd.DataFrame, budget: float) -> go.Figure:
    """Facts known against how common they are, a line for each sparsity, with 95 % intervals; the dotted line is chance
    as in the task itself. ``summary``: as `task_scores.mean_scores` gives it."""
    ranks = {int(task.removeprefix(RANK)): task for task in summary["task"].unique() if task.startswith(RANK)}
    names = {ranks[rank]: f"{rank}–{min(2 * rank, RANKS[1]) - 1}" for rank in sorted(ranks)}
    traces = _side_by_side(summary, budget, names, "accuracy", "lines+markers")
    xaxis = _places(names) | {"title": "rank of the fact (to the right: ever rarer)"}
    figure = styled(traces, 420, xaxis=xaxis, yaxis=_share("facts recalled"))
    return figure.add_hline(TASKS["recall"].chance, line=CHANCE.line)


def cloze_by_kind(summary: pd.DataFrame, budget: float, chance: Mapping[str, float]) -> go.Figure:
    """Words of source completed, by kind, a mark for each sparsity, with 95 % intervals. ``chance``: of each kind, as
    `task_scores.cloze_chance` gives it; a short line."""
    names = {task: task.removeprefix(CLOZE) for task in summary["task"].unique() if task.startswith(CLOZE)}
    x, y = list(range(len(names))), [chance.get(kind) for kind in names.values()]
    dash = {"symbol": "line-ew", "size": 45, "line": {"color": GREY, "width": 2}}
    marks = line(x, y, "chance: the commonest word", CHANCE, "%{y:.1%}", "markers", marker=dash)
    traces = [*_side_by_side(summary, budget, names, "accuracy", "markers"), marks]
    return styled(traces, 420, xaxis=_places(names), yaxis=_share("words completed"))


def gains(paired: pd.DataFrame, own: pd.DataFrame, tasks: Sequence[str] = tuple(TASKS)) -> go.Figure:
    """How much more sparse models get right than the dense one, by task, with 95 % intervals, and a star for one's
    ``own`` pair at its budget. Both tables: as `task_scores.score_gains` gives them, of one budget each."""
    names = {task: task for task in tasks}
    looks = ORDERED[1:]  # the first look is the dense one's
    traces = _side_by_side(paired, paired["budget"].max(), names, "gain", "markers", looks)
    mine = _side_by_side(own, own["budget"].max(), names, "gain", "markers", [style.ROLES["this"]])
    for trace in mine:
        at = [place - 0.5 * APART * (paired["sparsity"].nunique() + 1) for place in trace["x"]]
        trace |= {
            "x": at,
            "name": f"your pair, {trace['name']}",
            "marker": trace["marker"] | {"symbol": "star", "size": 14},
        }
        traces.append(trace)
    yaxis = {"title": "right answers, sparse minus dense", "tickformat": "+.0%", "range": [-1.05, 1.05]}
    return styled(traces, 380, xaxis=_places(names), yaxis=yaxis).add_hline(0, line=CHANCE.line)


def _side_by_side(
    rows: pd.DataFrame, budget: float, names: Mapping[str, str], value: str, mode: str, looks: Sequence[Look] = ORDERED
) -> list[Trace]:
    """Returns a trace for each sparsity, with a place for each of ``names`` (task → what it is called)."""
    here = rows[(rows["budget"] == budget) & rows["task"].isin(list(names))]
    rank = here["sparsity"].rank(method="dense") - 1
    at = here["task"].map(list(names).index) + (rank - rank.max() / 2) * APART
    here = here.assign(at=at, details=here["task"].map(names)).sort_values(["sparsity", "at"])
    more: Trace = {"by": "sparsity", "named": style.sparsity_name, "mode": mode}
    return lines_with_intervals(here, "at", value, "half", "%{customdata}: %{y:.1%}", looks, **more)


def _places(names: Mapping[str, str]) -> dict[str, Any]:
    return {"tickvals": list(range(len(names))), "ticktext": list(names.values())}


def _share(title: str) -> dict[str, Any]:
    return style.share_axis(title, range=[-0.03, 1.03])
