"""Many runs at once, on this machine's cores or on a cluster, with Dask.

    sweep(read_grid("grid.toml"), Path("runs"))

A run is a function of its configs, and its record one file that is written atomically: whatever is there is not trained
again, whoever trained it and however often the sweep was started. A run that was cut off goes on from its checkpoint.
"""

import errno
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask import config as dask_config
from distributed import Client, Future, LocalCluster, get_worker, wait
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from sparsity_lab.accounting import count_parameters
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.corpus import Corpus, load_corpus
from sparsity_lab.grid import Pair
from sparsity_lab.runs import RunStore, run_id
from sparsity_lab.speed import Speed, calibrate
from sparsity_lab.training import Record, Training, resolve

CURVE_POINTS = 64  # of a record's loss curve: a sweep's records are many
SECONDS_BETWEEN_REPORTS = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 30.0
SECONDS_WITHOUT_SCHEDULER = 600.0  # that a sweep waits for its scheduler to come back
WATTS_A_CORE = 10.0  # of a busy core of a laptop or desktop, roughly: 15 to 65 W for four to eight of them
LOST = (CancelledError, CommClosedError, TimeoutError, OSError)  # what a lost scheduler makes of its futures


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take, before it starts."""

    runs: int  # that are not on disk yet
    seconds: float  # with so many workers
    core_hours: float
    watt_hours: float  # at `WATTS_A_CORE`

    def summary(self) -> str:
        return (
            f"{self.runs} runs to train: about {_clock(self.seconds)}, {self.core_hours:.2g} core hours, "
            f"{self.watt_hours:.2g} Wh at {WATTS_A_CORE:g} W a core."
        )


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands."""

    total: int  # runs
    done: int  # of them finished (or diverged), whoever trained them
    failed: int
    share: float  # of the work, running ones included, 0 to 1
    seconds_left: float

    def summary(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = f", {_clock(self.seconds_left)} left" if self.done + self.failed < self.total else ""
        return f"{self.done} of {self.total} runs done{failed}{left}."


class Bar:
    """Draws `Progress` with tqdm, in a terminal or a notebook."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = tqdm(total=100, bar_format="{l_bar}{bar}| {desc}")
        self._bar.n = round(100 * progress.share, 1)
        self._bar.set_description_str(progress.summary())
        if progress.done + progress.failed == progress.total:
            self._bar.close()


def missing(pairs: Sequence[Pair], folder: Path) -> list[Pair]:
    """The runs that ``folder`` holds no finished record of, on their corpora as they are on this machine."""
    store, corpora = RunStore(folder), _Corpora()
    return [(m, r) for m, r in pairs if store.find(m, r, corpora[r.corpus].fingerprint) is None]


def estimate(pairs: Sequence[Pair], folder: Path, workers: int | None = None, speed: Speed | None = None) -> Estimate:
    """What `sweep` would take with so many workers (default: one a core), from a second of measuring."""
    todo = missing(pairs, folder)
    each = _seconds(todo, speed) if todo else []
    workers = workers or os.cpu_count() or 1
    core_seconds = sum(each)
    seconds = max([core_seconds / workers, *each])
    return Estimate(len(todo), seconds, core_seconds / 3600, core_seconds / 3600 * WATTS_A_CORE)


def sweep(
    pairs: Sequence[Pair],
    folder: Path | str,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    speed: Speed | None = None,
) -> Progress:
    """Trains what ``folder`` lacks of ``pairs``, the longest runs first, and leaves one record a run there.

    ``workers`` processes of one thread each on this machine (default: one a core), or those of the Dask ``scheduler``
    at an address like ``tcp://host:8786``. ``report`` gets a `Progress` about twice a second (default: a bar). When
    ``stop()`` says so, or at an interrupt, runs under way save a checkpoint and the sweep ends; started again it goes
    on. A worker that dies has its run tried again; a run that fails every time is recorded as ``failed``, and tried
    anew by the next sweep. Raises OSError if the disk is full, TimeoutError if there is no scheduler to be found.
    """
    folder = Path(folder).absolute()
    RunStore(folder).folder.mkdir(parents=True, exist_ok=True)
    todo = missing(pairs, folder)
    state = _State(todo, len(pairs), _seconds(todo, speed) if todo else [], folder, report or Bar())
    state.tell()
    if not todo:
        return state.progress()
    try:
        while state.queue:
            with _cluster(workers, scheduler, stop) as client:
                _work(client, state, stop)
            if stop() or state.stopped:
                break
    finally:
        state.stop_file.unlink(missing_ok=True)
    state.tell()
    return state.progress()


class _State:
    """What is left to do, and how far what is under way has come."""

    def __init__(
        self, todo: list[Pair], total: int, seconds: list[float], folder: Path, report: Callable[[Progress], None]
    ):
        order = sorted(range(len(todo)), key=lambda i: -seconds[i])
        self.queue = [todo[i] for i in order]  # not finished, the longest first
        self.seconds = {run_id(*todo[i]): seconds[i] for i in order}
        self.total, self.before, self.failed = total, total - len(todo), 0
        self.shares: dict[str, float] = {}
        self.folder, self.report = folder, report
        self.stop_file = folder / f".stop-{uuid.uuid4().hex}"
        self.stopped = False
        self.start = time.monotonic()

    def done(self, pair: Pair, failed: bool = False) -> None:
        self.queue.remove(pair)
        self.failed += failed
        self.shares[run_id(*pair)] = 1.0

    def progress(self) -> Progress:
        work = sum(self.seconds.values()) or 1.0
        share = sum(self.seconds[name] * part for name, part in self.shares.items()) / work
        took = time.monotonic() - self.start
        left = took * (1 - share) / share if share > 0.01 else work * (1 - share)
        done = self.total - len(self.queue) - self.failed
        return Progress(self.total, done, self.failed, share if self.queue else 1.0, left if self.queue else 0.0)

    def tell(self) -> None:
        self.report(self.progress())


class _cluster:
    """A Dask client: of workers on this machine, or of a scheduler, which is waited for."""

    def __init__(self, workers: int | None, scheduler: str | None, stop: Callable[[], bool]):
        self.workers, self.scheduler, self.stop = workers, scheduler, stop
        self.local: LocalCluster | None = None

    def __enter__(self) -> Client:
        if self.scheduler is None:
            with dask_config.set({"distributed.worker.memory.terminate": False, "distributed.admin.log-format": ""}):
                self.local = LocalCluster(
                    n_workers=self.workers or os.cpu_count() or 1,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=50,
                )
            self.client = Client(self.local)
            return self.client
        end = time.monotonic() + SECONDS_WITHOUT_SCHEDULER
        while True:
            try:
                self.client = Client(self.scheduler, timeout=5)
                return self.client
            except (OSError, TimeoutError):
                if time.monotonic() > end or self.stop():
                    raise TimeoutError(f"scheduler={self.scheduler!r} does not answer: is it running?") from None

    def __exit__(self, *_: object) -> None:
        with suppress(*LOST):
            self.client.close(timeout=5)
        if self.local is not None:
            self.local.close(timeout=5)


def _work(client: Client, state: _State, stop: Callable[[], bool]) -> None:
    """Until the queue is empty, `stop` says so, or the scheduler is lost."""
    topic = f"sparsity-lab-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, lambda event: state.shares.update([event[1]]))
    under_way: dict[Future[str | None], Pair] = {}
    while (state.queue and not state.stopped) or under_way:
        try:
            if not state.stopped and stop():
                raise KeyboardInterrupt
            room = 0 if state.stopped else _threads(client) - len(under_way)
            for pair in [pair for pair in state.queue if pair not in under_way.values()][: max(0, room)]:
                arguments = (*(config.to_json() for config in pair), str(state.folder), str(state.stop_file), topic)
                under_way[client.submit(_train, *arguments, key=f"{topic}-{run_id(*pair)}", pure=False)] = pair
            with suppress(TimeoutError):
                wait(list(under_way), timeout=0.5, return_when="FIRST_COMPLETED")
        except KeyboardInterrupt:
            state.stopped = True
            state.stop_file.touch()
        except LOST:
            return
        if client.status != "running" or any(future.status in ("cancelled", "lost") for future in under_way):
            return
        for future in [f for f in under_way if f.done()]:
            _finish(future, under_way.pop(future), state)
        state.tell()


def _threads(client: Client) -> int:
    """Runs that can be under way at once; one waits where no worker is there yet."""
    found = client.scheduler_info(n_workers=-1)["workers"].values()
    return max(1, sum(int(worker["nthreads"]) for worker in found))


def _finish(future: Future[str | None], pair: Pair, state: _State) -> None:
    """Keeps what a worker made of a run. Raises OSError if there is no room to keep anything."""
    error = future.exception()
    store = RunStore(state.folder)
    if error is None:
        text = future.result()
        if text is None:  # stopped
            return
        record = Record(**json.loads(text))
        if not store.path(*pair).exists():  # the worker has another disk
            store.save(record)
        state.done(pair, failed=record.status == "failed")
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(error.errno, f"{error.strerror}: make room and start the sweep again; nothing finished is lost")
    elif isinstance(error, CancelledError):
        return
    else:
        store.save(failed(pair, f"{type(error).__name__}: {_first_line(error)}"))
        state.done(pair, failed=True)


def failed(pair: Pair, error: str) -> Record:
    """The record of a run that could not be trained."""
    model, run = pair[0], resolve(*pair)
    params = count_parameters(model)
    return Record(
        status="failed", val_loss=None, val_bits=None, flops=0, tokens=0, steps=0, params_total=params.total,
        params_active=params.active, sparsity=model.sparsity, seconds=0.0, seed=run.seed, model=model.to_dict(),
        run=run.to_dict(), corpus={"name": run.corpus, "fingerprint": ""}, device="", versions={},
        curve={"flops": [], "loss": []}, error=error,
    )  # fmt: skip


def _first_line(error: BaseException) -> str:
    if isinstance(error, KilledWorker):
        return "every worker that trained it died; was there too little memory?"
    return (str(error).splitlines() or [""])[0]


# ---- in a worker


def _train(model_json: str, run_json: str, folder: str, stop_file: str, topic: str) -> str | None:
    """Trains a run, unless its record is there, and keeps it. Gives the record as JSON; None if it was stopped."""
    model, run = ModelConfig.from_json(model_json), RunConfig.from_json(run_json)
    store, name, stop = RunStore(folder), run_id(model, run), Path(stop_file)
    checkpoints = store.folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoints / f"{name}.lock")  # freed by the system if this process dies
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:  # another sweep trains it
            if stop.exists():
                return None
    try:
        corpus = _corpora[run.corpus]
        record = store.find(model, run, corpus.fingerprint)
        if record is None:
            record = _trained(model, run, corpus, checkpoints / f"{name}.safetensors", stop, topic, name)
            if record is None:
                return None
            store.save(record)
    finally:
        lock.release()
    for suffix in (".safetensors", ".lock"):
        (checkpoints / f"{name}{suffix}").unlink(missing_ok=True)
    return record.to_json()


def _trained(
    model: ModelConfig, run: RunConfig, corpus: Corpus, path: Path, stop: Path, topic: str, name: str
) -> Record | None:
    training = Training(model, run, corpus=corpus, checkpoint_path=path, checkpoint_seconds=SECONDS_BETWEEN_CHECKPOINTS)
    reported = time.monotonic()
    while not training.done:
        training.step()
        if time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            get_worker().log_event(topic, (name, training.steps_done / training.plan.steps))
            if stop.exists():
                training.save(path)
                return None
    return training.record(training.evaluate(), curve_points=CURVE_POINTS)


class _Corpora(dict[str, Corpus]):
    def __missing__(self, name: str) -> Corpus:
        self[name] = load_corpus(name)
        return self[name]


_corpora = _Corpora()  # of this worker, which trains one run after the other


def _seconds(pairs: Sequence[Pair], speed: Speed | None) -> list[float]:
    """Of each run on a core of this machine."""
    speed = speed or calibrate(load_corpus(pairs[0][1].corpus))
    return [speed.seconds(model, run) + _seconds_to_evaluate(speed, model, run) for model, run in pairs]


def _seconds_to_evaluate(speed: Speed, model: ModelConfig, run: RunConfig) -> float:
    """A forward pass takes a third of a step."""
    return run.eval_tokens / (run.sequences * model.context) * speed.step_seconds(model, run.sequences) / 3


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"
