"""Figures of what sparsity and dropped data buy show what was measured."""

import math

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.analysis.sparse_formats import EXPERTS, FORMATS
from sparsity_lab.figures import sparse_formats
from sparsity_lab.figures.style import ROLES
from sparsity_lab.widgets.explorer import Explorer, choice

TIMES = pd.DataFrame(
    {
        "format": ["dense", "csr", "csr"],
        "sparsity": [0.0, 0.5, 0.75],
        "seconds": [2e-3, 3e-3, 1e-3],
        "low": [1.9e-3, 2.8e-3, 0.9e-3],
        "high": [2.2e-3, 3.1e-3, 1.2e-3],
    }
)


@pytest.mark.parametrize("at", [0.6, math.inf])
def test_times(at: float) -> None:
    dense, csr, star = sparse_formats.times(TIMES, pd.DataFrame({"format": ["csr"], "at": [at]})).data
    assert (dense.mode, list(dense.y)) == ("lines", [2, 2]), "one measurement is a level"
    assert (dense.line.color, dense.line.dash) == (ROLES["dense"].colour, "dash")
    np.testing.assert_allclose(csr.x, [1, 2])
    np.testing.assert_allclose(csr.y, [3, 1])
    np.testing.assert_allclose(np.array(csr.y) + csr.error_y.array, [3.1, 1.2])
    np.testing.assert_allclose(np.array(csr.y) - csr.error_y.arrayminus, [2.8, 0.9])
    assert list(star.x) == ([pytest.approx(-math.log2(0.4))] if at < 1 else [])
    assert list(star.y) == ([2] if at < 1 else [])


def test_a_slider_can_move_times() -> None:
    explorer = Explorer(
        lambda scale: sparse_formats.times(
            TIMES.assign(seconds=TIMES["seconds"] * scale), pd.DataFrame({"format": ["csr"], "at": [1 - 0.4 / scale]})
        ),
        lambda scale: str(scale),
        scale=choice("scale", [1, 2], 1),
    )
    explorer.controls["scale"].value = 2
    np.testing.assert_allclose(explorer.figure.data[1].y, [6, 2])


def test_losses() -> None:
    table = pd.DataFrame(
        {"line": ["all", "hard", "hard"], "kept": [1.0, 0.1, 0.5], "loss": [2.0, 4.0, 3.0], "half": 0.1}
    )
    level, hard = sparse_formats.losses(table).data
    assert (level.mode, list(level.x), list(level.y)) == ("lines", [0.1, 0.5, 1.0], [2.0] * 3)
    assert (list(hard.x), list(hard.y), list(hard.error_y.array)) == ([0.1, 0.5], [4.0, 3.0], [0.1, 0.1])


def test_losses_come_in_order() -> None:
    table = pd.DataFrame({"line": "hard", "kept": [0.5, 0.1, 1.0], "loss": [3.0, 4.0, 2.0], "half": [0.2, 0.3, 0.1]})
    figure = sparse_formats.losses(table)
    (hard,) = figure.data
    assert (list(hard.x), list(hard.y), list(hard.error_y.array)) == ([0.1, 0.5, 1.0], [4.0, 3.0, 2.0], [0.3, 0.2, 0.1])
    assert list(figure.layout.xaxis.ticktext) == ["10%", "50%", "100%"]


def test_every_line_is_drawn_and_every_format_has_a_look_of_its_own() -> None:
    names = [*FORMATS, EXPERTS]
    rows = [(name, sparsity, 1.0, 1.0, 1.0) for name in names for sparsity in (0.5, 0.75)]
    table = pd.DataFrame(rows, columns=TIMES.columns)
    *traces, _ = sparse_formats.times(table, pd.DataFrame({"format": [], "at": []})).data
    assert [trace.name for trace in traces] == names
    assert len({(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in traces}) == len(names)
