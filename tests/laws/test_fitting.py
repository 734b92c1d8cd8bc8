"""Fits give back the laws that runs were made from, and say what runs cannot tell."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from scipy.optimize import approx_fprime, minimize

from benchmarks.fit import grid, law, measured
from sparsity_lab.laws import huber
from sparsity_lab.laws.fitting import Fit, _starts, finished, fit, fit_each, load_fits, save_fits
from sparsity_lab.laws.power_law import BOUNDS, LAWS

# Besiroglu et al. 2024 (arXiv 2404.10102), and sizes and tokens like those of Hoffmann et al.
CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
ABNAR = {"a": 16612.50, "b": 5455.67, "c": 0.4598, "d": 17.26, "e": 0.94}
ABNAR |= {"alpha": 0.5962, "beta": 0.3954, "lambda": -0.1666, "delta": 0.1603, "gamma": 0.1595}


def frame(N: np.ndarray, D: np.ndarray, S: float, loss: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"params_total": N, "tokens": D, "val_loss": loss})
    return table.assign(sparsity=S, budget=1.0, status="finished")


@pytest.fixture(scope="module")
def chinchilla_runs() -> pd.DataFrame:
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(5e7, 1.6e10, 15), np.geomspace(1e9, 5e11, 15)))
    c = CHINCHILLA
    loss = c["A"] / N ** c["alpha"] + c["B"] / D ** c["beta"] + c["E"]
    return frame(N, D, 0.0, loss * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(N))))


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return measured(grid())


@pytest.fixture(scope="module")
def abnar(runs: pd.DataFrame) -> Fit:
    return fit(runs, "abnar", holdout=runs["budget"] == 1e13)


# ---- The loss, its gradient, its minimum


def problem(name: str, rng: np.random.Generator, runs: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (R, T, P), y (R,) and a θ (P,)."""
    x = LAWS[name].design({of: rng.normal(size=runs) for of in "NDS"})
    return x, rng.normal(0.5, 0.3, runs), rng.normal(0, 0.3, x.shape[-1])


def plainly(name: str, coefficients: dict[str, float], N: float, D: float, S: float) -> float:
    """The equation, read from its text."""
    text = LAWS[name].equation.replace("^", "**").replace("d/((1-S)**delta N", "d/((1-S)**delta*N")
    return float(eval(text.replace("lambda", "lambda_"), {"N": N, "D": D, "S": S} | rename(coefficients)))


def rename(coefficients: dict[str, float]) -> dict[str, float]:
    return {name.replace("lambda", "lambda_"): value for name, value in coefficients.items()}


@pytest.mark.parametrize("name", LAWS)
def test_design_is_the_equation(name: str) -> None:
    form, rng = LAWS[name], np.random.default_rng(0)
    for _ in range(20):
        theta = rng.normal(0, 0.5, len(form.names))
        N, D, S = rng.uniform(2, 20), rng.uniform(2, 20), rng.uniform(0, 0.9)
        x = form.design(
            {"N": np.array([-math.log(N)]), "D": np.array([-math.log(D)]), "S": np.array([-math.log(1 - S)])}
        )
        multipliers = len(form.terms)
        values = dict(zip(form.names, [*np.exp(theta[:multipliers]), *theta[multipliers:]], strict=True))
        assert np.exp(huber.log_loss(x, theta[None]))[0, 0] == pytest.approx(plainly(name, values, N, D, S), rel=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_loss_and_gradient_against_scipy(name: str) -> None:
    rng = np.random.default_rng(1)
    x, y, theta = problem(name, rng)
    weights = rng.integers(0, 4, len(y)).astype(float)

    def plain(theta: np.ndarray) -> float:
        total = 0.0
        for w, row, log in zip(weights, x, y, strict=True):
            total += w * special.huber(huber.DELTA, special.logsumexp(row @ theta) - log)
        return total / huber.DELTA**2

    errors, shares = huber._errors(x, y, theta[None])
    assert huber.huber(errors, weights)[0] == pytest.approx(plain(theta), rel=1e-10)
    gradient, _ = huber.derivatives(x, errors, shares, weights[None])
    np.testing.assert_allclose(gradient[0], approx_fprime(theta, plain, 1e-7), rtol=1e-4, atol=1e-4 * plain(theta))


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.integers(0, 99))
def test_a_weight_is_a_repeated_run(weights: list[int], seed: int) -> None:
    x, y, theta = problem("abnar", np.random.default_rng(seed))
    many = np.repeat(np.arange(12), weights)
    weighted = huber.huber(huber._errors(x, y, theta[None])[0], np.array([weights], float))
    repeated = huber.huber(huber._errors(x[many], y[many], theta[None])[0], np.ones((1, len(many))))
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-9)


def test_minimum_is_that_of_l_bfgs(runs: pd.DataFrame) -> None:
    form, rng = LAWS["abnar"], np.random.default_rng(0)
    logs = {"N": -np.log(runs["params_total"]), "D": -np.log(runs["tokens"]), "S": -np.log1p(-runs["sparsity"])}
    x = form.design({of: (values - values.mean()).to_numpy() for of, values in logs.items()})
    y, bounds = np.log(runs["val_loss"].to_numpy()), form.box(BOUNDS)
    starts = _starts(form, x, y, rng)
    ends, values = huber.minimise(x, y, np.ones((len(starts), len(y))), starts, bounds)
    best = ends[values.argmin()]
    resample = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), 1).astype(float)
    (again,) = huber.minimise(x, y, resample, best[None], bounds)[1]
    for weights, lowest in ((np.ones(len(y)), values.min()), (resample[0], again)):

        def loss(theta: np.ndarray, weights: np.ndarray = weights) -> tuple[float, np.ndarray]:
            errors, shares = huber._errors(x, y, theta[None])
            return huber.huber(errors, weights)[0], huber.derivatives(x, errors, shares, weights[None])[0][0]

        options = {"maxiter": 300, "maxcor": 5, "ftol": 1e-10}
        there = minimize(loss, best, jac=True, method="L-BFGS-B", bounds=bounds.T, options=options)
        assert lowest <= there.fun * 1.001


# ---- Recovery


def test_chinchilla_gives_its_coefficients_back(chinchilla_runs: pd.DataFrame) -> None:
    made = fit(chinchilla_runs, "chinchilla")
    assert all(made.identified.values())
    found = made.table().set_index("coefficient")
    for name, value in CHINCHILLA.items():
        low, high = found.loc[name, ["low", "high"]]
        assert low <= found.loc[name, "value"] <= high
        assert low * 0.98 <= value <= high * 1.02, name
    for name, off in {"E": 0.02, "alpha": 0.01, "beta": 0.01}.items():
        assert found.loc[name, "value"] == pytest.approx(CHINCHILLA[name], abs=off)


def test_intervals_cover_when_every_run_stands_alone() -> None:
    """Each run has a budget of its own, so a resample that kept to budgets would be the sample again."""
    rng, c, runs, times = np.random.default_rng(0), CHINCHILLA, 80, 60
    covered = []
    for seed in range(times):
        N, D = np.exp(rng.uniform(np.log([[5e7], [1e9]]), np.log([[1.6e10], [5e11]]), (2, runs)))
        loss = c["A"] / N ** c["alpha"] + c["B"] / D ** c["beta"] + c["E"]
        table = frame(N, D, 0.0, loss * np.exp(0.005 * rng.standard_normal(runs))).assign(budget=6 * N * D)
        found = fit(table, "chinchilla", bootstraps=100, seed=seed).table().set_index("coefficient")
        covered += [found.loc[name, "low"] <= value <= found.loc[name, "high"] for name, value in c.items()]
    assert 0.92 <= np.mean(covered) <= 0.985


def test_an_outlier_hardly_moves_it(chinchilla_runs: pd.DataFrame) -> None:
    broken = chinchilla_runs.copy()
    broken.loc[::20, "val_loss"] *= 1.5
    first, second = (fit(table, "chinchilla", bootstraps=2) for table in (chinchilla_runs, broken))
    e = [made.table().set_index("coefficient").loc["E", "value"] for made in (first, second)]
    assert e[1] == pytest.approx(e[0], abs=0.01)


def test_abnar_predicts_what_it_cannot_identify(abnar: Fit, runs: pd.DataFrame) -> None:
    """Ten coefficients are more than these runs can tell; the losses are told to within the noise of 0.01."""
    assert not all(abnar.identified.values())
    assert abnar.identified["beta"]
    inside = runs[runs["budget"] < 1e13]
    places = [inside[name] for name in ("params_total", "tokens", "sparsity")]
    assert np.sqrt(np.mean((abnar.predict(*places).value - law(*places)) ** 2)) < 0.004
    assert abnar.fitted is not None
    assert abnar.fitted.rmse == pytest.approx(0.01, abs=0.002)
    assert abnar.fitted.runs == 160


def test_published_law_is_within_the_fit_of_its_own_losses() -> None:
    """Abnar's Eq. 6 at the paper's scale, without noise: predictions to a thousandth."""
    S, C, N = (
        x.ravel() for x in np.meshgrid([0, 0.5, 0.75, 0.9, 0.95], [3e19, 1e20, 1e21], np.geomspace(3e8, 3e10, 7))
    )
    D = C / (6 * (1 - S) * N)
    loss = np.array([plainly("abnar", ABNAR, *place) for place in zip(N, D, S, strict=True)])
    table = frame(N, D, 0.0, loss).assign(sparsity=S, budget=C)
    value = fit(table, "abnar", bootstraps=2).predict(N, D, S).value
    np.testing.assert_allclose(value, loss, rtol=1e-3)


def test_each_sparsity_has_a_chinchilla(runs: pd.DataFrame) -> None:
    fits = fit_each(runs, holdout=runs["budget"] == 1e13, bootstraps=20)
    assert [f.ranges["S"] for f in fits] == [(s, s) for s in (0, 0.75, 0.9375, 0.984375)]
    assert [f.fitted.runs for f in fits if f.fitted] == [40] * 4
    assert [f.held_out.runs for f in fits if f.held_out] == [10] * 4
    with pytest.raises(ValueError, match=r"S=0.5: this chinchilla law was fitted at S=0 and knows no other"):
        fits[0].predict(1e5, 1e6, 0.5)


# ---- What runs cannot tell


def test_one_budget_and_one_sparsity_identify_nothing(runs: pd.DataFrame) -> None:
    few = runs[(runs["budget"] == 1e12) & (runs["sparsity"] == 0.75)]
    for name in ("chinchilla", "reduced"):
        made = fit(few, name)
        assert not any(made.identified.values()), made.summary()
        assert made.summary().count("not identified by these runs") == len(made.identified)


def test_one_sparsity_says_nothing_about_sparsity(runs: pd.DataFrame) -> None:
    made = fit(runs[runs["sparsity"] == 0.75], "reduced")
    assert made.identified == {"b": True, "d": False, "e": True, "beta": True, "delta": False, "gamma": True}
    low, high = made.table().set_index("coefficient").loc["delta", ["low", "high"]]
    assert high - low > 1


# ---- Intervals


def test_predictive_interval_covers_held_out_runs() -> None:
    """Of runs that were left out here and there, 95 % are within; of a budget beyond those fitted, most."""
    within, beyond = [], []
    for seed in range(2):
        runs = measured(grid(), seed=seed)
        left_out = np.random.default_rng(seed).random(len(runs)) < 0.2
        made = fit(runs, "abnar", holdout=left_out, bootstraps=50, seed=seed)
        assert made.held_out is not None
        within.append(made.held_out.covered)
        made = fit(runs, "abnar", holdout=runs["budget"] == 1e13, bootstraps=50, seed=seed)
        assert made.held_out is not None
        beyond.append(made.held_out.covered)
    assert np.mean(within) == pytest.approx(0.95, abs=0.05)
    assert np.mean(beyond) >= 0.8


def test_interval_is_wider_outside(abnar: Fit) -> None:
    inside, outside = abnar.predict(1e5, 1e7, 0.9), abnar.predict(1e9, 1e7, 0.9)
    assert inside.low < inside.value < inside.high
    assert outside.high - outside.low > 2 * (inside.high - inside.low)
    assert abnar.outside(1e5, 1e7, 0.9) == ""
    assert abnar.outside(1e9, 1e7, 0.9).startswith("outside the runs that were fitted: N=1e+09 (fitted: 5832 to ")


def test_predict_broadcasts(abnar: Fit) -> None:
    N, S = np.array([1e4, 1e5, 1e6])[:, None], np.array([0.0, 0.9])
    many = abnar.predict(N, 1e7, S)
    for (i, n), (j, s) in itertools.product(enumerate(N[:, 0]), enumerate(S)):
        one = abnar.predict(n, 1e7, s)
        assert isinstance(one.value, float)
        assert [x[i, j] for x in many] == pytest.approx(list(one), rel=1e-12)


def test_same_seed_same_fit(runs: pd.DataFrame) -> None:
    a, b, c = (fit(runs, "reduced", bootstraps=5, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.resamples, b.resamples)
    assert not np.array_equal(a.resamples, c.resamples)
    np.testing.assert_allclose(a.theta, c.theta, atol=0.02)


# ---- Files and mistakes


def test_saved_and_loaded(abnar: Fit, tmp_path: Path) -> None:
    save_fits(tmp_path / "fit.json", [abnar])
    (again,) = load_fits(tmp_path / "fit.json")
    assert again.to_dict() == abnar.to_dict()
    assert again.predict(1e5, 1e7, 0.9) == abnar.predict(1e5, 1e7, 0.9)
    assert again.summary() == abnar.summary()


@pytest.mark.parametrize("text", ["", "3", "[3]", '[{"law": "abnar"}]', '{"law": "abnar"}'])
def test_a_file_without_fits(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other.json holds no fits"):
        load_fits(tmp_path / "other.json")


def test_score(abnar: Fit, runs: pd.DataFrame) -> None:
    held = runs[runs["budget"] == 1e13]
    assert abnar.score(held) == abnar.held_out
    error = abnar.predict(held["params_total"], held["tokens"], held["sparsity"]).value - held["val_loss"]
    assert abnar.score(held).rmse == pytest.approx(np.sqrt(np.mean(error**2)))
    assert abnar.score(held).r2 == pytest.approx(1 - np.mean(error**2) / np.var(held["val_loss"]))
    assert abnar.score(held[:1]).r2 is None


def test_only_finished_runs_count(runs: pd.DataFrame) -> None:
    table = runs[:4].copy()
    table.loc[0, "status"] = "stopped"
    table.loc[1, ["status", "val_loss"]] = ["diverged", np.nan]
    assert finished(table, ["val_loss"]).index.tolist() == [2, 3]


def test_mistakes(runs: pd.DataFrame, abnar: Fit) -> None:
    with pytest.raises(ValueError, match=r"law='kaplan' is not known: use one of abnar, reduced, chinchilla"):
        fit(runs, "kaplan")
    with pytest.raises(ValueError, match=r"bootstraps=0 must be at least 2"):
        fit(runs, bootstraps=0)
    with pytest.raises(ValueError, match=r"runs lack the columns tokens, status"):
        fit(runs.drop(columns=["tokens", "status"]))
    with pytest.raises(ValueError, match=r"none of 200 runs finished with a loss"):
        fit(runs.assign(val_loss=np.nan))
    with pytest.raises(ValueError, match=r"abnar has 10 coefficients and needs more finished runs, got 10"):
        fit(runs[:10])
    with pytest.raises(ValueError, match=r"holdout has 3 values and runs 200 rows"):
        fit(runs, holdout=[True, False, True])
    with pytest.raises(ValueError, match=r"the chinchilla law knows no sparsity and the runs have S = 0, 0.75, "):
        fit(runs, "chinchilla")
    for place, message in (((0, 1, 0), "N=0"), ((1, np.inf, 0), "D=inf"), ((1, 1, 1), "S=1"), ((1, 1, -1), "S=-1")):
        with pytest.raises(ValueError, match=message):
            abnar.predict(*place)
