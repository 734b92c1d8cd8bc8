"""Figures of repeated runs show their means and intervals."""

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.figures import repeat
from sparsity_lab.figures.style import ROLES


def summary(lines: list[str], sparsities: list[float]) -> pd.DataFrame:
    rows = [(line, s, 2 - s + i, 0.1 * (i + 1)) for i, line in enumerate(lines) for s in sparsities]
    return pd.DataFrame(rows, columns=["line", "sparsity", "loss", "half"])


def test_loss_by_sparsity() -> None:
    figure = repeat.loss_by_sparsity(summary(["1e10", "1e11"], [0.0, 0.5, 0.75, 0.9375]))
    assert [trace.name for trace in figure.data] == ["1e10", "1e11"]
    for i, trace in enumerate(figure.data):
        np.testing.assert_allclose(trace.x, [0, 1, 2, 4])
        np.testing.assert_allclose(trace.y, np.array([2, 1.5, 1.25, 1.0625]) + i)
        np.testing.assert_allclose(trace.error_y.array, 0.1 * (i + 1))
    assert list(figure.layout.xaxis.ticktext) == ["0", "0.5", "0.75", "0.9375"]
    np.testing.assert_allclose(figure.layout.xaxis.tickvals, [0, 1, 2, 4])
    assert len({trace.marker.symbol for trace in figure.data}) == 2


def test_loss_by_sparsity_draws_every_line() -> None:
    lines = [f"line {i}" for i in range(5)]
    assert [trace.name for trace in repeat.loss_by_sparsity(summary(lines, [0.0, 0.5])).data] == lines


def test_gain_by_budget() -> None:
    gains = pd.DataFrame({"budget": [1e10, 3e11], "gain": [0.1, -0.02], "half": [0.05, 0.01]})
    figure = repeat.gain_by_budget(gains)
    (trace,) = figure.data
    assert list(trace.x) == ["10¹⁰ FLOPs", "3×10¹¹ FLOPs"]
    assert list(trace.y) == pytest.approx([0.1, -0.02])
    assert list(trace.error_y.array) == pytest.approx([0.05, 0.01])
    assert figure.layout.shapes[0].y0 == 0, "a line where neither wins"


def by_budget(lines: tuple[str, ...] = ("dense", "sparse")) -> pd.DataFrame:
    losses = {"dense": (3.0, 2.0), "sparse": (2.9, 1.9)}
    rows = [(line, budget, loss, 0.1) for line in lines for budget, loss in zip((1e9, 1e10), losses[line], strict=True)]
    return pd.DataFrame(rows, columns=["line", "budget", "loss", "half"])


@pytest.mark.parametrize("lines", [("dense", "sparse"), ("sparse", "dense")])
def test_loss_by_budget(lines: tuple[str, str]) -> None:
    figure = repeat.loss_by_budget(by_budget(lines).sort_values("budget", ascending=False, kind="stable"))
    assert [trace.name for trace in figure.data] == list(lines)
    for trace in figure.data:
        assert list(trace.x) == [1e9, 1e10]
        assert list(trace.y) == ([3.0, 2.0] if trace.name == "dense" else [2.9, 1.9])
        assert list(trace.error_y.array) == [0.1, 0.1]
        look = ROLES["dense" if trace.name == "dense" else "this"]
        assert (trace.line.color, trace.line.dash) == look[:2], "in whatever order they come"


def test_own_runs_lie_on_the_shipped_ones() -> None:
    figure = repeat.loss_by_budget(by_budget(), shipped=by_budget(("sparse", "dense")))
    assert [trace.name for trace in figure.data] == ["sparse, shipped", "dense, shipped", "dense", "sparse"]
    colours = {trace.name.split(",")[0]: trace.line.color for trace in figure.data}
    assert all(trace.line.color == colours[trace.name.split(",")[0]] for trace in figure.data)


@pytest.mark.parametrize("leverage", [2.0, np.nan])
def test_two_readings(leverage: float) -> None:
    *_, better, cheaper = repeat.two_readings(by_budget(), 1e9, leverage).data
    assert list(better.x) == [1e9, 1e9]
    assert list(better.y) == [3.0, 2.9]
    np.testing.assert_equal(list(cheaper.x), [1e9, 1e9 * leverage])
    assert list(cheaper.y) == [2.9, 2.9]
