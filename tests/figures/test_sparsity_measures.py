"""Figures of sparsity: what is drawn is what was measured."""

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.analysis.sparsity_measures import gini
from sparsity_lab.figures import sparsity_measures

VECTORS = {"a": np.array([1.0, 0, 0, 3]), "b": np.array([2.0, 2, 2, 2])}


def test_bars() -> None:
    figure = sparsity_measures.bars(VECTORS)
    assert [list(trace.y) for trace in figure.data] == [[1, 0, 0, 3], [2, 2, 2, 2]]
    assert [note.text for note in figure.layout.annotations] == ["a", "b"]


def test_ranks() -> None:
    values = pd.DataFrame({"a": [0.9, 0.1], "b": [0.5, 0.1 + 1e-12], "c": [0.7, 0.0]}, index=["gini", "l0"])
    (heat,) = sparsity_measures.ranks(values).data
    assert heat.z.tolist() == [[1, 3, 2], [1, 1, 3]], "what differs by rounding shares a rank"
    assert heat.text.tolist() == [["1", "3", "2"], ["1", "1", "3"]]


def test_twice_the_area_under_the_diagonal_is_gini() -> None:
    diagonal, *curves = sparsity_measures.lorenz(VECTORS).data
    assert list(diagonal.y) == [0, 1]
    for curve, c in zip(curves, VECTORS.values(), strict=True):
        assert 1 - 2 * np.trapezoid(curve.y, curve.x) == pytest.approx(float(gini(c)))
    assert len({(curve.line.color, curve.line.dash, curve.marker.symbol) for curve in curves}) == 2


def test_moved() -> None:
    changes = {"gini": -0.25, "l1": 3.0}
    figure = sparsity_measures.moved(VECTORS["a"], np.array([2.0, 0, 0, 2, 0]), changes)
    before, after, by = figure.data
    assert (list(before.y), list(after.y)) == ([1, 0, 0, 3], [2, 0, 0, 2, 0])
    assert list(by.x) == [-0.25, 1], "drawn up to 1"
    assert list(by.customdata) == [-0.25, 3]
    assert by.marker.color[0] != by.marker.color[1]
    assert len(sparsity_measures.moved(VECTORS["a"], VECTORS["b"], changes).data) == 3, (
        "as many traces, so that a slider can move them"
    )


def test_lines_with_intervals() -> None:
    values = pd.DataFrame(
        {
            "line": ["x", "x", "y"],
            "at": ["p", "q", "p"],
            "kept": [0.1, 0.5, 0.1],
            "value": [1, 2, 3],
            "half": [0.1, 0, 9],
        }
    )
    for figure, places in (
        (sparsity_measures.by_layer(values, "Gini"), ["p", "q"]),
        (sparsity_measures.by_density(values, "Gini"), [0.1, 0.5]),
    ):
        x, y = figure.data
        assert (list(x.x), list(x.y), list(x.error_y.array)) == (places, [1, 2], [0.1, 0])
        assert (list(y.y), list(y.error_y.array)) == ([3], [9])
        assert x.marker.symbol != y.marker.symbol
        assert figure.layout.yaxis.title.text == "Gini"
