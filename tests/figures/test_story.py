"""Figures of the story show the numbers they are given."""

import numpy as np
import pandas as pd

from sparsity_lab.analysis.story import MARGIN, Sentence
from sparsity_lab.figures import story

STEPS = pd.DataFrame(
    {
        "budget": [1e11, 1e12, 1e11],
        "than": [0.0, 0.0, 0.75],
        "sparsity": [0.75, 0.75, 0.9375],
        "gain": [0.1, 0.2, 0.3],
        "low": [0.05, 0.1, 0.2],
        "high": [0.2, 0.25, 0.5],
    }
)


def test_steps_have_a_mark_for_each_budget() -> None:
    first, second = story.fall_by_step(STEPS).data
    assert (first.name, second.name) == ("dense to S = 0.75", "S = 0.75 to 0.9375")
    assert list(first.y) == [0.1, 0.2]
    np.testing.assert_allclose(first.error_y.array, [0.1, 0.05])
    np.testing.assert_allclose(first.error_y.arrayminus, [0.05, 0.1])
    assert first.x[0] != second.x[0], "intervals at one budget stand apart"
    assert round(first.x[0]) == round(second.x[0]) == 0


def test_each_sentence_has_a_mark_in_the_column_of_its_verdict() -> None:
    findings = [
        Sentence(1, "One.", "holds", "", ""),
        Sentence(2, "Two.", "does not hold", "", ""),
        Sentence(3, "Three.", "holds", "", ""),
    ]
    figure = story.verdicts(findings)
    marks = {(x, y) for trace in figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    assert marks == {(0, "1 · One"), (0, "3 · Three"), (2, "2 · Two")}
    assert figure.layout.xaxis.ticktext[2] == "✗ does<br>not hold"
    assert list(figure.layout.yaxis.categoryarray) == ["1 · One", "2 · Two", "3 · Three"]


def test_an_interval_without_an_end_stays_on_the_axis() -> None:
    table = pd.DataFrame(
        {
            "budget": [1e11, 1e12, 1e13],
            "leverage": [2.0, 3.0, np.nan],
            "low": [1.5, 2.0, np.inf],
            "high": [2.5, np.inf, np.inf],
        }
    )
    (marks,) = story.leverage_by_budget(table).data
    assert list(marks.y) == [2.0, 3.0]
    assert np.isfinite(marks.error_y.array).all()


def test_yardsticks_begin_at_one() -> None:
    table = pd.DataFrame(
        {
            "line": ["nats", "nats", "leverage"],
            "budget": [1e11, 1e12, 1e11],
            "value": [1.0, 0.5, 1.0],
            "low": 0.4,
            "high": 1.2,
        }
    )
    figure = story.yardsticks(table)
    assert [trace.name for trace in figure.data] == ["nats", "leverage"]
    assert figure.layout.shapes[0].y0 == 1


def test_removals_show_what_they_may_cost() -> None:
    table = pd.DataFrame({"part": ["text", "text"], "share": [0.9, 0.5], "rise": [0.2, 0.1], "half": [0.02, 0.01]})
    figure = story.rise_by_share(table)
    (line,) = figure.data
    assert list(line.x) == [0.5, 0.9]
    assert list(line.y) == [0.1, 0.2]
    assert figure.layout.shapes[0].y0 == MARGIN
