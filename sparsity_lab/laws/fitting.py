"""Laws fitted to runs: robust fits as the papers make them, with intervals, and an honest word on what stays open.

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

from sparsity_lab.files import write_text
from sparsity_lab.intervals import CONFIDENCE, percentile_interval
from sparsity_lab.laws.huber import log_loss, minimise
from sparsity_lab.laws.power_law import (
    EXPONENT,
    LAWS,
    MULTIPLIER,
    START_EXPONENT,
    START_MULTIPLIER,
    Array,
    PowerLaw,
    named,
)

SCREENED, STARTS = 2_000, 30  # random starts that are looked at; the best of them that are followed to the end
NOISE_DRAWS = 5  # residuals drawn for each resample, in a predictive interval
# A coefficient is identified if its interval keeps clear of the bounds and is no wider than this.
IDENTIFIED_FACTOR = 10.0  # multipliers: high/low
IDENTIFIED_WIDTH = 0.1  # exponents: high − low, or half the exponent's size if that is more

COLUMNS = ["sparsity", "budget", "params_total", "tokens", "val_loss", "status"]


class PredictedLoss(NamedTuple):
    """Nats a token, each of the shape that was asked for."""

    value: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Score:
    """How well a law meets runs. ``rmse`` is in nats; ``r2`` is None for runs that do not differ; ``covered`` is the
    share of runs within the predictive interval."""

    runs: int
    rmse: float
    r2: float | None
    covered: float


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with coefficients: N is all parameters, D tokens, and the loss is in nats a token."""

    law: PowerLaw
    theta: Array  # (P,) logarithms of multipliers, then exponents
    resamples: Array  # (B, P)
    residuals: Array  # (R,) log-loss, measured − fitted, as wide as those of new runs
    identified: dict[str, bool]
    ranges: dict[str, tuple[float, float]]  # of N, D and S, in the runs that were fitted
    fitted: Score | None = None
    held_out: Score | None = None

    @property
    def coefficients(self) -> dict[str, float]:
        """As in the law's equation."""
        return dict(zip(self.law.names, map(float, self._as_written(self.theta)), strict=True))

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of the coefficients: 95 %, from the resamples."""
        low, high = percentile_interval(self._as_written(self.resamples))
        return {name: (float(a), float(b)) for name, a, b in zip(self.law.names, low, high, strict=True)}

    def predict(self, N: npt.ArrayLike, D: npt.ArrayLike, S: npt.ArrayLike) -> PredictedLoss:
        """Loss of a run of N parameters on D tokens at sparsity S, and the 95 % interval for what one new run would
        measure: what resampling does to the law, and on top the residuals. That the law itself may be wrong is not in
        it, so outside the runs (see `outside`) it is too narrow.

        Arguments broadcast. Raises ValueError unless N, D > 0 and 0 ≤ S < 1, and for a law that was fitted to one
        sparsity at any other.
        """
        n, d, s = (np.asarray(x, float) for x in np.broadcast_arrays(N, D, S))
        self._check(n, d, s)
        x_MTP = self.law.design(_logs(n.ravel(), d.ravel(), s.ravel()))
        value = log_loss(x_MTP, self.theta[None])[0]
        # Every call draws the same noise: an interval under a slider moves with the slider alone.
        noise = np.random.default_rng(0).choice(self.residuals, (NOISE_DRAWS, len(self.resamples), 1))
        samples = log_loss(x_MTP, self.resamples) + noise
        low, high = percentile_interval(samples.reshape(noise.size, n.size))
        return PredictedLoss(*(np.exp(y).reshape(n.shape)[()] for y in (value, low, high)))

    def outside(self, N: float, D: float, S: float) -> str:
        """A warning for a place that the fitted runs do not reach; empty for one within."""
        given = {"N": N, "D": D, "S": S}
        beyond = [
            f"{name}={given[name]:.4g} (fitted: {low:.4g} to {high:.4g})"
            for name, (low, high) in self.ranges.items()
            if not low <= given[name] <= high
        ]
        return f"outside the runs that were fitted: {', '.join(beyond)}" if beyond else ""

    def table(self) -> pd.DataFrame:
        """Columns coefficient, value, low, high, identified."""
        rows = [(n, v, *self.intervals[n], self.identified[n]) for n, v in self.coefficients.items()]
        return pd.DataFrame(rows, columns=["coefficient", "value", "low", "high", "identified"])

    def report(self) -> dict[str, Any]:
        """What `summary` says, as data."""
        coefficients = self.table().set_index("coefficient").to_dict("index")
        what = {"law": self.law.name, "equation": self.law.equation, "runs": len(self.residuals)}
        return what | {"ranges": self.ranges, "coefficients": coefficients} | self._scores_as_data

    def summary(self) -> str:
        low, high = self.ranges["S"]
        where = f"S = {low:.4g}" if low == high else f"S from {low:.4g} to {high:.4g}"
        lines = [f"L = {self.law.equation}", f"{len(self.residuals)} runs, {where}", ""]
        lines.append(f"{'':<10}{'value':>12}{'95 % interval':>26}")
        for _, name, value, a, b, identified in self.table().itertuples():
            note = "" if identified else "   not identified by these runs"
            lines.append(f"{name:<10}{value:>12.4g}{f'{a:.4g} to {b:.4g}':>26}{note}")
        for name, score in self._scores.items():
            if score is not None:
                label, r2 = name.replace("_", " "), "" if score.r2 is None else f", R² {score.r2:.1%}"
                lines.append(
                    f"{label}: {score.runs} runs, off by {score.rmse:.4f} nats (root mean square){r2}, "
                    f"{score.covered:.0%} within the 95 % interval"
                )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        what = {"law": self.law.name, "identified": self.identified, "ranges": self.ranges}
        arrays = {name: getattr(self, name).tolist() for name in ("theta", "resamples", "residuals")}
        return what | arrays | self._scores_as_data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises ValueError for what `to_dict` did not make."""
        try:
            return cls(
                law=LAWS[data["law"]],
                theta=np.array(data["theta"], float),
                resamples=np.array(data["resamples"], float),
                residuals=np.array(data["residuals"], float),
                identified=dict(data["identified"]),
                ranges={name: (low, high) for name, (low, high) in data["ranges"].items()},
                fitted=data["fitted"] and Score(**data["fitted"]),
                held_out=data["held_out"] and Score(**data["held_out"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a fit of this version ({type(error).__name__}: {error})") from error

    @property
    def _scores(self) -> dict[str, Score | None]:
        return {"fitted": self.fitted, "held_out": self.held_out}

    @property
    def _scores_as_data(self) -> dict[str, Any]:
        return {name: score and asdict(score) for name, score in self._scores.items()}

    def _as_written(self, theta: Array) -> Array:
        """θ (…, P) with multipliers instead of their logarithms."""
        terms = len(self.law.terms)
        return np.concatenate([np.exp(theta[..., :terms]), theta[..., terms:]], -1)

    def _check(self, n: Array, d: Array, s: Array) -> None:
        for name, values in (("N", n), ("D", d)):
            if not (np.isfinite(values) & (values > 0)).all():
                raise ValueError(f"{name}={values.min():g} must be a finite number above 0")
        if not ((s >= 0) & (s < 1)).all():
            raise ValueError(f"S={s.min() if s.min() < 0 else s.max():g} must be at least 0 and below 1")
        low, high = self.ranges["S"]
        if "S" not in self.law.exponents.values() and not ((s == low) & (s == high)).all():
            raise ValueError(f"S={s.max():g}: this {self.law.name} law was fitted at S={low:g} and knows no other")


def fit(
    runs: pd.DataFrame,
    law: str = "abnar",
    *,
    holdout: npt.ArrayLike | None = None,
    bootstraps: int = 200,
    seed: int = 0,
) -> Fit:
    """Fits a law to finished runs: Huber loss (δ = 1e-3) on log-loss from many starts, as the papers do.

    ``runs`` has one row a run and the columns sparsity, budget, params_total, tokens, val_loss and status; rows where
    ``holdout`` (a boolean each) is true are not fitted but predicted. Intervals come from ``bootstraps`` resamples of
    runs, widths and seeds alike, within each budget and sparsity. A resample starts where one of the good starts
    ended: in a flat valley these lie far apart, and the intervals say so.

    Raises ValueError for missing columns, an unknown law, fewer finished runs than the law needs, and for a law without
    S on runs of several sparsities (see `fit_each`).
    """
    from scipy.special import chdtri  # χ²; here, so that a dashboard need not wait for scipy

    form = named(law)
    if bootstraps < 2:
        raise ValueError(f"bootstraps={bootstraps} must be at least 2, and 200 for steady intervals")
    held = np.zeros(len(runs), bool) if holdout is None else np.asarray(holdout, bool)
    if len(held) != len(runs):
        raise ValueError(f"holdout has {len(held)} values and runs {len(runs)} rows: give one a row")
    inside = finished(runs[~held], COLUMNS)
    names = form.names
    if len(inside) <= len(names):
        raise ValueError(f"{law} has {len(names)} coefficients and needs more finished runs, got {len(inside)}")
    if "S" not in form.exponents.values() and inside["sparsity"].nunique() > 1:
        levels = ", ".join(f"{s:g}" for s in sorted(inside["sparsity"].unique()))
        raise ValueError(f"the {law} law knows no sparsity and the runs have S = {levels}: use one, or fit_each")

    rng = np.random.default_rng(seed)
    logs = _logs(*_places(inside))
    centre = {name: float(x.mean()) for name, x in logs.items()}  # multipliers at the centre are of the loss's size
    x_RTP = form.design({name: x - centre[name] for name, x in logs.items()})
    y_R = np.log(inside["val_loss"].to_numpy(float))
    bounds = form.box(MULTIPLIER, EXPONENT)

    starts = _starts(form, x_RTP, y_R, rng)
    ends, lows = minimise(x_RTP, y_R, np.ones((len(starts), len(y_R))), starts, bounds)
    best = ends[lows.argmin()]
    # As good as the best: a likelihood ratio within χ²'s 95 % if errors are Laplace's, which is what a small δ says.
    tolerance = 1 + chdtri(len(names), 1 - CONFIDENCE) / (2 * len(y_R))
    good = ends[lows <= tolerance * lows.min() + 0.01 * len(y_R)]
    again = good[rng.integers(len(good), size=bootstraps)]
    centred, _ = minimise(x_RTP, y_R, _resampled(inside, bootstraps, rng), again, bounds)

    theta, resamples = (np.round(_at_origin(form, t, centre), 7) for t in (best, centred))
    residuals = (y_R - log_loss(x_RTP, best[None])[0]) * math.sqrt(len(y_R) / (len(y_R) - len(names)))
    identified = _identified(form, theta, resamples, _clear(centred, bounds))
    new = Fit(
        law=form,
        theta=theta,
        resamples=resamples,
        residuals=np.round(residuals, 7),
        identified=identified,
        ranges={name: (float(x.min()), float(x.max())) for name, x in zip("NDS", _places(inside), strict=True)},
    )
    kept_back = finished(runs[held], COLUMNS) if held.any() else None
    return replace(new, fitted=score(new, inside), held_out=None if kept_back is None else score(new, kept_back))


def fit_each(
    runs: pd.DataFrame, law: str = "chinchilla", *, holdout: npt.ArrayLike | None = None, **options: int
) -> list[Fit]:
    """A fit for each sparsity of the runs, rising. Arguments and errors as for `fit`."""
    held = np.zeros(len(runs), bool) if holdout is None else np.asarray(holdout, bool)
    levels = sorted(finished(runs, COLUMNS)["sparsity"].unique())
    masks = [(runs["sparsity"] == level).to_numpy() for level in levels]
    return [fit(runs[mask], law, holdout=held[mask], **options) for mask in masks]


def score(fitted: Fit, runs: pd.DataFrame) -> Score:
    """How well it meets these runs. Raises ValueError as `finished` does."""
    runs = finished(runs, COLUMNS)
    loss = runs["val_loss"].to_numpy(float)
    value, low, high = fitted.predict(*_places(runs))
    mse, variance = float(np.mean((value - loss) ** 2)), float(np.var(loss))
    covered = float(np.mean((low <= loss) & (loss <= high)))
    return Score(len(loss), math.sqrt(mse), 1 - mse / variance if variance else None, covered)


def finished(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of finished runs with a loss. Raises ValueError if a column is missing or no run is left."""
    missing = [name for name in columns if name not in runs]
    if missing:
        raise ValueError(
            f"runs lack the columns {', '.join(missing)}: load them with sparsity_lab.runs.store.load_frame"
        )
    kept: pd.DataFrame = runs[(runs["status"] == "finished") & np.isfinite(runs["val_loss"].to_numpy(float))]
    if kept.empty:
        raise ValueError(f"none of {len(runs)} runs finished with a loss: train some, or look at their status")
    return kept


def save_fits(path: Path | str, fits: Sequence[Fit]) -> None:
    """Writes fits as JSON: of Chinchilla's law there is one a sparsity."""
    write_text(Path(path), json.dumps([f.to_dict() for f in fits]) + "\n")


def load_fits(path: Path | str) -> list[Fit]:
    """What `save_fits` wrote. Raises ValueError for another file."""
    try:
        data = json.loads(Path(path).read_text())
        return [Fit.from_dict(each) for each in data]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no fits: {error}") from error


def _places(runs: pd.DataFrame) -> tuple[Array, Array, Array]:
    n, d, s = (runs[name].to_numpy(float) for name in ("params_total", "tokens", "sparsity"))
    return n, d, s


def _logs(n: Array, d: Array, s: Array) -> dict[str, Array]:
    return {"N": -np.log(n), "D": -np.log(d), "S": -np.log1p(-s)}


def _starts(law: PowerLaw, x_RTP: Array, y_R: Array, rng: np.random.Generator) -> Array:
    """The best of many random starts: (STARTS, P)."""
    low, high = law.box(START_MULTIPLIER, START_EXPONENT)
    starts = rng.uniform(low, high, (SCREENED, len(low)))
    errors = np.abs(log_loss(x_RTP, starts) - y_R).sum(1)
    return starts[np.argsort(errors)[:STARTS]]


def _resampled(runs: pd.DataFrame, bootstraps: int, rng: np.random.Generator) -> Array:
    """How often each resample has each run: (B, R). Every budget and sparsity keeps its number of runs."""
    weights_BR = np.zeros((bootstraps, len(runs)))
    for rows in runs.groupby(["budget", "sparsity"]).indices.values():
        weights_BR[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), bootstraps)
    return weights_BR


def _at_origin(law: PowerLaw, theta: Array, centre: Mapping[str, float]) -> Array:
    """θ (…, P) with the multipliers that belong to N, D and S themselves instead of to N, D and S over the centre."""
    moved, names = theta.copy(), law.names
    for multiplier, exponents in law.terms.items():
        for exponent, of in exponents.items():
            moved[..., names.index(multiplier)] -= theta[..., names.index(exponent)] * centre[of]
    return moved


def _clear(resamples: Array, bounds: Array) -> npt.NDArray[np.bool_]:
    """Whether a coefficient's interval keeps clear of its bounds."""
    low, high = percentile_interval(resamples)
    margin = 1e-3 * (bounds[1] - bounds[0])
    clear: npt.NDArray[np.bool_] = (low > bounds[0] + margin) & (high < bounds[1] - margin)
    return clear


def _identified(law: PowerLaw, theta: Array, resamples: Array, clear: npt.NDArray[np.bool_]) -> dict[str, bool]:
    low, high = percentile_interval(resamples)
    multiplier = np.arange(len(theta)) < len(law.terms)
    limit = np.where(multiplier, math.log(IDENTIFIED_FACTOR), np.maximum(IDENTIFIED_WIDTH, np.abs(theta) / 2))
    known = dict(zip(law.names, map(bool, clear & (high - low <= limit)), strict=True))
    # The constant is what is left where N and D are infinite: nobody knows it who doesn't know how the terms fall.
    falls = all(known[exponent] for exponent, of in law.exponents.items() if of != "S")
    return {name: yes and (falls or bool(law.terms.get(name, True))) for name, yes in known.items()}
