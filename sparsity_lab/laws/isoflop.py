"""IsoFLOPs: at one budget and sparsity, which size of model is best? A parabola through the widths answers.

Hoffmann et al. 2022 (arXiv 2203.15556, approach 2) fit parabolas, and Abnar et al. 2025 (arXiv 2501.12370) a surface
over size and sparsity. Sizes and sparsities enter as N̂ = log N and Ŝ = −log(1 − S), base e.

B resamples. Arrays of (1 + B) samples hold the estimate first.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.polynomial.polynomial import polyfit, polyval

from sparsity_lab.intervals import CONFIDENCE, percentile_interval, verdict
from sparsity_lab.laws.fitting import finished
from sparsity_lab.laws.power_law import Array

COLUMNS = ["sparsity", "top_k", "width", "budget", "params_total", "params_active", "tokens", "val_loss", "status"]
BOOTSTRAPS = 1_000
WIDTHS = 3  # the fewest that a parabola needs, for its three coefficients


@dataclass(frozen=True, eq=False)
class Parabola:
    """loss ≈ c₀ + c₁·x + c₂·x² with x = log(size) − ``centre``, at one budget and sparsity."""

    budget: float
    sparsity: float
    centre: float
    edges: tuple[float, float]  # the smallest and the largest x that were measured
    samples: Array  # (1 + B, 3)

    def loss(self, sizes: Array) -> Array:
        return np.asarray(polyval(np.log(sizes) - self.centre, self.samples[0]))

    @property
    def rises(self) -> Array:
        """How steeply loss rises beyond the left and the right edge, in nats per factor of e in size: (2, 1 + B). If
        both are above 0, the parabola opens upward and its minimum lies inside."""
        left, right = (self.samples @ [0, 1, 2 * x] for x in self.edges)
        return np.stack([-left, right])

    @property
    def bracketed(self) -> bool:
        """Whether the minimum lies inside the measured widths, not at their edge or beyond."""
        return bool((self.rises[:, 0] > 0).all())

    @cached_property
    def best(self) -> tuple[Array, Array]:
        """The log(size) between the edges where loss is lowest, and the loss there, each (1 + B,). A parabola that is
        not bracketed is lowest at an edge."""
        low, high = self.edges
        c0, c1, c2 = self.samples.T
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = np.clip(-c1 / (2 * c2), low, high)
        at_low, at_high = (self.samples @ [1, x, x * x] for x in self.edges)
        x = np.where(c2 > 0, vertex, np.where(at_low < at_high, low, high))
        return x + self.centre, c0 + c1 * x + c2 * x * x


@dataclass(frozen=True, eq=False)
class Surface:
    """loss ≈ polynomial of degree (2, 2, 2) in N̂, Ŝ and N̂·Ŝ at one budget (Abnar et al. 2025); N is all parameters."""

    budget: float
    samples: Array  # (1 + B, 7): coefficients of 1, N̂, N̂², Ŝ, Ŝ², N̂Ŝ, (N̂Ŝ)²
    window: tuple[tuple[float, float], tuple[float, float]] | None  # N̂ × Ŝ, by `_window`
    rmse: float  # nats

    def loss(self, N: Array, S: Array) -> Array:
        return _monomials(np.log(N), -np.log1p(-S)) @ self.samples[0]


def parabolas(
    runs: pd.DataFrame, size: str = "params_active", *, bootstraps: int = BOOTSTRAPS, seed: int = 0
) -> list[Parabola]:
    """Fits a parabola in log ``size`` for each budget and sparsity with runs of three widths or more. A budget without
    more runs than its parabolas have coefficients is left out, because nothing is left there to estimate noise.

    A resample adds to each fitted loss the residual of some run of the same budget, of any sparsity, width and seed,
    as wide as a new run's; five widths are too few to leave some out. The intervals miss what residuals do not show:
    what the runs of one seed share moves whole parabolas, and because loss is not exactly a parabola, minima move by
    some percent in size over widths that are a factor of four apart.

    Raises ValueError for missing columns, a sparsity measured with several ``top_k``, and if no run or budget is left.
    """
    by_budget: Any = _checked(runs).groupby("budget")
    rng = np.random.default_rng(seed)
    made = []
    for budget, level in by_budget:
        cells = [(s, cell) for s, cell in level.groupby("sparsity") if cell["width"].nunique() >= WIDTHS]
        if sum(len(cell) for _, cell in cells) <= WIDTHS * len(cells):
            continue

        fits, errors = [], []
        for sparsity, cell in cells:
            log_size, y = np.log(cell[size].to_numpy(float)), cell["val_loss"].to_numpy(float)
            centre = float(log_size.mean())
            x = log_size - centre
            fitted = polyval(x, polyfit(x, y, 2))
            fits.append((sparsity, centre, x, y, fitted))
            errors.append(y - fitted)

        residuals = _residuals(np.concatenate(errors), WIDTHS * len(cells))
        for sparsity, centre, x, y, fitted in fits:
            noisy = fitted + rng.choice(residuals, (bootstraps, len(y)))
            samples = polyfit(x, np.vstack([y, noisy]).T, 2).T
            made.append(Parabola(float(budget), float(sparsity), centre, (float(x.min()), float(x.max())), samples))
    if not made:
        raise ValueError(
            f"no budget has a sparsity with finished runs of {WIDTHS} widths, which a parabola needs, and a run "
            "more to estimate noise: add a width or a seed"
        )
    return made


def optima(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """Finds the best model of each budget and sparsity, one row each, with 95 % intervals.

    Columns: budget, sparsity, bracketed, and each of n_active, n_total, tokens and loss with its _low and _high.
    n_active and n_total are the minima of parabolas in their own logarithm, between the measured widths (at the edge
    where it is not bracketed); tokens and loss are those at n_active. Errors as for `parabolas`.
    """
    by_active = parabolas(runs, bootstraps=bootstraps, seed=seed)
    by_total = parabolas(runs, "params_total", bootstraps=bootstraps, seed=seed)
    runs = _checked(runs)
    rows = []
    for active, total in zip(by_active, by_total, strict=True):
        cell = runs[(runs["budget"] == active.budget) & (runs["sparsity"] == active.sparsity)]
        cell = cell.drop_duplicates("params_active").sort_values("params_active")
        size, loss = active.best
        tokens = np.interp(size, np.log(cell["params_active"]), np.log(cell["tokens"]))

        row = {"budget": active.budget, "sparsity": active.sparsity, "bracketed": active.bracketed}
        values = {"n_active": np.exp(size), "n_total": np.exp(total.best[0]), "tokens": np.exp(tokens), "loss": loss}
        for name, samples in values.items():
            low, high = percentile_interval(samples[1:])
            row |= {name: float(samples[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def near_best(runs: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Returns the runs whose active weights are within ``factor`` of the best number for their budget and sparsity, and
    those of budgets with too few widths to know the best.

    Abnar et al. 2025 fit their law to compute-optimal models: one far too wide for its budget has hardly begun to
    learn, and no sum of powers describes that. Raises ValueError for a factor below 1, and as `parabolas` does.
    """
    if not factor >= 1:
        raise ValueError(f"factor={factor:g} must be at least 1, e.g. 2")
    runs = _checked(runs)
    best = pd.Series({(p.budget, p.sparsity): p.best[0][0] for p in parabolas(runs, bootstraps=2)})
    of_run = best.reindex(pd.MultiIndex.from_frame(runs[["budget", "sparsity"]])).to_numpy()
    far = np.abs(np.log(runs["params_active"]) - of_run) > math.log(factor)  # False where the best is not known
    return runs[~far]


def surfaces(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> list[Surface]:
    """Fits a surface for each budget with at least three sparsities of three widths each; without such a budget the
    list is empty. Resamples and errors as for `parabolas`."""
    by_budget: Any = _checked(runs).groupby("budget")
    rng = np.random.default_rng(seed)
    made = []
    for budget, level in by_budget:
        level = level[level.groupby("sparsity")["width"].transform("nunique") >= WIDTHS]
        if level["sparsity"].nunique() < 3:
            continue

        n, s = np.log(level["params_total"].to_numpy(float)), -np.log1p(-level["sparsity"].to_numpy(float))
        y = level["val_loss"].to_numpy(float)
        a = _monomials(n, s)
        scale = np.abs(a).max(0)  # (N̂Ŝ)² is in the thousands
        solve = np.linalg.pinv(a / scale) / scale[:, None]
        fitted = a @ (solve @ y)
        noisy = fitted + rng.choice(_residuals(y - fitted, a.shape[1]), (bootstraps, len(y)))
        rmse = math.sqrt(np.mean((y - fitted) ** 2))
        made.append(Surface(float(budget), np.vstack([y, noisy]) @ solve.T, _window(n, s), rmse))
    return made


# The findings of Abnar et al. 2025, sections 1 and 3, and two more that the suite tells as its story. Each has a
# statistic that is positive if the claim holds.
CLAIMS = {
    "1a": ("the best N grows with S", "slope of log N* in −log(1 − S)"),
    "1b": ("the best active N shrinks with S", "slope of −log N_a* in −log(1 − S)"),
    "1c": ("the loss at the best N falls with every step in S", "smallest fall, nats"),
    "1d": ("the loss at the best N falls with this step in S", "fall, nats"),
    "2a": ("at fixed N, some S between the lowest and the highest is best", "smaller rise of loss beyond the edges"),
    "2b": ("the best S rises with N", "−∂²loss / ∂log N ∂(−log(1 − S))"),
    "3": ("even the sparsest models have a best N", "smaller rise of loss beyond the measured widths"),
    "4": ("a larger budget is better at every S", "smallest fall, nats"),
    "5": ("the gain of the best sparse model over the best dense one grows with compute", "nats per tenfold budget"),
}


def judge_claims(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """Judges Abnar's findings (`CLAIMS`) on these runs, for each budget where a claim is about one budget, and for each
    step in S where it is about one step (the note names it).

    Columns: claim, says, budget (NaN for a claim about all), statistic, its estimate with low and high, verdict, note.
    A claim holds if the interval of its statistic lies above 0, does not hold if below, and is undecided otherwise;
    either verdict is wrong in 2.5 % of cases at most. What the runs cannot show is undecided, with NaN.

    Slopes of the best N are over bracketed optima; the loss of one that is not bracketed is that of the best width.
    Claim 2 is judged within `Surface.window`, 2a at its middle N. 2b: the best S rises with N where more N makes the
    loss fall faster in S (Topkis 1978, doi 10.1287/opre.26.2.305), whatever the curvature. Errors: see `parabolas`.
    """
    active = parabolas(runs, bootstraps=bootstraps, seed=seed)
    total = parabolas(runs, "params_total", bootstraps=bootstraps, seed=seed)
    surface_at = {surface.budget: surface for surface in surfaces(runs, bootstraps=bootstraps, seed=seed)}
    rows = []
    for budget in sorted({p.budget for p in active}):
        here, here_total = ([p for p in each if p.budget == budget] for each in (active, total))
        rows += [
            _judge("1a", _slope_in_sparsity(here_total), budget, _edge_note(here_total)),
            _judge("1b", -_slope_in_sparsity(here), budget, _edge_note(here)),
            _judge("1c", -np.diff([p.best[1] for p in here], axis=0), budget, _edge_note(here)),
            *(
                _judge(
                    "1d", (one.best[1] - next_.best[1])[None], budget, f"S = {one.sparsity:.4g} to {next_.sparsity:.4g}"
                )
                for one, next_ in itertools.pairwise(here)
            ),
            *_judge_surface(surface_at.get(budget), budget),
            _judge("3", here_total[-1].rises, budget, f"S = {here_total[-1].sparsity:.4g}"),
        ]

    of_sparsity = [[p.best[1] for p in active if p.sparsity == s] for s in sorted({p.sparsity for p in active})]
    falls = np.concatenate([-np.diff(losses, axis=0) for losses in of_sparsity])
    rows.append(_judge("4", falls, math.nan, _edge_note(active)))
    rows.append(_judge("5", _growth_of_gain(active), math.nan, _edge_note(active)))
    return pd.DataFrame(rows)


NOTHING = np.empty((0, 1))  # the statistic of runs that cannot show it


def _judge(claim: str, parts: Array, budget: float, note: str) -> dict[str, Any]:
    """A row of `judge_claims`. ``parts`` (k, 1 + B) must all be above 0 for the claim to hold; the statistic is the
    smallest. It is above 0 if every part is, each on its own evidence (Berger 1982, doi 10.2307/1267823), and below if
    any one is, with Bonferroni's correction for having looked at k, because the smallest of noisy numbers is low."""
    estimate = low = high = math.nan
    if len(parts):
        tail = (1 - CONFIDENCE) / 2
        estimate = float(parts[:, 0].min())
        low = float(np.quantile(parts[:, 1:], tail, axis=1).min())
        high = float(np.quantile(parts[:, 1:], 1 - tail / len(parts), axis=1).min())
    says, statistic = CLAIMS[claim]
    found = {"estimate": estimate, "low": low, "high": high, "verdict": verdict(low, high), "note": note}
    return {"claim": claim, "says": says, "budget": budget, "statistic": statistic} | found


def _edge_note(here: list[Parabola]) -> str:
    at_edge = sorted({p.sparsity for p in here if not p.bracketed})
    return f"not bracketed: S = {', '.join(f'{s:.4g}' for s in at_edge)}" if at_edge else ""


def _slope_in_sparsity(here: list[Parabola]) -> Array:
    inside = [p for p in here if p.bracketed]
    if len(inside) < 2:
        return NOTHING
    return np.polyfit(-np.log1p([-p.sparsity for p in inside]), [p.best[0] for p in inside], 1)[:1]


def _judge_surface(surface: Surface | None, budget: float) -> list[dict[str, Any]]:
    if surface is None or surface.window is None:
        return [_judge(claim, NOTHING, budget, "no N was measured at three sparsities") for claim in ("2a", "2b")]
    sizes, (low, high) = surface.window
    n, s = sum(sizes) / 2, (low + high) / 2
    slopes = [surface.samples @ [0, 0, 0, 1, 2 * edge, n, 2 * n**2 * edge] for edge in (low, high)]
    mixed = surface.samples @ [0, 0, 0, 0, 0, 1, 4 * n * s]
    shares = " to ".join(f"{-math.expm1(-edge):.4g}" for edge in (low, high))
    along = " to ".join(f"{math.exp(size):.3g}" for size in sizes)
    return [
        _judge("2a", np.stack([-slopes[0], slopes[1]]), budget, f"N = {math.exp(n):.3g}, S = {shares}"),
        _judge("2b", -mixed[None], budget, f"N = {along}, S = {shares}"),
    ]


def _growth_of_gain(active: list[Parabola]) -> Array:
    dense = {p.budget: p.best[1] for p in active if p.sparsity == 0}
    sparse = {budget: [p.best[1] for p in active if p.budget == budget and p.sparsity > 0] for budget in dense}
    gains = {budget: loss - np.min(sparse[budget], axis=0) for budget, loss in dense.items() if sparse[budget]}
    if len(gains) < 2:
        return NOTHING
    return np.polyfit(np.log10(list(gains)), list(gains.values()), 1)[:1]


def _checked(runs: pd.DataFrame) -> pd.DataFrame:
    runs = finished(runs, COLUMNS)
    for sparsity, kinds in runs.groupby("sparsity")["top_k"].unique().items():
        if len(kinds) > 1:
            several = " and ".join(map(str, sorted(kinds)))
            raise ValueError(f"sparsity={sparsity:g} was measured with top_k={several}: give the runs of one of them")
    depths = sorted(set(runs.get("n_layers", ())))
    if len(depths) > 1:
        several = " and ".join(map(str, depths))
        raise ValueError(f"these runs have n_layers={several}, and each depth has its own best width: give one of them")
    return runs


def _residuals(raw: Array, coefficients: int) -> Array:
    """Scales residuals to the width of errors: a fit absorbs as many as it has coefficients."""
    return raw * math.sqrt(len(raw) / (len(raw) - coefficients))


def _monomials(n: Array, s: Array) -> Array:
    return np.stack([np.ones_like(n), n, n**2, s, s**2, n * s, (n * s) ** 2], -1)


def _window(n: Array, s: Array) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Finds the largest rectangle of N̂ × Ŝ in which three or more neighbouring sparsities were measured, if any."""
    levels = np.unique(s)
    spans = []
    for first in range(len(levels) - 2):
        for last in range(first + 2, len(levels)):
            inside = [n[s == level] for level in levels[first : last + 1]]
            low, high = max(x.min() for x in inside), min(x.max() for x in inside)
            area = (high - low) * (levels[last] - levels[first])
            spans.append((area, (float(low), float(high)), (float(levels[first]), float(levels[last]))))
    area, sizes, sparsities = max(spans)
    return (sizes, sparsities) if area > 0 else None
