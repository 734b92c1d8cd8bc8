"""Fair races find the best shape on each side, cover the true gain, and know what they can't know."""

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.laws import fair

BUDGETS, S = (1e11, 1e12, 1e13), 0.9375
# Losses by side and depth at the best width of 16: two layers suit dense models, and one layer sparse ones.
FLOOR = {(0.0, 1): 0.08, (0.0, 2): 0.0, (S, 1): -0.15, (S, 2): -0.1}


def loss(budget: float, sparsity: float, width: int, layers: int) -> float:
    dense = 1.0 + 0.9 * (budget / 1e11) ** -0.2
    return dense + FLOOR[sparsity, layers] + 0.1 * np.log2(width / 16) ** 2


def raced(sd: float, seeds: tuple[int, ...] = (3, 3, 3), random: int = 0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(random), []
    for budget, times in zip(BUDGETS, seeds, strict=True):
        for sparsity, layers in FLOOR:
            for width in (8, 16, 32):
                true = loss(budget, sparsity, width, layers)
                rows += [(budget, sparsity, width, layers, true + sd * rng.standard_normal()) for _ in range(times)]
    columns = ["budget", "sparsity", "width", "n_layers", "val_loss"]
    return pd.DataFrame(rows, columns=columns).assign(status="finished")


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


@pytest.mark.parametrize(("name", "message"), [("compiled", "budget=1e"), ("top_k", "sparsity=")])
def test_what_is_not_alike_is_not_compared(name: str, message: str) -> None:
    runs = raced(0.01)
    with pytest.raises(ValueError, match=f"^{message}.* has runs of several {name}"):
        fair.best_shapes(runs.assign(**{name: np.arange(len(runs)) % 2}))


def test_one_budget_shows_no_growth() -> None:
    runs = raced(0.01)
    slope = fair.growth(fair.fair_gains(fair.best_shapes(runs[runs["budget"] == 1e11]), S))
    assert np.isnan(slope.value)
    assert np.isinf(slope.half)


def test_an_edge_is_told() -> None:
    runs = raced(1e-6)
    assert fair.fair_gains(fair.best_shapes(runs[runs["width"] > 8]), S)["edge"].all()


def test_intervals_cover_the_true_gain_and_growth() -> None:
    """The shapes here are far enough apart that the best one is never mistaken."""
    gains, growths = [], []
    for random in range(300):
        table = fair.fair_gains(fair.best_shapes(raced(0.01, random=random)), S)
        slope = fair.growth(table)
        gains += list(abs(table["gain"] - 0.15) <= table["half"])
        growths.append(abs(slope.value) <= slope.half)
    assert 0.92 <= np.mean(gains) <= 0.98
    assert 0.92 <= np.mean(growths) <= 0.98


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
    """Dense losses fall by a power of the budget, and the sparse loss is that of four times the FLOPs."""
    budgets = np.geomspace(1e11, 1e13, 9)
    rows = [(b, s, 16, 2, (b * (4 if s else 1)) ** -0.05) for b in budgets for s in (0.0, S) for _ in range(2)]
    columns = ["budget", "sparsity", "width", "n_layers", "val_loss"]
    table = fair.leverages(fair.best_shapes(pd.DataFrame(rows, columns=columns).assign(status="finished")), S)
    reached = budgets * 4 <= 1e13
    assert table["leverage"][reached].tolist() == pytest.approx([4.0] * reached.sum())
    assert table["leverage"][~reached].isna().all()
    assert np.isinf(table["high"][~reached]).all()


def test_leverage_covers_the_truth() -> None:
    runs = [fair.leverages(fair.best_shapes(raced(0.005, random=random)), S).iloc[0] for random in range(200)]
    true = fair.leverages(fair.best_shapes(raced(1e-9)), S)["leverage"][0]
    assert 0.9 <= np.mean([row["low"] <= true <= row["high"] for row in runs]) <= 0.99
