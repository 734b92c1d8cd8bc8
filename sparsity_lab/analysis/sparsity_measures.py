"""How sparse is a vector? A dozen measures, which don't always agree.

After Hurley and Rickard, "Comparing measures of sparsity", IEEE Transactions on Information Theory 55 (2009), 4723–4741
(arXiv 0811.4706). Only magnitudes count, so below c ≥ 0 is the vector of the absolute values.

Legend: N numbers of a vector, X any other axes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

EPSILON = 0.01  # `l0_threshold` counts numbers below this as zero

Array = np.ndarray[Any, np.dtype[np.float64]]
Value = Any  # a float64, or an array of them


@dataclass(frozen=True)
class Measure:
    """A measure of sparsity, called with an array or a torch tensor."""

    name: str
    function: Callable[..., Value]  # magnitudes (X, N) → (X,); it may overwrite them
    formula: str
    source: str
    sign: int = 1  # 1: a larger value is sparser; -1: a smaller one

    def __call__(self, x: Any, axis: int | None = None, **parameters: float) -> Value:
        """Measures ``x`` along ``axis``, or all numbers together; ``parameters`` have the names of the formula.

        The zero vector has ℓ0 = 1 and ℓ1 = 0; measures that compare shares give 0/0 = NaN for it, and so does Hoyer's
        for a single number. Raises ValueError for NaN, infinities and an empty axis.
        """
        return self.function(absolute_values(x, axis), **parameters)

    def sparsity(self, x: Any, axis: int | None = None) -> Value:
        """Returns the value with a sign that makes larger sparser."""
        return self.sign * self(x, axis)


def absolute_values(x: Any, axis: int | None = None) -> Array:
    """Returns a new array of absolute values in float64 with ``axis`` last. Raises ValueError as `Measure` does."""
    if hasattr(x, "detach"):  # a torch tensor, perhaps with a dtype or a device that NumPy lacks
        x = x.detach().cpu().double()
    c: Array = np.abs(np.asarray(x, np.float64))
    c = c.ravel() if axis is None else np.moveaxis(c, axis, -1)
    if c.shape[-1] == 0:
        empty = f"axis={axis} of an array of shape {np.shape(x)} is empty"
        raise ValueError(f"{empty}: a measure needs at least one number")
    if not np.isfinite(c.max(-1)).all():
        bad = np.count_nonzero(~np.isfinite(c))
        raise ValueError(f"{bad:,} of {c.size:,} numbers are NaN or infinite: leave them out")
    return c


def _unit(c_XN: Array) -> Array:
    """Divides by the largest number, so that no power over- or underflows; NaN for the zero vector."""
    with np.errstate(invalid="ignore"):
        c_XN /= c_XN.max(-1, keepdims=True)
    return c_XN


def _norm(c_XN: Array) -> Value:
    return np.sqrt(np.vecdot(c_XN, c_XN))


def _l2_l1(c_XN: Array) -> Value:
    c_XN = _unit(c_XN)
    return _norm(c_XN) / c_XN.sum(-1)


def _hoyer(c_XN: Array) -> Value:
    c_XN, root = _unit(c_XN), c_XN.shape[-1] ** 0.5
    with np.errstate(invalid="ignore"):
        return (root - c_XN.sum(-1) / _norm(c_XN)) / np.float64(root - 1)


def _pq_mean(c_XN: Array, p: float = 1.0, q: float = 2.0) -> Value:
    if not 0 < p < q < np.inf:
        raise ValueError(f"p={p:g}, q={q:g} must be above 0, and p below q; p ≤ 1 < q meets all six criteria")
    c_XN = _unit(c_XN)
    lower, upper = (np.mean(c_XN**power, -1) ** (1 / power) for power in (p, q))
    return -(lower / upper)


def _kurtosis(c_XN: Array) -> Value:
    squares_XN = np.square(_unit(c_XN), out=c_XN)
    return np.vecdot(squares_XN, squares_XN) / squares_XN.sum(-1) ** 2


def _gini(c_XN: Array) -> Value:
    c_XN, N = _unit(c_XN), c_XN.shape[-1]
    c_XN.sort(-1)
    # 1 − 2·Σ c_(k)/‖c‖₁·(N−k+½)/N as one sum, whose weights are symmetric about 0, so little cancels
    return c_XN @ np.arange(1.0 - N, N, 2) / (N * c_XN.sum(-1))


def _entropy(c_XN: Array) -> Value:
    """Computes Σ p·ln p of the shares p = c/Σc from the sums of c and of c·ln c."""
    c_XN = _unit(c_XN)
    total = c_XN.sum(-1)
    logs_XN = np.log(c_XN, out=np.zeros_like(c_XN), where=c_XN > 0)
    return np.vecdot(c_XN, logs_XN) / total - np.log(total)


PAPER = "Hurley and Rickard 2009"
l0 = Measure("l0", lambda c: np.mean(c == 0, -1), "share of the c that are 0", PAPER)
l0_threshold = Measure(
    "l0_threshold",
    lambda c, threshold=EPSILON: np.mean(c < threshold, -1),
    f"share of the c below threshold ({EPSILON})",
    PAPER,
)
l1 = Measure("l1", lambda c: 0.0 - c.sum(-1), "−Σ c", PAPER)  # 0 − Σ c avoids −0.0
l2_l1 = Measure("l2_l1", _l2_l1, "√(Σ c²) / Σ c", PAPER)
hoyer = Measure("hoyer", _hoyer, "(√N − Σc/√(Σc²)) / (√N − 1)", "Hoyer 2004, JMLR 5, 1457–1469")
gini = Measure("gini", _gini, "1 − 2·Σ c_(k)/Σc · (N − k + ½)/N, with c_(1) ≤ … ≤ c_(N)", PAPER)
pq_mean = Measure("pq_mean", _pq_mean, "−(mean of c^p)^(1/p) / (mean of c^q)^(1/q), p = 1, q = 2", PAPER)
kurtosis = Measure("kurtosis", _kurtosis, "Σ c⁴ / (Σ c²)²", PAPER)
shannon = Measure(
    "shannon",
    lambda c: _entropy(np.square(_unit(c), out=c)),
    "Σ p·ln p, shares of energy p = c²/Σc²",
    f"H_S of {PAPER}, negated",
)
entropy = Measure("entropy", _entropy, "Σ p·ln p, shares p = c/Σc", "Shannon 1948, negated")
effective = Measure(
    "effective",
    lambda c: np.exp(-_entropy(c)),
    "exp(−Σ p·ln p), p = c/Σc: effective number of non-zeros",
    "Hill 1973, Ecology 54, N₁",
    -1,
)

MEASURES: dict[str, Measure] = {
    m.name: m for m in (l0, l0_threshold, l1, l2_l1, hoyer, gini, pq_mean, kurtosis, shannon, entropy, effective)
}
