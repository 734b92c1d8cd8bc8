"""Losses of several kinds: the lowest one, if the seeds decide."""

import pytest

from sparsity_lab.analysis.comparisons import CLOSE, against_first, judge_difference, lowest_kind, side
from sparsity_lab.intervals import contrast_interval, mean_interval

APART = {"dense": [2.0, 2.1, 2.2], "sparse": [1.0, 1.1, 1.2]}


def test_differences_are_from_the_first() -> None:
    table = against_first(APART)
    assert list(table.loc["dense", ["difference", "difference_half"]]) == [0, 0]
    assert tuple(table.loc["sparse", ["loss", "half"]]) == pytest.approx(mean_interval(APART["sparse"]))
    expected = contrast_interval([APART["sparse"], APART["dense"]], [1, -1])
    assert tuple(table.loc["sparse", ["difference", "difference_half"]]) == pytest.approx(expected)


def test_the_lowest_is_named_only_if_it_is_below_every_other() -> None:
    assert lowest_kind(APART) == "sparse"
    assert lowest_kind(APART | {"hash": [1.05, 1.1, 1.3]}) == CLOSE


def test_seeds_that_move_together_decide_only_in_pairs() -> None:
    scattered = {"a": [1.0, 2.0, 3.0], "b": [1.1, 2.11, 3.12]}
    assert lowest_kind(scattered) == CLOSE
    assert lowest_kind(scattered, paired=True) == "a"


def test_an_interval_has_a_side_or_none() -> None:
    assert [side(value, 1.0, "up", "down") for value in (2.0, -2.0, 0.5)] == ["up", "down", CLOSE]
    assert side(1.0, float("inf"), "up", "down") == CLOSE


def test_a_claim_in_a_line() -> None:
    assert judge_difference("b is above a", [0.1, 0.11, 0.12]) == "b is above a: yes (+0.1100 ± 0.0248 nats per byte)"
    assert judge_difference("it moves", [-1.0, 1.0]).startswith("it moves: not decided (+0.0000")
