"""How sure is it? Intervals for means, medians and resampled numbers, and the verdict that an interval gives.

SciPy is imported inside functions because it takes most of a second, and a dashboard need not wait for it.
"""

from collections.abc import Sequence
from typing import Any, Literal

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


def verdict(low: float, high: float) -> Verdict:
    """Judges the claim that a number is above 0 by the number's interval; NaN decides nothing."""
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
