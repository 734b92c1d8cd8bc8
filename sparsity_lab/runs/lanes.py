"""The worker's side of a dashboard: runs that train while somebody looks on, and what else a dashboard asks a worker.

Torch is imported where it is needed, because a dashboard does without.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import unwritable
from sparsity_lab.record import Record, Step, run_id
from sparsity_lab.runs.lock import RunLock
from sparsity_lab.runs.pool import Line
from sparsity_lab.runs.store import RunStore
from sparsity_lab.training.corpus import load_corpus

if TYPE_CHECKING:
    from sparsity_lab.training.timing import Speed
    from sparsity_lab.training.trainer import Training

SECONDS_BETWEEN_REPORTS = 0.1
SECONDS_BETWEEN_CHECKPOINTS = 10.0
SECONDS_TO_THE_FIRST = 1.0  # so that little is lost even of a run that was hardly begun
SECONDS_BETWEEN_TRIES = 0.5  # to take a run that another process trains
SECONDS_BETWEEN_LOOKS = 60.0  # while paused, if nothing is heard
PROMPT = "def "
LINE = 'for name in names:  # greet 3 friends\n    print("hello", name)\n'  # read while it learns
SAMPLE_TOKENS = 160

Chosen = list[list[list[int]]]  # by layer and character, the experts that read it
News = tuple[int, int, "Lane"]  # of which lane of a job; the step after which its losses begin; and as it is now


@dataclass
class Lane:
    """One of the models that train side by side: the one on the dial, or its dense twin."""

    model: ModelConfig
    run: RunConfig
    message: str = "Getting ready."
    last: Step | None = None
    losses: list[float] = field(default_factory=list)  # of all steps
    routing: list[list[float]] = field(default_factory=list)  # share of the assignments that each expert got, by layer
    reads: Chosen = field(default_factory=list)  # who reads `LINE` now
    favourites: list[list[str]] = field(default_factory=list)  # kind of token that each expert came to read, by layer
    text_before: str = ""
    text_after: str = ""
    record: Record | None = None
    kept: bool = False  # the store has the record, so nothing is trained
    compiled: bool = False
    anew: bool = False  # trained although the store has it
    trouble: str = ""  # why there is no checkpoint
    unsaved: str = ""  # why the store does not have the record

    @property
    def share(self) -> float:
        """The share of the budget that is spent, 0 to 1."""
        if self.record is not None:  # of a run that was stopped, its share
            return 1.0 if self.record.status != "stopped" else min(1.0, self.record.flops / self.run.budget)
        return self.last.step / self.last.steps if self.last else 0.0

    def hear(self, first: int, told: "Lane") -> None:
        """Takes over what a worker tells of this lane, also one that trains it again after another has died."""
        losses, last = self.losses[:first] + told.losses, told.last or self.last
        text_before = self.text_before or told.text_before
        vars(self).update(vars(told) | {"losses": losses, "last": last, "text_before": text_before})


def checkpoint_path(folder: Path, lane: Lane) -> Path:
    return folder / f"{run_id(lane.model, lane.run)}.safetensors"


def train_lanes(line: Line, lanes: Sequence[Lane], said: Sequence[str], store: RunStore, checkpoints: Path) -> None:
    """Trains lanes, each at the same share of its budget, and tells `News` at most ten times a second for each.

    It does what was ``said`` and what is heard: ``pause``, ``go``, ``step`` (each lane makes one, then it pauses),
    ``stop`` (measures the runs as they are), ``hurry`` (stops and does not even measure). Runs resume from their files
    in ``checkpoints``, which whoever hears of the records has to delete: until then a worker may die. A run that lacks
    nothing but its measurement leaves no record, only its file. A run that another process trains is waited for. Where
    nothing can be saved, training goes on, and the lane says so.
    """
    orders = _Orders(line, said)
    runs = [_Run(line, place, lane, store, checkpoints) for place, lane in enumerate(lanes)]
    try:
        _train(runs, orders)
        for run in runs:
            run.finish(orders)
    except (EOFError, ConnectionError):  # the kernel is gone, and the next one resumes them
        for run in runs:
            run.save()
        raise
    finally:
        for run in runs:
            run.lock.give_back()


def _train(runs: "Sequence[_Run]", orders: "_Orders") -> None:
    while not orders.stop and (left := [run for run in runs if not run.done]):
        mine = [run for run in left if run.begun(orders)]
        if orders.stop or any(run.done for run in mine):
            continue
        if not mine:
            for run in runs:  # the others must not wait with it
                run.finish(orders)
            orders.listen(SECONDS_BETWEEN_TRIES)
            continue
        if orders.go:
            turn = [min(mine, key=lambda run: run.lane.share)]
        elif orders.steps:
            orders.steps -= 1
            turn = mine
        else:
            for run in mine:
                run.tell("Paused.")
            orders.listen(SECONDS_BETWEEN_LOOKS if mine == left else SECONDS_BETWEEN_TRIES)
            continue

        for run in turn:
            run.step(show=not orders.go)
        orders.listen()


class _Orders:
    """What the learner wants."""

    def __init__(self, line: Line, said: Sequence[str]):
        self._line = line
        self.go = self.stop = self.hurry = False
        self.steps = 0  # to make while paused
        self._obey(said)

    def listen(self, seconds: float = 0.0) -> None:
        self._obey(self._line.heard(seconds))

    def hurried(self) -> bool:
        self.listen()
        return self.hurry

    def _obey(self, words: Sequence[str]) -> None:
        for word in words:
            if word == "go":
                self.go, self.steps = True, 0
            elif word == "pause":
                self.go = False
            elif word == "step":
                self.go, self.steps = False, self.steps + 1
            else:
                self.stop, self.hurry = True, self.hurry or word == "hurry"


class _Run:
    """A lane and its training, which begins when nobody else trains the same run."""

    def __init__(self, line: Line, place: int, lane: Lane, store: RunStore, checkpoints: Path):
        self.lane, self._line, self._place, self._store = lane, line, place, store
        self._checkpoint = checkpoint_path(checkpoints, lane)
        self.lock = RunLock(self._checkpoint)
        self._training: Training | None = None
        self._waited = False
        self._try_at = 0.0  # time of the next look whether the run is free
        self._told = 0  # losses
        self._next = 0.0  # time of the next report
        self._save_at = math.inf

    @property
    def training(self) -> "Training":
        assert self._training is not None, "it has begun"
        return self._training

    @property
    def done(self) -> bool:
        return self.lane.record is not None or (self._training is not None and self._training.done)

    def begun(self, orders: _Orders) -> bool:
        """Begins the run, unless that is done or another process trains it; shows the record that one has left."""
        if self._training is not None or time.monotonic() < self._try_at:
            return self._training is not None
        if not self.lock.take():
            self._waited, self._try_at = True, time.monotonic() + SECONDS_BETWEEN_TRIES
            self.tell(f"{self.lock.owner()}: waiting for its result.")
            return False

        record = self._found()
        if record is not None:
            self.lane.record, self.lane.kept = record, True
            self.lock.give_back()
            self.tell("")
        else:
            self._begin(orders)
        return True

    def _found(self) -> Record | None:
        """Returns the record of another process that has trained the run since this lane was asked for."""
        lane = self.lane
        if lane.anew and not self._waited:
            return None
        record = self._store.finished(lane.model, lane.run, load_corpus(lane.run.corpus).fingerprint)
        return record if record is not None and record.compiled == lane.compiled else None

    def _begin(self, orders: _Orders) -> None:
        from sparsity_lab.training.reading import read
        from sparsity_lab.training.trainer import Training

        lane = self.lane
        path = self._checkpoint if self._checkpoint.exists() else None  # it is saved here, where a full disk is no end
        self._training = Training(
            lane.model, lane.run, compiled=lane.compiled, checkpoint_path=path, checkpoint_seconds=math.inf
        )
        orders.listen()
        if not orders.stop:
            lane.text_before = sample(self.training)
            lane.reads = read(self.training.model, LINE.encode())
            self.tell("Getting ready.")
            orders.listen()
        self._save_at = time.monotonic() + SECONDS_TO_THE_FIRST

    def step(self, show: bool) -> None:
        self.lane.last = self.training.step()
        if time.monotonic() >= self._save_at:
            self.save()
        if show or time.monotonic() >= self._next:
            self._look()
            self.tell("Training.")

    def save(self) -> None:
        """Saves a checkpoint, if it can and there is something to save."""
        if self._training is None or self.lane.record is not None:
            return
        try:
            self.training.save(self._checkpoint)
            self.lane.trouble = ""
        except OSError as error:
            why = unwritable(self._checkpoint.parent, error)
            self.lane.trouble = f"It trains without checkpoints, because {why}."
        self._save_at = time.monotonic() + SECONDS_BETWEEN_CHECKPOINTS

    def finish(self, orders: _Orders) -> None:
        """Measures the run and keeps its record, unless that is done or it has not even begun."""
        lane = self.lane
        if self._training is None or lane.record is not None or (lane.last is None and not self.done):
            return
        from sparsity_lab.training.reading import favourites

        self._look()
        self.tell("Measuring the loss on held-out text.")
        loss = self.training.evaluate(orders.hurried)
        if loss is None and self.done and not self.training.diverged:  # in a hurry
            self.save()
            self.lock.give_back()
            return
        record = self.training.record(loss)
        if not orders.hurry and record.status != "diverged":
            lane.text_after = sample(self.training)
            lane.favourites = favourites(self.training.model, self.training.corpus.val)
        try:
            self._store.save(record)
        except OSError as error:
            lane.unsaved = unwritable(self._store.folder, error)
        lane.record = record
        self.lock.give_back()
        self.tell(record.summary())

    def _look(self) -> None:
        """Notes the experts' load, of a training batch, before another text is read; and who reads a certain line."""
        from sparsity_lab.training.reading import read

        self.lane.routing = [stats.load for stats in self.training.model.routing()]
        self.lane.reads = read(self.training.model, LINE.encode())

    def tell(self, message: str) -> None:
        notice = self._training.notice if self._training is not None else ""
        self.lane.message = f"{notice} {message} {self.lane.trouble}".strip()
        new = self._training.losses[self._told :] if self._training is not None else []
        self._line.tell((self._place, self._told, replace(self.lane, losses=new)))
        self._told += len(new)
        self._next = time.monotonic() + SECONDS_BETWEEN_REPORTS


def sample(training: "Training") -> str:
    """Returns what the model writes after `PROMPT`, with a dot for what can't be printed."""
    from sparsity_lab.models import generate
    from sparsity_lab.training.batches import decode, encode

    text = decode(generate(training.model, encode(PROMPT)[None], SAMPLE_TOKENS)[0])
    return "".join(c if c == "\n" or (c.isprintable() and c != "\ufffd") else "·" for c in text)


# ---- what else a dashboard asks


def prepare(line: Line, corpus: str) -> str:
    """Prepares a text, tells of it in sentences, and returns its fingerprint."""

    def report(text: str, share: float) -> None:
        line.tell(f"Preparing the corpus: {text} ({share:.0%}).")

    return load_corpus(corpus, progress=report).fingerprint


def measure_speed(line: Line, corpus: str) -> "Speed":
    """Measures how fast this machine trains, on a text."""
    from sparsity_lab.training.timing import calibrate

    prepare(line, corpus)
    return calibrate(load_corpus(corpus))


def why_no_megablocks(line: Line) -> str | None:
    """Returns what `why_not` does, which takes a second and 60 MB."""
    from sparsity_lab.models.megablocks import why_not

    return why_not()
