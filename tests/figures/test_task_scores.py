"""Figures of tasks show the numbers they are given."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sparsity_lab.analysis.task_scores import mean_scores, score_gains, score_table
from sparsity_lab.figures import task_scores
from sparsity_lab.figures.style import halvings
from sparsity_lab.runs import measured as shipped
from sparsity_lab.training.tasks import TASKS
from sparsity_lab.widgets.explorer import Explorer, choice, pick

BUDGETS = (1e11, 1e12)


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return score_table(shipped.task_records())


def by_name(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data}


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_panel_shows_seeds_mean_and_chance(scores: pd.DataFrame, budget: float) -> None:
    figure = task_scores.accuracy(scores, budget)
    assert len(figure.data) == 3 * len(TASKS)
    assert [title.text for title in figure.layout.annotations] == list(TASKS)
    for i, task in enumerate(TASKS):
        chance, seeds, mean = figure.data[3 * i : 3 * i + 3]
        here = scores[(scores["budget"] == budget) & (scores["task"] == task)]
        assert set(chance.y) == {TASKS[task].chance}
        assert sorted(seeds.y) == sorted(here["accuracy"])
        by_hand = here.groupby("sparsity")["accuracy"].agg(["mean", "sem"])
        np.testing.assert_allclose(mean.x, halvings(by_hand.index))
        np.testing.assert_allclose(mean.y, by_hand["mean"])
        np.testing.assert_allclose(mean.error_y.array, 4.302653 * by_hand["sem"], rtol=1e-6)  # Student's t, 2 degrees


def test_a_slider_can_move_a_panel(scores: pd.DataFrame) -> None:
    explorer = Explorer(
        lambda budget, task: task_scores.accuracy(scores, budget, [task]),
        lambda budget, task: task,
        budget=choice("budget", list(BUDGETS), BUDGETS[0]),
        task=pick("task", list(TASKS), "recall"),
    )
    explorer.controls["budget"].value, explorer.controls["task"].value = BUDGETS[1], "copying"
    assert not explorer.problem.value
    expected = task_scores.accuracy(scores, BUDGETS[1], ["copying"])
    for shown, trace in zip(explorer.figure.data, expected.data, strict=True):
        np.testing.assert_array_equal(shown.y, trace.y)
    assert explorer.figure.layout.annotations[0].text == "copying"


@pytest.mark.parametrize("budget", BUDGETS)
def test_ranks_go_from_common_to_rare(scores: pd.DataFrame, budget: float) -> None:
    summary = mean_scores(scores)
    figure = task_scores.recall_by_rank(summary.sample(frac=1, random_state=0), budget)
    assert list(figure.layout.xaxis.ticktext[:2]) == ["8–15", "16–31"]
    assert figure.layout.xaxis.ticktext[-1] == "2048–4095"
    for name, s in (("dense", 0.0), ("S = 0.984", 0.984375)):
        own = summary[(summary["budget"] == budget) & (summary["sparsity"] == s)].set_index("task")
        expected = [own.loc[f"recall rank {8 << i}", "accuracy"] for i in range(9)]
        trace = by_name(figure)[name]
        assert list(trace.y) == expected
        assert list(np.round(trace.x)) == list(range(9))


def test_sparsities_look_different_and_stand_apart(scores: pd.DataFrame) -> None:
    data = task_scores.recall_by_rank(mean_scores(scores), BUDGETS[0]).data
    assert len({trace.line.color for trace in data}) == len({trace.marker.symbol for trace in data}) == len(data) == 4
    assert len({x for trace in data for x in trace.x}) == sum(len(trace.x) for trace in data)


def test_cloze_shows_chance_of_its_kind(scores: pd.DataFrame) -> None:
    summary = mean_scores(scores)
    figure = task_scores.cloze_by_kind(summary, BUDGETS[0], {"name": 0.1, "keyword": 0.2})
    kinds = list(figure.layout.xaxis.ticktext)
    marks = by_name(figure)
    chance = dict(zip(kinds, marks["chance: the commonest word"].y, strict=True))
    assert (chance["name"], chance["keyword"]) == (0.1, 0.2)
    dense = summary[(summary["budget"] == BUDGETS[0]) & (summary["sparsity"] == 0)].set_index("task")["accuracy"]
    assert dict(zip(kinds, marks["dense"].y, strict=True)) == {kind: dense[f"cloze {kind}"] for kind in kinds}


def test_gains_are_those_of_the_table_in_the_looks_of_their_sparsity(scores: pd.DataFrame) -> None:
    paired = score_gains(scores)
    marks = by_name(task_scores.gains(paired, BUDGETS[1]))
    assert set(marks) == {"S = 0.75", "S = 0.938", "S = 0.984"}
    own = paired[(paired["budget"] == BUDGETS[1]) & (paired["sparsity"] == 0.75)].set_index("task")
    assert list(marks["S = 0.75"].y) == [own.loc[task, "gain"] for task in TASKS]
    assert list(marks["S = 0.75"].error_y.array) == [own.loc[task, "half"] for task in TASKS]
    ranks = by_name(task_scores.recall_by_rank(mean_scores(scores), BUDGETS[1]))
    assert all(marks[name].marker.symbol == ranks[name].marker.symbol for name in marks)
