"""The one live training behind a notebook.

A kernel has one `Session`, however often the cells are run: a notebook's globals would leave an old training alive
behind new widgets. Each lane trains in a worker of the pool. A thread waits for them, without needing the kernel's main
one, and calls its ``listeners`` at most ten times a second.
"""

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
from sparsity_lab.files import home
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.lanes import (
    SECONDS_BETWEEN_REPORTS,
    Lane,
    News,
    measure_speed,
    prepare,
    train_lanes,
)
from sparsity_lab.runs.lock import RunLock
from sparsity_lab.runs.pool import Job, cores, pool
from sparsity_lab.runs.worker import make_code, to_compile
from sparsity_lab.training.timing import Speed
from sparsity_lab.widgets.shown import ShownRuns, change_shown

SECONDS_TO_DRAW = 1.5  # that kernel and browser need for the dashboard, before the calibration takes a core
SECONDS_TO_SAVE_AGAIN = 5.0  # after which a record is tried that the disk had no room for
KEPT = (
    "You already have this result, so nothing was trained (sample text and expert load are not kept). "
    "Press Train again to train the model on the dial anew."
)


class _Talk:
    """What is said to the workers that train some lanes, as `train_lanes` understands it."""

    def __init__(self, *words: str):
        self.said = list(words)
        self.jobs: list[Job] = []
        self.stopped = threading.Event()
        self.news = threading.Event()  # something to show
        self._lock = threading.Lock()

    def say(self, word: str) -> None:
        """Tells the workers, also those that begin later."""
        with self._lock:
            if word in ("stop", "hurry"):
                self.stopped.set()
            self.said.append(word)
            for job in self.jobs:
                job.send(word)
        self.news.set()

    def hand_out(self, submit: Callable[[list[str]], list[Job]]) -> list[Job]:
        with self._lock:
            self.jobs = [] if self.stopped.is_set() else submit(self.said)
            return self.jobs


class _Stopped(Exception):
    """Raised in the training thread if a run is stopped before it begins."""


class Session(ShownRuns):
    """Starts, pauses, steps and stops a training that runs in the background.

    All methods may be called from any thread and return at once, except `clear`, which waits for the present step.
    ``state`` is idle, running, paused or failed; ``message`` tells in a sentence what goes on.
    """

    def __init__(self, folder: Path | None = None):
        super().__init__(folder or home())
        self.lanes: list[Lane] = []
        self.state = "idle"
        self.message = "Ready."
        self.listeners: list[Callable[[], None]] = []  # of the dashboards on the page
        self._thread: threading.Thread | None = None  # it waits for the one before it to end
        self._talk = _Talk()  # with the workers of the present training
        self._anew = False  # train the first lane although the store has it
        self.parallel = True  # the lanes train at the same time
        self.speed: Speed | None = None  # of this machine, once `calibrate` is done
        self._unsaved: dict[str, Record] = {}  # what the disk had no room for, by the runs' ids
        self._saving = False  # a thread tries to save them

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
            if self.trains and not self._talk.stopped.is_set() and _ids(lanes) == _ids(self.lanes):
                if not paused:
                    self.proceed()
                return self.lanes

            self._anew = self.has_finished(pairs)
            self._forget_hidden()
            self.lanes = lanes
            self.parallel = cores() > 1
            self.state, self.message = "paused" if paused else "running", "Getting ready."
            self._begin("training", _Talk("step" if paused else "go"), self._work, lanes)
            return lanes

    def calibrate(self, corpus: str) -> None:
        """Measures ``speed`` in the background, unless that is done or a training is under way."""
        with self._lock:
            if self.speed is None and not self.busy:
                self._begin("calibration", _Talk(), self._calibrate, corpus)

    def _begin(self, name: str, talk: _Talk, function: Callable[..., None], *arguments: Any) -> None:
        """Ends what was running before, and calls a function in a thread once that is over."""
        self._talk.say("hurry")
        before, self._talk = self._thread, talk

        def work() -> None:
            if before is not None:
                before.join()
            function(talk, *arguments)

        self._thread = threading.Thread(target=work, daemon=True, name=name)
        self._thread.start()

    def pause(self) -> None:
        with self._lock:
            if self.state == "running":
                self.state = "paused"
                self._talk.say("pause")

    def proceed(self) -> None:
        """Resumes after `pause`."""
        with self._lock:
            if self.state == "paused":
                self.state = "running"
                self._talk.say("go")

    def step(self) -> None:
        """Makes one training step of each model, then pauses."""
        with self._lock:
            self.pause()
            self._talk.say("step")

    def stop(self) -> None:
        """Ends the run after its present step, measures it on held-out text and keeps it. Does nothing when idle."""
        with self._lock:
            if self.trains:
                self.message = "Stopping."
            self._talk.say("stop")

    def has_finished(self, pairs: list[tuple[ModelConfig, RunConfig]]) -> bool:
        """Tells whether just these runs are shown and trained to the end."""
        wanted = [run_id(model, run) for model, run in pairs]
        ended = all(lane.record and lane.record.ended for lane in self.lanes)
        return ended and _ids(self.lanes) == wanted

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the training is over; returns whether it is."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.busy

    def interrupted(self) -> tuple[ModelConfig, RunConfig] | None:
        return None if self.busy else super().interrupted()

    def clear(self) -> None:
        """Ends the run and hides all runs that are shown, in later kernels too, until `undo_clear`. The store keeps
        their records: other cells, sweeps and the command line still find them, and so does `start`. What another
        kernel trains or shows beside them stays as it is."""
        with self._lock:
            thread = self._thread
            before = thread if self.trains else None
            if before is not None:
                self._talk.say("hurry")
        if before is not None:
            before.join()

        with self._lock:
            if self._thread is thread:  # and nothing was started meanwhile
                self._hide(self.lanes)
                self.lanes = []
                self.state, self.message = "idle", f"Cleared. No result is lost: records stay in {self.store.folder}."

    def undo_clear(self) -> None:
        """Shows again what the last `clear` has hidden, unless something was trained since."""
        with self._lock:
            if self._cleared is not None:
                self.lanes = self.lanes or self._cleared.lanes
                self._show_hidden()
                self.message = "Your runs are shown again."

    # ---- the training thread

    def _work(self, talk: _Talk, lanes: list[Lane]) -> None:
        try:
            self._look_up(talk, lanes)
            jobs = self._hand_out(talk, [lane for lane in lanes if not lane.kept])
            self._watch(talk, jobs)
            self._keep(lanes)
            for job in jobs:
                job.result()  # raises what ended it

            summaries = [lane.record.summary() for lane in lanes if lane.record is not None]
            kept = [KEPT] if all(lane.kept for lane in lanes) else []
            unsaved = [f"Not saved yet: {lane.unsaved}. Saving is tried again." for lane in lanes if lane.unsaved]
            if not talk.stopped.is_set():  # or the next training has to share the cores
                pool().submit(make_code, [(lane.model, lane.run) for lane in lanes], at_once=True)  # for the next time
            self._end(talk, "idle", " ".join([*kept, *summaries, *dict.fromkeys(unsaved)]) or "Stopped.")
        except _Stopped:
            self._end(talk, "idle", "Stopped.")
        except Exception as error:  # a thread's traceback goes nowhere: whatever it is, the learner must see it
            talk.say("hurry")
            wait([job.future for job in talk.jobs])
            self._end(talk, "failed", f"{type(error).__name__}: {error}")

    def _calibrate(self, talk: _Talk, corpus: str) -> None:
        talk.stopped.wait(SECONDS_TO_DRAW)
        try:
            job = pool().submit(measure_speed, corpus, hear=partial(self._note, talk), at_once=True)
            self._watch(talk, [job])
            self.speed = job.result()
            self._end(talk, "idle", "Ready.")
        except Exception as error:
            self._end(talk, "failed", f"{type(error).__name__}: {error}")

    def _end(self, talk: _Talk, state: str, message: str) -> None:
        with self._lock:
            if talk is self._talk:  # and nothing else was started
                self.state, self.message = state, message
        self._tell()

    def _tell(self) -> None:
        for listener in list(self.listeners):
            try:
                listener()
            except Exception:  # a picture that fails must not end a training
                logging.getLogger(__name__).exception("a dashboard could not be brought up to date")

    def _look_up(self, talk: _Talk, lanes: list[Lane]) -> None:
        """Finds the records that spare training a lane, and those that were trained as the others will be."""
        records = dict[str, Record]()
        for lane, name in zip(lanes, _ids(lanes), strict=True):
            fingerprint = self._ask(talk, prepare, lane.run.corpus)
            record = self._finished(lane, name, fingerprint)
            lane.anew = self._anew and lane is lanes[0]
            if record is not None and not lane.anew:
                records[name] = record

        pairs = [(lane.model, lane.run) for lane in lanes]
        before = {name: record.compiled for name, record in records.items()}
        compiled = self._ask(talk, to_compile, pairs, before, False)
        for lane, name in zip(lanes, _ids(lanes), strict=True):
            lane.compiled = name in compiled
            if name in records and records[name].compiled == lane.compiled:
                lane.record, lane.kept = records[name], True

    def _finished(self, lane: Lane, name: str, fingerprint: str) -> Record | None:
        unsaved = self._unsaved.get(name)
        if unsaved and unsaved.ended and unsaved.corpus["fingerprint"] == fingerprint:
            return unsaved
        return self.store.finished(lane.model, lane.run, fingerprint)

    def _ask(self, talk: _Talk, function: Callable[..., Any], *arguments: Any) -> Any:
        """Raises _Stopped if somebody does not want to wait for the answer."""
        job = pool().submit(function, *arguments, hear=partial(self._note, talk), at_once=True)
        if not self._watch(talk, [job], until_stopped=True):
            job.cancel()
            raise _Stopped
        return job.result()

    def _hand_out(self, talk: _Talk, lanes: list[Lane]) -> list[Job]:
        """Lets lanes train at the same time; or in turns, in one worker, where there is one core."""
        crews = [[lane] for lane in lanes] if self.parallel else [lanes]
        return talk.hand_out(lambda said: [
            pool().submit(
                train_lanes, crew, said, self.store, self._checkpoints,
                hear=partial(self._hear, talk, crew), at_once=True,
            )
            for crew in crews if crew
        ])  # fmt: skip

    def _watch(self, talk: _Talk, jobs: Sequence[Job], until_stopped: bool = False) -> bool:
        """Calls the listeners until the jobs have ended, and returns whether they have. If one fails, the others
        stop."""
        futures = [job.future for job in jobs]
        for future in futures:
            future.add_done_callback(lambda _: talk.news.set())

        while not all(future.done() for future in futures):
            talk.news.wait()
            talk.news.clear()
            if talk.stopped.is_set():
                if until_stopped:
                    return all(future.done() for future in futures)
            elif any(future.done() and future.exception() for future in futures):
                talk.say("stop")
            start = time.monotonic()
            self._tell()
            # Where many share the machine, a report takes long, and must not take time from the training.
            wait(futures, max(SECONDS_BETWEEN_REPORTS, 10 * (time.monotonic() - start)))
        return True

    def _keep(self, lanes: list[Lane]) -> None:
        """Shows records, and tries to save later those that the disk had no room for."""
        records = {lane.record.id: lane.record for lane in lanes if lane.record is not None}
        with self._lock:
            self.records = [*(record for record in self.records if record.id not in records), *records.values()]
            self._unsaved |= {lane.record.id: lane.record for lane in lanes if lane.record and lane.unsaved}
            if self._unsaved and not self._saving:
                self._saving = True
                threading.Thread(target=self._save_later, daemon=True, name="saving").start()
        self._note_saved([name for name in records if name not in self._unsaved])

    def _note_saved(self, names: list[str]) -> None:
        for path in (self._checkpoints / f"{name}.safetensors" for name in names):  # also of a run trained elsewhere
            with suppress(OSError):
                if RunLock(path).is_free():
                    path.unlink(missing_ok=True)
        change_shown(self._list, show=names)

    def _save_later(self) -> None:
        while True:
            time.sleep(SECONDS_TO_SAVE_AGAIN)
            for name, record in list(self._unsaved.items()):
                with suppress(OSError):
                    self.store.save(record)
                    self._note_saved([name])
                    with self._lock:
                        if self._unsaved[name] is record:
                            del self._unsaved[name]
            with self._lock:
                if self._unsaved:
                    continue
                self._saving = False
                if not self.trains:
                    self.message = f"Saved now in {self.store.folder}."
            self._tell()
            return

    # ---- what workers tell, in the thread of the pool, which other jobs need too

    def _hear(self, talk: _Talk, lanes: list[Lane], news: News) -> None:
        place, first, told = news
        lanes[place].hear(first, told)
        unfinished = [lane.message for lane in self.lanes if lane.record is None]
        self._note(talk, unfinished[0] if unfinished else told.message)

    def _note(self, talk: _Talk, message: str) -> None:
        if talk is self._talk:
            self.message = message
        talk.news.set()


def _ids(lanes: list[Lane]) -> list[str]:
    return [run_id(lane.model, lane.run) for lane in lanes]


@cache
def current() -> Session:
    """Returns the kernel's session, which the first call makes."""
    return Session()
