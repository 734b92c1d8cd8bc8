"""Many runs at once, on this machine's cores or on a cluster.

    sweep(read_grid("grid.toml"), Path("runs"))

A run is a function of its configs, and its record is one file, written atomically. A run with a record is not trained
again, whoever trained it and however often the sweep is started. A run that was cut off resumes from its checkpoint.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.accounting.cost import bill
from sparsity_lab.accounting.devices import Device
from sparsity_lab.config import resolve
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.crew import Crew, Ended
from sparsity_lab.runs.gpus import Gpu, place
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.pool import Line, Pool, cores, pool
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.runs.worker import fingerprints, to_compile
from sparsity_lab.units import duration, flops

if TYPE_CHECKING:
    from sparsity_lab.runs.cluster import Cluster
    from sparsity_lab.training.timing import Speed

CURVE_POINTS = 64  # of a record's loss curve, because a sweep leaves many records
WATTS_PER_CORE = 10.0  # for a busy core of a laptop or desktop, roughly: 15 to 65 W for four to eight of them


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
        self.delay = 0  # or it would not end its line


def missing(pairs: Sequence[Pair], folder: Path) -> list[Pair]:
    """Returns the runs without a finished record in ``folder`` and in the user's store. A record counts if its corpus
    is the one on this machine."""
    return [pair for pair, record in _kept(pairs, RunStore(folder), user_store()) if record is None]


def _kept(pairs: Sequence[Pair], *stores: RunStore) -> Iterator[tuple[Pair, Record | None]]:
    """Yields each run with its finished record from the first of the stores that has one."""
    fingerprint = pool().submit(fingerprints, {run.corpus for _, run in pairs}).result()
    for model, run in pairs:
        found = (store.finished(model, run, fingerprint[run.corpus]) for store in stores)
        yield (model, run), next((record for record in found if record is not None), None)


def estimate(pairs: Sequence[Pair], folder: Path, workers: int | None = None, speed: "Speed | None" = None) -> Estimate:
    """Returns what `sweep` would take with ``workers`` (default: one per core), from a second of measuring."""
    todo = missing(pairs, folder)
    each = _seconds(todo, speed) if todo else []
    seconds = max([sum(each) / (workers or cores()), *each])  # no sweep is shorter than its longest run
    core_hours = sum(each) / 3600
    return Estimate(len(todo), seconds, core_hours, core_hours * WATTS_PER_CORE)


def assumed(pairs: Sequence[Pair], device: Device, utilisation: float) -> list[str]:
    """Returns lines that say, budget by budget, how long runs take on a device of whose peak they reach a share, all
    together. Nothing is measured. Raises ValueError as `cost.bill` does."""
    lines, so_far = list[str](), 0.0
    for budget in sorted({run.budget for _, run in pairs}):
        group = [pair for pair in pairs if pair[1].budget == budget]
        seconds = sum(3600 * bill(budget, device, utilisation, run.dtype).device_hours for _, run in group)
        steps, so_far = sum(plan(*pair).steps for pair in group), so_far + seconds
        count = f"{len(group)} run{'s' * (len(group) > 1)}, {steps:,} steps"
        lines.append(f"{flops(budget)}: {count}, {duration(seconds)}; {duration(so_far)} so far.")
    peaks = ", ".join(f"{device.peak(dtype):.3g} FLOP/s in {dtype}" for dtype in sorted({r.dtype for _, r in pairs}))
    share = f"{100 * utilisation:.3g} % of its peak ({peaks})"
    return [*lines, f"Assumed, not measured: all runs together reach {share} on {device.name}."]


def sweep(
    pairs: Sequence[Pair],
    folder: Path | str,
    *,
    workers: int | None = None,
    per_gpu: int | None = None,
    scheduler: str | None = None,
    report: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    speed: "Speed | None" = None,
) -> Progress:
    """Trains those of ``pairs`` without a record, the longest first, and leaves one record per run in ``folder``.

    The work is done by ``workers`` processes of one thread each on this machine (default: one per core), by ``per_gpu``
    of them on each of its GPUs, or by those of a Dask ``scheduler`` at an address like ``tcp://host:8786``. With
    ``per_gpu`` the runs of the smallest budget come first, because time on a GPU may be short. ``report`` gets a
    `Progress` about twice a second (default: a bar). When ``stop()`` is true, or at an interrupt, runs under way save a
    checkpoint and the sweep ends; started again, it resumes. A second interrupt ends it at once. If a worker dies, its
    run is tried again; a run that fails every time is recorded as ``failed`` and tried anew by the next sweep. Raises
    OSError if the disk is full, TimeoutError if no scheduler answers, and ValueError as `gpus.place` does.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list({run_id(*pair): pair for pair in pairs}.values())
    store, todo, before = RunStore(folder), list[Pair](), dict[str, bool]()
    for pair, record in _kept(pairs, store, user_store()):
        if record is None:
            todo.append(pair)
            continue
        before[run_id(*pair)] = record.compiled
        if store.finished(*pair, record.corpus["fingerprint"]) is None:  # the user has trained it elsewhere
            store.save(record)

    on = [] if scheduler else place(todo, per_gpu)
    state = _State(todo, len(pairs), _seconds(todo, speed) if todo else [], folder, whole_budgets=bool(on))
    state.threads = 1 if scheduler else len(on) or workers or cores()
    if todo and not scheduler:  # another machine may have no compiler
        state.compiled = pool().submit(to_compile, pairs, before).result()
    with closing(Bar()) as bar:
        report = report or bar
        report(state.progress())
        if not state.queue or stop():
            return state.progress()

        with _crew(state, workers, on, scheduler) as crew:
            _work(crew, state, report, stop)
        report(state.progress())
    return state.progress()


class _State:
    """The runs that are left, and how far those under way have come."""

    def __init__(self, todo: list[Pair], total: int, seconds: list[float], folder: Path, whole_budgets: bool = False):
        self.seconds = {run_id(*pair): each for pair, each in zip(todo, seconds, strict=True)}
        self.queue = sorted(todo, key=lambda pair: -self.seconds[run_id(*pair)])  # not finished, the longest first
        if whole_budgets:
            self.queue.sort(key=lambda pair: pair[1].budget)
        self.shares = dict.fromkeys(self.seconds, 0.0)  # of each run, how much is trained
        self.total, self.failed, self.threads = total, 0, 1
        self.compiled = set[str]()  # names of runs that are
        self.folder, self.start = folder, time.monotonic()

    def hear(self, name: str, share: float) -> None:
        """Takes a worker's news of its run, in another thread, perhaps after the run is done."""
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
def _crew(state: _State, workers: int | None, on: Sequence[Gpu], scheduler: str | None) -> "Iterator[Crew | Cluster]":
    with ExitStack() as exits:
        if scheduler is None:
            own = workers or on
            mine = exits.enter_context(closing(Pool(workers, [gpu.id for gpu in on]))) if own else pool()
            store = RunStore(state.folder)
            crew = Crew(mine, state.queue, store, state.hear, curve_points=CURVE_POINTS, compiled=state.compiled)
            yield exits.enter_context(crew)
        else:
            from sparsity_lab.runs.cluster import Cluster  # here, because Dask takes a second and 50 MB

            yield exits.enter_context(Cluster(scheduler, state.queue, state.folder, state.hear, CURVE_POINTS))


def _work(crew: "Crew | Cluster", state: _State, report: Callable[[Progress], None], stop: Callable[[], bool]) -> None:
    """Works until all runs have ended, or those under way at a `stop` are saved."""
    stopped = False
    while crew.working:
        try:
            if not stopped and stop():
                raise KeyboardInterrupt
            for pair, ended in crew.ended(0.5):
                _keep(pair, ended, state)
            state.threads = crew.threads
            report(state.progress())
        except KeyboardInterrupt:
            if stopped:
                raise
            stopped = True
            crew.stop()


def _keep(pair: Pair, ended: Ended, state: _State) -> None:
    """Writes down what became of a run. Raises OSError if there is no room for it."""
    store = RunStore(state.folder)
    if isinstance(ended, Record):
        if store.finished(*pair, ended.corpus["fingerprint"]) is None:  # the worker has another disk
            store.save(ended)
        with suppress(OSError):  # it is safe in the folder that was asked for
            user_store().save(ended)
        state.done(pair)
    elif isinstance(ended, OSError) and ended.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"{os.strerror(ended.errno)}: make room and start the sweep again; nothing finished is lost"
        raise OSError(ended.errno, text)
    elif ended is not None:
        lacking = bool(missing([pair], state.folder))  # unless another sweep has trained it meanwhile
        if lacking:
            first_line = (str(ended).splitlines() or [""])[0]
            store.save(failed_record(pair, f"{type(ended).__name__}: {first_line}"))
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


def _seconds(pairs: Sequence[Pair], speed: "Speed | None") -> list[float]:
    """Returns the seconds that each run takes on a core of this machine, with its evaluation."""
    return pool().submit(_measured_seconds, pairs).result() if speed is None else _seconds_at(speed, pairs)


def _measured_seconds(line: Line, pairs: Sequence[Pair]) -> list[float]:
    from sparsity_lab.training.corpus import load_corpus
    from sparsity_lab.training.timing import calibrate

    return _seconds_at(calibrate(load_corpus(pairs[0][1].corpus)), pairs)


def _seconds_at(speed: "Speed", pairs: Sequence[Pair]) -> list[float]:
    seconds = []
    for model, run in pairs:
        batches = run.eval_tokens / (run.sequences * model.context)
        evaluation = batches * speed.step_seconds(model, run.sequences) / 3  # a forward pass is a third of a step
        seconds.append(speed.seconds(model, run) + evaluation)
    return seconds
