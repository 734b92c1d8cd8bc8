"""Figures of pruning: what is drawn is what was measured."""

import pandas as pd
import pytest

from sparsity_lab.figures import pruning

CURVES = pd.DataFrame(
    {
        "line": ["magnitude", "magnitude", "Wanda", "Wanda"],
        "x": [0.5, 0.9, 0.5, 0.9],
        "rise": [0.1, 1.0, -0.01, 0.5],
        "half": [0.01, 0.1, 0.02, 0.2],
    }
)


def test_losses() -> None:
    magnitude, wanda = pruning.losses(CURVES, "sparsity").data
    assert (magnitude.name, list(magnitude.x), list(magnitude.y)) == ("magnitude", [0.5, 0.9], [0.1, 1.0])
    assert list(wanda.y) == [pruning.LEAST, 0.5], "a logarithm has no place for a loss that falls"
    assert list(wanda.customdata) == [-0.01, 0.5], "but the hover says it"
    assert list(wanda.error_y.array) == [0.02, 0.2]
    assert (magnitude.line.dash, magnitude.marker.symbol) != (wanda.line.dash, wanda.marker.symbol)


def test_losses_over_numbers() -> None:
    figure = pruning.losses(CURVES.assign(x=[16, 8, 16, 8]), "experts left", share=False)
    assert list(figure.layout.xaxis.ticktext) == ["8", "16"]


@pytest.mark.parametrize("method", ["magnitude", "Wanda"])
def test_dial(method: str) -> None:
    figure = pruning.dial(CURVES, method, 0.9, {"attention": 0.2, "experts": 0.05})
    grey, mine, ring, bars = figure.data
    own = CURVES[CURVES["line"] == method]
    assert list(mine.x) == list(own["x"])
    assert (list(ring.x), list(ring.y)) == ([0.9], [own["rise"].iloc[1]])
    assert len(grey.x) == 3, "the other method, and a gap"
    assert (list(bars.x), list(bars.y)) == (["attention", "experts"], [0.2, 0.05])
    assert len({trace.type for trace in figure.data}) == 2


def test_healing() -> None:
    runs = pd.DataFrame(
        {"line": ["a"] * 4, "share": [0.25, 0.5, 0.75, 1.0], "sparsity": [0, 0, 0.9, 0.9], "loss": [4.0, 3, 2, 1]}
    )
    sparsity, loss = pruning.healing(runs).data
    assert (list(sparsity.x), list(sparsity.y)) == ([0.25, 0.75, 1.0], [0, 0.9, 0.9])
    assert sparsity.line.shape == "hv"
    assert list(loss.y) == [4, 3, 2, 1]


def test_load_against_loss() -> None:
    experts = pd.DataFrame({"layer": [0, 0, 1], "load": [0.5, 1.5, 1.0], "rise": [0.1, 0.0, -0.1]})
    first, second = pruning.load_against_loss(experts).data
    assert (list(first.x), list(first.y), list(second.y)) == ([0.5, 1.5], [0.1, 0.0], [-0.1])
