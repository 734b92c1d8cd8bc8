"""What sweeping costs beside training, what a second worker brings, and how fast thousands of records are read.

Times between runs are those between the files of their records, so that starting the workers is left out.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.timing import Row, at_least, ratio, take_turns
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.store import RunStore, load_frame
from sparsity_lab.runs.sweep import CURVE_POINTS, sweep
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.timing import calibrate
from sparsity_lab.training.trainer import Training

MODEL = ModelConfig.on_dial(16, 0.9375)
LONG = RunConfig(budget=1e10, eval_tokens=8_192)  # a second or so
SHORT = RunConfig(budget=2e9, eval_tokens=8_192)  # so short that what a sweep adds shows
RUNS = 12  # on each number of workers
TURNS = 3
SHORT_RUNS = 40
RECORDS = 5_000


def rows() -> Iterator[Row]:
    rates = [(_rate(1), _rate(2)) for _ in range(TURNS)]
    gain = statistics.median(two / one for one, two in rates)
    per_hour = statistics.median(3600 * two for _, two in rates)
    yield at_least(
        "sweep: runs/h of two workers over one's", gain, 1.8, f" ({per_hour:,.0f} of {LONG.budget:.0e} FLOPs)"
    )
    overhead = _seconds_a_run_swept() - _seconds_a_run_alone()
    share = max(0.0, overhead) / 5
    measured = f"{100 * share:.1f} % ({1e3 * overhead:.0f} ms a run)"
    yield Row("sweep: what it adds to a run of 5 s", "≤ 2 %", measured, share <= 0.02)
    with tempfile.TemporaryDirectory() as folder:
        paths = _many_records(Path(folder))
        start = time.perf_counter()
        load_frame(folder)
        seconds = time.perf_counter() - start
        readers = {"frame": lambda: load_frame(folder), "json": lambda: [json.loads(p.read_text()) for p in paths]}
        over = ratio(take_turns(readers, 5.0, block=1), "frame", "json")
    what, measured = f"sweep: {RECORDS:,} records as a DataFrame", f"{seconds:.2f} s ({over:.2f} times json.loads)"
    yield Row(what, "≤ 1 s", measured, seconds <= 1)


def _swept(run: RunConfig, runs: int, workers: int) -> list[float]:
    """When each run was done, in order."""
    speed = calibrate(load_corpus())
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(MODEL, run.replace(seed=seed)) for seed in range(runs)]
        sweep(pairs, folder, workers=workers, report=lambda progress: None, speed=speed)
        return sorted(path.stat().st_mtime for path in Path(folder).glob("*.json"))


def _rate(workers: int) -> float:
    """Runs a second while all workers work: without the first run of each, and without the last, when some may idle."""
    done = _swept(LONG, RUNS, workers)
    return (RUNS - 2 * workers) / (done[-1 - workers] - done[workers - 1])


def _seconds_a_run_swept() -> float:
    """From one record to the next; the least, as that is what other work on the machine has disturbed least."""
    done = _swept(SHORT, SHORT_RUNS, 1)
    return min(b - a for a, b in pairwise(done))


def _seconds_a_run_alone() -> float:
    times = []
    for seed in range(SHORT_RUNS):
        start = time.perf_counter()
        training = Training(MODEL, SHORT.replace(seed=seed))
        while not training.done:
            training.step()
        training.record(training.evaluate())
        times.append(time.perf_counter() - start)
    return min(times)


def _many_records(folder: Path) -> list[Path]:
    training = Training(MODEL, SHORT.replace(budget=1e10))
    while training.steps_done < 2 * CURVE_POINTS:
        training.step()
    record = training.record(training.evaluate(), CURVE_POINTS)
    store = RunStore(folder)
    first = store.save(dataclasses.replace(record, status="finished"))
    text = first.read_text()
    paths = [first, *(folder / f"{number:016x}.json" for number in range(RECORDS - 1))]
    for path in paths[1:]:
        path.write_text(text)
    return paths
