"""Figures of tasks show the numbers they are given."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sparsity_lab.analysis.task_scores import mean_scores, score_gains, score_table
from sparsity_lab.figures import task_scores
from sparsity_lab.runs import measured as shipped
from sparsity_lab.training.tasks import TASKS
from sparsity_lab.widgets.explorer import Explorer, pick

BUDGET = 1e12


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return score_table(shipped.task_records())


def by_name(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data}


def test_a_panel_shows_means_with_the_worst_and_the_best_seed(scores: pd.DataFrame) -> None:
    figure = task_scores.accuracy(scores, BUDGET)
    levels = sorted(scores["sparsity"].unique())
    assert len(figure.data) == (len(levels) + 1) * len(TASKS)
    assert [title.text for title in figure.layout.annotations] == list(TASKS)
    for i, task in enumerate(TASKS):
        *lines, chance = figure.data[(len(levels) + 1) * i : (len(levels) + 1) * (i + 1)]
        assert set(chance.y) == {TASKS[task].chance}
        for line, level in zip(lines, levels, strict=True):
            own = scores[(scores["task"] == task) & (scores["sparsity"] == level)].groupby("width")["accuracy"]
            np.testing.assert_allclose(line.y, own.mean())
            np.testing.assert_allclose(line.y + line.error_y.array, own.max())
            np.testing.assert_allclose(line.y - line.error_y.arrayminus, own.min(), atol=1e-12)
            assert list(line.x) == sorted(line.x)


def test_a_slider_can_move_a_panel(scores: pd.DataFrame) -> None:
    explorer = Explorer(
        lambda task: task_scores.accuracy(scores, BUDGET, [task]),
        lambda task: task,
        task=pick("task", list(TASKS), "recall"),
    )
    explorer.controls["task"].value = "copying"
    assert not explorer.problem.value
    expected = task_scores.accuracy(scores, BUDGET, ["copying"])
    for shown, trace in zip(explorer.figure.data, expected.data, strict=True):
        np.testing.assert_array_equal(shown.y, trace.y)
    assert explorer.figure.layout.annotations[0].text == "copying"


def test_trends_stand_by_their_task() -> None:
    rows = [
        (1e11, "recall", 0.1, 0.02),
        (1e12, "recall", 0.2, 0.03),
        (1e11, "copying", -0.1, 0.05),
        (1e12, "copying", 0, 0.01),
    ]
    figure = task_scores.trend_by_task(pd.DataFrame(rows, columns=["budget", "task", "slope", "half"]))
    small, large = figure.data
    assert (list(small.y), list(large.y)) == ([0.1, -0.1], [0.2, 0])
    assert list(large.error_y.array) == [0.03, 0.01]
    assert list(figure.layout.xaxis.ticktext) == ["recall", "copying"]
    assert list(np.round(small.x)) == list(np.round(large.x)) == [0, 1]


def test_ranks_go_from_common_to_rare(scores: pd.DataFrame) -> None:
    summary = mean_scores(scores)
    figure = task_scores.recall_by_rank(summary.sample(frac=1, random_state=0), BUDGET)
    assert list(figure.layout.xaxis.ticktext[:2]) == ["8–15", "16–31"]
    assert figure.layout.xaxis.ticktext[-1] == "4096–8191"
    for name, s in (("dense", 0.0), ("S = 0.984", 0.984375)):
        own = summary[(summary["budget"] == BUDGET) & (summary["sparsity"] == s)].set_index("task")
        expected = [own.loc[f"recall rank {8 << i}", "accuracy"] for i in range(10)]
        trace = by_name(figure)[name]
        assert list(trace.y) == expected
        assert list(np.round(trace.x)) == list(range(10))


def test_sparsities_look_different_and_stand_apart(scores: pd.DataFrame) -> None:
    data = task_scores.recall_by_rank(mean_scores(scores), BUDGET).data
    assert len({trace.line.color for trace in data}) == len({trace.marker.symbol for trace in data}) == len(data) == 4
    assert len({x for trace in data for x in trace.x}) == sum(len(trace.x) for trace in data)


def test_cloze_shows_chance_of_its_kind(scores: pd.DataFrame) -> None:
    summary = mean_scores(scores)
    figure = task_scores.cloze_by_kind(summary, BUDGET, {"name": 0.1, "keyword": 0.2})
    kinds = list(figure.layout.xaxis.ticktext)
    marks = by_name(figure)
    chance = dict(zip(kinds, marks["chance: the commonest word"].y, strict=True))
    assert (chance["name"], chance["keyword"]) == (0.1, 0.2)
    dense = summary[(summary["budget"] == BUDGET) & (summary["sparsity"] == 0)].set_index("task")["accuracy"]
    assert dict(zip(kinds, marks["dense"].y, strict=True)) == {kind: dense[f"cloze {kind}"] for kind in kinds}


def test_gains_are_those_of_the_table_in_the_looks_of_their_sparsity(scores: pd.DataFrame) -> None:
    paired = score_gains(scores)
    pair = paired[paired["sparsity"] == 0.9375].assign(budget=3e11, gain=0.5)
    marks = by_name(task_scores.gains(paired, pair))
    assert set(marks) == {"S = 0.75", "S = 0.938", "S = 0.984", "your pair, S = 0.938"}
    yours = marks.pop("your pair, S = 0.938")
    assert set(yours.y) == {0.5}
    assert list(np.round(yours.x)) == list(range(len(TASKS)))
    assert max(yours.x) < max(marks["S = 0.75"].x), "it stands beside the others, not on them"
    own = paired[(paired["budget"] == BUDGET) & (paired["sparsity"] == 0.75)].set_index("task")
    assert list(marks["S = 0.75"].y) == [own.loc[task, "gain"] for task in TASKS]
    assert list(marks["S = 0.75"].error_y.array) == [own.loc[task, "half"] for task in TASKS]
    ranks = by_name(task_scores.recall_by_rank(mean_scores(scores), BUDGET))
    assert all(marks[name].marker.symbol == ranks[name].marker.symbol for name in marks)
