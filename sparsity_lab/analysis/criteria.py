"""What should a measure of sparsity do? Six criteria, as changes to a vector and a search for counter-examples.

After Hurley and Rickard 2009 (arXiv 0811.4706, section II), who take four from economics (Dalton's laws, D) and add two
(P): sparsity is like inequality, and numbers are like incomes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sparsity_lab.analysis.sparsity_measures import EPSILON, MEASURES, Array, Measure

TOLERANCE = 1e-11  # of the larger value: rounding a sum of a few numbers does less, every change here does more
TRIALS = 200

# ---- the changes; c holds at least two different numbers, none negative


def robin_hood(c: Array, share: float) -> Array:
    """The largest number gives the smallest a ``share`` of half its lead."""
    return _give(c, int(c.argmax()), int(c.argmin()), share)


def _give(c: Array, rich: int, poor: int, share: float) -> Array:
    changed, gift = c.copy(), share * (c[rich] - c[poor]) / 2
    changed[rich] -= gift
    changed[poor] += gift
    return changed


def scale(c: Array, factor: float) -> Array:
    """All numbers are multiplied."""
    return c * factor


def rising_tide(c: Array, amount: float) -> Array:
    """All numbers grow by the same amount."""
    return c + amount


def clone(c: Array, copies: int) -> Array:
    """``copies`` more of the whole vector stand beside it."""
    return np.tile(c, 1 + copies)


def bill_gates(c: Array, amount: float) -> Array:
    """The first number grows."""
    return np.concatenate([c[:1] + amount, c[1:]])


def babies(c: Array, born: int) -> Array:
    """Zeros join at the end."""
    return np.pad(c, (0, born))


# ---- the criteria

Trial = Callable[[Array, np.random.Generator], tuple[Array, Array]]


@dataclass(frozen=True)
class Criterion:
    """A change to a vector, and what a good measure does then."""

    key: str
    name: str
    meaning: str  # what the change should do to the sparsity, in words
    wanted: Literal["lower", "same", "higher"]
    trial: Trial  # a vector before and after a random change


@dataclass(frozen=True)
class CounterExample:
    """A change after which a measure did not do what a criterion asks."""

    measure: str
    criterion: str
    before: Array
    after: Array
    sparsity_before: float
    sparsity_after: float

    def __str__(self) -> str:
        pairs = ((self.before, self.sparsity_before), (self.after, self.sparsity_after))
        before, after = (f"({', '.join(f'{x:.4g}' for x in c)}) has {sparsity:.6g}" for c, sparsity in pairs)
        return f"{self.measure}, {self.criterion}: {before}, {after}"


def _robin_hood(c: Array, dice: np.random.Generator) -> tuple[Array, Array]:
    rich, poor = dice.choice(np.argwhere(c[:, None] - c > c.max() / 100))
    return c, _give(c, rich, poor, dice.uniform(0.05, 0.95))


def _bill_gates(c: Array, dice: np.random.Generator) -> tuple[Array, Array]:
    rich = bill_gates(c, c.sum() * dice.uniform(10, 100))  # "from some size on": far above all others together
    return rich, bill_gates(rich, rich[0] * dice.uniform(0.1, 10))


CRITERIA: dict[str, Criterion] = {
    c.key: c
    for c in (
        Criterion("D1", "Robin Hood", "a gift from a larger one to a smaller one lowers it", "lower", _robin_hood),
        Criterion("D2", "Scaling", "a factor changes nothing", "same",
                  lambda c, dice: (c, scale(c, 10 ** dice.uniform(-3, 3)))),
        Criterion("D3", "Rising Tide", "adding the same to all lowers it", "lower",
                  lambda c, dice: (c, rising_tide(c, c.max() * dice.uniform(0.05, 1)))),
        Criterion("D4", "Cloning", "two copies are as sparse as one", "same",
                  lambda c, dice: (c, clone(c, 1))),
        Criterion("P1", "Bill Gates", "one that grows beyond all bounds raises it, from some size on", "higher",
                  _bill_gates),
        Criterion("P2", "Babies", "zeros at the end raise it", "higher",
                  lambda c, dice: (c, babies(c, int(dice.integers(1, 4))))),
    )
}  # fmt: skip


def draw(dice: np.random.Generator) -> Array:
    """Draws 3 to 8 numbers, skewed, with ties, zeros and tiny ones. At least two of them differ, and two are not 0,
    because for (c, 0, …, 0) Scaling and Bill Gates ask for opposite things."""
    while True:
        n = int(dice.integers(3, 9))
        c = dice.gamma(dice.choice([0.3, 1.0, 3.0]), size=n)
        if dice.random() < 0.5:
            c = np.ceil(4 * c)  # ties
        c[dice.random(n) < dice.choice([0.0, 0.0, 0.4])] = 0
        c[dice.random(n) < dice.choice([0.0, 0.0, 0.4])] *= EPSILON / 10
        if np.ptp(c) > 0.05 * c.max() and np.sort(c)[-2] > 0.05 * c.max():
            return c


def counter_example(measure: Measure, criterion: Criterion, before: Array, after: Array) -> CounterExample | None:
    """Returns the two vectors if ``measure`` breaks ``criterion`` on them, else None. NaN breaks any criterion."""
    first, then = float(measure.sparsity(before)), float(measure.sparsity(after))
    rise, least = then - first, TOLERANCE * max(abs(first), abs(then))
    holds = {"lower": rise < -least, "same": abs(rise) <= least, "higher": rise > least}[criterion.wanted]
    return None if holds else CounterExample(measure.name, criterion.name, before, after, first, then)


def search(measure: Measure, criterion: Criterion, trials: int = TRIALS, seed: int = 0) -> CounterExample | None:
    """Finds the first counter-example among ``trials`` random vectors; None if there is none, which proves nothing."""
    dice = np.random.default_rng(seed)
    found = (counter_example(measure, criterion, *criterion.trial(draw(dice), dice)) for _ in range(trials))
    return next(filter(None, found), None)


def criteria_table(measures: Mapping[str, Measure] = MEASURES, trials: int = TRIALS, seed: int = 0) -> pd.DataFrame:
    """Tells which measure (rows) met which criterion (columns) on all ``trials`` random vectors; bools."""
    return pd.DataFrame(
        {
            key: {name: search(measure, criterion, trials, seed) is None for name, measure in measures.items()}
            for key, criterion in CRITERIA.items()
        }
    )
