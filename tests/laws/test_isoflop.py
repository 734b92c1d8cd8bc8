"""Best sizes at the minima of curves, and verdicts on laws of which it is known whether a claim holds."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fit import grid, measured
from sparsity_lab.intervals import holm
from sparsity_lab.laws import isoflop
from sparsity_lab.laws.curves import curves
from sparsity_lab.laws.isoflop import CLAIMS, judge_claims, near_best, optima, surfaces

Array = np.ndarray
Loss = Callable[[Array, Array, Array], Array]  # of log N_a, s = −log(1 − S) and log10 of the budget over 1e11

SPARSITIES = (0.0, 0.75, 0.9375, 0.984375)
SHARE = 0.25  # log N = log N_a + SHARE · s: sizes of one sparsity overlap with those of the others


def made(
    loss: Loss,
    noise: float = 0.003,
    seeds: int = 2,
    seed: int = 0,
    *,
    budgets: Sequence[float] = (1e11, 1e12, 1e13),
    sparsities: Sequence[float] = SPARSITIES,
    share: float = SHARE,
) -> pd.DataFrame:
    """Runs of five widths around N_a = e¹⁰, a factor of e apart."""
    rows = [
        {"budget": budget, "sparsity": s, "width": i, "params_active": math.exp(8 + i), "seed": k}
        for budget in budgets
        for s in sparsities
        for i in range(5)
        for k in range(seeds)
    ]
    runs = pd.DataFrame(rows).assign(top_k=1, status="finished")
    s, active = -np.log1p(-runs["sparsity"]), np.log(runs["params_active"])
    errors = noise * np.random.default_rng(seed).standard_normal(len(runs))
    return runs.assign(
        params_total=np.exp(active + share * s),
        tokens=runs["budget"] / (6 * runs["params_active"]),
        val_loss=loss(active, s, np.log10(runs["budget"] / 1e11)) + errors,
    )


def bowl(active: Array, s: Array, c: Array) -> Array:
    """The story as Abnar et al. tell it."""
    return 0.05 * (active - (10 - 0.15 * s)) ** 2 + 2 - 0.3 * c - (0.05 + 0.02 * c) * s


ENOUGH = 600  # resamples: the smallest p that Holm's method lets a claim of nine rows have is 18 in as many


def verdict_of(loss: Loss, claim: str) -> set[str]:
    table = judge_claims(made(loss), bootstraps=ENOUGH)
    return set(table.loc[table["claim"] == claim, "verdict"])


# ---- The best sizes


def test_optimum_of_a_valley() -> None:
    table = optima(made(bowl))
    assert len(table) == 12
    assert table["bracketed"].all()
    s, c = -np.log1p(-table["sparsity"]), np.log10(table["budget"] / 1e11)
    np.testing.assert_allclose(np.log(table["n_active"]), 10 - 0.15 * s, atol=0.1)
    np.testing.assert_allclose(np.log(table["n_total"]), 10 + (SHARE - 0.15) * s, atol=0.1)
    np.testing.assert_allclose(table["tokens"], table["budget"] / (6 * table["n_active"]), rtol=1e-6)
    np.testing.assert_allclose(table["loss"], 2 - 0.3 * c - (0.05 + 0.02 * c) * s, atol=0.01)
    for name in ("n_active", "n_total", "tokens", "loss"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[name] < table[f"{name}_high"]).all()


def test_intervals_cover_the_truth() -> None:
    covered = []
    for seed in range(40):
        table = optima(made(bowl, noise=0.01, seed=seed), bootstraps=200, seed=seed)
        s, c = -np.log1p(-table["sparsity"]), np.log10(table["budget"] / 1e11)
        for name, truth in (("n_active", np.exp(10 - 0.15 * s)), ("loss", 2 - 0.3 * c - (0.05 + 0.02 * c) * s)):
            covered += list((table[f"{name}_low"] <= truth) & (truth <= table[f"{name}_high"]))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_a_budget_with_nothing_to_tell_noise_by_is_left_out() -> None:
    """Three runs of one curve are as many as a parabola has parameters."""
    runs = made(bowl)
    thin = runs[(runs["budget"] < 1e13) | ((runs["width"] < 3) & (runs["seed"] == 0) & (runs["sparsity"] == 0))]
    pd.testing.assert_frame_equal(optima(thin, bootstraps=20), optima(runs[runs["budget"] < 1e13], bootstraps=20))


def test_optima_are_the_best_of_the_curves() -> None:
    runs = made(bowl)
    for (_, row), curve in zip(optima(runs).iterrows(), curves(runs), strict=True):
        assert (row["budget"], row["sparsity"]) == (curve.budget, curve.sparsity)
        place, loss = curve.best
        assert (row["n_active"], row["loss"]) == pytest.approx((math.exp(place[0]), loss[0]))
        assert row["n_total"] == pytest.approx(curve.at(place, "params_total")[0])
        assert [row["loss_low"], row["loss_high"]] == pytest.approx(np.quantile(loss[1:], [0.025, 0.975]))


@pytest.mark.parametrize("centre", [7.0, 13.0, -math.inf])
def test_a_minimum_at_the_edge_is_not_bracketed(centre: float) -> None:
    """Beyond the smallest, beyond the largest, and of losses that fall to both sides, most of all to the right."""

    def loss(active: Array, s: Array, c: Array) -> Array:
        return 2 - 0.02 * (active - 9.8) ** 2 if math.isinf(centre) else 0.05 * (active - centre) ** 2 + 1

    table = optima(made(loss, noise=0.001), bootstraps=100)
    assert not table["bracketed"].any()
    edge = 8 if centre == 7 else 12
    np.testing.assert_allclose(np.log(table["n_active"]), edge)


@settings(max_examples=15)
@given(st.floats(-1, 1), st.floats(0.1, 10))
def test_optima_move_with_units(lift: float, factor: float) -> None:
    runs = made(bowl)
    moved = runs.assign(val_loss=runs["val_loss"] + lift, params_active=runs["params_active"] * factor)
    before, after = (optima(table, bootstraps=5) for table in (runs, moved))
    np.testing.assert_allclose(after["loss"], before["loss"] + lift, rtol=1e-6)
    np.testing.assert_allclose(after["n_active"], before["n_active"] * factor, rtol=1e-4)
    np.testing.assert_allclose(after["n_active_low"], before["n_active_low"] * factor, rtol=1e-4)


def test_runs_near_the_best_are_kept() -> None:
    """The best N_a is from e^9.4 of the sparsest models to e¹⁰ of dense ones."""
    runs = made(bowl)
    kept = near_best(runs, 3)
    far = np.abs(np.log(runs["params_active"]) - (10 + 0.15 * np.log1p(-runs["sparsity"])))
    assert kept.index.tolist() == runs.index[far < math.log(3)].tolist()
    unknown = runs[(runs["budget"] < 1e13) | (runs["width"] < 2)]
    kept = near_best(unknown, 3)
    assert (kept["budget"] == 1e13).sum() == (unknown["budget"] == 1e13).sum()
    with pytest.raises(ValueError, match=r"^factor=0.5 must be at least 1"):
        near_best(runs, 0.5)


# ---- The surface


def test_surface_gives_a_polynomial_back() -> None:
    def loss(active: Array, s: Array, c: Array) -> Array:
        n = active + SHARE * s
        return 5 - 0.4 * n + 0.02 * n**2 + 0.3 * s + 0.02 * s**2 - 0.04 * n * s + 0.0001 * (n * s) ** 2

    for surface in surfaces(made(loss, noise=1e-6)):
        np.testing.assert_allclose(surface.samples[0], [5, -0.4, 0.02, 0.3, 0.02, -0.04, 0.0001], rtol=0.01, atol=1e-5)
        N, S = np.array([1e4, 3e4]), np.array([0.5, 0.9])
        s = -np.log(1 - S)
        np.testing.assert_allclose(surface.loss(N, S), loss(np.log(N) - SHARE * s, s, s), rtol=1e-4)
        assert surface.window is not None
        np.testing.assert_allclose(surface.window, [(8 + SHARE * math.log(64), 12), (0, math.log(64))])


def test_window_holds_three_sparsities_at_least() -> None:
    (first, *_) = surfaces(measured(grid()), bootstraps=5)
    assert first.window is not None
    (low, high), edges = first.window
    runs = measured(grid())
    runs = runs[runs["budget"] == first.budget].groupby("sparsity")["params_total"]
    holding = [s for s, n in runs if n.min() <= math.exp(low) * 1.001 and math.exp(high) <= n.max() * 1.001]
    assert holding == [0, 0.75, 0.9375]
    assert edges == pytest.approx((0, math.log(16)))


# ---- Verdicts


def test_the_story_holds_where_it_is_true() -> None:
    table = judge_claims(made(bowl), bootstraps=ENOUGH)
    assert table["claim"].nunique() == len(CLAIMS)
    without_2a = table[table["claim"] != "2a"]
    assert set(without_2a["verdict"]) == {"holds"}, table
    assert (table["low"] <= table["estimate"]).all()
    assert (table["estimate"] <= table["high"]).all()


def growing(active: Array, s: Array, c: Array) -> Array:
    """The best active size grows with S, and S hurts more with compute and costs at every step."""
    return 0.05 * (active - (10 + 0.15 * s)) ** 2 + 2 + 0.1 * c + (0.02 + 0.02 * c) * s


def shrinking(active: Array, s: Array, c: Array) -> Array:
    """The best size shrinks faster than sparsity adds to it."""
    return 0.05 * (active - (11 - 0.45 * s)) ** 2 + 2


def best_in_the_middle(active: Array, s: Array, c: Array) -> Array:
    return 2 + 0.05 * (s - 2) ** 2 + 0.01 * (active - 10) ** 2


def falling(active: Array, s: Array, c: Array) -> Array:
    """More sparsity and more parameters are always better; more parameters make sparsity matter less."""
    return 3 - 0.05 * active - 0.3 * s + 0.02 * s * (active + SHARE * s)


@pytest.mark.parametrize(
    ("loss", "claim"),
    [
        (shrinking, "1a"),
        (growing, "1b"),
        (growing, "1c"),
        (growing, "1d"),
        (falling, "2a"),
        (falling, "2b"),
        (falling, "3"),
        (growing, "4"),
        (growing, "5"),
    ],
)
def test_a_claim_that_is_false(loss: Loss, claim: str) -> None:
    assert verdict_of(loss, claim) == {"does not hold"}


def test_one_step_that_fails_hides_no_other() -> None:
    """The first two steps lower the loss and the last one raises it: 1c fails, and 1d says where."""
    table = judge_claims(
        made(lambda active, s, c: 2 + 0.05 * (s - 2.5) ** 2 + 0.01 * (active - 10) ** 2), bootstraps=ENOUGH
    )
    assert set(table.loc[table["claim"] == "1c", "verdict"]) == {"does not hold"}
    steps = table[table["claim"] == "1d"]
    assert len(steps) == 3 * (len(SPARSITIES) - 1)
    last = steps["note"].str.endswith(f"to {SPARSITIES[-1]:.4g}")
    assert set(steps.loc[last, "verdict"]) == {"does not hold"}
    assert set(steps.loc[~last, "verdict"]) == {"holds"}


def test_the_best_sparsity_is_inside() -> None:
    assert verdict_of(best_in_the_middle, "2a") == {"holds"}


def test_noise_leaves_a_claim_undecided() -> None:
    """Seeds that differ by more than all there is to see."""
    table = judge_claims(made(bowl, noise=1.0, seeds=1), bootstraps=ENOUGH)
    assert set(table.loc[table["verdict"] == "undecided", "claim"]) == set(CLAIMS)


def test_verdicts_are_those_of_holm_within_each_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = made(bowl, noise=0.05)
    table = judge_claims(runs, bootstraps=ENOUGH)
    monkeypatch.setattr(isoflop, "holm", lambda p: p)
    alone = judge_claims(runs, bootstraps=ENOUGH)
    assert (table["p"] > alone["p"]).any()
    for claim, rows in table.groupby("claim"):
        np.testing.assert_allclose(rows["p"], holm(alone.loc[alone["claim"] == claim, "p"]))
    assert ((table["p"] < 0.05) == (table["verdict"] != "undecided")).all()
    decided = table[table["verdict"] != "undecided"]
    assert ((decided["estimate"] > 0) == (decided["verdict"] == "holds")).all()
    # A claim about all budgets has one row, and nothing to adjust.
    about_all = table["budget"].isna()
    assert set(table.loc[about_all, "claim"]) == {"4", "5"}
    pd.testing.assert_series_equal(table.loc[about_all, "p"], alone.loc[about_all, "p"])


def test_what_cannot_be_judged_is_no_row_to_adjust_for() -> None:
    """A budget with two sparsities has no surface."""
    runs = made(bowl, noise=0.05)
    few = runs[(runs["budget"] < 1e13) | (runs["sparsity"] < 0.9)]
    with_it, without = (judge_claims(part, bootstraps=100) for part in (few, few[few["budget"] < 1e13]))
    for claim in ("2a", "2b"):
        two, three = (table[table["claim"] == claim] for table in (without, with_it))
        assert three["p"].tolist() == pytest.approx([*two["p"], math.nan], nan_ok=True)
        assert three["verdict"].tolist()[-1] == "undecided"


def valley(active: Array, s: Array, c: Array) -> Array:
    return 2 + 0.05 * (active - 10) ** 2


def flat(active: Array, s: Array, c: Array) -> Array:
    return np.full(len(active), 2.0)


@pytest.mark.parametrize(("loss", "times"), [(valley, 100), (flat, 30)])
def test_chance_makes_few_false_verdicts(loss: Loss, times: int) -> None:
    """Nothing changes with sparsity or budget, and all weights are active, so neither verdict is right. Claim 3 is left
    out, because these curves have a best size at every sparsity or at none."""
    false = dict.fromkeys(CLAIMS, 0)
    for seed in range(times):
        runs = made(loss, 0.02, seed=seed, budgets=(1e11, 1e12), sparsities=SPARSITIES[:3], share=0)
        table = judge_claims(runs, bootstraps=200, seed=seed)
        for claim in set(table.loc[table["verdict"] != "undecided", "claim"]):
            false[claim] += 1
    del false["3"]
    error = math.sqrt(0.05 * 0.95 / times)
    assert all(number / times < 0.05 + 2.5 * error for number in false.values()), false
    assert sum(false.values()) / (times * len(false)) < 0.05 + error, false


def test_chance_seldom_brackets_a_minimum_at_the_edge() -> None:
    """Claim 3: the best size is the largest that was tried, so its distance from the edge is zero."""

    def loss(active: Array, s: Array, c: Array) -> Array:
        return 2 + 0.05 * (active - 12) ** 2

    verdicts = []
    for seed in range(40):
        runs = made(loss, 0.02, seed=seed, budgets=(1e11,), sparsities=SPARSITIES[:2])
        table = judge_claims(runs, bootstraps=200, seed=seed).set_index("claim")
        verdicts.append(table.loc["3", "verdict"])
    assert verdicts.count("undecided") >= 36


def test_what_was_not_measured_is_undecided() -> None:
    runs = made(bowl)
    table = judge_claims(runs[(runs["sparsity"] == 0.75) & (runs["budget"] == 1e12)], bootstraps=50).set_index("claim")
    assert table.loc[["1a", "1b", "1c", "2a", "2b", "4", "5"], "estimate"].isna().all()
    assert set(table.loc[["1a", "1b", "1c", "2a", "2b", "4", "5"], "verdict"]) == {"undecided"}
    assert table.loc["3", "verdict"] == "holds"
    assert table.loc["2a", "note"] == "no N was measured at three sparsities"


def test_an_optimum_at_the_edge_is_no_evidence_for_sizes() -> None:
    def loss(active: Array, s: Array, c: Array) -> Array:
        return 0.05 * (active - (12.5 - s)) ** 2 + 2

    table = judge_claims(made(loss), bootstraps=50).set_index("claim")
    assert set(table.loc["1b", "note"]) == {"not bracketed: S = 0"}


def test_the_same_seed_gives_the_same_table() -> None:
    runs = made(bowl)
    pd.testing.assert_frame_equal(judge_claims(runs, bootstraps=20), judge_claims(runs, bootstraps=20))
    assert not judge_claims(runs, bootstraps=20).equals(judge_claims(runs, bootstraps=20, seed=1))


def test_mistakes() -> None:
    runs = made(bowl)
    with pytest.raises(ValueError, match=r"runs lack the columns params_active"):
        optima(runs.drop(columns="params_active"))
    with pytest.raises(ValueError, match=r"none of 120 runs finished"):
        optima(runs.assign(status="diverged"))
    one_curve = (runs["width"] < 3) & (runs["seed"] == 0) & (runs["sparsity"] == 0)
    for few in (runs[runs["width"] < 2], runs[one_curve]):
        with pytest.raises(ValueError, match=r"no budget has .* runs of 3 widths, .* and a run more"):
            optima(few)
    mixed = pd.concat([runs, runs[runs["sparsity"] == 0.75].assign(top_k=4)])
    with pytest.raises(ValueError, match=r"sparsity=0.75 was measured with top_k=1 and 4"):
        judge_claims(mixed)
    deep = pd.concat([runs.assign(n_layers=2), runs.assign(n_layers=1)])
    with pytest.raises(ValueError, match=r"these runs have n_layers=1 and 2, and each depth has its own best width"):
        optima(deep)
