"""Laws fitted to runs: robust fits as the papers make them, with intervals, and what the runs cannot identify.

R runs, T terms, P coefficients, B resamples, M places to predict at.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from sparsity_lab.files import read_bytes, write_text
from sparsity_lab.intervals import CONFIDENCE, percentile_interval
from sparsity_lab.laws.huber import log_loss, minimise
from sparsity_lab.laws.power_law import BOUNDS, LAWS, STARTS, Array, PowerLaw, named
from sparsity_lab.laws.published import check_possible

SCREENED, FOLLOWED = 2_000, 30  # random starts that are evaluated; how many of the best are followed to the end
NOISE_DRAWS = 5  # residuals that a predictive interval draws for each resample
# A coefficient is identified if its interval stays clear of the bounds and is no wider than this.
IDENTIFIED_FACTOR = 10.0  # multipliers: high/low
IDENTIFIED_WIDTH = 0.1  # exponents: high − low, or half the exponent's size if that is more

FAR = 5.0  # robust standard deviations from which on a run is an outlier

ARRAYS = ("theta", "resamples", "residuals")
COLUMNS = ["sparsity", "budget", "params_total", "tokens", "val_loss", "status"]


class PredictedLoss(NamedTuple):
    """A loss and its 95 % interval, in nats per token, each in the shape that was asked for."""

    value: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Score:
    """How well a law predicts runs."""

    runs: int
    rmse: float  # nats
    r2: float | None  # None if all losses are equal
    covered: float  # the share of runs within the predictive interval


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with fitted coefficients: N is all parameters, D tokens, and the loss is in nats per token."""

    law: PowerLaw
    theta: Array  # (P,) logarithms of multipliers, then exponents
    resamples: Array  # (B, P)
    residuals: Array  # (R,) measured − fitted log-loss, scaled to be as wide as those of new runs
    identified: dict[str, bool]
    ranges: dict[str, tuple[float, float]]  # of N, D and S, in the fitted runs
    fitted: Score | None = None
    held_out: Score | None = None

    def predict(self, N: npt.ArrayLike, D: npt.ArrayLike, S: npt.ArrayLike) -> PredictedLoss:
        """Predicts the loss of a run of N parameters on D tokens at sparsity S, with the 95 % interval for one new run.
        It covers what resampling does to the law, and the residuals, but not that the law itself may be wrong, so
        outside the fitted runs (see `outside`) it is too narrow.

        Arguments broadcast. Raises ValueError unless N, D > 0 and 0 ≤ S < 1, and for an S that the law does not know.
        """
        n, d, s = (np.asarray(x, float) for x in np.broadcast_arrays(N, D, S))
        check_possible({"N": n, "D": d, "S": s})
        only = self.ranges["S"][0]
        if "S" not in self.law.exponents.values() and (s != only).any():
            raise ValueError(f"S={s.max():g}: this {self.law.name} law was fitted at S={only:g} and knows no other")

        x_MTP = self.law.design(_logs(n.ravel(), d.ravel(), s.ravel()))
        value = log_loss(x_MTP, self.theta[None])[0]
        # Every call draws the same noise, so that an interval under a slider moves with the slider alone.
        noise = np.random.default_rng(0).choice(self.residuals, (NOISE_DRAWS, len(self.resamples), 1))
        samples = log_loss(x_MTP, self.resamples) + noise
        low, high = percentile_interval(samples.reshape(noise.size, n.size))
        return PredictedLoss(*(np.exp(y).reshape(n.shape)[()] for y in (value, low, high)))

    def outside(self, N: float, D: float, S: float) -> str:
        """Returns a warning if the fitted runs do not reach this place, and "" if they do."""
        given = {"N": N, "D": D, "S": S}
        beyond = [
            f"{name}={given[name]:.4g} (fitted: {low:.4g} to {high:.4g})"
            for name, (low, high) in self.ranges.items()
            if not low <= given[name] <= high
        ]
        return f"outside the runs that were fitted: {', '.join(beyond)}" if beyond else ""

    def score(self, runs: pd.DataFrame) -> Score:
        """Compares the law with these runs. Raises ValueError as `finished` does."""
        runs = finished(runs, COLUMNS)
        loss = runs["val_loss"].to_numpy(float)
        value, low, high = self.predict(*_places(runs))
        mse, variance = float(np.mean((value - loss) ** 2)), float(np.var(loss))
        covered = float(np.mean((low <= loss) & (loss <= high)))
        return Score(len(loss), math.sqrt(mse), 1 - mse / variance if variance else None, covered)

    def outliers(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Returns those of the runs whose loss lies far from the law, farthest first, with two more columns: predicted
        (nats) and off, the distance in robust standard deviations (1.4826 times the median absolute deviation of all
        these runs). Far is more than `FAR` of them. Raises ValueError as `finished` does."""
        runs = finished(runs, COLUMNS)
        predicted = self.predict(*_places(runs)).value
        away = runs["val_loss"] - predicted
        away -= away.median()
        spread = 1.4826 * away.abs().median()
        runs = runs.assign(predicted=predicted, off=away / spread if spread else 0.0)
        return runs[runs["off"].abs() > FAR].sort_values("off", key=lambda off: -off.abs())

    def table(self) -> pd.DataFrame:
        """Returns the coefficients with 95 % intervals: columns coefficient, value, low, high, identified."""
        multiplier = np.arange(len(self.theta)) < len(self.law.terms)
        value, samples = (np.where(multiplier, np.exp(theta), theta) for theta in (self.theta, self.resamples))
        low, high = percentile_interval(samples)
        columns = {"coefficient": self.law.names, "value": value, "low": low, "high": high}
        return pd.DataFrame(columns | {"identified": [self.identified[name] for name in self.law.names]})

    def report(self) -> dict[str, Any]:
        """Returns what `summary` shows, as data."""
        report = {"law": self.law.name, "equation": self.law.equation, "runs": len(self.residuals)}
        report |= {"ranges": self.ranges, "coefficients": self.table().set_index("coefficient").to_dict("index")}
        return report | {name: self.to_dict()[name] for name in ("fitted", "held_out")}

    def summary(self) -> str:
        """Describes the fit: equation, runs, coefficients, and how well it meets runs."""
        low, high = self.ranges["S"]
        where = f"S = {low:.4g}" if low == high else f"S from {low:.4g} to {high:.4g}"
        table = self.table().set_index("coefficient").rename_axis(None)
        interval = table["low"].map("{:.4g}".format) + " to " + table["high"].map("{:.4g}".format)
        note = table["identified"].map({True: "", False: "not identified by these runs"})
        shown = pd.DataFrame({"value": table["value"].map("{:.4g}".format), "95 % interval": interval, "": note})
        lines = [f"L = {self.law.equation}", f"{len(self.residuals)} runs, {where}", "", shown.to_string()]
        for name, score in (("fitted", self.fitted), ("held out", self.held_out)):
            if score is not None:
                r2 = "" if score.r2 is None else f", R² {score.r2:.1%}"
                lines.append(
                    f"{name}: {score.runs} runs, off by {score.rmse:.4f} nats (root mean square){r2}, "
                    f"{score.covered:.0%} within the 95 % interval"
                )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns the whole fit in types that JSON can hold."""
        data = asdict(self) | {"law": self.law.name}
        return data | {name: data[name].tolist() for name in ARRAYS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Restores what `to_dict` returned."""
        parts: dict[str, Any] = {name: np.array(data[name], float) for name in ARRAYS}
        parts |= {name: data[name] and Score(**data[name]) for name in ("fitted", "held_out")}
        ranges = {name: (low, high) for name, (low, high) in data["ranges"].items()}
        return cls(LAWS[data["law"]], identified=dict(data["identified"]), ranges=ranges, **parts)


def fit(
    runs: pd.DataFrame,
    law: str = "abnar",
    *,
    holdout: npt.ArrayLike | None = None,
    bootstraps: int = 200,
    seed: int = 0,
) -> Fit:
    """Fits a law to finished runs: Huber loss (δ = 1e-3) on log-loss from many starts, as the papers do.

    ``runs`` has one row per run and the columns sparsity, budget, params_total, tokens, val_loss and status. Rows where
    ``holdout`` (one boolean each) is true are not fitted but predicted. Intervals come from ``bootstraps`` resamples of
    all runs. A resample starts where one of the good starts ended;
    in a flat valley these lie far apart, and then the intervals are wide.

    Raises ValueError for missing columns, an unknown law, fewer finished runs than the law needs, and for a law without
    S on runs of several sparsities (see `fit_each`).
    """
    from scipy.special import chdtri  # χ²; here, so that a dashboard need not wait for scipy

    form = named(law)
    names = form.names
    if bootstraps < 2:
        raise ValueError(f"bootstraps={bootstraps} must be at least 2, and 200 for steady intervals")
    held = _held(runs, holdout)
    inside = finished(runs[~held], COLUMNS)
    if len(inside) <= len(names):
        raise ValueError(f"{law} has {len(names)} coefficients and needs more finished runs, got {len(inside)}")
    if "S" not in form.exponents.values() and inside["sparsity"].nunique() > 1:
        levels = ", ".join(f"{s:g}" for s in sorted(inside["sparsity"].unique()))
        raise ValueError(f"the {law} law knows no sparsity and the runs have S = {levels}: use one, or fit_each")

    # Relative to the centre of the runs, where multipliers are of the loss's own size.
    places = dict(zip("NDS", _places(inside), strict=True))
    logs = _logs(*places.values())
    centre = {name: float(x.mean()) for name, x in logs.items()}
    x_RTP = form.design({name: x - centre[name] for name, x in logs.items()})
    y_R = np.log(inside["val_loss"].to_numpy(float))
    bounds = form.box(BOUNDS)

    rng = np.random.default_rng(seed)
    starts = _starts(form, x_RTP, y_R, rng)
    ends, lows = minimise(x_RTP, y_R, np.ones((len(starts), len(y_R))), starts, bounds)
    best = ends[lows.argmin()]

    # As good as the best: a likelihood ratio within χ²'s 95 % if errors are Laplace's, which a small δ implies.
    tolerance = 1 + chdtri(len(names), 1 - CONFIDENCE) / (2 * len(y_R))
    good = ends[lows <= tolerance * lows.min() + 0.01 * len(y_R)]
    again = good[rng.integers(len(good), size=bootstraps)]
    centred, _ = minimise(x_RTP, y_R, _resampled(len(inside), bootstraps, rng), again, bounds)

    theta, resamples = (np.round(_at_origin(form, t, centre), 7) for t in (best, centred))
    residuals = (y_R - log_loss(x_RTP, best[None])[0]) * math.sqrt(len(y_R) / (len(y_R) - len(names)))
    new = Fit(
        law=form,
        theta=theta,
        resamples=resamples,
        residuals=np.round(residuals, 7),
        identified=_identified(form, theta, resamples, centred, bounds),
        ranges={name: (float(x.min()), float(x.max())) for name, x in places.items()},
    )
    return replace(new, fitted=new.score(inside), held_out=new.score(runs[held]) if held.any() else None)


def fit_each(
    runs: pd.DataFrame, law: str = "chinchilla", *, holdout: npt.ArrayLike | None = None, **options: int
) -> list[Fit]:
    """Fits each sparsity of the runs by itself, rising. Arguments and errors as for `fit`."""
    held = _held(runs, holdout)
    levels = sorted(finished(runs, COLUMNS)["sparsity"].unique())
    masks = [(runs["sparsity"] == level).to_numpy() for level in levels]
    return [fit(runs[mask], law, holdout=held[mask], **options) for mask in masks]


def finished(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Returns the finished runs with a loss. Raises ValueError if a column is missing, if no run is left, or if they
    were trained on different texts."""
    missing = [name for name in columns if name not in runs]
    if missing:
        raise ValueError(f"runs lack the columns {', '.join(missing)}: load them with runs.store.load_frame")
    losses = runs["val_loss"].to_numpy(float)
    kept: pd.DataFrame = runs[(runs["status"] == "finished") & np.isfinite(losses) & (losses > 0)]
    if kept.empty:
        raise ValueError(f"none of {len(runs)} runs finished with a loss: train some, or look at their status")
    if "fingerprint" in kept and kept["fingerprint"].nunique() > 1:
        most = kept["fingerprint"].mode()[0]
        odd = ", ".join(kept.loc[kept["fingerprint"] != most, "id"])
        raise ValueError(f"runs on different texts can't be compared: leave out those not on {most[:8]}, {odd}")
    return kept


def save_fits(path: Path | str, fits: Sequence[Fit]) -> None:
    """Writes fits as JSON: a list, because Chinchilla's law has one for each sparsity."""
    write_text(Path(path), json.dumps([f.to_dict() for f in fits]) + "\n")


def load_fits(path: Path | str) -> list[Fit]:
    """Reads what `save_fits` wrote. Raises ValueError for any other file."""
    try:
        return [Fit.from_dict(data) for data in json.loads(read_bytes(Path(path)))]
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} holds no fits of this version ({type(error).__name__}: {error})") from error


def _held(runs: pd.DataFrame, holdout: npt.ArrayLike | None) -> npt.NDArray[np.bool_]:
    held = np.zeros(len(runs), bool) if holdout is None else np.asarray(holdout, bool)
    if len(held) != len(runs):
        raise ValueError(f"holdout has {len(held)} values and runs {len(runs)} rows: give one value for each row")
    return held


def _places(runs: pd.DataFrame) -> tuple[Array, Array, Array]:
    n, d, s = (runs[name].to_numpy(float) for name in ("params_total", "tokens", "sparsity"))
    return n, d, s


def _logs(n: Array, d: Array, s: Array) -> dict[str, Array]:
    return {"N": -np.log(n), "D": -np.log(d), "S": -np.log1p(-s)}


def _starts(law: PowerLaw, x_RTP: Array, y_R: Array, rng: np.random.Generator) -> Array:
    """Returns the best of many random starts: (FOLLOWED, P)."""
    low, high = law.box(STARTS)
    starts = rng.uniform(low, high, (SCREENED, len(low)))
    errors = np.abs(log_loss(x_RTP, starts) - y_R).sum(1)
    return starts[np.argsort(errors)[:FOLLOWED]]


def _resampled(runs: int, bootstraps: int, rng: np.random.Generator) -> Array:
    """Returns how often each resample has each run, (B, R). All runs are drawn alike: if each budget and sparsity kept
    its number of runs, a cell of one run would never change, and one of two or three would change too little."""
    return rng.multinomial(runs, np.full(runs, 1 / runs), bootstraps).astype(float)


def _at_origin(law: PowerLaw, theta: Array, centre: Mapping[str, float]) -> Array:
    """Returns θ (…, P) with multipliers for N, D and S themselves instead of N, D and S relative to the centre."""
    moved, names = theta.copy(), law.names
    for multiplier, exponents in law.terms.items():
        for exponent, of in exponents.items():
            moved[..., names.index(multiplier)] -= theta[..., names.index(exponent)] * centre[of]
    return moved


def _identified(law: PowerLaw, theta: Array, resamples: Array, centred: Array, bounds: Array) -> dict[str, bool]:
    """Tells which coefficients have an interval that is narrow and, relative to the centre, clear of the bounds."""
    low, high = percentile_interval(centred)
    margin = 1e-3 * (bounds[1] - bounds[0])
    clear = (low > bounds[0] + margin) & (high < bounds[1] - margin)

    low, high = percentile_interval(resamples)
    multiplier = np.arange(len(theta)) < len(law.terms)
    limit = np.where(multiplier, math.log(IDENTIFIED_FACTOR), np.maximum(IDENTIFIED_WIDTH, np.abs(theta) / 2))
    known = dict(zip(law.names, map(bool, clear & (high - low <= limit)), strict=True))
    # The constant is the loss where N and D are infinite; without knowing how fast the terms fall, nobody knows it.
    falls = all(known[exponent] for exponent, of in law.exponents.items() if of != "S")
    return {name: yes and (falls or bool(law.terms.get(name, True))) for name, yes in known.items()}
