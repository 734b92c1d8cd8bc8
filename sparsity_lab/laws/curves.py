"""IsoFLOP curves: loss against the size of the model at one budget, and where it is lowest.

Hoffmann et al. 2022 (arXiv 2203.15556, approach 2) fit a parabola to each curve. Parabolas do not fit all of the runs
that ship (`lack_of_fit`), and a wrong shape puts the minimum in a wrong place (arXiv 2603.22339). We assume that the
curves of a budget have one shape, only moved: loss ≈ floorᵢ + a·u² + b·u³ + c·u⁴ with u = log N_a − minimumᵢ. With a, b
and c shared by all sparsities of a budget, every run helps to tell how flat the valley is.

Legend: R runs of a budget, n curves, P = 2n + q parameters (minima, floors, and q of a, b, c), B resamples. Arrays of
(1 + B) samples hold the estimate first.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sparsity_lab.laws.fitting import finished
from sparsity_lab.laws.power_law import Array

COLUMNS = ["sparsity", "top_k", "width", "budget", "params_total", "params_active", "tokens", "val_loss", "status"]
BOOTSTRAPS = 2_000
WIDTHS = 3  # the fewest of a curve
SHAPES = {4: "one quartic for all", 3: "one cubic for all", 2: "one parabola for all"}  # by degree, the richest first
STEPS, NEAR = 50, 1e-6  # of Levenberg's method, at most; the relative fall of the squares at which it ends


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss against log N_a at one budget and sparsity, N_a being the active weights."""

    budget: float
    sparsity: float
    n_layers: int
    widths: (
        pd.DataFrame
    )  # what was measured, smallest first: the logarithms of params_active, params_total and tokens; width
    minima: Array  # (1 + B,) log N_a where the loss is lowest, perhaps beyond the widths
    floors: Array  # (1 + B,) the loss there
    shape: Array  # (1 + B, 3): a, b, c

    @property
    def edges(self) -> tuple[float, float]:
        """The smallest and the largest log N_a that were measured."""
        sizes = self.widths["params_active"]
        return float(sizes.iloc[0]), float(sizes.iloc[-1])

    def loss(self, sizes: Array) -> Array:
        """Returns the estimated loss at these numbers of active weights."""
        return np.asarray(self.floors[0] + _shape(np.log(sizes) - self.minima[0], self.shape[0]))

    def at(self, log_active: Array, column: str) -> Array:
        """Returns params_total or tokens of models with that log N_a, between the measured widths."""
        return np.exp(np.interp(log_active, self.widths["params_active"], self.widths[column]))

    @property
    def inside(self) -> Array:
        """How far the minimum lies within the smallest and the largest width, in log N_a: (2, 1 + B)."""
        low, high = self.edges
        return np.stack([self.minima - low, high - self.minima])

    @property
    def bracketed(self) -> bool:
        """Whether the minimum lies inside the measured widths, not at their edge or beyond."""
        return bool((self.inside[:, 0] > 0).all())

    @cached_property
    def best(self) -> tuple[Array, Array]:
        """The log N_a between the edges where loss is lowest, and the loss there, each (1 + B,)."""
        x = np.clip(self.minima, *self.edges)
        return x, self.floors + _shape(x - self.minima, self.shape.T)


def curves(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> list[Curve]:
    """Fits the curves of each budget and depth, one for each sparsity that has runs of three widths or more. A budget
    without more runs than its curves have parameters is left out, because nothing is left there to estimate noise.

    Two shapes are fitted, the richest that the number of widths allows and the next simpler one (`SHAPES`). The richest
    gives the estimate, and half of the resamples belong to each, so that intervals include the uncertainty about the
    shape. A resample adds to each fitted loss the residual of some run of the same budget, as wide as a new run's, and
    widened further by how badly few residuals tell their width (as in Student's t).

    Raises ValueError for missing columns, a sparsity measured with several ``top_k``, and if no run or budget is left.
    """
    rng, made = np.random.default_rng(seed), []
    by_budget: Any = _alike(runs).groupby("budget")
    for budget, level in by_budget:
        depths = [(layers, own) for layers, own in level.groupby("n_layers") if _degrees(own)]
        fits = [[_estimate(own, degree) for degree in _degrees(own)[:2]] for _, own in depths]
        for (layers, own), richest_first in zip(depths, fits, strict=True):
            x, _, owner = _places(own)
            samples = [richest_first[0].theta]
            for which, fit in enumerate(richest_first):
                number = len(range(which, bootstraps, len(richest_first)))
                # Depths have noise in common, and a depth with few runs of its own learns it from the others.
                alike = [depth[min(which, len(depth) - 1)] for depth in fits]
                errors, free = np.concatenate([other.errors for other in alike]), sum(other.free for other in alike)
                wide = math.sqrt(len(errors) / free) * np.sqrt(free / rng.chisquare(free, (number, 1)))
                noisy = fit.losses + wide * rng.choice(errors, (number, len(x)))
                samples.append(_fitted(x, noisy, owner, fit.degree, fit.theta))
            made += _taken_apart(float(budget), int(layers), own, np.vstack([_widened(t, owner) for t in samples]))
    if not made:
        raise ValueError(
            f"no budget has a sparsity with finished runs of {WIDTHS} widths, which a curve needs, and a run "
            "more to estimate noise: add a width or a seed"
        )
    return made


class _Estimate(NamedTuple):
    degree: int
    theta: Array  # (1, P)
    losses: Array  # (R,) fitted
    errors: Array  # (R,) measured − fitted
    free: int  # R − P


def _estimate(own: pd.DataFrame, degree: int) -> _Estimate:
    x, y, owner = _places(own)
    theta = _fitted(x, y[None], owner, degree)
    losses = _losses(theta, x, owner)[0]
    return _Estimate(degree, theta, losses, y - losses, len(y) - theta.shape[1])


def _taken_apart(budget: float, layers: int, own: pd.DataFrame, samples: Array) -> list[Curve]:
    by_sparsity: Any = own.groupby("sparsity")
    made = []
    for i, (sparsity, cell) in enumerate(by_sparsity):
        sizes = cell.drop_duplicates("width").sort_values("params_active")
        widths = sizes[["params_active", "params_total", "tokens"]].apply(np.log).assign(width=sizes["width"])
        minima, floors, shape = np.split(samples, [by_sparsity.ngroups, 2 * by_sparsity.ngroups], axis=1)
        made.append(Curve(budget, float(sparsity), layers, widths, minima[:, i], floors[:, i], shape))
    return made


def lack_of_fit(runs: pd.DataFrame) -> pd.DataFrame:
    """Tests which shapes fit, namely a parabola for each curve and those of `SHAPES`: a row for each of them and each
    budget and depth with several seeds. Columns budget, n_layers, shape, F (how much further than their scatter the
    means of the cells lie from the curves), p (how often chance alone would take them that far).

    It is Fisher's test, as in Draper and Smith 1998 (Applied Regression Analysis, chapter 2). Errors: see `curves`.
    """
    from scipy.special import fdtrc

    rows = []
    by_budget: Any = _alike(runs).groupby(["budget", "n_layers"])
    for (budget, layers), level in by_budget:
        cells = level.groupby(["sparsity", "width"])["val_loss"]
        pure, free = float(((level["val_loss"] - cells.transform("mean")) ** 2).sum()), len(level) - cells.ngroups
        if not free or not pure:
            continue

        x, y, owner = _places(level)
        each = [_parabola_squares(x[owner == i], y[owner == i]) for i in range(owner.max() + 1)]
        squares = {"a parabola for each": (sum(each), 3 * len(each))}
        for degree in _degrees(level):
            fit = _estimate(level, degree)
            squares[SHAPES[degree]] = float((fit.errors**2).sum()), fit.theta.shape[1]
        for shape, (left, parameters) in squares.items():
            if (lack := cells.ngroups - parameters) > 0:
                f = max(left - pure, 0) / lack / (pure / free)
                rows.append((budget, layers, shape, f, float(fdtrc(lack, free, f))))
    return pd.DataFrame(rows, columns=["budget", "n_layers", "shape", "F", "p"])


def _alike(runs: pd.DataFrame) -> pd.DataFrame:
    """The finished runs of curves that have enough widths, with n_layers (0 if the runs do not say)."""
    runs = finished(runs, COLUMNS)
    for sparsity, kinds in runs.groupby("sparsity")["top_k"].unique().items():
        if len(kinds) > 1:
            several = " and ".join(map(str, sorted(kinds)))
            raise ValueError(f"sparsity={sparsity:g} was measured with top_k={several}: give the runs of one of them")
    if "n_layers" not in runs:
        runs = runs.assign(n_layers=0)
    return runs[runs.groupby(["budget", "n_layers", "sparsity"])["width"].transform("nunique") >= WIDTHS]


def _degrees(level: pd.DataFrame) -> list[int]:
    """The degrees of `SHAPES` that these runs can be fitted with, and noise estimated. A shape of degree d needs d + 1
    widths of at least one curve."""
    widths = level.groupby("sparsity")["width"].nunique()
    return [
        d
        for d in SHAPES
        if d < widths.max() and 2 * len(widths) + d - 1 <= widths.sum() and 2 * len(widths) + d - 1 < len(level)
    ]


def _places(level: pd.DataFrame) -> tuple[Array, Array, Any]:
    """Returns log N_a, loss and the number of the curve of each run, each (R,)."""
    owner = level.groupby("sparsity").ngroup().to_numpy()
    return np.log(level["params_active"].to_numpy(float)), level["val_loss"].to_numpy(float), owner


def _shape(u: Array, coefficients: Array) -> Array:
    a, b, c = coefficients
    return np.asarray(u * u * (a + u * (b + u * c)))


def _losses(theta: Array, x: Array, owner: Any) -> Array:
    """Losses (B, R) of parameters θ (B, P)."""
    n = owner.max() + 1
    u = x - theta[:, owner]
    return np.asarray(theta[:, n + owner] + sum(theta[:, [2 * n + k]] * u ** (k + 2) for k in range(_q(theta, n))))


def _q(theta: Array, n: int) -> int:
    return int(theta.shape[1] - 2 * n)


def _widened(theta: Array, owner: Any) -> Array:
    """θ with zeros for the coefficients that a simpler shape lacks."""
    return np.pad(theta, ((0, 0), (0, 3 - _q(theta, owner.max() + 1))))


def _fitted(x: Array, y: Array, owner: Any, degree: int, start: Array | None = None) -> Array:
    """Least squares by Levenberg's method for many y (B, R) at once: θ (B, P). Minima are kept within the width of the
    measured sizes beyond either end, and a above 0."""
    n, q = owner.max() + 1, degree - 1
    low, high = (np.array([f(x[owner == i]) for i in range(n)]) for f in (np.min, np.max))
    theta = np.repeat(_start(x, y[0], owner, q) if start is None else start, len(y), 0)
    squares = ((y - _losses(theta, x, owner)) ** 2).sum(1)
    damping, going = np.full(len(y), 1e-3), np.arange(len(y))
    mine = owner == np.arange(n)[:, None]

    for _ in range(STEPS):
        now, rows = theta[going], len(going)
        error = y[going] - _losses(now, x, owner)
        u = x - now[:, owner]
        slope = np.sum([(k + 2) * now[:, [2 * n + k]] * u ** (k + 1) for k in range(q)], axis=0)
        powers = u[:, None] ** np.arange(2, q + 2)[:, None]
        j = np.concatenate([-slope[:, None] * mine, np.broadcast_to(mine, (rows, *mine.shape)), powers], 1)  # (B, P, R)
        normal = j @ j.transpose(0, 2, 1)
        diagonal = np.arange(normal.shape[1])
        normal[:, diagonal, diagonal] *= 1 + damping[going, None]
        normal[:, diagonal, diagonal] += 1e-12  # of a minimum far outside nothing is known, and its row is empty

        tried = now + np.linalg.solve(normal, j @ error[..., None])[..., 0]
        tried[:, :n] = np.clip(tried[:, :n], 2 * low - high, 2 * high - low)
        tried[:, 2 * n] = np.maximum(tried[:, 2 * n], 1e-6)
        left = ((y[going] - _losses(tried, x, owner)) ** 2).sum(1)
        gained = squares[going] - left
        better = gained > 0
        theta[going[better]], squares[going[better]] = tried[better], left[better]
        damping[going] *= np.where(better, 0.2, 10)
        going = going[np.abs(gained) > NEAR * squares[going]]
        if not len(going):
            break
    return theta


def _start(x: Array, y: Array, owner: Any, q: int) -> Array:
    """θ (1, P) of parabolas of one curvature, each through its curve's vertex as far as it lies inside."""
    n = owner.max() + 1
    centre = np.array([x[owner == i].mean() for i in range(n)])
    linear = np.concatenate([(owner == np.arange(n)[:, None]), (x - centre[owner]) * (owner == np.arange(n)[:, None])])
    design = np.vstack([linear, (x - centre[owner]) ** 2]).T
    found = np.linalg.lstsq(design, y, rcond=None)[0]
    a = max(float(found[-1]), 1e-3)
    reach = np.array([np.ptp(x[owner == i]) / 2 for i in range(n)])
    away = np.clip(-found[n : 2 * n] / (2 * a), -reach, reach)
    return np.concatenate([centre + away, found[:n] - a * away**2, [a], np.zeros(q - 1)])[None]


def _parabola_squares(x: Array, y: Array) -> float:
    centred = x - x.mean()
    return float(((y - np.polyval(np.polyfit(centred, y, 2), centred)) ** 2).sum())
