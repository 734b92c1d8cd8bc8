"""How well a second of calibration foretells the time of a step."""

import statistics
import time
from collections.abc import Iterator

import torch

from benchmarks.timing import Row, at_most
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.timing import calibrate
from sparsity_lab.training.trainer import Training

PLACES = (
    (1e10, 8, 0.9375),
    (1e11, 16, 0.0),
    (1e11, 16, 0.9375),
    (1e11, 32, 0.984375),
    (1e12, 32, 0.9375),
    (1e12, 64, 0.0),
)


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    corpus = load_corpus()
    start = time.perf_counter()
    speed = calibrate(corpus)
    yield Row("estimate: seconds of calibration", "", f"{time.perf_counter() - start:.1f}", None)
    for budget, width, sparsity in PLACES:
        model, run = ModelConfig.on_dial(width, sparsity), RunConfig(budget=budget)
        training = Training(model, run, corpus=corpus)
        took = []
        for _ in range(40):
            before = training.seconds
            training.step()
            took.append(training.seconds - before)
        off = speed.step_seconds(model, run.sequences) / statistics.median(took[10:])
        what = f"estimate, budget {budget:.0e}, width {width}, S {sparsity:.3g}: off by a factor of"
        yield at_most(what, max(off, 1 / off), 1.5)
