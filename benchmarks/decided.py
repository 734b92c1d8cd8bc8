"""Seconds from pressing Run to a decided gain: a sparse model ends lower than a dense one, at 95 % confidence.

The plan, written beforehand: `SEEDS` runs of `FLOPS` of each model, each side at its best measured width and depth
at this budget, trained by `run_all` into an empty store; then Student's interval for the difference of the means
(`gains`). Of the shipped runs of these two models, any two seeds of each decide. The text is ready: it is prepared once
per machine.
"""

import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Row
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.intervals import verdict
from sparsity_lab.runs.pool import cores
from sparsity_lab.runs.repeat import gains, run_all

FLOPS, SEEDS = 1e11, 2
MODELS = ModelConfig.on_dial(16, 0.0), ModelConfig.on_dial(16, 0.9375).replace(n_layers=1)
PLAN = [(model, RunConfig(budget=FLOPS, seed=seed)) for seed in range(SEEDS) for model in MODELS]
BARS = {"cold": 25, "warm": 15}  # s, in a fresh process from its start on, and once more in the same process
LEARNER = "import sys; from benchmarks.decided import learner; learner(*sys.argv[1:])"


def rows() -> Iterator[Row]:
    what = f"decided gain at {FLOPS:.0e} FLOPs, {len(PLAN)} runs"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", LEARNER, *(f"{folder}/{name}" for name in BARS)]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for name, bar in BARS.items():
                mean, half = map(float, process.stdout.readline().split())
                end = time.perf_counter()
                seconds, start, decided = end - start, end, verdict(mean - half, mean + half)
                measured = f"{seconds:.0f} s; a gain of {mean:.3f} ± {half:.3f} {decided}"
                holds = seconds <= bar and decided == "holds"
                yield Row(f"{what}: {name}, {cores()} cores", f"≤ {bar} s, and it holds", measured, holds)

    yield Row(f"{what}: one after another", "", f"{one_after_another():.0f} s", None)


def learner(*folders: str) -> None:
    """Carries out the plan with a store in each folder; prints the mean gain and half the width of its interval."""
    for folder in folders:
        (found,) = gains(run_all(PLAN, Path(folder)), ["budget"]).to_dict("records")
        print(found["gain"], found["half"], flush=True)


def one_after_another() -> float:
    """Seconds of the plan on one core."""
    from sparsity_lab.training import train  # here, because it takes seconds, which a learner with a pool need not wait

    start = time.perf_counter()
    for model, run in PLAN:
        deque(train(model, run), maxlen=0)
    return time.perf_counter() - start
