"""What tests of many runs share: runs of a fraction of a second, a pool and a cluster inside this process, whose jobs
see what a test patches, and a log of trainings."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import Record
from sparsity_lab.runs import sweep as sweeps
from sparsity_lab.runs import worker as sweep_worker
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.sweep import CURVE_POINTS, Progress, sweep
from sparsity_lab.training.timing import Speed
from sparsity_lab.training.trainer import Training

SPEED = Speed(np.array([0, 0, 0, 0, 1.0, 0]))  # a second a GFLOP; so no test waits for a calibration


def pairs_of(model: ModelConfig, run: RunConfig, seeds: int) -> list[Pair]:
    return [(model, run.replace(seed=seed)) for seed in range(seeds)]


def swept(pairs: list[Pair], folder: Path, **options: Any) -> Progress:
    """`sweep` without a bar and without a calibration."""
    options = {"report": lambda progress: None, "speed": SPEED} | options
    return sweep(pairs, folder, **options)


def cluster_here(workers: int = 1, threads: int = 1, processes: bool = False) -> LocalCluster:
    """A Dask cluster whose workers are threads of this process: it starts at once, and sees what a test patches."""
    return LocalCluster(
        processes=processes, n_workers=workers, threads_per_worker=threads, memory_limit=0, dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}, silence_logs=50,
    )  # fmt: skip


class PoolHere(ThreadPoolExecutor):
    """A pool whose jobs run in threads of this process."""

    def __init__(self, size: int = 1):
        super().__init__(size)
        self.size = size

    def submit(  # type: ignore[override]
        self, function: Callable[..., Any], *arguments: Any, hear: Callable[[Any], None] = lambda news: None
    ) -> "JobHere":
        said: list[Any] = []
        line = SimpleNamespace(tell=hear, heard=lambda seconds=0.0: [said.pop() for _ in range(len(said))])
        return JobHere(super().submit(function, line, *arguments), said)


class JobHere:
    def __init__(self, future: Future[Any], said: list[Any]):
        self.future, self.send = future, said.append
        self.cancel, self.result = future.cancel, future.result


def options_here(kind: str, monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> Iterator[dict[str, str]]:
    """Yields options of `sweep` with which it trains in threads of this process, as in a pool or as in a cluster."""
    if kind == "pool":
        monkeypatch.setenv("SPARSITY_LAB_CORES", str(workers))
        pool = PoolHere(workers)
        monkeypatch.setattr(sweeps, "pool", lambda: pool)
        yield {}
        pool.shutdown()
    else:
        with cluster_here(workers) as cluster:
            yield {"scheduler": cluster.scheduler_address}


def trained_here(model: ModelConfig, run: RunConfig) -> Record:
    """The record that a sweep should make, from an unbroken run in this process."""
    training = Training(model, run)
    while not training.done:
        training.step()
    return training.record(training.evaluate(), curve_points=CURVE_POINTS)


def content(record: Record) -> dict[str, Any]:
    """What of a record is the same however often the run is trained on this machine."""
    return {name: value for name, value in vars(record).items() if name not in ("seconds", "cpu_seconds")}


def contents(folder: Path) -> dict[int, dict[str, Any]]:
    """Of the records in a folder, by seed; each seed once."""
    records = RunStore(folder).load()
    by_seed = {record.seed: content(record) for record in records}
    assert len(by_seed) == len(records), "a run was recorded twice"
    return by_seed


class Trainings:
    """What is trained in this process: watched, and, with ``at_step``, disturbed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.begun: list[tuple[int, int]] = []  # seed, and the steps its checkpoint had
        self.at_step: Callable[[Training], None] = lambda training: None
        begin, step = Training.__init__, Training.step

        def watched_begin(training: Training, *arguments: Any, **options: Any) -> None:
            begin(training, *arguments, **options)
            self.begun.append((training.run_config.seed, training.steps_done))

        def disturbed_step(training: Training) -> Any:
            self.at_step(training)
            return step(training)

        monkeypatch.setattr(Training, "__init__", watched_begin)
        monkeypatch.setattr(Training, "step", disturbed_step)
        monkeypatch.setattr(sweep_worker, "SECONDS_BETWEEN_NEWS", 0.0)


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it went while this was read
        return False
    return state != "Z"


class Background(threading.Thread):
    """A sweep in a thread; `join` gives its progress or raises its error."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(daemon=True)
        self.work = lambda: swept(*arguments, **options)
        self.start()

    def run(self) -> None:
        try:
            self.outcome: Progress | BaseException = self.work()
        except BaseException as error:
            self.outcome = error

    def result(self) -> Progress:
        self.join(300)
        assert not self.is_alive()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome
