"""How sure is it? Intervals for means, medians and resampled numbers, and the verdict that an interval gives.

SciPy is imported inside functions because it takes most of a second, and a dashboard need not wait for it.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

CONFIDENCE = 0.95

Verdict = Literal["holds", "does not hold", "undecided"]


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns the mean and half the width of Student's interval for it, which is infinite for a single value."""
    from scipy.special import stdtrit

    sample = np.asarray(values, float)
    if len(sample) < 2:
        return float(sample.mean()), float("inf")
    quantile = stdtrit(len(sample) - 1, (1 + confidence) / 2)
    return float(sample.mean()), float(quantile * sample.std(ddof=1) / len(sample) ** 0.5)


def contrast_interval(
    samples: Sequence[Sequence[float]], weights: Sequence[float], *, alike: bool = True
) -> tuple[float, float]:
    """Returns Σ weight · mean over the samples, and half the width of its 95 % interval; (1, −1) gives a difference.

    With ``alike``, all samples scatter equally and share one variance: right for losses of one budget, and close to
    right for samples of equal size whose standard deviations differ by a factor of two. Without it each sample has a
    variance of its own, as shares of right answers have (Welch 1947, doi 10.2307/2332510). The half is infinite if no
    variance can be estimated.
    """
    from scipy.special import stdtrit

    values = [np.asarray(sample, float) for sample in samples]
    sizes, factors = np.array([len(sample) for sample in values]), np.asarray(weights, float)
    value = float(sum(factors * [sample.mean() for sample in values]))

    squares = np.array([((sample - sample.mean()) ** 2).sum() for sample in values])
    if alike:
        free = float((sizes - 1).sum())
        error = squares.sum() / free * (factors**2 / sizes).sum() if free else math.inf
    elif (sizes < 2).any():
        free, error = 0.0, math.inf
    else:
        errors = factors**2 * squares / (sizes - 1) / sizes
        error = errors.sum()
        free = float(error**2 / (errors**2 / (sizes - 1)).sum()) if error else math.inf
    return value, float(stdtrit(free, (1 + CONFIDENCE) / 2) * math.sqrt(error)) if free else math.inf


class LinearFit(NamedTuple):
    """Coefficients of a least-squares fit, (P,), their covariance (P, P), and the degrees of freedom that are left."""

    coefficients: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    free: int


def least_squares(x: npt.ArrayLike, y: npt.ArrayLike) -> LinearFit:
    """Fits y (R,) by the columns of x (R, P), errors being independent and equally wide. Raises ValueError unless there
    are more rows than columns and no column is a combination of the others."""
    design, values = np.asarray(x, float), np.asarray(y, float)
    free = len(values) - design.shape[1]
    if free < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(
            f"{len(values)} runs are too few, or too alike, to tell {design.shape[1]} effects apart: add some"
        )
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values
    errors = values - design @ coefficients
    return LinearFit(coefficients, inverse * float(errors @ errors) / free, free)


def slope_interval(line: LinearFit, place: int) -> tuple[float, float, float]:
    """Returns a coefficient, half the width of Student's 95 % interval for it, and the two-sided p-value against 0."""
    from scipy.special import stdtr, stdtrit

    slope, error = float(line.coefficients[place]), math.sqrt(line.covariance[place, place])
    p = float(2 * stdtr(line.free, -abs(slope) / error)) if error else float(slope == 0)
    return slope, float(stdtrit(line.free, (1 + CONFIDENCE) / 2)) * error, p


def ratio_interval(line: LinearFit, top: int, bottom: int) -> tuple[float, float, float]:
    """Returns the ratio of two coefficients with the ends of its 95 % interval by Fieller's theorem (1954, Journal of
    the Royal Statistical Society B 16, 175–185). The ends are infinite if the lower coefficient may be 0."""
    from scipy.special import stdtrit

    a, b = line.coefficients[[top, bottom]]
    (v_aa, v_ab), (_, v_bb) = line.covariance[np.ix_([top, bottom], [top, bottom])] * (
        stdtrit(line.free, (1 + CONFIDENCE) / 2) ** 2
    )
    square = b * b - v_bb  # a quadratic in the ratio is below 0 within the interval
    if square <= 0:
        return float(a / b) if b else math.nan, -math.inf, math.inf
    middle, root = a * b - v_ab, math.sqrt((a * b - v_ab) ** 2 - square * (a * a - v_aa))
    return float(a / b), float((middle - root) / square), float((middle + root) / square)


def how_many_runs(effect: float, sd: float, power: float = 0.8) -> int:
    """Returns how many runs of each of two models are needed to decide, at 95 %, that their mean losses differ, in a
    share ``power`` of cases, if they differ by ``effect`` and runs of one model scatter with standard deviation ``sd``.

    It is the power of Student's test for two samples (Cohen 1988, Statistical Power Analysis, section 2.4). Raises
    ValueError unless effect and sd are above 0 and power lies between 0.05 and 1.
    """
    from scipy.special import nctdtr, stdtrit

    if not (effect > 0 and sd > 0 and 1 - CONFIDENCE < power < 1):
        got = f"effect={effect:g}, sd={sd:g}, power={power:g}"
        raise ValueError(f"{got}: effect and sd must be above 0, and power between {1 - CONFIDENCE:g} and 1")

    def found(n: int) -> float:
        free, shift = 2 * n - 2, effect / sd * math.sqrt(n / 2)
        return float(1 - nctdtr(free, shift, stdtrit(free, (1 + CONFIDENCE) / 2)))

    enough = 2
    while found(enough) < power:
        enough *= 2
    return bisect.bisect_left(range(enough + 1), True, lo=2, key=lambda n: found(n) >= power)


def median_interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Returns the median with the low and the high end of its distribution-free interval, which lie at two of the
    values (`scipy.stats.quantile_test`). With too few values an end is infinite."""
    from scipy.stats import quantile_test

    sample = np.asarray(values, float)
    found: Any = quantile_test(sample, q=float(np.median(sample)))
    low, high = found.confidence_interval(confidence)
    return float(np.median(sample)), -np.inf if np.isnan(low) else float(low), np.inf if np.isnan(high) else float(high)


def over_seeds(table: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Returns a row for each group of ``by``, in order of appearance: the mean of ``column``, ``half`` the width of its
    95 % interval, and the number of ``seeds``."""
    groups = table.groupby(by, sort=False)[column]
    rows = [(*key, *mean_interval(values.tolist()), len(values)) for key, values in groups]
    return pd.DataFrame(rows, columns=[*by, column, "half", "seeds"])


def percentile_interval(samples: npt.ArrayLike, confidence: float = CONFIDENCE) -> tuple[Any, Any]:
    """Returns the ends between which the middle ``confidence`` of resampled values lie, along the first axis. With
    infinite values the ends are two of the values, because nothing lies between a finite and an infinite one."""
    values = np.asarray(samples, float)
    method: Any = "inverted_cdf" if np.isinf(values).any() else "linear"
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0, method=method)
    return low, high


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Adjusts p-values of claims that are judged together, so that the chance of even one false alarm stays below the
    level at which they are read (Holm 1979, Scandinavian Journal of Statistics 6, 65–70)."""
    values = np.asarray(p, float)
    order = np.argsort(values)
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def verdict(low: float, high: float) -> Verdict:
    """Judges the claim that a number is above 0 by the number's interval; NaN decides nothing."""
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
