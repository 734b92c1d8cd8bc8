"""How sure is it? Intervals for means, medians and resampled numbers, and the verdict that an interval gives.

SciPy's statistics are imported where they are used: they take most of a second, which a dashboard need not wait for.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

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


def median_interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Returns the median and the low and high end of its distribution-free interval, between two of the sorted values
    (`scipy.stats.quantile_test`). With too few values an end is infinite."""
    from scipy.stats import quantile_test

    sample = np.asarray(values, float)
    found: Any = quantile_test(sample, q=float(np.median(sample)))
    low, high = found.confidence_interval(confidence)
    return float(np.median(sample)), -np.inf if np.isnan(low) else float(low), np.inf if np.isnan(high) else float(high)


def percentile_interval(samples: npt.NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[Any, Any]:
    """Returns the ends between which the middle ``confidence`` of resampled values lie, along the first axis."""
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def verdict(low: float, high: float) -> Verdict:
    """Returns what an interval says of a claim that its number is above 0; NaN decides nothing."""
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
