"""The best model that a budget can buy, according to a published law.

Along a line of equal compute every law here is a sum of exponentials in log N, so it has a single valley. A grid finds
the bottom, refined again and again between the neighbours of its best point. Abnar's law is such a sum in log N and
log(1 − S) together (a posynomial), so the best losses over S have a single valley too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparsity_lab.laws.power_law import Array
from sparsity_lab.laws.published import LAWS, PublishedLaw

POINTS, ROUNDS = 33, 9  # each round is 16 times as fine; after the last, float64 sees no difference in loss


@dataclass(frozen=True)
class Optimum:
    """A model as the law counts it, and its loss. ``n_total`` is None if the law does not determine it."""

    n_total: float | None
    n_active: float
    tokens: float
    loss: float
    sparsity: float
    warnings: list[str]


def optimal(
    law: PublishedLaw,
    *,
    compute: float,
    sparsity: float | tuple[float, float] | None = None,
    memory: float | None = None,
    active: float | None = None,
    serve: float = 0.0,
    granularity: float | None = None,
) -> Optimum:
    """Finds the model with the least loss within ``compute`` FLOPs: 6·N_a·D for training, and 2·N_a for each of
    ``serve`` tokens generated later (Sardana et al. 2023, arXiv 2401.00448).

    sparsity: S, or the range in which to look for it; None is the range of the fit. If nothing else is bounded, N can
        grow freely and the best S is the end of the range; a warning says so.
    memory, active: the most parameters in total, and the most active for each token (2·N_a FLOPs forward).
    granularity: G, for a law that has it.

    Raises ValueError for a law without an optimum under compute, and for bounds that leave nothing.
    """
    if "active" not in law.counts or "D" not in law.variables:
        usable = ", ".join(name for name, l in LAWS.items() if "active" in l.counts and "D" in l.variables)
        raise ValueError(f"law={law.name!r} does not say what training costs in N and D: use one of {usable}")
    for name, value in (("compute", compute), ("memory", memory), ("active", active)):
        if value is not None and not 0 < value < np.inf:
            raise ValueError(f"{name}={value:g} must be above 0 and finite")
    if not 0 <= serve < np.inf:
        raise ValueError(f"serve={serve:g} must be a number of tokens, at least 0")
    if ("G" in law.variables) != (granularity is not None):
        words = "needs it, e.g. 8" if "G" in law.variables else "has none"
        raise ValueError(f"granularity={granularity}: {law.name} {words}")

    low_s, high_s = _range_of_sparsity(law, sparsity)

    def model(log_active: Array, S: Array) -> dict[str, Array]:
        """Returns the law's variables for N_a on the line of equal compute."""
        n_active = np.exp(log_active)
        tokens = (compute / n_active - 2 * serve) / 6
        values = {"N": n_active / law.share("active", S), "D": tokens, "S": S, "E": 1 / (1 - S)}
        if granularity is not None:
            values["G"] = np.full_like(S, granularity)
        return {name: np.broadcast_to(values[name], np.shape(log_active)) for name in law.variables}

    def best_active(S: Array) -> tuple[Array, Array]:
        """Returns log N_a and loss at the best N_a, for each S."""
        most = np.full_like(S, compute / (6 + 2 * serve))  # one token is left to train on
        if active is not None:
            most = np.minimum(most, active)
        if memory is not None:
            most = np.minimum(most, memory * law.share("active", S) / law.share("total", S))
        if np.any(most <= 1):
            raise ValueError(f"compute={compute:g} and the bounds leave less than one active parameter")
        return _least(lambda x: law.formula(law.coefficients, **model(x, S[:, None])), np.zeros_like(S), np.log(most))

    if low_s < high_s:
        ends = np.log1p(-np.array([[high_s], [low_s]]))
        log_density, _ = _least(lambda log_density: best_active(1 - np.exp(log_density[0]))[1][None], *ends)
        S = np.clip(1 - np.exp(log_density), low_s, high_s)
    else:
        S = np.array([low_s], float)

    log_active, loss = best_active(S)
    values = {name: value[0] for name, value in model(log_active, S).items()}
    warnings = law.warnings(**values)
    if low_s < high_s and 1 - S[0] < (1 - high_s) * (1 + 1e-6):
        warnings.append(f"S = {high_s:.4g} is the end of the range searched; loss may fall further beyond it")
    n_total = float(values["N"] * law.share("total", S[0])) if "total" in law.counts else None
    return Optimum(n_total, float(np.exp(log_active[0])), float(values["D"]), float(loss[0]), float(S[0]), warnings)


def _range_of_sparsity(law: PublishedLaw, sparsity: float | tuple[float, float] | None) -> tuple[float, float]:
    fixed = law.fixed_sparsity
    if fixed is not None:
        if sparsity not in (None, fixed):
            raise ValueError(f"sparsity={sparsity}: every model of {law.name} has {fixed:.4g}; leave it out")
        return fixed, fixed
    if sparsity is None:
        limits = law.ranges["S" if "S" in law.variables else "E"]
        assert limits is not None
        return limits if "S" in law.variables else (1 - 1 / limits[0], 1 - 1 / limits[1])
    low, high = sparsity if isinstance(sparsity, tuple) else (sparsity, sparsity)
    if not 0 <= low <= high < 1:
        raise ValueError(f"sparsity={sparsity} must be at least 0 and below 1, or two such numbers in order")
    return low, high


def _least(f: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """Finds where f is least between ``low`` and ``high`` (n,), and its value there; f maps (n, POINTS) to (n, POINTS)
    and has one valley in each row."""
    rows, steps = np.arange(len(low)), np.linspace(0, 1, POINTS)
    for _ in range(ROUNDS):
        x = low[:, None] + (high - low)[:, None] * steps
        y = f(x)
        best = y.argmin(axis=1)
        low, high = x[rows, np.maximum(best - 1, 0)], x[rows, np.minimum(best + 1, POINTS - 1)]
    return x[rows, best], y[rows, best]
