"""Intervals cover as often as they promise, agree with SciPy and with printed tables, and decide claims."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from sparsity_lab.intervals import (
    LinearFit,
    contrast_interval,
    holm,
    how_many_runs,
    least_squares,
    mean_interval,
    median_interval,
    over_seeds,
    percentile_interval,
    ratio_interval,
    slope_interval,
    verdict,
)

SAMPLES = st.lists(st.integers(-10_000, 10_000).map(lambda n: n / 8), min_size=2, max_size=12)

# ---- Means


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)])
def test_students_t_of_a_printed_table(n: int, t: float) -> None:
    """The interval of a sample of unit standard error is the quantile itself."""
    values = np.linspace(-1, 1, n)
    mean, half = mean_interval(list(values / values.std(ddof=1) * n**0.5))
    assert mean == pytest.approx(0, abs=1e-12)
    assert half == pytest.approx(t, abs=6e-4)


@given(SAMPLES)
def test_mean_interval_is_scipys(values: list[float]) -> None:
    mean, half = mean_interval(values)
    if np.ptp(values) == 0:
        assert half == pytest.approx(0, abs=1e-9)
    else:
        expected = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (mean - half, mean + half) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_mean_interval_covers_as_often_as_it_says(n: int, confidence: float) -> None:
    found = [mean_interval(values, confidence) for values in np.random.default_rng(0).normal(3, 2, (4_000, n))]
    assert np.mean([abs(mean - 3) <= half for mean, half in found]) == pytest.approx(confidence, abs=0.015)


def test_one_value_says_nothing_about_the_mean() -> None:
    assert mean_interval([2.5]) == (2.5, math.inf)


def test_over_seeds_is_a_row_for_each_group() -> None:
    table = pd.DataFrame({"way": ["b", "a", "b", "b"], "s": [0.5, 0, 0.5, 0], "loss": [1.0, 9.0, 2.0, 5.0]})
    found = over_seeds(table, ["way", "s"], "loss")
    assert list(found.columns) == ["way", "s", "loss", "half", "seeds"]
    rows = found.drop(columns="half").to_numpy().tolist()
    assert rows == [["b", 0.5, 1.5, 2], ["a", 0, 9, 1], ["b", 0, 5, 1]]
    assert found["half"].tolist() == [mean_interval([1.0, 2.0])[1], math.inf, math.inf]
    assert over_seeds(table[:0], ["way"], "loss").empty


# ---- Differences


@given(SAMPLES, SAMPLES)
def test_differences_are_scipys(a: list[float], b: list[float]) -> None:
    assume(np.ptp(a) > 0 or np.ptp(b) > 0)
    for alike in (True, False):
        value, half = contrast_interval([a, b], [1, -1], alike=alike)
        expected = stats.ttest_ind(a, b, equal_var=alike).confidence_interval(0.95)
        assert (value - half, value + half) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("sizes", "spreads", "alike"),
    [
        ((3, 3), (1, 1), True),
        ((2, 2), (1, 1), True),
        ((5, 5), (1, 2), True),
        ((3, 3, 3, 3), (1, 1, 1, 1), True),
        ((5, 5), (1, 4), False),
        ((4, 9), (3, 1), False),
        ((5, 5, 5, 5), (1, 2, 1, 2), False),
    ],
)
def test_contrasts_cover_as_often_as_they_say(sizes: tuple[int, ...], spreads: tuple[int, ...], alike: bool) -> None:
    random, weights = np.random.default_rng(0), [1, -1, -1, 1][: len(sizes)]
    found = [
        contrast_interval([random.normal(2, s, n) for n, s in zip(sizes, spreads, strict=True)], weights, alike=alike)
        for _ in range(4_000)
    ]
    assert 0.93 <= np.mean([abs(value) <= half for value, half in found]) <= 0.97


def test_one_value_each_says_nothing_about_a_difference() -> None:
    assert contrast_interval([[2.0], [1.5]], [1, -1]) == (0.5, math.inf)
    assert contrast_interval([[2.0, 2.1], [1.5]], [1, -1], alike=False)[1] == math.inf
    assert contrast_interval([[2.0, 2.2], [1.5]], [1, -1])[1] < math.inf, "the other's scatter serves both"
    assert contrast_interval([[1.0, 1.0], [0.5, 0.5]], [1, -1], alike=False) == (0.5, 0.0)


# ---- How many runs?


@pytest.mark.parametrize(("effect", "power", "runs"), [(0.2, 0.8, 394), (0.5, 0.8, 64), (0.8, 0.8, 26), (1.0, 0.9, 23)])
def test_runs_of_cohens_table(effect: float, power: float, runs: int) -> None:
    """Two-sided tests at 5 %, as in the tables of sample sizes in Cohen 1988, section 2.4."""
    assert how_many_runs(effect, 1.0, power) == runs
    assert how_many_runs(0.02 * effect, 0.02, power) == runs


def test_that_many_runs_decide_that_often() -> None:
    random, n = np.random.default_rng(0), how_many_runs(0.05, 0.02)
    assert n == 4
    shares = [
        np.mean(
            [
                abs(v) > h
                for v, h in (
                    contrast_interval(random.normal([[0.05], [0]], 0.02, (2, m)), [1, -1]) for _ in range(2_000)
                )
            ]
        )
        for m in (n - 1, n)
    ]
    assert shares[0] < 0.8 <= shares[1] + 0.02


@pytest.mark.parametrize("bad", [{"effect": 0.0}, {"sd": -1.0}, {"sd": 0.0}, {"power": 1.0}, {"power": 0.01}])
def test_impossible_questions(bad: dict[str, float]) -> None:
    limits = "effect and sd must be above 0, and power between 0.05 and 1"
    with pytest.raises(ValueError, match=f"{next(iter(bad))}={next(iter(bad.values())):g}.*: {limits}"):
        how_many_runs(**{"effect": 0.1, "sd": 0.02, "power": 0.8} | bad)


# ---- Medians


@pytest.mark.parametrize("n", [1, 5, 6, 9, 15, 40])
def test_median_interval_covers_as_often_as_it_says(n: int) -> None:
    found = np.array([median_interval(v) for v in np.random.default_rng(0).exponential(size=(1_000, n))])
    covered = ((found[:, 1] <= math.log(2)) & (math.log(2) <= found[:, 2])).mean()
    assert covered >= 0.935
    assert np.isinf(found).any() == (n < 6), "five values can't say: 2 · 2⁻⁵ > 0.05"


def test_too_few_values_leave_the_median_open() -> None:
    assert median_interval([3.0, 1.0]) == (2.0, -math.inf, math.inf)
    low, high = median_interval(np.arange(9.0))[1:]
    assert -math.inf < low < 4 < high < math.inf


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (9, 2), (15, 4), (20, 6), (25, 8), (40, 14)])
def test_median_interval_has_the_ranks_of_the_sign_test(n: int, rank: int) -> None:
    """The ranks that tables print (Conover 1999, table A3), which are binomial quantiles."""
    median, low, high = median_interval(list(range(1, n + 1)))
    assert (median, low, high) == ((n + 1) / 2, rank, n + 1 - rank)
    assert 2 * stats.binom.cdf(rank - 1, n, 0.5) <= 0.05 < 2 * stats.binom.cdf(rank, n, 0.5)


# ---- Resamples and verdicts


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.1, 0.99))
def test_percentile_interval_is_scipys(values: list[float], confidence: float) -> None:
    outside = 50 * (1 - confidence)
    expected = [stats.scoreatpercentile(values, p) for p in (outside, 100 - outside)]
    assert percentile_interval(values, confidence) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_percentile_interval_of_each_column_and_of_infinities() -> None:
    low, high = percentile_interval(np.arange(0, 202, 2).reshape(101, 1) * [1, 10])
    assert low == pytest.approx([5, 50])
    assert high == pytest.approx([195, 1950])
    assert percentile_interval([1.0] * 50 + [math.inf] * 50) == (1, math.inf)
    assert percentile_interval([math.inf] * 9) == (math.inf, math.inf)
    assert percentile_interval([1.0] * 99 + [math.inf]) == (1, 1), "one of a hundred is outside the middle 95"


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (0.1, 2, "holds"),
        (-2, -0.1, "does not hold"),
        (-1, 1, "undecided"),
        (0, 1, "undecided"),
        (-math.inf, math.inf, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_verdict(low: float, high: float, decision: str) -> None:
    assert verdict(low, high) == decision


# ---- Several claims at once


def test_holm_is_that_of_r() -> None:
    """p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_holm_keeps_false_alarms_rare() -> None:
    p = np.random.default_rng(0).uniform(size=(4_000, 10))
    assert np.mean([(holm(row) < 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.012)
    assert (p < 0.05).any(1).mean() > 0.35, "without it one of ten claims is wrong that often"


# ---- Lines


@pytest.mark.parametrize("seed", range(3))
def test_least_squares_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(12), rng.standard_normal(12)
    slope, half, p = slope_interval(least_squares(np.stack([x, np.ones(12)], 1), y), 0)
    theirs = stats.linregress(x, y)
    assert slope == pytest.approx(theirs.slope)
    assert half == pytest.approx(theirs.stderr * stats.t.ppf(0.975, 10))
    assert p == pytest.approx(theirs.pvalue)


def test_effects_that_cannot_be_told_apart() -> None:
    with pytest.raises(ValueError, match="3 runs are too few, or too alike, to tell 3 effects apart"):
        least_squares(np.eye(3), [1, 2, 3])
    with pytest.raises(ValueError, match="5 runs are too few, or too alike, to tell 2 effects apart"):
        least_squares(np.ones((5, 2)), np.arange(5))


def test_a_line_without_scatter() -> None:
    x = np.stack([np.arange(4.0), np.ones(4)], 1)
    assert slope_interval(least_squares(x, [0, 0, 0, 0]), 0) == (0.0, 0.0, 1.0)
    line = LinearFit(np.array([2.0, 1.0]), np.zeros((2, 2)), 2)
    assert slope_interval(line, 0) == (2.0, 0.0, 0.0)
    assert slope_interval(line, 1) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_ends_of_a_ratio_are_where_the_test_of_it_turns(seed: int) -> None:
    """A ratio r lies within Fieller's interval if a − r·b is no further from 0 than Student's test allows."""
    rng = np.random.default_rng(seed)
    x = np.stack([np.repeat([0, 1, 2], 4), np.tile([0, 1], 6), np.ones(12)], 1)
    line = least_squares(x, x @ [0.7, 1.5, 1.0] + 0.1 * rng.standard_normal(12))
    ratio, low, high = ratio_interval(line, 0, 1)
    assert ratio == pytest.approx(line.coefficients[0] / line.coefficients[1])
    for end in (low, high):
        contrast = np.array([1, -end, 0])
        error = math.sqrt(contrast @ line.covariance @ contrast)
        assert abs(contrast @ line.coefficients) / error == pytest.approx(stats.t.ppf(0.975, 9))
    assert low < ratio < high


def test_ratios_cover_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(0), []
    x = np.stack([np.repeat([0, 1, 2], 8), np.tile([0, 1], 12), np.ones(24)], 1)
    for _ in range(1_000):
        line = least_squares(x, x @ [0.3, 0.6, 1.0] + 0.3 * rng.standard_normal(24))
        value, low, high = ratio_interval(line, 0, 1)
        covered.append(low <= 0.5 <= high)
        assert low <= value <= high
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_a_ratio_to_what_may_be_nothing_has_no_ends() -> None:
    x = np.stack([[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1], np.ones(6)], 1)
    line = least_squares(x, [0, 1.1, 1.9, 0.1, 1, 2.1])
    assert ratio_interval(line, 0, 1)[1:] == (-np.inf, np.inf)
