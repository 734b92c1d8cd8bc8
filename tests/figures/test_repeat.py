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
    assert list(trace.x) == ["1e10 FLOPs", "3e11 FLOPs"]
    assert list(trace.y) == pytest.approx([0.1, -0.02])
    assert list(trace.error_y.array) == pytest.approx([0.05, 0.01])
    assert figure.layout.shapes[0].y0 == 0, "a line where neither wins"


def test_loss_by_budget() -> None:
    rows = [("dense", 1e9, 3.0, 0.1), ("sparse", 1e9, 2.9, 0.2), ("dense", 1e10, 2.0, 0.3), ("sparse", 1e10, 1.9, 0.4)]
    figure = repeat.loss_by_budget(pd.DataFrame(rows, columns=["line", "budget", "loss", "half"]))
    assert [(t.name, list(t.x), list(t.y), list(t.error_y.array)) for t in figure.data] == [
        ("dense", [1e9, 1e10], [3.0, 2.0], [0.1, 0.3]),
        ("sparse", [1e9, 1e10], [2.9, 1.9], [0.2, 0.4]),
    ]
    assert figure.data[0].line.dash == ROLES["dense"].dash != figure.data[1].line.dash
