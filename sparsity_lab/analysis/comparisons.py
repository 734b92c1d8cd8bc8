"""Which of several kinds is better? Losses over seeds are compared, and an interval that includes 0 decides nothing."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sparsity_lab.intervals import contrast_interval, mean_interval

CLOSE = "too close to call"


def against_first(losses: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Returns a row for each kind: its mean ``loss`` and ``half`` the width of its 95 % interval, and how much it lies
    above the first kind, ``difference`` with ``difference_half``."""
    first, *others = losses.values()
    apart = [(0.0, 0.0), *(contrast_interval([own, first], [1, -1]) for own in others)]
    rows = [(*mean_interval(own), *difference) for own, difference in zip(losses.values(), apart, strict=True)]
    return pd.DataFrame(rows, index=list(losses), columns=["loss", "half", "difference", "difference_half"])


def lowest_kind(losses: Mapping[str, Sequence[float]], *, paired: bool = False) -> str:
    """Returns the kind with the lowest mean loss, or `CLOSE` if the 95 % interval of its distance to any other includes
    0. ``paired``: values at the same place come from the same seed, so their differences are judged."""
    best = min(losses, key=lambda kind: float(np.mean(losses[kind])))
    own = losses[best]
    for other in (losses[kind] for kind in losses if kind != best):
        apart = np.subtract(other, own).tolist() if paired else []
        ahead, half = mean_interval(apart) if paired else contrast_interval([other, own], [1, -1])
        if not ahead > half:
            return CLOSE
    return best


def side(value: float, half: float, above: str, below: str) -> str:
    """Returns ``above`` or ``below``, by the side of 0 on which the interval ``value`` ± ``half`` lies, or `CLOSE`
    if it includes 0."""
    return above if value > half else below if -value > half else CLOSE


def judge_difference(claim: str, differences: Sequence[float]) -> str:
    """Judges a claim in a line: it holds if the 95 % interval of its differences, one per seed, lies above 0."""
    value, half = mean_interval(differences)
    verdict = side(value, half, "yes", "no").replace(CLOSE, "not decided")
    return f"{claim}: {verdict} ({value:+.4f} ± {half:.4f} nats per byte)"
