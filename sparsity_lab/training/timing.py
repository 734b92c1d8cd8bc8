"""Estimates how long a run will take on this machine: a second of measuring, then arithmetic."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparsity_lab.accounting import count_parameters, flops_per_step, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.corpus import Corpus

if TYPE_CHECKING:
    from sparsity_lab.training.trainer import Training

PROBES = (  # width, sparsity, batch size
    (8, 0.0, 2), (8, 0.9375, 4), (16, 0.984375, 8), (32, 0.0, 8),
    (32, 0.9375, 8), (64, 0.0, 8), (64, 0.9375, 4), (64, 0.984375, 2),
)  # fmt: skip
LARGER = ((256, 0.0, 64), (256, 0.9375, 64))  # what a GPU needs to show more than the time of its launches


def matmul_rate(seconds: float = 0.3, size: int = 1024) -> float:
    """Returns the FLOP/s of a square float32 product with torch's present number of threads: the median of several."""
    import torch
    from torch.utils.benchmark import Timer

    a, b = torch.randn(2, size, size)
    timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    return float(2 * size**3 / timer.blocked_autorange(min_run_time=seconds).median)


@dataclass
class Speed:
    """The seconds that a training step takes, as a sum over what it does."""

    seconds_per_unit: np.ndarray  # one for each feature of `_features`
    device: str = "cpu"  # or "cuda": what it was measured on

    def step_seconds(self, model: ModelConfig, batch_size: int) -> float:
        return float(_features(model, batch_size) @ self.seconds_per_unit)

    def seconds(self, model: ModelConfig, run: RunConfig) -> float:
        """Returns the seconds of the whole run. Raises ValueError if the budget does not pay for one step."""
        return plan(model, run).steps * self.step_seconds(model, run.sequences)


def calibrate(corpus: Corpus) -> Speed:
    """Times a few steps of a few models (about a second) and fits `Speed` to them, on the GPU if there is one, because
    runs train there unless they say otherwise."""
    from scipy.optimize import nnls  # here, like torch, so that a dashboard waits for neither

    from sparsity_lab.training.trainer import Training, choose_device

    device = choose_device("auto").type
    rows, times = list[np.ndarray](), list[float]()
    for width, sparsity, batch_size in PROBES if device == "cpu" else PROBES + LARGER:
        model = ModelConfig.of_width(width).with_sparsity(sparsity)
        training = Training(model, RunConfig(budget=1e13, batch_size=batch_size), corpus=corpus)
        _, *seconds = [_step_seconds(training) for _ in range(5)]  # the first is slower than the others
        rows.append(_features(model, batch_size))
        times.append(float(np.median(seconds)))

    weights = 1 / np.array(times)  # small relative errors matter, not small absolute ones
    return Speed(nnls(np.array(rows) * weights[:, None], np.ones(len(times)))[0], device)


def _step_seconds(training: "Training") -> float:
    start = time.perf_counter()
    training.step()
    training.read_losses()  # a GPU has only been told what to do until now
    return time.perf_counter() - start


def _features(model: ModelConfig, batch_size: int) -> np.ndarray:
    tokens = batch_size * model.context
    return np.array(
        [
            1,  # what a step costs before it does anything
            model.has_router,
            tokens * model.n_layers * model.d_model * 1e-6,  # passes over activations
            tokens * model.n_layers * model.n_experts * model.has_router * 1e-6,  # routing
            flops_per_step(model, batch_size) * 1e-9,
            count_parameters(model).total * 1e-6,  # weight updates
        ]
    )
