"""Two threads on a machine that has other work: what a step costs if they wait for each other with a core in hand, as
OpenMP has it by default, over what it costs if they let it go, as the lab sets it."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Row, at_least
from sparsity_lab.runs.pool import cores

TURNS = 3
STEPS = """
import time
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training import Training
training = Training(ModelConfig.on_dial(32, 0.9375), RunConfig(budget=1e12, threads=2))
training.step()
start, steps = time.perf_counter(), 0
while steps < 2 or time.perf_counter() - start < 4:
    training.step()
    steps += 1
print((time.perf_counter() - start) / steps)
"""


def rows() -> Iterator[Row]:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    try:
        ratios = [step_seconds("active") / step_seconds("passive") for _ in range(TURNS)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    yield at_least("waiting_threads: a step of two threads that keep their core while they wait", min(ratios), 2.0,
                   f" (median {statistics.median(ratios):.0f}, with every core busy)")  # fmt: skip


def step_seconds(policy: str) -> float:
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    found = subprocess.run(
        [sys.executable, "-c", STEPS], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(found.stdout)
