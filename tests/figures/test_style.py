"""Figures from numbers: what is drawn is what was given, and nothing is left out."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.figures import style as charts


def curves(*lines: tuple[str, str, list[float]]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"label": label, "role": role, "flops": 1e6 * np.arange(1, len(loss) + 1), "loss": loss})
        for label, role, loss in lines
    ]
    return pd.concat(parts, ignore_index=True)


def looks_like_the_suite(figure: go.Figure) -> None:
    figure.to_json()  # a browser can have it
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)", "for light and dark themes"
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert axis.title.text


# ---- Loss curves


@given(losses=st.lists(st.floats(0, 10), max_size=1_500), points=st.integers(2, 500))
def test_smooth_is_a_mean_of_the_latest(losses: list[float], points: int) -> None:
    flops = [10.0 * (i + 1) for i in range(len(losses))]
    x, y = charts.smooth(flops, losses, points)
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
    x, y = charts.smooth(np.arange(1, n + 1), losses)
    assert len(x) == charts.LIVE_POINTS
    assert np.abs(y - losses[x.astype(int) - 1]).max() < 0.25, "it lags by less than a tenth of the run"
    noise = np.random.default_rng(0).normal(size=n)
    _, calm = charts.smooth(np.arange(1, n + 1), noise)
    assert calm[n // 10 :].std() < noise.std() / 3
    few_x, few_y = charts.smooth([1, 2, 3], [3.0, 2.0, 1.0])
    assert few_x.tolist() == [1, 2, 3]
    assert few_y.tolist() == [3, 2, 1]


def test_loss_figure() -> None:
    rows = curves(("S 0.94", "this", [3.0, 2.0]), ("dense", "dense", [3.5, 2.5]), ("old", "ghost", [5.0, 4.0]))
    figure = charts.loss_figure(rows)
    looks_like_the_suite(figure)
    assert [trace.name for trace in figure.data] == ["S 0.94", "dense", "old"]
    assert [list(trace.y) for trace in figure.data] == [[3.0, 2.0], [3.5, 2.5], [5.0, 4.0]]
    assert list(figure.data[0].x) == [1e6, 2e6]
    styles = {(trace.line.color, trace.line.dash, trace.line.width) for trace in figure.data}
    assert len(styles) == 3, "told apart without colour too"
    assert len({trace.line.dash for trace in figure.data[:2]}) == 2
    assert figure.layout.xaxis.type == "log"


def test_loss_figure_keeps_runs_of_one_label_apart() -> None:
    figure = charts.loss_figure(curves(("same", "this", [3.0, 2.0]), ("same", "ghost", [5.0, 4.0])))
    assert len(figure.data) == 2


def test_loss_figure_of_nothing() -> None:
    figure = charts.loss_figure(pd.DataFrame(columns=["label", "role", "flops", "loss"]))
    looks_like_the_suite(figure)
    assert len(figure.data) == 0


def test_loss_window_shows_the_end_of_every_line() -> None:
    lines = [
        (np.array([1e8, 1e9, 1e10]), np.array([5.5, 2.0, 1.5])),
        (np.array([1e8, 1e9]), np.array([5.5, 2.1])),
        (np.zeros(0), np.zeros(0)),
    ]
    x_range, y_range = charts.loss_window(lines)
    assert x_range is not None
    assert y_range is not None
    assert x_range[0] < math.log10(1e9) < math.log10(1e10) < x_range[1]
    assert y_range[0] < 1.5 < 2.1 < y_range[1]
    assert y_range[1] < 5.5, "the first fall is left out"


# ---- Who works


def test_load_in_multiples_of_the_even_share() -> None:
    figure = charts.load_figure([[0.5, 0.25, 0.25, 0.0], [0.25] * 4])
    looks_like_the_suite(figure)
    np.testing.assert_allclose(figure.data[0].z, [[2, 1, 1, 0], [1, 1, 1, 1]])
    assert charts.load_trace([])["z"].size == 0


# ---- Findings


def summary(lines: list[str], sparsities: list[float]) -> pd.DataFrame:
    rows = [(line, s, 2 - s + i, 0.1 * (i + 1)) for i, line in enumerate(lines) for s in sparsities]
    return pd.DataFrame(rows, columns=["line", "sparsity", "loss", "half"])


def test_loss_by_sparsity() -> None:
    figure = charts.loss_by_sparsity(summary(["1e10", "1e11"], [0.0, 0.5, 0.75, 0.9375]))
    looks_like_the_suite(figure)
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
    assert [trace.name for trace in charts.loss_by_sparsity(summary(lines, [0.0, 0.5])).data] == lines


def test_gain_by_budget() -> None:
    gains = pd.DataFrame({"budget": [1e10, 3e11], "gain": [0.1, -0.02], "half": [0.05, 0.01]})
    figure = charts.gain_by_budget(gains)
    looks_like_the_suite(figure)
    (trace,) = figure.data
    assert list(trace.x) == ["1e10 FLOPs", "3e11 FLOPs"]
    assert list(trace.y) == pytest.approx([0.1, -0.02])
    assert list(trace.error_y.array) == pytest.approx([0.05, 0.01])
    assert figure.layout.shapes[0].y0 == 0, "a line where neither wins"


def test_loss_by_budget() -> None:
    rows = [("dense", 1e9, 3.0, 0.1), ("sparse", 1e9, 2.9, 0.2), ("dense", 1e10, 2.0, 0.3), ("sparse", 1e10, 1.9, 0.4)]
    figure = charts.loss_by_budget(pd.DataFrame(rows, columns=["line", "budget", "loss", "half"]))
    looks_like_the_suite(figure)
    assert [(t.name, list(t.x), list(t.y), list(t.error_y.array)) for t in figure.data] == [
        ("dense", [1e9, 1e10], [3.0, 2.0], [0.1, 0.3]),
        ("sparse", [1e9, 1e10], [2.9, 1.9], [0.2, 0.4]),
    ]
    assert figure.data[0].line.dash != figure.data[1].line.dash
