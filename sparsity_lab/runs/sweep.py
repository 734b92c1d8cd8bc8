"""Many runs at once, on this machine's cores or on a cluster, with Dask.

    sweep(read_grid("grid.toml"), Path("runs"))

A run is a function of its configs, and its record is one file, written atomically. A run with a record is not trained
again, whoever trained it and however often the sweep is started. A run that was cut off resumes from its checkpoint.
"""

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dask import config as dask_config
from distributed import Client, Future, LocalCluster, wait
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker
from tqdm.auto import tqdm

from sparsity_lab.accounting import count_parameters
from sparsity_lab.config import resolve
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.runs.worker import Outcome, failure, train_in_worker
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.timing import Speed, calibrate
from sparsity_lab.units import duration

SECONDS_WITHOUT_SCHEDULER = 600.0  # how long a sweep waits for its scheduler to come back
SECONDS_WITHOUT_WORKER = 300.0  # how long it waits for a worker of this machine to start again
WATTS_PER_CORE = 10.0  # for a busy core of a laptop or desktop, roughly: 15 to 65 W for four to eight of them
LOST = (CancelledError, ClosedClientError, OSError)  # what a client's calls raise once its scheduler is lost
# Ctrl-C reaches every process of a terminal, but those that train must stay alive to save a checkpoint.
DEAF_TO_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True)
class Estimate:
    """The time and energy that a sweep will take, before it starts."""

    runs: int  # that have no record yet
    seconds: float  # with all workers busy
    core_hours: float
    watt_hours: float  # at `WATTS_PER_CORE`

    def summary(self) -> str:
        return (
            f"{self.runs} run{'s' * (self.runs != 1)} to train: about {duration(self.seconds)}, "
            f"{self.core_hours:.2g} core hours, {self.watt_hours:.2g} Wh at {WATTS_PER_CORE:g} W per core."
        )


@dataclass(frozen=True)
class Progress:
    """The progress of a sweep."""

    total: int  # runs
    done: int  # runs that finished or diverged, whoever trained them
    failed: int
    share: float  # of the work, runs under way included, 0 to 1
    seconds_left: float

    def summary(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = f", {duration(self.seconds_left)} left" if self.done + self.failed < self.total else ""
        return f"{self.done} of {self.total} runs done{failed}{left}."


class Bar(tqdm):  # type: ignore[type-arg]
    """Draws `Progress` in a terminal or a notebook, from the first one on."""

    def __init__(self) -> None:
        super().__init__(total=100, bar_format="{percentage:3.0f}%|{bar}| {desc}", delay=1e-3)

    def __call__(self, progress: Progress) -> None:
        self.n = round(100 * progress.share, 1)
        self.set_description_str(progress.summary())


def missing(pairs: Sequence[Pair], folder: Path) -> list[Pair]:
    """Returns the runs without a finished record in ``folder`` and in the user's store. A record counts if its corpus
    is the one on this machine."""
    return [pair for pair, record in _kept(pairs, RunStore(folder), user_store()) if record is None]


def _kept(pairs: Sequence[Pair], *stores: RunStore) -> Iterator[tuple[Pair, Record | None]]:
    """Yields each run with its finished record from the first of the stores that has one."""
    fingerprint = {name: load_corpus(name).fingerprint for name in {run.corpus for _, run in pairs}}
    for model, run in pairs:
        found = (store.finished(model, run, fingerprint[run.corpus]) for store in stores)
        yield (model, run), next((record for record in found if record is not None), None)


def estimate(pairs: Sequence[Pair], folder: Path, workers: int | None = None, speed: Speed | None = None) -> Estimate:
    """Returns what `sweep` would take with ``workers`` (default: one per core), from a second of measuring."""
    todo = missing(pairs, folder)
    each = _seconds(todo, speed) if todo else []
    seconds = max([sum(each) / (workers or os.cpu_count() or 1), *each])  # no sweep is shorter than its longest run
    core_hours = sum(each) / 3600
    return Estimate(len(todo), seconds, core_hours, core_hours * WATTS_PER_CORE)


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
    """Trains those of ``pairs`` without a record, the longest first, and leaves one record per run in ``folder``.

    The work is done by ``workers`` processes of one thread each on this machine (default: one per core), or by those of
    a Dask ``scheduler`` at an address like ``tcp://host:8786``. ``report`` gets a `Progress` about twice a second
    (default: a bar). When ``stop()`` is true, or at an interrupt, runs under way save a checkpoint and the sweep ends;
    started again, it resumes. A second interrupt ends it at once. If a worker dies, its run is tried again; a run that
    fails every time is recorded as ``failed`` and tried anew by the next sweep. Raises OSError if the disk is full,
    TimeoutError if no scheduler answers.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list({run_id(*pair): pair for pair in pairs}.values())
    store, todo = RunStore(folder), []
    for pair, record in _kept(pairs, store, user_store()):
        if record is None:
            todo.append(pair)
        elif store.finished(*pair, record.corpus["fingerprint"]) is None:  # the user has trained it elsewhere
            store.save(record)

    bar = Bar()
    state = _State(todo, len(pairs), _seconds(todo, speed) if todo else [], folder, report or bar)
    try:
        state.report(state.progress())
        while state.queue and not state.stopped and not stop():
            with _cluster(workers, scheduler, stop) as client:
                if client is not None:
                    _work(client, state, stop)
        if todo:
            state.report(state.progress())
    finally:
        state.stop_file.unlink(missing_ok=True)
        bar.close()
    return state.progress()


class _State:
    """The runs that are left, and how far those under way have come."""

    def __init__(
        self, todo: list[Pair], total: int, seconds: list[float], folder: Path, report: Callable[[Progress], None]
    ):
        self.seconds = {run_id(*pair): each for pair, each in zip(todo, seconds, strict=True)}
        self.queue = sorted(todo, key=lambda pair: -self.seconds[run_id(*pair)])  # not finished, the longest first
        self.shares = dict.fromkeys(self.seconds, 0.0)  # of each run, how much is trained
        self.total, self.failed, self.threads = total, 0, 1
        self.folder, self.report = folder, report
        self.stop_file = folder / f".stop-{uuid.uuid4().hex}"
        self.stopped = False
        self.start = self.manned = time.monotonic()  # when a worker was there last

    def hear(self, event: tuple[float, tuple[str, float]]) -> None:
        """Takes a worker's news of its run, in one of Dask's threads, perhaps after the run is done."""
        name, share = event[1]
        self.shares[name] = max(self.shares[name], share)

    def done(self, pair: Pair, failed: bool = False) -> None:
        self.queue.remove(pair)
        self.failed += failed
        self.shares[run_id(*pair)] = 1.0

    def progress(self) -> Progress:
        done = self.total - len(self.queue) - self.failed
        if not self.queue:
            return Progress(self.total, done, self.failed, 1.0, 0.0)

        work = sum(self.seconds.values())
        share = sum(self.seconds[name] * part for name, part in self.shares.items()) / work
        took = time.monotonic() - self.start
        left = took * (1 - share) / share if share > 0.01 else work * (1 - share) / self.threads
        return Progress(self.total, done, self.failed, share, left)


@contextmanager
def _cluster(workers: int | None, scheduler: str | None, stop: Callable[[], bool]) -> Iterator[Client | None]:
    """Yields a Dask client for workers on this machine, or for a scheduler, once it answers; None if told to stop."""
    with ExitStack() as exits:
        client: Client | None = None
        if scheduler is None:
            settings = {
                "distributed.worker.preload": [*dask_config.get("distributed.worker.preload"), DEAF_TO_INTERRUPTS],
                "distributed.deploy.lost-worker-timeout": "1h",  # or Dask gives a worker up that restarts for 15 s
            }
            exits.enter_context(dask_config.set(settings))
            local = LocalCluster(
                n_workers=workers or os.cpu_count() or 1,
                threads_per_worker=1,
                memory_limit=0,  # or Dask would pause a big worker forever
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # any free port
                silence_logs=50,
            )
            exits.callback(_close, local)
            client = Client(local, set_as_default=False)

        end = time.monotonic() + SECONDS_WITHOUT_SCHEDULER
        while client is None and not stop():
            try:
                client = Client(scheduler, timeout=5, set_as_default=False)
            except OSError:
                if time.monotonic() > end:
                    raise TimeoutError(f"scheduler={scheduler!r} does not answer: is it running?") from None
        if client is not None:
            exits.callback(_close, client)
        yield client


def _close(dask: Client | LocalCluster) -> None:
    with suppress(*LOST):
        dask.close(timeout=5)


UnderWay = dict[Future[Outcome], Pair]


def _work(client: Client, state: _State, stop: Callable[[], bool]) -> None:
    """Works until the queue is empty, the runs under way at a `stop` are saved, or the scheduler is lost."""
    topic = f"sparsity-lab-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, state.hear)
    under_way: UnderWay = {}

    while state.queue and (under_way or not state.stopped):
        try:
            if not state.stopped and stop():
                raise KeyboardInterrupt
            try:
                _hand_out(client, state, under_way, topic)
                came_back = _collect(client, under_way)
            except LOST:
                return
            for pair, outcome in came_back:
                _keep(pair, outcome, state)
            state.report(state.progress())
        except KeyboardInterrupt:
            if state.stopped:
                raise
            state.stopped = True
            state.stop_file.touch()


def _hand_out(client: Client, state: _State, under_way: UnderWay, topic: str) -> None:
    """Hands out as many runs as there are threads, or one that waits for the first worker."""
    found = client.scheduler_info(n_workers=-1)["workers"].values()
    state.threads = max(1, sum(int(worker["nthreads"]) for worker in found))
    if found:
        state.manned = time.monotonic()
    elif client.cluster is not None and time.monotonic() - state.manned > SECONDS_WITHOUT_WORKER:
        raise CancelledError  # none of this machine's workers came back
    if state.stopped:
        if not found:  # no worker is there to stop
            under_way.clear()
        return

    waiting = [pair for pair in state.queue if pair not in under_way.values()]
    for pair in waiting[: max(0, state.threads - len(under_way))]:
        arguments = (*(config.to_json() for config in pair), str(state.folder), str(state.stop_file), topic)
        future = client.submit(train_in_worker, *arguments, key=f"{topic}-{run_id(*pair)}", pure=False)
        under_way[future] = pair


def _collect(client: Client, under_way: UnderWay) -> list[tuple[Pair, Outcome]]:
    """Returns what came back within half a second. Raises one of `LOST` if the scheduler is gone."""
    with client.as_current(), suppress(TimeoutError):
        wait(list(under_way), timeout=0.5, return_when="FIRST_COMPLETED")
    if client.status != "running":
        raise CancelledError
    return [(under_way.pop(future), _outcome(future)) for future in list(under_way) if future.done()]


def _outcome(future: Future[Outcome]) -> Outcome:
    error = future.exception(timeout=30)
    if isinstance(error, KilledWorker):
        return Outcome(error="KilledWorker: every worker that trained it died; was there too little memory?")
    return future.result(timeout=30) if error is None else failure(error)


def _keep(pair: Pair, outcome: Outcome, state: _State) -> None:
    """Writes down what became of a run. Raises OSError if there is no room for it."""
    store = RunStore(state.folder)
    if outcome.record:
        record = Record.from_json(outcome.record)
        if store.finished(*pair, record.corpus["fingerprint"]) is None:  # the worker has another disk
            store.save(record)
        with suppress(OSError):  # it is safe in the folder that was asked for
            user_store().save(record)
        state.done(pair)
    elif outcome.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"{os.strerror(outcome.errno)}: make room and start the sweep again; nothing finished is lost"
        raise OSError(outcome.errno, text)
    elif outcome.error:
        lacking = bool(missing([pair], state.folder))  # unless another sweep has trained it meanwhile
        if lacking:
            store.save(failed_record(pair, outcome.error))
        state.done(pair, failed=lacking)


def failed_record(pair: Pair, error: str) -> Record:
    """Returns the record of a run that could not be trained."""
    model, run = pair[0], resolve(*pair)
    params = count_parameters(model)
    return Record(
        status="failed", val_loss=None, val_bits=None, flops=0, tokens=0, steps=0, params_total=params.total,
        params_active=params.active, sparsity=model.sparsity, seconds=0.0, seed=run.seed, model=model.to_dict(),
        run=run.to_dict(), corpus={"name": run.corpus, "fingerprint": ""}, device="", versions={},
        curve={"flops": [], "loss": []}, error=error,
    )  # fmt: skip


def _seconds(pairs: Sequence[Pair], speed: Speed | None) -> list[float]:
    """Returns the seconds that each run takes on a core of this machine, with its evaluation."""
    speed = speed or calibrate(load_corpus(pairs[0][1].corpus))
    seconds = []
    for model, run in pairs:
        batches = run.eval_tokens / (run.sequences * model.context)
        evaluation = batches * speed.step_seconds(model, run.sequences) / 3  # a forward pass is a third of a step
        seconds.append(speed.seconds(model, run) + evaluation)
    return seconds
