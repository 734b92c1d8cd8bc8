"""The one live training behind a notebook.

A kernel has one `Session`, however often the cells are run: a notebook's globals would leave an old training alive
behind new widgets. Each lane trains in a worker of the pool. A thread waits for them, without needing the kernel's main
one, and calls its ``listeners`` at most ten times a second.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from sparsity_lab.accounting import plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.files import home, write_text
from sparsity_lab.record import UNFINISHED, Record, run_id
from sparsity_lab.runs.lanes import (
    SECONDS_BETWEEN_REPORTS,
    Lane,
    News,
    checkpoint_path,
    measure_speed,
    prepare,
    train_lanes,
)
from sparsity_lab.runs.pool import Job, cores, pool
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.runs.worker import make_code, to_compile
from sparsity_lab.training import checkpoint
from sparsity_lab.training.timing import Speed

SECONDS_TO_DRAW = 1.5  # that kernel and browser need for the dashboard, before the calibration takes a core
SHOWN, MOST_SHOWN = "dashboard.json", 100  # a file with the runs that dashboards show, and how many
LONGEST_NAME = 40
KEPT = (
    "You already have this result, so nothing was trained (sample text and expert load are not kept). "
    "Press Train again to train the model on the dial anew."
)


class Session:
    """Starts, pauses, steps and stops a training that runs in the background.

    All methods may be called from any thread and return at once, except `start` and `clear`, which wait for the old
    thread's present step. ``state`` is idle, running, paused or failed; ``message`` tells in a sentence what goes on.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or home()
        self.store = user_store(self.folder)
        self._checkpoints = self.folder / "checkpoints"
        self.names: dict[str, str] = {}  # that a learner gave to runs, by the runs' ids
        self.records: list[Record] = self._shown_before()
        self.lanes: list[Lane] = []
        self.state = "idle"
        self.message = "Ready."
        self.listeners: list[Callable[[], None]] = []  # of the dashboards on the page
        self._cleared: tuple[list[Record], list[Lane]] | None = None  # what `clear` hid
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._news = threading.Event()  # something to show
        self._talk = threading.Lock()  # of the next two
        self._jobs: list[Job] = []  # that train
        self._said: list[str] = []  # to them, as `train_lanes` understands it, since `start`
        self._anew = False  # train the first lane although the store has it
        self.parallel = True  # the lanes train at the same time
        self.speed: Speed | None = None  # of this machine, once `calibrate` is done

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def trains(self) -> bool:
        """True while it trains; the calibration does not count, nor what is left to do after the records are kept."""
        return self.busy and self.state in ("running", "paused")

    def start(self, pairs: list[tuple[ModelConfig, RunConfig]], paused: bool = False) -> list[Lane]:
        """Trains these models at the same time, or in turns where there is one core; ends what was running before.

        A run that the store holds is shown instead of trained; but if just these are shown already, the first of them
        is trained anew. If just these are being trained, they resume. Returns their lanes. Raises ValueError if a
        budget does not pay for one step.
        """
        lanes = [Lane(model, resolve(model, run)) for model, run in pairs]
        for lane in lanes:
            plan(lane.model, lane.run)  # raises the ValueError before anything that runs is ended

        with self._lock:
            if self.trains and not self._stop.is_set() and _ids(lanes) == _ids(self.lanes):
                if not paused:
                    self.proceed()
                return self.lanes

            self._anew = self.has_finished(pairs)
            self._end()
            self._cleared = None  # too late to undo
            self.lanes = lanes
            self.parallel = cores() > 1
            self._stop = threading.Event()
            self._jobs, self._said = [], ["step" if paused else "go"]
            self.state, self.message = "paused" if paused else "running", "Getting ready."
            self._thread = threading.Thread(target=self._work, args=(lanes,), daemon=True, name="training")
            self._thread.start()
            return lanes

    def calibrate(self, corpus: str) -> None:
        """Measures ``speed`` in the background, unless that is done or a training is under way."""
        with self._lock:
            if self.speed is None and not self.busy:
                self._thread = threading.Thread(target=self._calibrate, args=(corpus,), daemon=True, name="calibration")
                self._thread.start()

    def pause(self) -> None:
        with self._lock:
            if self.state == "running":
                self.state = "paused"
                self._say("pause")

    def proceed(self) -> None:
        """Resumes after `pause`."""
        with self._lock:
            if self.state == "paused":
                self.state = "running"
                self._say("go")

    def step(self) -> None:
        """Makes one training step of each model, then pauses."""
        with self._lock:
            self.pause()
            self._say("step")

    def stop(self) -> None:
        """Ends the run after its present step, measures it on held-out text and keeps it. Does nothing when idle."""
        with self._lock:
            self._say("stop")

    def has_finished(self, pairs: list[tuple[ModelConfig, RunConfig]]) -> bool:
        """Tells whether just these runs are shown and trained to the end."""
        wanted = [run_id(model, run) for model, run in pairs]
        ended = all(lane.record and lane.record.status != "stopped" for lane in self.lanes)
        return ended and _ids(self.lanes) == wanted

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the training is over; returns whether it is."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.busy

    def clear(self) -> None:
        """Ends the run and hides all runs, in later kernels too, until `undo_clear`. The store keeps their records:
        other cells, sweeps and the command line still find them, and so does `start`."""
        with self._lock:
            self._end()
            if self.records or self.lanes or any(self._checkpoints.glob("*.safetensors")):
                self._cleared = self.records, self.lanes
                for path in self._checkpoints.glob("*.cleared"):
                    path.unlink(missing_ok=True)
                self._rename_checkpoints(".safetensors", ".cleared")
            self.records, self.lanes = [], []
            self._keep_shown()
            self.state, self.message = "idle", f"Cleared. No result is lost: records stay in {self.store.folder}."

    def undo_clear(self) -> None:
        """Shows again what the last `clear` has hidden, unless something was trained since."""
        with self._lock:
            if self._cleared is not None:
                self._rename_checkpoints(".cleared", ".safetensors")
                records, lanes = self._cleared
                shown = {record.id for record in self.records}
                self.records = [*(record for record in records if record.id not in shown), *self.records]
                self.lanes = self.lanes or lanes
                self._cleared = None
                self._keep_shown()
                self.message = "Your runs are shown again."

    @property
    def can_undo(self) -> bool:
        return self._cleared is not None

    def rename(self, run: str, name: str) -> None:
        """Gives the run with this id a name of the learner's; an empty one takes it away."""
        with self._lock:
            self.names = {key: value for key, value in self.names.items() if key != run}
            if name.strip():
                self.names[run] = name.strip()[:LONGEST_NAME]
            self._keep_shown()

    def _rename_checkpoints(self, old: str, new: str) -> None:
        for path in self._checkpoints.glob(f"*{old}"):
            with suppress(OSError):
                path.replace(path.with_suffix(new))

    def _shown_before(self) -> list[Record]:
        """Returns the runs that the dashboard has shown since the last `clear`, in this kernel or an earlier one. The
        store holds many more: a cell or a sweep may have trained hundreds."""
        try:
            found = json.loads((self.folder / SHOWN).read_text())
            ids = [str(name) for name in (found["runs"] if isinstance(found, dict) else found)]
            named = found.get("names", {}) if isinstance(found, dict) else {}
            self.names = {str(run): str(name)[:LONGEST_NAME] for run, name in named.items()}
        except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):  # no list, or a torn one
            ids = [record.id for folder in self.store.older for record in RunStore(folder).load()]
        return list(filter(None, map(self.store.read, ids[-MOST_SHOWN:])))

    def _keep_shown(self) -> None:
        with suppress(OSError):  # on a full or read-only disk the next kernel shows what this one did
            shown = {"runs": [record.id for record in self.records], "names": self.names}
            write_text(self.folder / SHOWN, json.dumps(shown))

    def interrupted(self) -> tuple[ModelConfig, RunConfig] | None:
        """Returns the run that a dead kernel left unfinished (the sparsest, not its twin) and that nobody has finished
        since; `start` resumes it from its last checkpoint."""
        states = [checkpoint.peek(path) for path in self._checkpoints.glob("*.safetensors")] if not self.busy else []
        left = []
        for state in filter(None, states):
            model, run = ModelConfig.from_dict(state["model"]), RunConfig.from_dict(state["run"])
            record = self.store.read(run_id(model, run))
            if record is None or record.status in UNFINISHED:
                left.append((model, run))
        return max(left, key=lambda pair: pair[0].sparsity, default=None)

    def _say(self, word: str) -> None:
        """Tells the workers, also those that begin later."""
        with self._talk:
            if word in ("stop", "hurry"):
                self._stop.set()
            self._said.append(word)
            for job in self._jobs:
                job.send(word)

    def _end(self) -> None:
        """Stops without measuring, and waits for the thread."""
        self._say("hurry")
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # ---- the training thread. It does not take `_lock`: `start` and `clear` hold it while they wait for this thread.

    def _work(self, lanes: list[Lane]) -> None:
        try:
            self._look_up(lanes)
            jobs = self._hand_out([lane for lane in lanes if not lane.kept])
            self._watch(jobs)
            self._keep(lanes)
            for job in jobs:
                job.result()  # raises what ended it

            summaries = [lane.record.summary() for lane in lanes if lane.record is not None]
            kept = [KEPT] if all(lane.kept for lane in lanes) else []
            if not self._stop.is_set():  # or the next training has to share the cores
                pool().submit(make_code, [(lane.model, lane.run) for lane in lanes], at_once=True)  # for the next time
            self.state, self.message = "idle", " ".join([*kept, *summaries]) or "Stopped."
        except Exception as error:  # a thread's traceback goes nowhere: whatever it is, the learner must see it
            self._say("hurry")
            wait([job.future for job in self._jobs])
            self.state, self.message = "failed", f"{type(error).__name__}: {error}"
        self._tell()

    def _calibrate(self, corpus: str) -> None:
        self._stop.wait(SECONDS_TO_DRAW)
        try:
            self.speed = self._ask(measure_speed, corpus)
            self.message = "Ready."
        except Exception as error:
            self.state, self.message = "failed", f"{type(error).__name__}: {error}"
        self._tell()

    def _tell(self) -> None:
        for listener in list(self.listeners):
            try:
                listener()
            except Exception:  # a picture that fails must not end a training
                logging.getLogger(__name__).exception("a dashboard could not be brought up to date")

    def _look_up(self, lanes: list[Lane]) -> None:
        """Finds the records that spare training a lane, and those that were trained as the others will be."""
        records = dict[str, Record]()
        for lane in lanes:
            fingerprint = self._ask(prepare, lane.run.corpus)
            record = self.store.finished(lane.model, lane.run, fingerprint)
            if record is not None and not (self._anew and lane is lanes[0]):
                records[record.id] = record

        pairs = [(lane.model, lane.run) for lane in lanes]
        before = {name: record.compiled for name, record in records.items()}
        compiled = self._ask(to_compile, pairs, before, False)
        for lane, name in zip(lanes, _ids(lanes), strict=True):
            lane.compiled = name in compiled
            if name in records and records[name].compiled == lane.compiled:
                lane.record, lane.kept = records[name], True

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        job = pool().submit(function, *arguments, hear=self._note, at_once=True)
        self._watch([job])
        return job.result()

    def _hand_out(self, lanes: list[Lane]) -> list[Job]:
        """Lets lanes train at the same time; or in turns, in one worker, where there is one core."""
        crews = [] if self._stop.is_set() else [[lane] for lane in lanes] if self.parallel else [lanes]
        with self._talk:
            self._jobs = [
                pool().submit(
                    train_lanes, crew, self._said, self.store, self._checkpoints,
                    hear=partial(self._hear, crew), at_once=True,
                )
                for crew in crews if crew
            ]  # fmt: skip
            return self._jobs

    def _watch(self, jobs: Sequence[Job]) -> None:
        """Calls the listeners until the jobs have ended. If one fails, the others stop."""
        futures = [job.future for job in jobs]
        for future in futures:
            future.add_done_callback(lambda _: self._news.set())

        while not all(future.done() for future in futures):
            self._news.wait()
            self._news.clear()
            if not self._stop.is_set() and any(future.done() and future.exception() for future in futures):
                self._say("stop")
            start = time.monotonic()
            self._tell()
            # Where many share the machine, a report takes long, and must not take time from the training.
            wait(futures, max(SECONDS_BETWEEN_REPORTS, 10 * (time.monotonic() - start)))

    def _keep(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            if lane.record is not None:
                checkpoint_path(self._checkpoints, lane).unlink(missing_ok=True)  # also one of a run trained elsewhere
                self.records = [*(record for record in self.records if record.id != lane.record.id), lane.record]
        self._keep_shown()

    # ---- what workers tell, in the thread of the pool, which other jobs need too

    def _hear(self, lanes: list[Lane], news: News) -> None:
        place, first, told = news
        lanes[place].hear(first, told)
        unfinished = [lane.message for lane in self.lanes if lane.record is None]
        self._note(unfinished[0] if unfinished else told.message)

    def _note(self, message: str) -> None:
        self.message = message
        self._news.set()


def _ids(lanes: list[Lane]) -> list[str]:
    return [run_id(lane.model, lane.run) for lane in lanes]


@cache
def current() -> Session:
    """Returns the kernel's session, which the first call makes."""
    return Session()
