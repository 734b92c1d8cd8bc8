"""Fair races: sparse models against dense ones at equal FLOPs, each side at its own best width and depth.

A cell is a shape (width and number of layers) at one budget and sparsity. The best cell is the one with the lowest mean
loss, and that mean is a little too low on both sides, because it is the lowest of several. `curve_gains` asks the
minima of fitted curves instead, so two estimators with different faults can be compared.

There are four yardsticks of a gain: nats, its share of the dense loss, leverage in FLOPs, and leverage in seconds.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from sparsity_lab.intervals import CONFIDENCE, holm, percentile_interval
from sparsity_lab.laws.curves import BOOTSTRAPS, Curve, curves
from sparsity_lab.laws.fitting import finished

COLUMNS = ["budget", "sparsity", "width", "n_layers", "val_loss", "status"]
CELL = ["budget", "sparsity", "width", "n_layers"]
TIMED = {"cpu_seconds", "flops", "compiled"}  # columns that give a rate
DRAWS = 2_000  # of all losses, for the interval of a leverage


class Slope(NamedTuple):
    """A change per tenfold budget, with its 95 % interval."""

    value: float
    low: float
    high: float


def best_shapes(runs: pd.DataFrame) -> pd.DataFrame:
    """Finds the best shape of each budget and sparsity, one row each: columns budget, sparsity, width, n_layers, loss
    (the mean of its runs), runs, rate (core seconds per FLOP, NaN if no run knows its own), edge (True where the best
    width is the smallest or largest that was tried at its depth), sd and free (the standard deviation of one run at
    this budget, and its degrees of freedom).

    The standard deviation is pooled over all cells of a budget; a budget in which no cell has two runs borrows that of
    the nearest budget below. Compiled code does the same arithmetic in less time, so only runs without it give a rate.
    Raises ValueError for missing columns, if no cell has two runs, and if a sparsity has several ``top_k``.
    """
    runs = finished(runs, COLUMNS)
    if "top_k" in runs and (kinds := runs.groupby("sparsity")["top_k"].nunique()).max() > 1:
        raise ValueError(f"sparsity={kinds.idxmax():g} has runs of several top_k: compare those of one")
    runs = runs.assign(
        rate=(runs["cpu_seconds"] / runs["flops"]).where(~runs["compiled"]) if set(runs) >= TIMED else math.nan
    )
    kept = {"loss": ("val_loss", "mean"), "runs": ("val_loss", "count"), "squares": ("val_loss", _squares)}
    cells = runs.groupby(CELL).agg(**kept, rate=("rate", "median")).reset_index()
    spread = cells.groupby("budget").agg(squares=("squares", "sum"), runs=("runs", "sum"), cells=("runs", "count"))
    spread["free"] = spread["runs"] - spread["cells"]
    if not spread["free"].any():
        raise ValueError(
            "every run is the only one of its budget, sparsity and shape, so none shows the scatter: add a seed"
        )
    spread["sd"] = np.sqrt(spread["squares"] / spread["free"].where(spread["free"] > 0))
    spread["free"] = spread["free"].where(spread["free"] > 0).ffill().bfill()
    spread["sd"] = spread["sd"].ffill().bfill()

    widths = cells.groupby(["budget", "sparsity", "n_layers"])["width"]
    cells["edge"] = (cells["width"] == widths.transform("min")) | (cells["width"] == widths.transform("max"))
    best = cells.loc[cells.groupby(["budget", "sparsity"])["loss"].idxmin()].drop(columns="squares")
    return best.merge(spread[["sd", "free"]], left_on="budget", right_index=True).reset_index(drop=True)


def fair_gains(best: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    """Compares the best models of this sparsity with the best dense ones, one row per budget with both: columns budget,
    dense and sparse (their shapes), gain (nats), half (of the 95 % interval), share (gain over the dense loss) and
    share_half, p (two-sided, adjusted by Holm's method for the number of budgets), edge (whether either best width lies
    at an edge). ``best`` is from `best_shapes`."""
    from scipy.special import stdtr, stdtrit

    both = _sides(best, sparsity)
    error = both["sd"] * np.sqrt(1 / both["runs"] + 1 / both["runs_sparse"])
    gain = both["loss"] - both["loss_sparse"]
    table = pd.DataFrame({"budget": both["budget"], "dense": _names(both, ""), "sparse": _names(both, "_sparse")})
    table["gain"], table["half"] = gain, stdtrit(both["free"], (1 + CONFIDENCE) / 2) * error
    table["share"], table["share_half"] = gain / both["loss"], table["half"] / both["loss"]
    table["p"] = holm(2 * stdtr(both["free"], -gain.abs() / error))
    return table.assign(edge=both["edge"] | both["edge_sparse"])


def depth_gains(runs: pd.DataFrame, shallow: int, deep: int) -> pd.DataFrame:
    """Returns how much lower the best models of ``shallow`` layers end than the best ones of ``deep``, one row per
    budget and sparsity with both: columns budget, sparsity, gain (nats), half (of the 95 % interval), p (adjusted by
    Holm's method for the number of rows)."""
    from scipy.special import stdtr, stdtrit

    sides = (best_shapes(runs[runs["n_layers"] == layers]) for layers in (shallow, deep))
    columns, noise = ["budget", "sparsity", "loss", "runs"], best_shapes(runs)[["budget", "sd", "free"]]
    one, two = (side[columns] for side in sides)
    both = one.merge(two, on=columns[:2], suffixes=("", "_deep")).merge(noise.drop_duplicates(), on="budget")
    error = both["sd"] * np.sqrt(1 / both["runs"] + 1 / both["runs_deep"])
    gain = both["loss_deep"] - both["loss"]
    half = stdtrit(both["free"], (1 + CONFIDENCE) / 2) * error
    p = holm(2 * stdtr(both["free"], -gain.abs() / error))
    return both[columns[:2]].assign(gain=gain, half=half, p=p)


def best_curves(runs: pd.DataFrame, *, bootstraps: int = BOOTSTRAPS, seed: int = 0) -> list[Curve]:
    """Fits the curves of all depths and returns those of the depth whose minimum is lowest, one for each budget and
    sparsity. Errors as for `curves`."""
    best: dict[tuple[float, float], Curve] = {}
    for curve in curves(runs, bootstraps=bootstraps, seed=seed):
        key = curve.budget, curve.sparsity
        if key not in best or curve.best[1][0] < best[key].best[1][0]:
            best[key] = curve
    return [best[key] for key in sorted(best)]


def curve_gains(best: list[Curve], sparsity: float, than: float = 0.0) -> pd.DataFrame:
    """Compares the minima of `best_curves` at this sparsity and at a lower one, one row per budget with both: columns
    budget, layers and layers_than (of each side), gain (nats), low, high (95 %), p (two-sided, from the resamples, not
    adjusted for their number), and sd, the standard error."""

    def at(level: float) -> dict[float, Curve]:
        return {curve.budget: curve for curve in best if math.isclose(curve.sparsity, level)}

    rows = []
    for budget, one in at(sparsity).items():
        if other := at(than).get(budget):
            gain = other.best[1] - one.best[1]
            beyond = (np.sign(gain[0]) * gain[1:] <= 0).sum()
            p = min(1.0, 2 * (beyond + 1) / len(gain))
            ends = percentile_interval(gain[1:])
            rows.append((budget, one.n_layers, other.n_layers, gain[0], *ends, p, gain[1:].std()))
    return pd.DataFrame(rows, columns=["budget", "layers", "layers_than", "gain", "low", "high", "p", "sd"])


def growth(table: pd.DataFrame, yardstick: Literal["gain", "share"] = "gain") -> Slope:
    """Returns how much the gains of `fair_gains`, or their shares of the dense loss, change per tenfold budget: a line
    weighted by their intervals. With one budget nothing is known of it (NaN)."""
    if len(table) < 2:
        return Slope(math.nan, -math.inf, math.inf)
    value, half = (table[name].to_numpy(float) for name in (yardstick, "half" if yardstick == "gain" else "share_half"))
    x = np.log10(table["budget"].to_numpy(float))
    centred = x - np.average(x, weights=half**-2)
    precision = float((centred**2 / half**2).sum())
    slope, reach = float((centred * value / half**2).sum()) / precision, 1 / math.sqrt(precision)
    return Slope(slope, slope - reach, slope + reach)


def leverages(best: pd.DataFrame, sparsity: float, seed: int = 0) -> pd.DataFrame:
    """Returns the leverage of the best models of this sparsity: how many times their FLOPs the best dense models need
    for the same loss. Columns budget, leverage, low, high (95 %, from losses drawn anew with their errors), and
    in_seconds, the same for seconds of a processor core: it holds for the machine that trained these runs, with one
    core for each, and is NaN where no run of one of the shapes knows its own.

    Dense losses between budgets are interpolated, log loss over log FLOPs. Leverage is NaN where the sparse loss is
    below that of the largest dense budget, or above that of the smallest; an end of the interval is infinite or 0 where
    that may be so.
    """
    budgets, log_ratio = _log_leverages(best, sparsity, seed)
    ratio = np.exp(log_ratio)
    low, high = percentile_interval(ratio[1:])
    value = np.where(np.isfinite(log_ratio[0]), ratio[0], np.nan)
    rate = _sides(best, sparsity)
    seconds = value * (rate["rate"] / rate["rate_sparse"]).to_numpy(float)
    return pd.DataFrame({"budget": budgets, "leverage": value, "low": low, "high": high, "in_seconds": seconds})


def leverage_growth(best: pd.DataFrame, sparsity: float, seed: int = 0) -> Slope:
    """Returns by which factor leverage grows per tenfold budget, over the budgets at which it is known."""
    budgets, log_ratio = _log_leverages(best, sparsity, seed)
    known = np.isfinite(log_ratio[0])
    if known.sum() < 2:
        return Slope(math.nan, 0.0, math.inf)
    x = np.log10(budgets[known])
    centred = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    # A leverage is infinite at the largest budgets, or 0 at the smallest ones; either makes the slope infinite.
    slopes = np.where(np.isfinite(log_ratio[:, known]).all(1), np.nan_to_num(log_ratio[:, known]) @ centred, np.inf)
    return Slope(*(float(math.exp(v)) for v in (slopes[0], *percentile_interval(slopes[1:]))))


def _log_leverages(best: pd.DataFrame, sparsity: float, seed: int) -> tuple[Any, Any]:
    """Budgets (n,) and the logarithms of leverages there (1 + DRAWS, n), the estimate first."""
    both = _sides(best, sparsity)
    dense = best[best["sparsity"] == 0].sort_values("budget")
    log_budgets, rng = np.log(dense["budget"].to_numpy(float)), np.random.default_rng(seed)

    # As in Student's t, a standard deviation is itself uncertain. Budgets that share one are wrong together.
    free = best.groupby("sd")["free"].first()
    wrong = {sd: np.sqrt(n / rng.chisquare(n, DRAWS)) for sd, n in free.items()}

    def drawn(side: pd.DataFrame, suffix: str) -> Any:
        loss, error = side[f"loss{suffix}"].to_numpy(float), side["sd"] / np.sqrt(side[f"runs{suffix}"])
        scale = np.stack([wrong[sd] for sd in side["sd"]], 1) * error.to_numpy(float)
        draws = loss + scale * rng.standard_normal((DRAWS, len(loss)))
        return np.vstack([loss, draws.clip(min=np.finfo(float).tiny)])  # no loss is below zero

    falling, sparse = drawn(dense, ""), drawn(both, "_sparse")
    found = np.array([_budgets_for(row, curve, log_budgets) for row, curve in zip(sparse, falling, strict=True)])
    budgets = both["budget"].to_numpy(float)
    return budgets, found - np.log(budgets)


def _budgets_for(losses: np.ndarray, curve: np.ndarray, log_budgets: np.ndarray) -> np.ndarray:
    """The log FLOPs at which a curve of losses, made falling, reaches each loss; infinite beyond its ends."""
    falling = np.minimum.accumulate(curve)
    return np.interp(-np.log(losses), -np.log(falling), log_budgets, left=-np.inf, right=np.inf)


def _squares(losses: "pd.Series[float]") -> float:
    return float(((losses - losses.mean()) ** 2).sum())


def _sides(best: pd.DataFrame, sparsity: float) -> pd.DataFrame:
    dense, sparse = best[best["sparsity"] == 0], best[np.isclose(best["sparsity"], sparsity)]
    columns = ["budget", "width", "n_layers", "loss", "runs", "rate", "edge"]
    both = dense.merge(sparse[columns], on="budget", suffixes=("", "_sparse"))
    if both.empty:
        raise ValueError(f"sparsity={sparsity:g}: no budget has runs of it and dense ones")
    return both


def _names(both: pd.DataFrame, side: str) -> list[str]:
    shapes = zip(both[f"width{side}"], both[f"n_layers{side}"], strict=True)
    return [f"width {width}, {layers} layer{'s'[: layers > 1]}" for width, layers in shapes]
