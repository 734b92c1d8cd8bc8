"""Fair races find the best shape on each side, cover the true gain, and know what they can't know."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sparsity_lab.laws import fair

BUDGETS, S = (1e11, 1e12, 1e13), 0.9375
# Losses by side and depth at the best width of 16: two layers suit dense models, and one layer sparse ones.
FLOOR = {(0.0, 1): 0.08, (0.0, 2): 0.0, (S, 1): -0.15, (S, 2): -0.1}
TIED = {(0.0, 1): 0.0, (0.0, 2): 0.0, (S, 1): -0.15, (S, 2): -0.15}
ALIKE = dict.fromkeys(FLOOR, 0.0)

FIVE = (8, 11, 16, 23, 32)  # widths, enough for curves


def dense_loss(budget: float) -> float:
    return 1.0 + 0.9 * (budget / 1e11) ** -0.2


def raced(
    sd: float,
    seeds: tuple[int, ...] = (3, 3, 3),
    random: int = 0,
    *,
    floors: dict[tuple[float, int], float] = FLOOR,
    best_sparse: float = 16,
    widths: tuple[int, ...] = (8, 16, 32),
) -> pd.DataFrame:
    rng, rows = np.random.default_rng(random), []
    for budget, times in zip(BUDGETS, seeds, strict=True):
        for (sparsity, layers), floor in floors.items():
            for width in widths:
                away = np.log2(width / (best_sparse if sparsity else 16))
                true = dense_loss(budget) + floor + 0.1 * away**2
                rows += [(budget, sparsity, width, layers, true + sd * rng.standard_normal()) for _ in range(times)]
    columns = ["budget", "sparsity", "width", "n_layers", "val_loss"]
    runs = pd.DataFrame(rows, columns=columns).assign(status="finished", top_k=1, flops=lambda runs: runs["budget"])
    runs["params_active"] = runs["width"] ** 2
    runs["params_total"] = runs["params_active"] / (1 - runs["sparsity"])
    return runs.assign(tokens=runs["budget"] / runs["params_active"])


def power_law(leverage: float, growth: float, sparse_budgets: int = 9, seeds: int = 2) -> pd.DataFrame:
    """Dense losses fall by a power of the budget, and the sparse loss is that of ``leverage`` times the FLOPs at 1e11,
    and ``growth`` times more for each tenfold."""
    rows = []
    for i, budget in enumerate(np.geomspace(1e11, 1e13, 9)):
        decades = np.log10(budget / 1e11)
        rows += [(budget, 0.0, 16, 2, budget**-0.05)] * seeds
        if i < sparse_budgets:
            rows += [(budget, S, 16, 2, (budget * leverage * growth**decades) ** -0.05)] * seeds
    columns = ["budget", "sparsity", "width", "n_layers", "val_loss"]
    return pd.DataFrame(rows, columns=columns).assign(status="finished")


def noisy(runs: pd.DataFrame, sd: float, random: int) -> pd.DataFrame:
    errors = sd * np.random.default_rng(random).standard_normal(len(runs))
    return runs.assign(val_loss=runs["val_loss"] + errors)


def test_each_side_has_its_own_best_shape() -> None:
    best = fair.best_shapes(raced(1e-6)).set_index(["budget", "sparsity"])
    assert (best["width"] == 16).all()
    assert (best.xs(0.0, level="sparsity")["n_layers"] == 2).all()
    assert (best.xs(S, level="sparsity")["n_layers"] == 1).all()
    assert not best["edge"].any()
    table = fair.fair_gains(best.reset_index(), S)
    assert table["gain"].tolist() == pytest.approx([0.15] * 3, abs=1e-5)
    assert table["dense"].tolist() == ["width 16, 2 layers"] * 3
    assert table["sparse"].tolist() == ["width 16, 1 layer"] * 3
    assert fair.growth(table).value == pytest.approx(0, abs=1e-5)


def test_one_depth_alone_understates_the_gain() -> None:
    runs = raced(1e-6)
    table = fair.fair_gains(fair.best_shapes(runs[runs["n_layers"] == 2]), S)
    assert table["gain"].tolist() == pytest.approx([0.1] * 3, abs=1e-5)


def test_depths_are_compared_on_each_side() -> None:
    table = fair.depth_gains(raced(1e-4), 1, 2).set_index(["budget", "sparsity"])
    assert table["gain"].xs(0.0, level="sparsity").tolist() == pytest.approx([-0.08] * 3, abs=1e-3)
    assert table["gain"].xs(S, level="sparsity").tolist() == pytest.approx([0.05] * 3, abs=1e-3)
    assert (table["p"] < 0.05).all()
    assert (fair.depth_gains(raced(1.0), 1, 2)["p"] > 0.05).all()


def test_what_is_not_alike_is_not_compared() -> None:
    runs = raced(0.01)
    with pytest.raises(ValueError, match=r"^sparsity=0 has runs of several top_k: compare those of one"):
        fair.best_shapes(runs.assign(top_k=np.arange(len(runs)) % 2))


def test_one_budget_shows_no_growth() -> None:
    runs = raced(0.01)
    slope = fair.growth(fair.fair_gains(fair.best_shapes(runs[runs["budget"] == 1e11]), S))
    assert np.isnan(slope.value)
    assert (slope.low, slope.high) == (-np.inf, np.inf)


def test_an_edge_is_told() -> None:
    runs = raced(1e-6)
    assert fair.fair_gains(fair.best_shapes(runs[runs["width"] > 8]), S)["edge"].all()


def test_a_share_is_of_the_dense_loss() -> None:
    table = fair.fair_gains(fair.best_shapes(raced(0.01)), S)
    dense = fair.best_shapes(raced(0.01)).query("sparsity == 0")["loss"].to_numpy()
    np.testing.assert_allclose(table["share"], table["gain"] / dense)
    np.testing.assert_allclose(table["share_half"], table["half"] / dense)


def test_the_half_of_a_gain_is_students() -> None:
    """Also if one side has more runs than the other."""
    best = fair.best_shapes(raced(0.01)).assign(runs=lambda t: np.where(t["sparsity"] == 0, 2, 5))
    table = fair.fair_gains(best, S)
    dense = best[best["sparsity"] == 0].set_index("budget").loc[table["budget"]]
    wanted = stats.t.ppf(0.975, dense["free"]) * dense["sd"] * math.sqrt(1 / 2 + 1 / 5)
    np.testing.assert_allclose(table["half"], wanted)


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The first and the last budget: shares of a gain that stays don't grow in a line, but two always lie in one."""
    return table.iloc[[0, -1]]


SHARE_GROWS = (0.15 / dense_loss(1e13) - 0.15 / dense_loss(1e11)) / 2  # per tenfold budget


def test_a_gain_that_stays_grows_as_a_share_of_a_loss_that_falls() -> None:
    table = fair.fair_gains(fair.best_shapes(raced(1e-6)), S)
    assert fair.growth(table, "gain") == fair.growth(table)
    assert fair.growth(table).value == pytest.approx(0, abs=1e-5)
    slope = fair.growth(ends(table), "share")
    assert slope.value == pytest.approx(SHARE_GROWS, abs=1e-5)
    assert 0 < slope.low < slope.value < slope.high


def test_a_line_weighs_budgets_by_their_intervals() -> None:
    table = pd.DataFrame({"budget": BUDGETS, "gain": [0.1, 0.2, 0.25], "half": [0.01, 0.02, 0.04]})
    table = table.assign(share=table["gain"] / 2, share_half=[0.02, 0.01, 0.01])
    for yardstick, half in (("gain", "half"), ("share", "share_half")):
        (plain, _), covariance = np.polyfit([0, 1, 2], table[yardstick], 1, w=1 / table[half], cov="unscaled")
        slope = fair.growth(table, "gain" if yardstick == "gain" else "share")
        assert slope == pytest.approx((plain, plain - covariance[0, 0] ** 0.5, plain + covariance[0, 0] ** 0.5))


def test_intervals_cover_the_true_gain_and_growth() -> None:
    """The shapes here are far enough apart that the best one is never mistaken."""
    gains, growths, shares = [], [], []
    for random in range(200):
        table = fair.fair_gains(fair.best_shapes(raced(0.01, random=random)), S)
        gains += list(abs(table["gain"] - 0.15) <= table["half"])
        slope, share = fair.growth(table), fair.growth(ends(table), "share")
        growths.append(slope.low <= 0 <= slope.high)
        shares.append(share.low <= SHARE_GROWS <= share.high)
    for covered in (gains, growths, shares):
        assert 0.92 <= np.mean(covered) <= 0.98


def test_curves_find_the_same_gain_and_depths() -> None:
    runs = raced(1e-5, widths=FIVE)
    best, plain = fair.best_curves(runs, bootstraps=20), fair.fair_gains(fair.best_shapes(runs), S)
    assert [(curve.budget, curve.sparsity) for curve in best] == [(b, s) for b in BUDGETS for s in (0, S)]
    table = fair.curve_gains(best, S)
    np.testing.assert_allclose(table["gain"], plain["gain"], atol=1e-4)
    assert table["budget"].tolist() == plain["budget"].tolist() == list(BUDGETS)
    assert table["layers_than"].tolist() == [2] * 3
    assert table["layers"].tolist() == [1] * 3
    assert (table["low"] < table["gain"]).all()
    assert (table["gain"] < table["high"]).all()
    assert table["p"].tolist() == pytest.approx([2 / 21] * 3)  # no resample is beyond 0


def test_curves_find_best_widths_between_those_that_were_tried() -> None:
    """The best sparse width is 19, where no run is: that costs the best run 0.006 nats."""
    runs = raced(1e-5, best_sparse=19, widths=FIVE)
    missed = 0.1 * np.log2(19 / 16) ** 2
    np.testing.assert_allclose(fair.fair_gains(fair.best_shapes(runs), S)["gain"], 0.15 - missed, atol=1e-4)
    np.testing.assert_allclose(fair.curve_gains(fair.best_curves(runs, bootstraps=20), S)["gain"], 0.15, atol=1e-4)


@pytest.mark.parametrize(
    ("floors", "gain"), [(FLOOR, 0.15), (TIED, 0.15), (ALIKE, 0.0)], ids=["untied", "tied", "alike"]
)
def test_curves_cover_the_true_gain(floors: dict[tuple[float, int], float], gain: float) -> None:
    """Where depths are tied, the best of two is too good on both sides, and the difference is not."""
    tables = []
    for random in range(100):
        runs = raced(0.02, random=random, floors=floors, widths=FIVE)
        best = fair.best_curves(runs[runs["budget"] == 1e11], bootstraps=200, seed=random)
        tables.append(fair.curve_gains(best, S))
    table = pd.concat(tables)
    errors = table["gain"] - gain
    assert 0.9 <= ((table["low"] <= gain) & (table["high"] >= gain)).mean() <= 0.99
    assert abs(errors.mean()) < 0.5 * errors.std()
    if floors is FLOOR:
        assert table["sd"].mean() == pytest.approx(errors.std(), rel=0.2)
    found = (table["p"] < 0.05).mean()
    assert found == 1 if gain else found <= 0.1


def test_curves_compare_two_sparsities_where_both_were_measured() -> None:
    runs = raced(0.01, widths=FIVE)
    sparser = runs[runs["sparsity"] == S].assign(sparsity=0.984375, val_loss=lambda runs: runs["val_loss"] - 0.3)
    best = fair.best_curves(
        pd.concat([runs[(runs["sparsity"] == 0) | (runs["budget"] > 1e11)], sparser]), bootstraps=20
    )
    table = fair.curve_gains(best, S)
    assert table["budget"].tolist() == [1e12, 1e13]
    np.testing.assert_allclose(table["gain"], 0.15, atol=0.03)
    table = fair.curve_gains(best, 0.984375, than=S)
    assert table["budget"].tolist() == [1e12, 1e13]
    np.testing.assert_allclose(table["gain"], 0.3, atol=0.03)
    assert fair.curve_gains(best, 0.5).empty
    with pytest.raises(ValueError, match=r"^no budget has a sparsity with finished runs of 3 widths"):
        fair.best_curves(runs[runs["width"] > 16])


def test_single_runs_borrow_their_scatter() -> None:
    best = fair.best_shapes(raced(0.02, seeds=(3, 3, 1))).set_index(["budget", "sparsity"])
    assert best.loc[(1e13, 0.0), "sd"] == best.loc[(1e12, 0.0), "sd"] != best.loc[(1e11, 0.0), "sd"]
    assert best["free"].tolist() == [24.0] * 6
    table = fair.fair_gains(best.reset_index(), S)
    assert table["half"][2] == pytest.approx(table["half"][1] * 3**0.5)
    with pytest.raises(ValueError, match="every run is the only one of its budget, sparsity and shape"):
        fair.best_shapes(raced(0.02, seeds=(1, 1, 1)))
    with pytest.raises(ValueError, match=r"sparsity=0.5: no budget has runs of it and dense ones"):
        fair.fair_gains(best.reset_index(), 0.5)


def test_leverage_is_the_ratio_of_budgets() -> None:
    table = fair.leverages(fair.best_shapes(power_law(4, 1)), S)
    reached = (table["budget"] * 4 <= 1e13).to_numpy()
    assert table["leverage"][reached].tolist() == pytest.approx([4.0] * reached.sum())
    assert table["leverage"][~reached].isna().all()
    assert np.isinf(table["high"][~reached]).all()


def test_leverage_in_seconds_is_that_in_flops_times_the_ratio_of_rates() -> None:
    """A FLOP of a sparse model takes three times as long as one of a dense model, and that of one run much longer."""
    runs = power_law(4, 1, seeds=4).assign(flops=lambda runs: runs["budget"], compiled=False)
    rate = np.where(runs["sparsity"] == 0, 2e-10, 6e-10) * np.where(runs.index == 0, 10, 1)
    timed = runs.assign(cpu_seconds=runs["flops"] * rate)
    best = fair.best_shapes(timed)
    assert best["rate"].tolist() == pytest.approx([2e-10, 6e-10] * 9)
    table = fair.leverages(best, S)
    assert table["in_seconds"].tolist() == pytest.approx((table["leverage"] / 3).tolist(), nan_ok=True)
    assert table["in_seconds"].notna().tolist() == table["leverage"].notna().tolist()

    untimed = fair.leverages(fair.best_shapes(runs), S)
    assert untimed["in_seconds"].isna().all()
    assert untimed["leverage"].tolist() == pytest.approx(table["leverage"].tolist(), nan_ok=True)
    # The runs that know their seconds speak for the others of their shape.
    few = timed.assign(cpu_seconds=timed["cpu_seconds"].where((timed["budget"] < 1e12) & (timed.index % 2 == 1)))
    known = fair.leverages(fair.best_shapes(few), S).set_index("budget")["in_seconds"]
    assert known[known.index < 1e12].tolist() == pytest.approx([4 / 3] * 4)
    assert known[known.index > 1e12].isna().all()


def test_compiled_code_gives_a_loss_but_no_rate() -> None:
    timed = raced(0.01).assign(cpu_seconds=lambda runs: runs["flops"] * 2e-10, compiled=False)
    fast = timed["budget"] == 1e11
    mixed = timed.assign(compiled=fast, cpu_seconds=timed["cpu_seconds"].where(~fast, timed["cpu_seconds"] / 2))
    best, plain = fair.best_shapes(mixed), fair.best_shapes(timed)
    pd.testing.assert_frame_equal(best.drop(columns="rate"), plain.drop(columns="rate"))
    assert best["rate"].tolist() == pytest.approx([np.nan] * 2 + [2e-10] * 4, nan_ok=True)


def test_leverage_grows_by_a_known_factor() -> None:
    best = fair.best_shapes(power_law(2, 1.5))
    slope = fair.leverage_growth(best, S)
    assert slope == pytest.approx((1.5, 1.5, 1.5))  # there is no noise
    assert fair.leverages(best, S)["leverage"].isna().any()  # and the last budgets don't disturb it


def test_leverage_of_one_budget_shows_no_growth() -> None:
    best = fair.best_shapes(power_law(2, 1.5, sparse_budgets=1))
    slope = fair.leverage_growth(best, S)
    assert np.isnan(slope.value)
    assert (slope.low, slope.high) == (0, np.inf)


def test_growth_of_leverage_covers_the_truth() -> None:
    """Sparse runs end three budgets before the dense ones, so that every leverage has an end."""
    covered = []
    for random in range(100):
        runs = noisy(power_law(2, 1.5, sparse_budgets=6, seeds=6), 0.001, random)
        slope = fair.leverage_growth(fair.best_shapes(runs), S, seed=random)
        covered.append(slope.low <= 1.5 <= slope.high)
    assert 0.9 <= np.mean(covered) <= 0.99


def test_no_dense_budget_is_too_small_for_a_poor_sparse_model() -> None:
    """Where the sparse loss is above that of the smallest dense budget, leverage is not known, only that it is low."""
    budgets = np.geomspace(1e11, 1e13, 9)
    rows = [(b, s, 16, 2, (b / (2 if s else 1)) ** -0.05) for b in budgets for s in (0.0, S) for _ in range(2)]
    columns = ["budget", "sparsity", "width", "n_layers", "val_loss"]
    best = fair.best_shapes(pd.DataFrame(rows, columns=columns).assign(status="finished"))
    table = fair.leverages(best, S)
    assert table["leverage"][:2].isna().all()
    assert table["low"][:2].tolist() == [0, 0]
    assert table["leverage"][2:].tolist() == pytest.approx([0.5] * 7)
    assert fair.leverage_growth(best, S).value == pytest.approx(1)


def test_few_degrees_of_freedom_widen_the_interval_of_a_leverage() -> None:
    """Two runs of each of two shapes tell their scatter badly."""
    budgets, rows, covered = np.geomspace(1e11, 1e13, 5), [], []
    columns = ["budget", "sparsity", "width", "n_layers", "val_loss"]
    for random in range(300):
        rng = np.random.default_rng(random)
        rows = [
            (b, s, 16, 2, (b * (2 if s else 1)) ** -0.05 + 0.001 * rng.standard_normal())
            for b in budgets
            for s in (0.0, S)
            for _ in range(2)
        ]
        table = fair.leverages(fair.best_shapes(pd.DataFrame(rows, columns=columns).assign(status="finished")), S)
        covered += [low <= 2 <= high for low, high in zip(table["low"][:3], table["high"][:3], strict=True)]
    assert 0.92 <= np.mean(covered) <= 0.985


def test_leverage_covers_the_truth() -> None:
    runs = [fair.leverages(fair.best_shapes(raced(0.005, random=random)), S).iloc[0] for random in range(200)]
    true = fair.leverages(fair.best_shapes(raced(1e-9)), S)["leverage"][0]
    assert 0.9 <= np.mean([row["low"] <= true <= row["high"] for row in runs]) <= 0.99


@pytest.mark.filterwarnings("error")
def test_leverage_of_very_noisy_runs() -> None:
    """Some losses that could have been are drawn below zero, where no loss is."""
    table = fair.leverages(fair.best_shapes(noisy(power_law(2, 1), 0.06, 0)), S)
    assert (table["low"] < table["high"]).any()
