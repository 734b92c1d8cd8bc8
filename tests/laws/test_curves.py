"""Curves of one shape are the least squares ones, find true minima, and cover them whatever the shape."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from sparsity_lab.intervals import percentile_interval
from sparsity_lab.laws import curves as module
from sparsity_lab.laws.curves import SHAPES, curves, lack_of_fit

Array = np.ndarray
Shape = Callable[[Array], Array]  # loss above the floor, of u = log N_a − minimum

SPARSITIES = (0.0, 0.75, 0.9375, 0.984375)
MINIMA = (10.2, 10.05, 9.9, 9.75)
FLOORS = (1.6, 1.57, 1.54, 1.51)
GAP = 0.55  # between widths, in log N_a

# Curves as they might be, between 0.05 and 0.3 nats above the floor at the outer widths.
TRUE: dict[str, Shape] = {
    "a quartic": lambda u: 0.11 * u**2 + 0.01 * u**3 - 0.012 * u**4,
    "a slice of Chinchilla's law": lambda u: np.exp(-0.3 * u) + np.exp(0.45 * u) / 1.5 - 5 / 3,
    "a valley between plateaus": lambda u: 0.25 * (1 - np.exp(-0.5 * u**2)),
    "a parabola": lambda u: 0.1 * u**2,
}
SCATTER = {3: 0.02, 1: 0.015}  # the standard deviation of a run, by the number of seeds


def made(
    shape: Shape,
    sd: float = 1e-6,
    seeds: int = 1,
    random: int = 0,
    *,
    widths: int = 5,
    minima: Sequence[float] = MINIMA,
    layers: int = 1,
) -> pd.DataFrame:
    """Runs of one budget and depth, of as many sparsities as there are minima."""
    rng, rows = np.random.default_rng(random), []
    for i, minimum in enumerate(minima):
        for width in range(widths):
            x = 9 + 0.05 * i + GAP * width
            for seed in range(seeds):
                loss = FLOORS[i] + float(shape(np.array(x - minimum))) + sd * rng.standard_normal()
                rows.append((SPARSITIES[i], width, np.exp(x), np.exp(1.1 * x + i), np.exp(20 - x), seed, loss))
    columns = ["sparsity", "width", "params_active", "params_total", "tokens", "seed", "val_loss"]
    runs = pd.DataFrame(rows, columns=columns)
    return runs.assign(budget=1e11, n_layers=layers, top_k=1, status="finished")


# ---- The fit


def plainly_fitted(x: Array, y: Array, owner: Array, degree: int) -> tuple[float, Array]:
    """The sum of squares and the minima by SciPy, from the truth and within the same bounds."""
    n = owner.max() + 1

    def errors(theta: Array) -> Array:
        u = x - theta[owner]
        return y - theta[n + owner] - sum(theta[2 * n + k] * u ** (k + 2) for k in range(degree - 1))

    ends = np.array([(x[owner == i].min(), x[owner == i].max()) for i in range(n)])
    reach = ends[:, 1] - ends[:, 0]
    low, high = np.full((2, 2 * n + degree - 1), [[-np.inf], [np.inf]])
    low[:n], high[:n], low[2 * n] = ends[:, 0] - reach, ends[:, 1] + reach, 1e-6
    start = [*MINIMA[:n], *FLOORS[:n], 0.1, 0, 0][: 2 * n + degree - 1]
    found: Any = least_squares(errors, start, bounds=(low, high), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    return 2 * found.cost, found.x[:n]


@pytest.mark.parametrize("degree", SHAPES)
@pytest.mark.parametrize("name", TRUE)
def test_it_is_the_least_squares_fit(name: str, degree: int) -> None:
    for random, curves_n in enumerate((2, 3, 4)):
        runs = made(TRUE[name], SCATTER[3], 3, random, minima=MINIMA[:curves_n])
        x, y, owner = module._places(runs)
        noisy = y + SCATTER[3] * np.random.default_rng(random).standard_normal((4, len(y)))
        theta = module._fitted(x, noisy, owner, degree)
        squares = ((noisy - module._losses(theta, x, owner)) ** 2).sum(1)
        for mine, found, sample in zip(theta, squares, noisy, strict=True):
            least, minima = plainly_fitted(x, sample, owner, degree)
            assert found == pytest.approx(least, rel=1e-5)
            np.testing.assert_allclose(mine[:curves_n], minima, atol=1e-3)


@pytest.mark.parametrize("degree", SHAPES)
def test_a_batch_is_fitted_as_each_row_alone(degree: int) -> None:
    x, y, owner = module._places(made(TRUE["a quartic"], SCATTER[3], 3))
    noisy = y + SCATTER[3] * np.random.default_rng(0).standard_normal((8, len(y)))
    start = module._fitted(x, y[None], owner, degree)
    together = module._fitted(x, noisy, owner, degree, start)
    alone = [module._fitted(x, row[None], owner, degree, start)[0] for row in noisy]
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-9)


def convex(u: Array) -> Array:
    return 0.1 * u**2 + 0.01 * u**3 + 0.004 * u**4


def test_a_quartic_is_found() -> None:
    for curve, minimum, floor in zip(curves(made(convex, seeds=2), bootstraps=20), MINIMA, FLOORS, strict=True):
        assert curve.minima[0] == pytest.approx(minimum, abs=1e-4)
        assert curve.floors[0] == pytest.approx(floor, abs=1e-5)
        np.testing.assert_allclose(curve.shape[0], [0.1, 0.01, 0.004], atol=1e-4)
        places = np.linspace(*curve.edges, 9)
        np.testing.assert_allclose(curve.loss(np.exp(places)), floor + convex(places - minimum), atol=1e-5)
        assert curve.bracketed
        assert (curve.budget, curve.n_layers) == (1e11, 1)
        np.testing.assert_array_equal(curve.best, [curve.minima, curve.floors])


@pytest.mark.parametrize(("minimum", "edge"), [(8.6, 9.15), (12.0, 11.35)])
def test_a_minimum_beyond_the_widths_leaves_the_best_at_the_edge(minimum: float, edge: float) -> None:
    """The other curves tell its shape."""
    *_, curve = curves(made(convex, seeds=2, minima=[*MINIMA[:3], minimum]), bootstraps=20)
    assert not curve.bracketed
    assert curve.minima[0] == pytest.approx(minimum, abs=1e-3)
    np.testing.assert_allclose(curve.inside[:, 0], [minimum - 9.15, 11.35 - minimum], atol=1e-3)
    place, loss = curve.best
    np.testing.assert_allclose(place, np.full(21, edge))
    np.testing.assert_allclose(loss[:11], FLOORS[3] + convex(np.array(edge - minimum)), atol=1e-4)  # then come cubics
    assert curve.loss(np.exp(place[:1])) == pytest.approx(loss[:1])


def test_inside_is_how_far_from_the_edges() -> None:
    for curve in curves(made(convex, 0.01, 2), bootstraps=5):
        low, high = curve.edges
        np.testing.assert_allclose(curve.inside, [curve.minima - low, high - curve.minima])
        assert high - low == pytest.approx(4 * GAP)


def test_sizes_between_widths_are_interpolated_in_logarithms() -> None:
    runs = made(convex, 0.01, 2).sample(frac=1, random_state=0)
    for i, curve in enumerate(curves(runs, bootstraps=2)):
        assert curve.widths["width"].tolist() == [0, 1, 2, 3, 4]
        middle = curve.edges[0] + GAP / 2
        places = np.array([*curve.edges, middle])
        np.testing.assert_allclose(curve.at(places, "params_total"), np.exp(1.1 * places + i))
        np.testing.assert_allclose(curve.at(places, "tokens"), np.exp(20 - places))
    # Where sizes don't follow a power, only the neighbours count.
    runs.loc[runs["width"] == 1, "params_total"] *= 2
    dense = curves(runs, bootstraps=2)[0]
    places = np.array([9 + GAP / 2, 9 + 2.5 * GAP])
    np.testing.assert_allclose(dense.at(places, "params_total"), np.exp(1.1 * places) * [2**0.5, 1])


def test_the_order_of_runs_does_not_matter() -> None:
    runs = made(TRUE["a quartic"], 0.02, 3)
    for one, other in zip(curves(runs, bootstraps=2), curves(runs[::-1], bootstraps=2), strict=True):
        assert (one.minima[0], one.floors[0]) == pytest.approx((other.minima[0], other.floors[0]), abs=1e-6)


# ---- Intervals


REPEATS = 40


@pytest.fixture(scope="module")
def estimated() -> pd.DataFrame:
    """Estimates of known numbers: columns shape, seeds, what, error, and whether the interval covers the truth."""
    rows = []
    for i, (shape, seeds) in enumerate(itertools.product(TRUE, SCATTER)):
        for random in range(i * REPEATS, (i + 1) * REPEATS):
            found = curves(made(TRUE[shape], SCATTER[seeds], seeds, random), bootstraps=200, seed=random)
            for curve, minimum, floor in zip(found, MINIMA, FLOORS, strict=True):
                known = [("minimum", curve.minima, minimum), ("floor", curve.floors, floor)]
                if curve.sparsity:
                    known.append(("difference", found[0].floors - curve.floors, FLOORS[0] - floor))
                for what, samples, truth in known:
                    low, high = percentile_interval(samples[1:])
                    rows.append((shape, seeds, what, samples[0] - truth, low <= truth <= high))
    return pd.DataFrame(rows, columns=["shape", "seeds", "what", "error", "covered"])


def test_intervals_cover_the_truth_whatever_the_shape(estimated: pd.DataFrame) -> None:
    """2400 fits gave 0.948 of each kind. Intervals of one fit are not independent: over 320 fits the share has a
    standard error of 0.008, and over the forty of one shape and number of seeds of 0.023."""
    shares = estimated.groupby("what")["covered"].mean()
    assert shares.between(0.93, 0.97).all(), shares
    shares = estimated.groupby(["shape", "seeds", "what"])["covered"].mean()
    assert (shares > 0.87).all(), shares


def test_no_shape_biases_an_estimate_by_half_its_error(estimated: pd.DataFrame) -> None:
    errors = estimated.groupby(["shape", "seeds", "what"])["error"]
    bias = errors.mean() / errors.std()
    assert (bias.abs() < 0.5).all(), bias


def test_half_of_the_resamples_belong_to_the_simpler_shape() -> None:
    (curve, *_) = curves(made(TRUE["a quartic"], 0.02, 3), bootstraps=41)
    assert curve.shape.shape == (42, 3)
    assert (curve.shape[:22] != 0).all()
    assert (curve.shape[22:, :2] != 0).all()
    assert (curve.shape[22:, 2] == 0).all()


@pytest.mark.parametrize(
    ("sparsities", "widths", "degree"), [(1, 3, 2), (1, 4, 3), (1, 5, 4), (2, 3, 2), (4, 3, 2), (4, 4, 3), (4, 5, 4)]
)
def test_few_widths_are_fitted_with_a_simpler_shape(sparsities: int, widths: int, degree: int) -> None:
    """Three points tell a parabola, four a cubic, and five a quartic."""
    runs = made(TRUE["a parabola"], 0.001, 2, widths=widths, minima=MINIMA[:sparsities])
    for curve in curves(runs, bootstraps=10):
        assert (curve.shape[0] != 0).tolist() == [True, degree > 2, degree > 3]
        assert curve.shape.shape == (11, 3)
        assert (curve.shape[-1] != 0).tolist() == [True, degree > 3, False]  # a parabola has none that is simpler


def test_the_same_seed_gives_the_same_resamples() -> None:
    runs = made(TRUE["a quartic"], 0.02, 3)
    one, same, other = (curves(runs, bootstraps=4, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.minima, same.minima)
    assert one.minima[0] == other.minima[0]
    assert (one.minima[1:] != other.minima[1:]).all()


# ---- Depths


def spread(curve: module.Curve) -> float:
    low, high = percentile_interval(curve.floors[1:])
    return float(high - low)


def test_depths_share_their_noise() -> None:
    """A depth with one seed, whose own residuals show hardly any, borrows the scatter of another."""
    shape = TRUE["a parabola"]
    quiet, noisy = made(shape, 1e-6, 1, layers=1), made(shape, 0.05, 3, layers=2)
    both = curves(pd.concat([quiet, noisy]), bootstraps=100)
    assert [(curve.n_layers, curve.sparsity) for curve in both] == [(k, s) for k in (1, 2) for s in SPARSITIES]
    for alone, together in zip(curves(quiet, bootstraps=100), both, strict=False):
        assert alone.minima[0] == together.minima[0]
        assert spread(alone) < 1e-4
        assert spread(together) > 0.02


def test_a_depth_with_one_seed_covers_the_truth_with_the_scatter_of_another() -> None:
    covered = []
    for random in range(30):
        one = made(TRUE["a quartic"], 0.02, 1, random, layers=1)
        three = made(TRUE["a quartic"], 0.02, 3, 1_000 + random, layers=2)
        for curve, floor in zip(curves(pd.concat([one, three]), bootstraps=200, seed=random), FLOORS, strict=False):
            low, high = percentile_interval(curve.floors[1:])
            covered.append(low <= floor <= high)
    assert 0.9 <= np.mean(covered) <= 0.99  # 120, of thirty fits


def test_a_depth_with_too_few_widths_is_left_out() -> None:
    full, thin = made(convex, 0.01, 2, layers=1), made(convex, 0.01, 2, layers=2)
    both = curves(pd.concat([full, thin[thin["width"] < 2]]), bootstraps=20)
    for one, other in zip(curves(full, bootstraps=20), both, strict=True):
        assert other.n_layers == 1
        np.testing.assert_array_equal(one.minima, other.minima)


def test_a_sparsity_with_too_few_widths_is_left_out() -> None:
    runs = made(convex, 0.01, 2)
    found = curves(runs[(runs["sparsity"] > 0) | (runs["width"] < 2)], bootstraps=2)
    assert [curve.sparsity for curve in found] == list(SPARSITIES[1:])


def test_mistakes() -> None:
    runs = made(convex)
    for fitted in (curves, lack_of_fit):
        with pytest.raises(ValueError, match=r"^runs lack the columns top_k, val_loss: load them with runs.store"):
            fitted(runs.drop(columns=["val_loss", "top_k"]))
        with pytest.raises(ValueError, match=r"^none of 20 runs finished with a loss"):
            fitted(runs.assign(status="diverged"))
        with pytest.raises(ValueError, match=r"^sparsity=0.75 was measured with top_k=1 and 4: give the runs of one"):
            fitted(pd.concat([runs, runs[runs["sparsity"] == 0.75].assign(top_k=4)]))
    # Two widths make no curve, and three runs of one curve are as many as a parabola has parameters.
    for few in (runs[runs["width"] < 2], runs[(runs["width"] < 3) & (runs["sparsity"] == 0)]):
        message = (
            "no budget has a sparsity with finished runs of 3 widths, which a curve needs, and a run more to estimate "
            "noise: add a width or a seed"
        )
        with pytest.raises(ValueError, match=f"^{message}$"):
            curves(few)


# ---- Which shapes fit?


def test_a_parabola_for_each_does_not_fit_other_shapes() -> None:
    def steep(u: Array) -> Array:
        return 0.3 * (np.exp(-u) + u - 1)

    def walled(u: Array) -> Array:
        return 0.02 * u**2 + 0.06 * u**4

    for shape in (steep, walled):
        table = lack_of_fit(made(shape, 0.015, 3))
        assert table["shape"].tolist() == ["a parabola for each", *SHAPES.values()]
        p = table.set_index("shape")["p"]
        assert p["a parabola for each"] < 1e-3
        assert p["one parabola for all"] < 1e-3
        assert p["one quartic for all"] > 0.05


@pytest.mark.parametrize("name", ["a quartic", "a parabola"])
def test_a_shape_that_is_true_is_rejected_by_chance_alone(name: str) -> None:
    """1500 other seeds rejected a true quartic in a share of 0.041. That of 200 has a standard error of 0.015."""
    tables = [lack_of_fit(made(TRUE[name], 0.02, 3, random)) for random in range(1_000, 1_200)]
    p = pd.concat(tables).set_index("shape")["p"]
    true = {"a quartic": ["one quartic for all"], "a parabola": ["a parabola for each", *SHAPES.values()]}[name]
    rejected, in_lower_half = ((p < level).groupby("shape").mean()[true] for level in (0.05, 0.5))
    assert rejected.between(0.02, 0.09).all(), rejected
    assert in_lower_half.between(0.4, 0.6).all(), in_lower_half


def test_lack_of_fit_is_fishers_ratio() -> None:
    """Of parabolas, worked out by hand."""
    from scipy.stats import f

    runs = made(TRUE["a quartic"], 0.02, 3)
    means = runs.groupby(["sparsity", "width"])["val_loss"].transform("mean")
    pure = float(((runs["val_loss"] - means) ** 2).sum())
    lack = 0.0
    for _, cell in runs.assign(mean=means).groupby("sparsity"):
        x = np.log(cell["params_active"])
        plain = np.polynomial.Polynomial.fit(x, cell["val_loss"], 2)
        lack += float(((cell["mean"] - plain(x)) ** 2).sum())
    row = lack_of_fit(runs).set_index("shape").loc["a parabola for each"]
    ratio = (lack / (20 - 12)) / (pure / (60 - 20))
    assert row["F"] == pytest.approx(ratio, rel=1e-6)
    assert row["p"] == pytest.approx(f.sf(ratio, 8, 40), rel=1e-6)
    assert (row["budget"], row["n_layers"]) == (1e11, 1)


def test_without_repeated_seeds_nothing_is_tested() -> None:
    one, three = made(convex, 0.02, 1), made(convex, 0.02, 3, layers=2)
    assert lack_of_fit(one).empty
    assert lack_of_fit(one).columns.tolist() == ["budget", "n_layers", "shape", "F", "p"]
    assert set(lack_of_fit(pd.concat([one, three]))["n_layers"]) == {2}
    # A shape with as many parameters as there are cells fits them all.
    assert "a parabola for each" not in set(lack_of_fit(three[three["width"] < 3])["shape"])
