"""Figures of a run on its way show its curve, and nothing is left out."""

import math

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.figures import training


def curves(*lines: tuple[str, str, list[float]]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"label": label, "role": role, "flops": 1e6 * np.arange(1, len(loss) + 1), "loss": loss})
        for label, role, loss in lines
    ]
    return pd.concat(parts, ignore_index=True)


@given(losses=st.lists(st.floats(0, 10), max_size=1_500), points=st.integers(2, 500))
def test_smooth_is_a_mean_of_the_latest(losses: list[float], points: int) -> None:
    flops = [10.0 * (i + 1) for i in range(len(losses))]
    x, y = training.smooth(flops, losses, points)
    assert x.dtype == y.dtype == np.float32
    assert len(x) == len(y) <= points
    if losses:
        assert x[-1] == np.float32(flops[-1]), "the curve ends where the run is"
        assert np.all(np.diff(x) > 0)
        assert min(losses) - 1e-4 <= y.min()
        assert y.max() <= max(losses) + 1e-4
    else:
        assert len(x) == 0


def test_smooth_follows_the_run() -> None:
    n = 1_000
    losses = np.linspace(5, 1, n)
    x, y = training.smooth(np.arange(1, n + 1), losses)
    assert len(x) == training.LIVE_POINTS
    assert np.abs(y - losses[x.astype(int) - 1]).max() < 0.25, "it lags by less than a tenth of the run"
    noise = np.random.default_rng(0).normal(size=n)
    _, calm = training.smooth(np.arange(1, n + 1), noise)
    assert calm[n // 10 :].std() < noise.std() / 3
    few_x, few_y = training.smooth([1, 2, 3], [3.0, 2.0, 1.0])
    assert few_x.tolist() == [1, 2, 3]
    assert few_y.tolist() == [3, 2, 1]


def test_loss_figure() -> None:
    rows = curves(("S 0.94", "this", [3.0, 2.0]), ("dense", "dense", [3.5, 2.5]), ("old", "ghost", [5.0, 4.0]))
    figure = training.loss_figure(rows)
    assert [trace.name for trace in figure.data] == ["S 0.94", "dense", "old"]
    assert [list(trace.y) for trace in figure.data] == [[3.0, 2.0], [3.5, 2.5], [5.0, 4.0]]
    assert list(figure.data[0].x) == [1e6, 2e6]
    styles = {(trace.line.color, trace.line.dash, trace.line.width) for trace in figure.data}
    assert len(styles) == 3, "told apart without colour too"
    assert len({trace.line.dash for trace in figure.data[:2]}) == 2
    assert figure.layout.xaxis.type == "log"


def test_loss_figure_keeps_runs_of_one_label_apart() -> None:
    figure = training.loss_figure(curves(("same", "this", [3.0, 2.0]), ("same", "ghost", [5.0, 4.0])))
    assert len(figure.data) == 2


def test_loss_figure_of_nothing() -> None:
    figure = training.loss_figure(pd.DataFrame(columns=["label", "role", "flops", "loss"]))
    assert len(figure.data) == 0
    assert figure.layout.xaxis.title.text


def test_loss_window_shows_the_end_of_every_line() -> None:
    lines = [
        (np.array([1e8, 1e9, 1e10]), np.array([5.5, 2.0, 1.5])),
        (np.array([1e8, 1e9]), np.array([5.5, 2.1])),
        (np.zeros(0), np.zeros(0)),
    ]
    x_range, y_range = training.loss_window(lines)
    assert x_range is not None
    assert y_range is not None
    assert x_range[0] < math.log10(1e9) < math.log10(1e10) < x_range[1]
    assert y_range[0] < 1.5 < 2.1 < y_range[1]
    assert y_range[1] < 5.5, "the first fall is left out"


def test_load_in_multiples_of_the_even_share() -> None:
    np.testing.assert_allclose(training.load_trace([[0.5, 0.25, 0.25, 0.0], [0.25] * 4])["z"], [[2, 1, 1, 0], [1] * 4])
    assert training.load_trace([])["z"].size == 0
