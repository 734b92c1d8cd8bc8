"""IsoFLOPs: at one budget and sparsity, which size of model is best? And are the published findings true of these runs?

The best sizes are those of `curves`. Abnar et al. 2025 (arXiv 2501.12370) fit a surface over size and sparsity, which
enter as N̂ = log N and Ŝ = −log(1 − S), base e.

B resamples. Arrays of (1 + B) samples hold the estimate first.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sparsity_lab.intervals import CONFIDENCE, holm, percentile_interval
from sparsity_lab.laws.curves import BOOTSTRAPS, COLUMNS, WIDTHS, Curve, curves
from sparsity_lab.laws.fitting import finished
from sparsity_lab.laws.power_law import Array


@dataclass(frozen=True, eq=False)
class Surface:
    """loss ≈ polynomial of degree (2, 2, 2) in N̂, Ŝ and N̂·Ŝ at one budget (Abnar et al. 2025); N is all parameters."""

    budget: float
    samples: Array  # (1 + B, 7): coefficients of 1, N̂, N̂², Ŝ, Ŝ², N̂Ŝ, (N̂Ŝ)²
    window: tuple[tuple[float, float], tuple[float, float]] | None  # N̂ × Ŝ, by `_window`
    rmse: float  # nats

    def loss(self, N: Array, S: Array) -> Array:
        return _monomials(np.log(N), -np.log1p(-S)) @ self.samples[0]


def optima(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """Finds the best model of each budget and sparsity, one row each, with 95 % intervals.

    Columns: budget, sparsity, bracketed, and each of n_active, n_total, tokens and loss with its _low and _high, all at
    the minimum of the curve between the measured widths (at the edge where it is not bracketed). Raises ValueError for
    runs of several depths, and as `curves` does.
    """
    return lowest(curves(_checked(runs), bootstraps=bootstraps, seed=seed))


def lowest(fitted: list[Curve]) -> pd.DataFrame:
    """Returns the table of `optima` for these curves."""
    rows = []
    for curve in fitted:
        size, loss = curve.best
        values = {
            "n_active": np.exp(size),
            "n_total": curve.at(size, "params_total"),
            "tokens": curve.at(size, "tokens"),
        }
        row = {"budget": curve.budget, "sparsity": curve.sparsity, "bracketed": curve.bracketed}
        for name, samples in (values | {"loss": loss}).items():
            low, high = percentile_interval(samples[1:])
            row |= {name: float(samples[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def near_best(runs: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Returns the runs whose active weights are within ``factor`` of the best number for their budget and sparsity, and
    those of budgets with too few widths to know the best.

    Abnar et al. 2025 fit their law to compute-optimal models: one far too wide for its budget has hardly begun to
    learn, and no sum of powers describes that. Raises ValueError for a factor below 1, and as `optima` does.
    """
    if not factor >= 1:
        raise ValueError(f"factor={factor:g} must be at least 1, e.g. 2")
    runs = _checked(runs)
    best = pd.Series({(c.budget, c.sparsity): c.best[0][0] for c in curves(runs, bootstraps=2)})
    of_run = best.reindex(pd.MultiIndex.from_frame(runs[["budget", "sparsity"]])).to_numpy()
    far = np.abs(np.log(runs["params_active"]) - of_run) > math.log(factor)  # False where the best is not known
    return runs[~far]


def surfaces(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> list[Surface]:
    """Fits a surface for each budget with at least three sparsities of three widths each; without such a budget the
    list is empty. A resample adds to each fitted loss the residual of some run of the same budget, as wide as a new
    run's. Errors as for `optima`."""
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
        residuals = (y - fitted) * math.sqrt(len(y) / (len(y) - a.shape[1]))
        noisy = fitted + rng.choice(residuals, (bootstraps, len(y)))
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
    "3": ("even the sparsest models have a best N", "its distance from the nearer edge of the widths, log N_a"),
    "4": ("a larger budget is better at every S", "smallest fall, nats"),
    "5": ("the gain of the best sparse model over the best dense one grows with compute", "nats per tenfold budget"),
}


def judge_claims(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """Judges Abnar's findings (`CLAIMS`) on these runs, for each budget where a claim is about one budget, and for each
    step in S where it is about one step (the note names it).

    Columns: claim, says, budget (NaN for a claim about all), statistic, its estimate with low and high (95 %), p,
    verdict, note. The p-value is two-sided and adjusted by Holm's method for all rows of one claim, so that in each
    claim the chance of even one false verdict is at most 5 %: below .05 the claim holds or does not hold there, by the
    sign of the estimate, and otherwise it is undecided. What the runs cannot show is undecided, with NaN.

    Slopes of the best N are over bracketed optima; the loss of one that is not bracketed is that of the best width.
    Claim 2 is judged within `Surface.window`, 2a at its middle N. 2b: the best S rises with N where more N makes the
    loss fall faster in S (Topkis 1978, doi 10.1287/opre.26.2.305), whatever the curvature. Errors: see `optima`.
    """
    found = curves(_checked(runs), bootstraps=bootstraps, seed=seed)
    surface_at = {surface.budget: surface for surface in surfaces(runs, bootstraps=bootstraps, seed=seed)}
    rows = []
    for budget in sorted({curve.budget for curve in found}):
        here = [curve for curve in found if curve.budget == budget]
        note = _edge_note(here)
        rows += [
            _judge("1a", _slope_in_sparsity(here, "params_total"), budget, note),
            _judge("1b", -_slope_in_sparsity(here, "params_active"), budget, note),
            _judge("1c", -np.diff([curve.best[1] for curve in here], axis=0), budget, note),
            *(
                _judge(
                    "1d", (one.best[1] - more.best[1])[None], budget, f"S = {one.sparsity:.4g} to {more.sparsity:.4g}"
                )
                for one, more in itertools.pairwise(here)
            ),
            *_judge_surface(surface_at.get(budget), budget),
            _judge("3", here[-1].inside, budget, f"S = {here[-1].sparsity:.4g}"),
        ]

    of_sparsity = [[c.best[1] for c in found if c.sparsity == s] for s in sorted({c.sparsity for c in found})]
    falls = np.concatenate([-np.diff(losses, axis=0) for losses in of_sparsity])
    rows.append(_judge("4", falls, math.nan, _edge_note(found)))
    rows.append(_judge("5", _growth_of_gain(found), math.nan, _edge_note(found)))

    table = pd.DataFrame(rows)
    known = table["p"].notna()
    table.loc[known, "p"] = table[known].groupby("claim")["p"].transform(holm)
    sign = np.where(table["estimate"] > 0, "holds", "does not hold")
    table["verdict"] = np.where(table["p"] < 1 - CONFIDENCE, sign, "undecided")
    return table[[*table.columns.drop("note"), "note"]]


NOTHING = np.empty((0, 1))  # the statistic of runs that cannot show it


def _judge(claim: str, parts: Array, budget: float, note: str) -> dict[str, Any]:
    """A row of `judge_claims`. ``parts`` (k, 1 + B) must all be above 0 for the claim to hold; the statistic is the
    smallest. It is above 0 if every part is, each on its own evidence (Berger 1982, doi 10.2307/1267823), and below if
    any one is, with Bonferroni's correction for having looked at k, because the smallest of noisy numbers is low."""
    estimate = low = high = p = math.nan
    if len(parts):
        tail = (1 - CONFIDENCE) / 2
        estimate = float(parts[:, 0].min())
        low = float(np.quantile(parts[:, 1:], tail, axis=1).min())
        high = float(np.quantile(parts[:, 1:], 1 - tail / len(parts), axis=1).min())
        above, below = (((sign * parts[:, 1:] <= 0).sum(1) + 1) / parts.shape[1] for sign in (1, -1))
        p = min(1.0, 2 * float(above.max() if estimate > 0 else below.min() * len(parts)))
    says, statistic = CLAIMS[claim]
    found = {"estimate": estimate, "low": low, "high": high, "p": p, "note": note}
    return {"claim": claim, "says": says, "budget": budget, "statistic": statistic} | found


def _edge_note(here: list[Curve]) -> str:
    at_edge = sorted({curve.sparsity for curve in here if not curve.bracketed})
    return f"not bracketed: S = {', '.join(f'{s:.4g}' for s in at_edge)}" if at_edge else ""


def _slope_in_sparsity(here: list[Curve], size: str) -> Array:
    inside = [curve for curve in here if curve.bracketed]
    if len(inside) < 2:
        return NOTHING
    sizes = [np.log(curve.at(curve.best[0], size)) for curve in inside]
    return np.polyfit(-np.log1p([-curve.sparsity for curve in inside]), sizes, 1)[:1]


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


def _growth_of_gain(found: list[Curve]) -> Array:
    dense = {curve.budget: curve.best[1] for curve in found if curve.sparsity == 0}
    sparse = {budget: [c.best[1] for c in found if c.budget == budget and c.sparsity > 0] for budget in dense}
    gains = {budget: loss - np.min(sparse[budget], axis=0) for budget, loss in dense.items() if sparse[budget]}
    if len(gains) < 2:
        return NOTHING
    return np.polyfit(np.log10(list(gains)), list(gains.values()), 1)[:1]


def _checked(runs: pd.DataFrame) -> pd.DataFrame:
    runs = finished(runs, COLUMNS)
    depths = sorted(set(runs.get("n_layers", ())))
    if len(depths) > 1:
        several = " and ".join(map(str, depths))
        raise ValueError(f"these runs have n_layers={several}, and each depth has its own best width: give one of them")
    return runs


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
