"""IsoFLOPs: at one budget and sparsity, which size of model is best? A parabola through the widths answers.

Hoffmann et al. 2022 (arXiv 2203.15556, approach 2) fit them, and Abnar et al. 2025 (arXiv 2501.12370) a surface over
size and sparsity. Sizes and sparsities enter as N̂ = log N and Ŝ = −log(1 − S), base e.

B resamples.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sparsity_lab.intervals import CONFIDENCE, percentile_interval
from sparsity_lab.laws.fitting import finished
from sparsity_lab.laws.power_law import Array

COLUMNS = ["sparsity", "top_k", "width", "budget", "params_total", "params_active", "tokens", "val_loss", "status"]
BOOTSTRAPS = 1_000
WIDTHS = 3  # a parabola needs at least as many, for its three coefficients


@dataclass(frozen=True, eq=False)
class Parabola:
    """loss ≈ c₀ + c₁·x + c₂·x², x = log(size) − ``centre``, at one budget and sparsity; ``edges``: the x measured."""

    budget: float
    sparsity: float
    centre: float
    edges: tuple[float, float]
    coefficients: Array  # (3,)
    resamples: Array  # (B, 3)

    def loss(self, sizes: Array) -> Array:
        y: Array = np.vander(np.log(sizes) - self.centre, 3, increasing=True) @ self.coefficients
        return y

    @property
    def rises(self) -> Array:
        """How steeply loss rises out of the left and the right edge, nats per factor of e in size: the estimate, then
        the resamples (2, 1 + B). If both are above 0, the parabola opens upward and its minimum lies inside."""
        c = np.vstack([self.coefficients, self.resamples])
        left, right = (c @ [0, 1, 2 * x] for x in self.edges)
        return np.stack([-left, right])

    @property
    def bracketed(self) -> bool:
        """Whether the minimum lies inside the widths that were measured, not at their edge or beyond."""
        return bool((self.rises[:, 0] > 0).all())

    @cached_property
    def best(self) -> tuple[Array, Array]:
        """Where it is lowest between the edges, and how low: log(size), loss, the estimate first, then the resamples:
        each (1 + B,). A parabola that is not bracketed is lowest at an edge."""
        c = np.vstack([self.coefficients, self.resamples])
        low, high = self.edges
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = np.clip(-c[:, 1] / (2 * c[:, 2]), low, high)
        at_low, at_high = (c @ [1, x, x * x] for x in self.edges)
        x = np.where(c[:, 2] > 0, vertex, np.where(at_low < at_high, low, high))
        return x + self.centre, c[:, 0] + c[:, 1] * x + c[:, 2] * x * x


@dataclass(frozen=True, eq=False)
class Surface:
    """loss ≈ polynomial of degree (2, 2, 2) in N̂, Ŝ and N̂·Ŝ at one budget (Abnar et al. 2025); N is all parameters.

    ``window``: the largest rectangle N̂ (low, high) × Ŝ (low, high) in which at least three sparsities were measured,
    or None.
    """

    budget: float
    coefficients: Array  # (7,): of 1, N̂, N̂², Ŝ, Ŝ², N̂Ŝ, (N̂Ŝ)²
    resamples: Array  # (B, 7)
    window: tuple[tuple[float, float], tuple[float, float]] | None
    rmse: float  # nats

    def loss(self, N: Array, S: Array) -> Array:
        y: Array = _monomials(np.log(N), -np.log1p(-S)) @ self.coefficients
        return y


def parabolas(
    runs: pd.DataFrame, size: str = "params_active", *, bootstraps: int = BOOTSTRAPS, seed: int = 0
) -> list[Parabola]:
    """A parabola for each budget and sparsity that has runs of three widths or more, in log ``size``. A budget with no
    more runs than its parabolas have coefficients is left out: nothing is left there to tell noise by.

    A resample adds to each fitted loss the residual of some run of the same budget, of any sparsity, width and seed,
    as wide as a new run's: five widths are too few to leave some out. What is not in the residuals is not in the
    intervals: what the runs of one seed share moves whole parabolas, and that loss is no parabola moves their minima,
    by some percent in size over widths a factor of four apart.

    Raises ValueError for missing columns, no finished run, a sparsity that was measured with several ``top_k``, and
    when no budget is left.
    """
    runs = _checked(runs)
    rng = np.random.default_rng(seed)
    made = []
    for budget, level in _by(runs, "budget"):
        cells = [(s, cell) for s, cell in _by(level, "sparsity") if cell["width"].nunique() >= WIDTHS]
        if sum(len(cell) for _, cell in cells) <= WIDTHS * len(cells):
            continue
        x_cells = [np.log(cell[size].to_numpy(float)) for _, cell in cells]
        y_cells = [cell["val_loss"].to_numpy(float) for _, cell in cells]
        designs = [np.vander(x - x.mean(), 3, increasing=True) for x in x_cells]
        fits = [np.linalg.lstsq(a, y)[0] for a, y in zip(designs, y_cells, strict=True)]
        fitted = [a @ c for a, c in zip(designs, fits, strict=True)]
        residuals = _residuals(np.concatenate(y_cells) - np.concatenate(fitted), WIDTHS * len(cells))
        for (sparsity, _), x, a, c, y in zip(cells, x_cells, designs, fits, fitted, strict=True):
            noisy = y + rng.choice(residuals, (bootstraps, len(y)))
            edges = (float((x - x.mean()).min()), float((x - x.mean()).max()))
            resamples = noisy @ np.linalg.pinv(a).T
            made.append(Parabola(budget, sparsity, float(x.mean()), edges, c, resamples))
    if not made:
        raise ValueError(
            f"no budget has a sparsity with finished runs of {WIDTHS} widths, which a parabola needs, and a run "
            "more to tell noise by: add a width or a seed"
        )
    return made


def optima(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """The best model of each budget and sparsity, one row each, with 95 % intervals.

    Columns: budget, sparsity, bracketed, and each of n_active, n_total, tokens and loss with its _low and _high.
    n_active and n_total are the minima of parabolas in their own logarithm, between the widths measured (at the edge
    where it is not bracketed); tokens go with n_active, and loss is that at n_active. Errors as for `parabolas`.
    """
    by_active, by_total = (
        parabolas(runs, size, bootstraps=bootstraps, seed=seed) for size in ("params_active", "params_total")
    )
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
    """The runs whose active weights are within ``factor`` of the best number for their budget and sparsity, and those
    of budgets with too few widths to tell.

    Laws are about models that spend their budget well: Abnar et al. 2025 fit theirs to compute-optimal ones. A model
    far too wide for its budget has hardly begun to learn, and no sum of powers describes that. Raises ValueError for a
    factor below 1, and as `parabolas` does.
    """
    if not factor >= 1:
        raise ValueError(f"factor={factor:g} must be at least 1, e.g. 2")
    runs = _checked(runs)
    best = {(p.budget, p.sparsity): p.best[0][0] for p in parabolas(runs, bootstraps=2)}
    places = zip(runs["budget"], runs["sparsity"], np.log(runs["params_active"]), strict=True)
    near = [abs(size - best.get((budget, sparsity), size)) <= math.log(factor) for budget, sparsity, size in places]
    kept: pd.DataFrame = runs[near]
    return kept


def surfaces(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> list[Surface]:
    """A surface for each budget with at least three sparsities of three widths each. Resamples and errors as for
    `parabolas`; without such a budget the list is empty."""
    runs = _checked(runs)
    rng = np.random.default_rng(seed)
    made = []
    for budget, level in _by(runs, "budget"):
        widths = level.groupby("sparsity")["width"].nunique()
        level = level[level["sparsity"].isin(widths.index[widths >= WIDTHS])]
        if level["sparsity"].nunique() < 3:
            continue
        n, s = np.log(level["params_total"].to_numpy(float)), -np.log1p(-level["sparsity"].to_numpy(float))
        y = level["val_loss"].to_numpy(float)
        a = _monomials(n, s)
        scale = np.abs(a).max(0)  # (N̂Ŝ)² is thousands
        solve = np.linalg.pinv(a / scale) / scale[:, None]
        c = solve @ y
        raw = y - a @ c
        residuals = _residuals(raw, a.shape[1])
        resamples = (a @ c + rng.choice(residuals, (bootstraps, len(y)))) @ solve.T
        made.append(Surface(budget, c, resamples, _window(n, s), math.sqrt(np.mean(raw**2))))
    return made


@dataclass(frozen=True)
class Verdict:
    """What runs say on a claim: it holds if the statistic's interval lies above 0, does not if below, and is undecided
    otherwise. Either is wrong in 2.5 % of cases at most. ``budget`` is NaN for a claim about all budgets."""

    claim: str
    says: str
    budget: float
    statistic: str
    estimate: float
    low: float
    high: float
    verdict: str
    note: str


# The findings of Abnar et al. 2025, section 1 and 3, and two more that the suite tells as its story. Each has a
# statistic that is positive if the claim holds.
CLAIMS = {
    "1a": ("the best N grows with S", "slope of log N* in −log(1 − S)"),
    "1b": ("the best active N shrinks with S", "slope of −log N_a* in −log(1 − S)"),
    "1c": ("the loss at the best N falls with every step in S", "smallest fall, nats"),
    "2a": ("at fixed N, some S between the lowest and the highest is best", "smaller rise of loss out of the edges"),
    "2b": ("the best S rises with N", "−∂²loss / ∂log N ∂(−log(1 − S))"),
    "3": ("even the sparsest models have a best N", "smaller rise of loss out of the widths measured"),
    "4": ("a larger budget is better at every S", "smallest fall, nats"),
    "5": ("the gain of the best sparse model over the best dense one grows with compute", "nats per tenfold budget"),
}


def verdicts(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> pd.DataFrame:
    """Abnar's findings on these runs: a `Verdict` a row, for each budget where a claim is about one.

    Slopes of the best N are over optima that are bracketed; the loss of one that is not is that of the best width
    tried. Claim 2 is judged within `Surface.window`, 2a at its middle N. 2b: the best S rises with N where more N
    makes the loss fall faster in S (Topkis 1978, doi 10.1287/opre.26.2.305), whatever the curvature. What the runs
    cannot show is undecided, with NaN. Errors as for `parabolas`.
    """
    active = parabolas(runs, bootstraps=bootstraps, seed=seed)
    total = parabolas(runs, "params_total", bootstraps=bootstraps, seed=seed)
    surface_at = {surface.budget: surface for surface in surfaces(runs, bootstraps=bootstraps, seed=seed)}
    rows = []
    for budget in sorted({p.budget for p in active}):
        here = [p for p in active if p.budget == budget]
        here_total = [p for p in total if p.budget == budget]
        rows += [
            _verdict("1a", _slope_in_sparsity(here_total), budget, _edge_note(here_total)),
            _verdict("1b", -_slope_in_sparsity(here), budget, _edge_note(here)),
            _verdict("1c", _falls([p.best[1] for p in here]), budget, _edge_note(here)),
            *_surface_verdicts(surface_at.get(budget), budget),
            _verdict("3", here_total[-1].rises, budget, f"S = {here_total[-1].sparsity:.4g}"),
        ]
    levels = [[p.best[1] for p in active if p.sparsity == s] for s in sorted({p.sparsity for p in active})]
    rows.append(_verdict("4", np.concatenate([_falls(losses) for losses in levels]), math.nan, _edge_note(active)))
    rows.append(_verdict("5", _growth_of_gain(active), math.nan, _edge_note(active)))
    return pd.DataFrame(rows)


NOTHING = np.empty((0, 1))  # the statistic of runs that cannot show it


def _verdict(claim: str, parts: Array, budget: float, note: str) -> Verdict:
    """``parts`` (k, 1 + B): estimate and resamples of what must all be above 0 for the claim to hold; the statistic is
    the smallest. It is above 0 if every part is, each on its own evidence (Berger 1982, doi 10.2307/1267823), and
    below if any one is, with Bonferroni's correction for having looked at k: the smallest of noisy numbers is low."""
    estimate = low = high = math.nan
    if len(parts):
        tail = (1 - CONFIDENCE) / 2
        estimate = float(parts[:, 0].min())
        low = float(np.quantile(parts[:, 1:], tail, axis=1).min())
        high = float(np.quantile(parts[:, 1:], 1 - tail / len(parts), axis=1).min())
    verdict = "holds" if low > 0 else "does not hold" if high < 0 else "undecided"
    says, statistic = CLAIMS[claim]
    return Verdict(claim, says, budget, statistic, estimate, low, high, verdict, note)


def _edge_note(here: list[Parabola]) -> str:
    at_edge = sorted({p.sparsity for p in here if not p.bracketed})
    return f"not bracketed: S = {', '.join(f'{s:.4g}' for s in at_edge)}" if at_edge else ""


def _slope_in_sparsity(here: list[Parabola]) -> Array:
    inside = [p for p in here if p.bracketed]
    if len(inside) < 2:
        return NOTHING
    return _slope(-np.log1p([-p.sparsity for p in inside]), np.stack([p.best[0] for p in inside]))


def _slope(x: Array, y: Array) -> Array:
    """Least-squares slopes (1, 1 + B) of y (points, 1 + B) in x (points,)."""
    x = x - x.mean()
    slopes: Array = x @ y / (x @ x)
    return slopes[None]


def _falls(losses: list[Array]) -> Array:
    """From each to the next: (steps, 1 + B)."""
    return -np.diff(losses, axis=0)


def _surface_verdicts(surface: Surface | None, budget: float) -> list[Verdict]:
    if surface is None or surface.window is None:
        return [_verdict(claim, NOTHING, budget, "no N was measured at three sparsities") for claim in ("2a", "2b")]
    sizes, (low, high) = surface.window
    n, s = sum(sizes) / 2, (low + high) / 2
    c = np.vstack([surface.coefficients, surface.resamples])
    slopes = [c @ [0, 0, 0, 1, 2 * edge, n, 2 * n**2 * edge] for edge in (low, high)]
    mixed = c @ [0, 0, 0, 0, 0, 1, 4 * n * s]
    shares = " to ".join(f"{-math.expm1(-edge):.4g}" for edge in (low, high))
    at, along = f"N = {math.exp(n):.3g}, S = {shares}", " to ".join(f"{math.exp(size):.3g}" for size in sizes)
    return [
        _verdict("2a", np.stack([-slopes[0], slopes[1]]), budget, at),
        _verdict("2b", -mixed[None], budget, f"N = {along}, S = {shares}"),
    ]


def _growth_of_gain(active: list[Parabola]) -> Array:
    dense = {p.budget: p.best[1] for p in active if p.sparsity == 0}
    sparse = {budget: [p.best[1] for p in active if p.budget == budget and p.sparsity > 0] for budget in dense}
    gains = {budget: loss - np.min(sparse[budget], axis=0) for budget, loss in dense.items() if sparse[budget]}
    if len(gains) < 2:
        return NOTHING
    return _slope(np.log10(list(gains)), np.stack(list(gains.values())))


def _checked(runs: pd.DataFrame) -> pd.DataFrame:
    runs = finished(runs, COLUMNS)
    for sparsity, cell in _by(runs, "sparsity"):
        if cell["top_k"].nunique() > 1:
            several = " and ".join(str(k) for k in sorted(cell["top_k"].unique()))
            raise ValueError(f"sparsity={sparsity:g} was measured with top_k={several}: give the runs of one of them")
    return runs


def _by(runs: pd.DataFrame, column: str) -> Iterator[tuple[float, pd.DataFrame]]:
    """The groups of one value of ``column``, rising."""
    for value in sorted(runs[column].unique()):
        yield float(value), runs[runs[column] == value]


def _residuals(raw: Array, coefficients: int) -> Array:
    """As wide as errors are: a fit with so many coefficients has eaten some."""
    return raw * math.sqrt(len(raw) / (len(raw) - coefficients))


def _monomials(n: Array, s: Array) -> Array:
    return np.stack([np.ones_like(n), n, n**2, s, s**2, n * s, (n * s) ** 2], -1)


def _window(n: Array, s: Array) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The largest rectangle of an N̂ that three neighbouring sparsities or more share, and of these sparsities."""
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
