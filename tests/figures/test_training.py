"""Figures of a run on its way show its curve, and nothing is left out."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.figures import training


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
