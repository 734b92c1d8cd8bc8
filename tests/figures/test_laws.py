"""Figures of IsoFLOPs and laws show the numbers they are given."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from benchmarks.fit import grid, measured
from sparsity_lab.figures import laws
from sparsity_lab.figures.style import ROLES
from sparsity_lab.laws import isoflop
from sparsity_lab.laws.curves import curves
from sparsity_lab.runs import measured as shipped
from sparsity_lab.units import flops


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return measured(grid())


@pytest.fixture(scope="module")
def optima(runs: pd.DataFrame) -> pd.DataFrame:
    return isoflop.optima(runs, bootstraps=20)


@pytest.mark.parametrize("size", laws.SIZES)
def test_every_run_is_a_dot_and_every_minimum_a_star(runs: pd.DataFrame, size: str) -> None:
    budget = runs["budget"].min()
    here = runs[runs["budget"] == budget]
    fitted = [curve for curve in curves(runs, bootstraps=20) if curve.budget == budget]
    figure = laws.isoflops(here, fitted, size)
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert sorted(y for trace in dots for y in trace.y) == sorted(here["val_loss"])
    assert sorted(x for trace in dots for x in trace.x) == sorted(here[size])

    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert len(figure.data) == len(dots) + len(lines) == 2 * here["sparsity"].nunique()
    for trace, curve in zip(lines, fitted, strict=True):
        assert (trace.line.dash == ROLES["dense"].dash) == (curve.sparsity == 0)
        best = curve.at(curve.best[0][:1], size)[0], curve.best[1][0]
        assert (trace.x[-1], trace.y[-1]) == pytest.approx(best)
        assert [n > 0 for n in trace.marker.size] == [False] * (len(trace.x) - 1) + [True]  # the star alone
        widths = here.loc[here["sparsity"] == curve.sparsity, size]
        assert (trace.x[0], trace.x[-3]) == pytest.approx((widths.min(), widths.max()))
        along = np.linspace(*curve.edges, len(trace.x) - 2)
        np.testing.assert_allclose(trace.x[:-2], curve.at(along, size))
        np.testing.assert_allclose(trace.y[:-2], curve.loss(np.exp(along)))
        assert trace.x[-2] is trace.y[-2] is None  # a gap before the star


def test_shipped_budgets_look_different() -> None:
    coarse = shipped.runs()[lambda runs: runs["top_k"] == 1]
    figure = laws.loss_against_sparsity(isoflop.optima(coarse, bootstraps=2))
    looks = {(trace.line.color, trace.marker.symbol[0]) for trace in figure.data}
    assert len(looks) == len(figure.data) == coarse["budget"].nunique()
    assert not {colour for colour, _ in looks} & {ROLES["this"].colour, ROLES["dense"].colour}, "these are models"


@pytest.mark.parametrize("size", ["n_active", "n_total"])
def test_best_sizes_and_losses(optima: pd.DataFrame, size: str) -> None:
    for figure, column in (
        (laws.best_sizes(optima, size), size),
        (laws.loss_against_sparsity(optima), "loss"),
    ):
        shown = {trace.name: trace for trace in figure.data}
        for budget, part in optima.groupby("budget"):
            trace = shown[flops(budget)]
            assert list(trace.y) == list(part[column])
            np.testing.assert_allclose(np.array(trace.y) + trace.error_y.array, part[f"{column}_high"])
            np.testing.assert_allclose(np.array(trace.y) - trace.error_y.arrayminus, part[f"{column}_low"])
            assert list(trace.x) == list(-np.log2(1 - part["sparsity"]))


@pytest.mark.parametrize("draw", [laws.contours, laws.surface_3d])
def test_a_surface_ends_where_the_runs_end(runs: pd.DataFrame, draw: object) -> None:
    (surface, *_) = isoflop.surfaces(runs, bootstraps=20)
    here = runs[runs["budget"] == surface.budget]
    own = here.head(2)
    assert callable(draw)
    figure: go.Figure = draw(surface, here, own)
    area = figure.data[0]
    sizes, sparsities, loss = np.array(area.x), 1 - 2.0 ** -np.array(area.y), np.array(area.z)
    dense = here.loc[here["sparsity"] == 0, "params_total"]
    known = sizes[np.isfinite(loss[0])]
    assert dense.min() <= known.min() < known.max() <= dense.max()
    i, j = np.argwhere(np.isfinite(loss))[len(known)]
    assert loss[i, j] == pytest.approx(float(surface.loss(sizes[j], sparsities[i])))
    assert [trace.name for trace in figure.data[1:]] == ["measured runs", "your runs"]
    assert len(figure.data[2].x) == 2
    assert len(draw(surface, here).data) == 2


def test_predicted_against_measured() -> None:
    table = pd.DataFrame(
        {"sparsity": [0, 0.5], "measured": [2.0, 1.8], "predicted": [2.1, 1.8], "low": [1.9, 1.7], "high": [2.2, 2.0]}
    )
    diagonal, dense, sparse = laws.predicted_against_measured(table).data
    assert list(diagonal.x) == list(diagonal.y) == [1.7, 2.2]
    assert (dense.x[0], dense.y[0], sparse.x[0], sparse.y[0]) == (2.0, 2.1, 1.8, 1.8)
    assert sparse.error_y.array[0] == pytest.approx(0.2)


def test_curves() -> None:
    lines = {"a": pd.Series([1, 2], index=[10, 100]), "b": pd.Series([3, 4], index=[10, 100])}
    figure = laws.curves(lines, "x", "y")
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("a", [10, 100], [1, 2]),
        ("b", [10, 100], [3, 4]),
    ]
    assert figure.layout.xaxis.type == "log"
    models = laws.curves({"dense": lines["a"], "S = 0.5": lines["b"]}, "x", "y").data
    assert (models[0].line.color, models[0].line.dash) == ROLES["dense"][:2]
    assert not {trace.line.color for trace in figure.data} & {trace.line.color for trace in models[:1]}
