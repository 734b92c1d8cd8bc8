"""The one live training behind a notebook.

A kernel has one `Session` and a session has one training thread, however often the cells are run: a notebook's globals
would leave the old thread alive behind new widgets. The thread reports through `listener`, at most ten times a second.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sparsity_lab.accounting import plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.files import home, write_text
from sparsity_lab.models import generate
from sparsity_lab.models.router import RoutingStats
from sparsity_lab.record import UNFINISHED, Record, run_id
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.training import checkpoint
from sparsity_lab.training.batches import decode, encode
from sparsity_lab.training.corpus import Corpus, load_corpus
from sparsity_lab.training.timing import Speed, calibrate
from sparsity_lab.training.trainer import Step, Training

SECONDS_BETWEEN_REPORTS = 0.1
SECONDS_BETWEEN_CHECKPOINTS = 10.0
SECONDS_TO_DRAW = 1.5  # that kernel and browser need for the dashboard, before the calibration takes a core
PROMPT = "def "
SHOWN, MOST_SHOWN = "dashboard.json", 100  # a file with the names of the runs that dashboards show, and how many
KEPT = (
    "You already have this result, so nothing was trained (sample text and expert load are not kept). "
    "Press Train again to train the model on the dial anew."
)
SAMPLE_TOKENS = 160


@dataclass
class Lane:
    """One of the models that train side by side: the one on the dial, or its dense twin."""

    model: ModelConfig
    run: RunConfig
    training: Training | None = None
    last: Step | None = None
    routing: list[RoutingStats] = field(default_factory=list)
    text_before: str = ""
    text_after: str = ""
    record: Record | None = None

    @property
    def share(self) -> float:
        """The share of the budget that is spent, 0 to 1."""
        if self.record is not None:
            return 1.0
        return self.last.step / self.last.steps if self.last else 0.0


class Session:
    """Starts, pauses, steps and stops a training that runs in the background.

    All methods may be called from any thread and return at once, except `start` and `clear`, which wait for the old
    thread's present step. ``state`` is idle, running, paused or failed; ``message`` tells in a sentence what goes on.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or home()
        self.store = user_store(self.folder)
        self._checkpoints = self.folder / "checkpoints"
        self.records: list[Record] = self._shown_before()
        self.lanes: list[Lane] = []
        self.state = "idle"
        self.message = "Ready."
        self.listener: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._hurry = threading.Event()  # with `_stop`: do not even measure
        self._go = threading.Event()  # cleared while paused
        self._steps_allowed = 0  # while paused
        self._anew = False  # train the first lane although the store has it
        self._corpora: dict[str, Corpus] = {}
        self.speed: Speed | None = None  # of this machine, once `calibrate` is done

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def trains(self) -> bool:
        """True while it trains; the calibration does not count."""
        return self._thread is not None and self._thread.is_alive() and self._thread.name == "training"

    def start(self, pairs: list[tuple[ModelConfig, RunConfig]], paused: bool = False) -> None:
        """Trains these models side by side, each at the same share of its budget; ends what was running before.

        A run that the store holds is shown instead of trained; but if just these are shown already, the first of them
        is trained anew. If just these are being trained, they resume. Raises ValueError if a budget does not pay for
        one step.
        """
        lanes = [Lane(model, resolve(model, run)) for model, run in pairs]
        for lane in lanes:
            plan(lane.model, lane.run)  # raises the ValueError before anything that runs is ended

        with self._lock:
            if self.trains and not self._stop.is_set() and _ids(lanes) == _ids(self.lanes):
                if not paused:
                    self.proceed()
                return

            self._anew = self.has_finished(pairs)
            self._end()
            self.lanes = lanes
            self._stop, self._hurry, self._go = threading.Event(), threading.Event(), threading.Event()
            self._steps_allowed = int(paused)
            if not paused:
                self._go.set()
            self.state, self.message = "paused" if paused else "running", "Getting ready."
            self._thread = threading.Thread(target=self._work, args=(lanes,), daemon=True, name="training")
            self._thread.start()

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
                self._go.clear()

    def proceed(self) -> None:
        """Resumes after `pause`."""
        with self._lock:
            if self.state == "paused":
                self.state = "running"
                self._go.set()

    def step(self) -> None:
        """Makes one training step of each model, then pauses."""
        with self._lock:
            self.pause()
            self._steps_allowed += 1

    def stop(self) -> None:
        """Ends the run after its present step, measures it on held-out text and keeps it. Does nothing when idle."""
        with self._lock:
            self._stop.set()
            self._go.set()

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
        """Ends the run and hides all runs, in later kernels too. The store keeps their records: other cells, sweeps and
        the command line still find them, and so does `start`."""
        with self._lock:
            self._end()
            for path in self._checkpoints.glob("*.safetensors"):
                path.unlink(missing_ok=True)
            self.records, self.lanes = [], []
            self._keep_shown()
            self.state, self.message = "idle", f"Cleared. No result is lost: records stay in {self.store.folder}."

    def _shown_before(self) -> list[Record]:
        """Returns the runs that the dashboard has shown since the last `clear`, in this kernel or an earlier one. The
        store holds many more: a cell or a sweep may have trained hundreds."""
        try:
            names = [str(name) for name in json.loads((self.folder / SHOWN).read_text())]
        except (OSError, ValueError, TypeError, RecursionError):  # a folder without such a list, or with a torn one
            names = [record.id for folder in self.store.older for record in RunStore(folder).load()]
        return list(filter(None, map(self.store.read, names[-MOST_SHOWN:])))

    def _keep_shown(self) -> None:
        with suppress(OSError):  # on a full or read-only disk the next kernel shows what this one did
            write_text(self.folder / SHOWN, json.dumps([record.id for record in self.records]))

    def corpus(self, name: str) -> Corpus:
        """Loads a text, once, and reports progress in ``message``."""
        if name not in self._corpora:
            self._corpora[name] = load_corpus(
                name, progress=lambda text, share: self._tell(f"Preparing the corpus: {text} ({share:.0%}).")
            )
        return self._corpora[name]

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

    def _checkpoint(self, lane: Lane) -> Path:
        return self._checkpoints / f"{run_id(lane.model, lane.run)}.safetensors"

    def _tell(self, message: str) -> None:
        self.message = message
        self.listener()

    def _end(self) -> None:
        """Stops without measuring, and waits for the thread."""
        self._hurry.set()
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # ---- the training thread. It takes no lock: `start` and `clear` hold it while they wait for this thread.

    def _work(self, lanes: list[Lane]) -> None:
        try:
            self._prepare(lanes)
            self._train(lanes)
            self._finish(lanes)
            self.state = "idle"
        except Exception as error:  # a thread's traceback goes nowhere: whatever it is, the learner must see it
            self.state, self.message = "failed", f"{type(error).__name__}: {error}"
        self.listener()

    def _calibrate(self, corpus: str) -> None:
        self._stop.wait(SECONDS_TO_DRAW)
        try:
            self.speed = calibrate(self.corpus(corpus))
            self.message = "Ready."
        except Exception as error:
            self.state, self.message = "failed", f"{type(error).__name__}: {error}"
        self.listener()

    def _prepare(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            corpus = self.corpus(lane.run.corpus)
            if lane is not lanes[0] or not self._anew:
                lane.record = self.store.finished(lane.model, lane.run, corpus.fingerprint)
            if lane.record is not None:
                self._checkpoint(lane).unlink(missing_ok=True)  # of a run that was cut off, and then trained elsewhere
            else:
                path, seconds = self._checkpoint(lane), SECONDS_BETWEEN_CHECKPOINTS
                lane.training = Training(
                    lane.model, lane.run, corpus=corpus, checkpoint_path=path, checkpoint_seconds=seconds
                )
                lane.text_before = sample(lane.training)

    def _train(self, lanes: list[Lane]) -> None:
        report = 0.0
        while not self._stop.is_set():
            waiting = [lane for lane in lanes if lane.training is not None and not lane.training.done]
            if not waiting:
                return

            if self._go.is_set():
                turn = [min(waiting, key=lambda lane: lane.share)]
            elif self._steps_allowed:
                self._steps_allowed -= 1
                turn = waiting
            else:
                self._tell("Paused.")
                while not (self._go.wait(0.05) or self._steps_allowed):
                    pass
                continue

            for lane in turn:
                assert lane.training is not None
                lane.last = lane.training.step()
                now = time.monotonic()
                if now >= report or not self._go.is_set():
                    lane.routing = lane.training.model.routing()
                    self._tell("Training.")
                    # Where many share the machine, a report takes long, and must not take time from the training.
                    report = now + max(SECONDS_BETWEEN_REPORTS, 10 * (time.monotonic() - now))

    def _finish(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            if lane.training is not None and lane.last is not None:
                self._tell("Measuring the loss on held-out text.")
                lane.routing = lane.training.model.routing()
                lane.record = lane.training.record(lane.training.evaluate(self._hurry.is_set))
                if not self._hurry.is_set() and lane.record.status != "diverged":
                    lane.text_after = sample(lane.training)
                self.store.save(lane.record)
                self._checkpoint(lane).unlink(missing_ok=True)
            if lane.record is not None:
                self.records = [*(record for record in self.records if record.id != lane.record.id), lane.record]
        self._keep_shown()

        summaries = [lane.record.summary() for lane in lanes if lane.record is not None]
        kept = [KEPT] if all(lane.training is None for lane in lanes) else []
        self.message = " ".join([*kept, *summaries]) or "Stopped."


def sample(training: Training) -> str:
    """Returns what the model writes after `PROMPT`, with a dot for what can't be printed."""
    text = decode(generate(training.model, encode(PROMPT)[None], SAMPLE_TOKENS)[0])
    return "".join(c if c == "\n" or (c.isprintable() and c != "\ufffd") else "·" for c in text)


def _ids(lanes: list[Lane]) -> list[str]:
    return [run_id(lane.model, lane.run) for lane in lanes]


@cache
def current() -> Session:
    """Returns the kernel's session, which the first call makes."""
    return Session()
