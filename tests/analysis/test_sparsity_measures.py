"""Measures of sparsity against definitions spelled out, SciPy, known distributions and worked examples."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from sparsity_lab.analysis import sparsity_measures as measures
from sparsity_lab.analysis.routing import effective_experts
from sparsity_lab.analysis.sparsity_measures import MEASURES

FINITE = st.floats(-1e6, 1e6).map(lambda value: 0.0 if abs(value) < 1e-6 else value)
VECTORS = arrays(np.float64, st.integers(1, 12), elements=FINITE)
NOT_ZERO = VECTORS.filter(np.any)
SCALE_FREE = sorted(set(MEASURES) - {"l0", "l0_threshold", "l1"})


def plain(c: list[float]) -> dict[str, float]:
    """Every formula as it is printed, number by number."""
    c = sorted(abs(value) for value in c)
    N, l1, squares = len(c), math.fsum(c), math.fsum(value**2 for value in c)
    p, energy = [value / l1 for value in c], [value**2 / squares for value in c]
    entropy = math.fsum(x * math.log(x) for x in p if x > 0)
    return {
        "l0": sum(value == 0 for value in c) / N,
        "l0_threshold": sum(value < 0.01 for value in c) / N,
        "l1": -l1,
        "l2_l1": math.sqrt(squares) / l1,
        "hoyer": (math.sqrt(N) - l1 / math.sqrt(squares)) / (math.sqrt(N) - 1) if N > 1 else math.nan,
        "gini": 1 - 2 * math.fsum(x * (N - k + 0.5) / N for k, x in enumerate(p, 1)),
        "pq_mean": -(l1 / N) / math.sqrt(squares / N),
        "kurtosis": math.fsum(value**4 for value in c) / squares**2,
        "shannon": math.fsum(x * math.log(x) for x in energy if x > 0),
        "entropy": entropy,
        "effective": math.exp(-entropy),
    }


@given(NOT_ZERO)
def test_formulas(c: np.ndarray) -> None:
    expected = plain(c.tolist())
    assert expected.keys() == MEASURES.keys()
    for name, measure in MEASURES.items():
        assert measure(c) == pytest.approx(expected[name], rel=1e-9, abs=1e-9, nan_ok=True), name
        assert measure.sparsity(c) == pytest.approx(measure.sign * expected[name], rel=1e-9, abs=1e-9, nan_ok=True)
        assert measure.formula
        assert measure.source


# ---- what nobody here wrote


@given(NOT_ZERO)
def test_gini_is_half_the_relative_mean_difference(c: np.ndarray) -> None:
    """Every pair compared: Gini's own definition (1912), in O(n²)."""
    c = np.abs(c)
    assert measures.gini(c) == pytest.approx(np.abs(c[:, None] - c).mean() / (2 * c.mean()), abs=1e-9)


@given(NOT_ZERO)
def test_scipy(c: np.ndarray) -> None:
    c = np.abs(c)
    both = np.concatenate([c, -c])  # mean 0, as SciPy's moments are central
    pearson = stats.kurtosis(both, fisher=False)
    assert measures.kurtosis(both) * len(both) == pytest.approx(pearson, rel=1e-6)
    assert -measures.entropy(c) == pytest.approx(stats.entropy(c), abs=1e-9)
    assert -measures.shannon(c) == pytest.approx(stats.entropy(c**2), abs=1e-9)
    assert measures.pq_mean(c, p=0.5, q=3) == pytest.approx(-stats.pmean(c, 0.5) / stats.pmean(c, 3), rel=1e-9)


@pytest.mark.parametrize(
    ("draw", "gini"),
    [("standard_normal", math.sqrt(2) - 1), ("random", 1 / 3), ("standard_exponential", 1 / 2)],
)
def test_known_distributions(draw: str, gini: float) -> None:
    x = getattr(np.random.default_rng(0), draw)(1_000_000)
    assert measures.gini(x) == pytest.approx(gini, abs=2e-3)
    if draw == "standard_normal":
        assert measures.kurtosis(x) * len(x) == pytest.approx(3, abs=0.03)


@pytest.mark.parametrize(
    ("vector", "expected"),
    [
        ([0, 0, 3, 4], {"l0": 0.5, "l1": -7, "l2_l1": 5 / 7, "hoyer": 2 - 7 / 5, "gini": 15 / 28, "pq_mean": -0.7}),
        ([1, -1, 1, -1], {"gini": 0, "hoyer": 0, "pq_mean": -1, "kurtosis": 0.25, "shannon": -math.log(4)}),
        ([0, 0, 0, 9], {"gini": 0.75, "hoyer": 1, "kurtosis": 1, "shannon": 0, "effective": 1, "l0": 0.75}),
        ([2, 2, 0, 0], {"effective": 2, "entropy": -math.log(2), "gini": 0.5}),
        ([0.005, 0.01, 1], {"l0": 0, "l0_threshold": 1 / 3}),
    ],
)
def test_by_hand(vector: list[float], expected: dict[str, float]) -> None:
    assert {name: MEASURES[name](vector) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_effective_is_that_of_the_routers() -> None:
    probs_NE = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert math.exp(-measures.entropy(probs_NE, axis=1).mean()) == pytest.approx(effective_experts(probs_NE), rel=1e-5)


# ---- axes, types, edges


@given(st.data(), arrays(np.float64, array_shapes(min_dims=1, max_dims=3), elements=FINITE))
def test_along_an_axis(data: st.DataObject, x: np.ndarray) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    before = x.copy()
    for measure in MEASURES.values():
        expected = np.apply_along_axis(lambda row, m=measure: m(row), axis, x)
        np.testing.assert_allclose(measure(x, axis), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(measure(x), measure(x.reshape(-1)), rtol=1e-12)
    assert np.array_equal(x, before), "the caller's array stays as it is"


@given(NOT_ZERO, st.floats(1e-290, 1e290))
def test_no_overflow_and_no_underflow(c: np.ndarray, factor: float) -> None:
    for name in SCALE_FREE:
        assert MEASURES[name](c * factor) == pytest.approx(MEASURES[name](c), rel=1e-6, abs=1e-6, nan_ok=True), name


@given(NOT_ZERO)
def test_ranges(c: np.ndarray) -> None:
    n, slack = len(c), 1e-9
    assert -slack <= measures.gini(c) <= 1 - 1 / n + slack
    assert 1 - slack <= measures.effective(c) <= np.count_nonzero(c) + slack * n
    assert n == 1 or -slack <= measures.hoyer(c) <= 1 + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.bool])
def test_torch(dtype: torch.dtype) -> None:
    x = torch.tensor([[-128, 3, 0], [1, 1, 0]]).to(dtype)
    for measure in MEASURES.values():
        np.testing.assert_allclose(measure(x, axis=1), measure(x.double().numpy(), axis=1))
    weight = torch.nn.Parameter(torch.ones(4))
    assert measures.gini(weight) == 0, "with a gradient, too"


def test_int8_has_no_128() -> None:
    assert measures.l1(np.array([-128, 0], np.int8)) == -128


def test_the_zero_vector() -> None:
    x = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert measures.l0(x, 1).tolist() == [1, 0.5]
    assert measures.l1(x, 1).tolist() == [0, -1]
    for name in SCALE_FREE:
        assert np.isnan(MEASURES[name](x, 1)).tolist() == [True, False], f"{name}: only the zero vector is undefined"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, math.nan, -math.inf], "2 of 3 numbers are NaN or infinite: leave them out"),
        ([], "axis=None of an array of shape .0,. is empty: a measure needs at least one number"),
    ],
)
def test_mistakes(x: Any, message: str) -> None:
    for measure in MEASURES.values():
        with pytest.raises(ValueError, match=message):
            measure(x)


@pytest.mark.parametrize(("p", "q"), [(2, 1), (0, 1), (1, math.inf), (math.nan, 2)])
def test_pq_mean_wants_p_below_q(p: float, q: float) -> None:
    with pytest.raises(ValueError, match=r"p=.*, q=.* must be above 0, and p below q"):
        measures.pq_mean([1.0, 2.0], p=p, q=q)


def test_ten_million_numbers() -> None:
    """Tiles of a vector: all that does not change under Cloning stays exact, whatever the length."""
    c = np.random.default_rng(0).standard_normal(1_000)
    many = np.tile(c, 10_000)
    for name in ("l0", "l0_threshold", "gini", "pq_mean"):
        assert MEASURES[name](many) == pytest.approx(MEASURES[name](c), rel=1e-9), name
    assert measures.effective(many) == pytest.approx(1e4 * measures.effective(c), rel=1e-9)
    assert measures.kurtosis(many) == pytest.approx(1e-4 * measures.kurtosis(c), rel=1e-9)
