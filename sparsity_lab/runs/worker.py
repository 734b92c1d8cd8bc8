"""One run of a sweep, trained in a worker of Dask, which may be killed at any moment."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distributed import get_worker
from filelock import FileLock, Timeout

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.store import RunStore
from sparsity_lab.training.corpus import Corpus, load_corpus
from sparsity_lab.training.trainer import Training

CURVE_POINTS = 64  # of a record's loss curve, because a sweep leaves many records
SECONDS_BETWEEN_REPORTS = 1.0
SECONDS_BETWEEN_CHECKPOINTS = 30.0


@dataclass(frozen=True)
class Outcome:
    """The end of a run; everything is empty if it was stopped. Errors travel as text: one that Dask can't pickle,
    such as a RecursionError's traceback, would leave its client waiting forever."""

    record: str = ""  # as JSON
    error: str = ""  # what it died of
    errno: int | None = None


def failure(error: BaseException) -> Outcome:
    first_line = (str(error).splitlines() or [""])[0]
    return Outcome(error=f"{type(error).__name__}: {first_line}", errno=getattr(error, "errno", None))


_building = threading.Lock()  # threads share the random numbers that weights start from


def train_in_worker(model_json: str, run_json: str, folder: str, stop_file: str, topic: str) -> Outcome:
    """Trains a run, unless its record is there, and keeps the record."""
    try:
        record = _record(ModelConfig.from_json(model_json), RunConfig.from_json(run_json), folder, stop_file, topic)
    except Exception as error:
        return failure(error)
    return Outcome(record.to_json() if record else "")


def _record(model: ModelConfig, run: RunConfig, folder: str, stop_file: str, topic: str) -> Record | None:
    """Returns the record of a run, which is trained unless its record is there; None if it was stopped."""
    store, name, stop = RunStore(folder), run_id(model, run), Path(stop_file)
    checkpoint = store.folder / "checkpoints" / f"{name}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoint.with_suffix(".lock"))  # freed by the system if this process dies

    record = None
    while record is None and not stop.exists():
        with suppress(Timeout), lock.acquire(timeout=0.5):  # held while another sweep trains it
            corpus = load_corpus(run.corpus)
            record = store.finished(model, run, corpus.fingerprint)
            if record is None:
                training = _begin(model, run, corpus, checkpoint)
                if not _finished(training, checkpoint, stop, topic, name):
                    return None
                record = training.record(training.evaluate(), curve_points=CURVE_POINTS)
                store.save(record)
            checkpoint.unlink(missing_ok=True)

    if record is not None:
        with suppress(OSError):  # a sweep that still waits for it finds the record; Windows keeps a file that is open
            Path(lock.lock_file).unlink()
    return record


def _begin(model: ModelConfig, run: RunConfig, corpus: Corpus, path: Path) -> Training:
    """Builds a run, from its checkpoint if there is one. A checkpoint that is torn or of another text is dropped."""
    seconds = SECONDS_BETWEEN_CHECKPOINTS
    build = partial(Training, model, run, corpus=corpus, checkpoint_path=path, checkpoint_seconds=seconds)
    with _building:
        try:
            return build()
        except ValueError:
            if not path.exists():
                raise
            path.unlink()
            return build()


def _finished(training: Training, path: Path, stop: Path, topic: str, name: str) -> bool:
    """Trains to the end and returns True, or saves a checkpoint and returns False once ``stop`` is there."""
    reported = time.monotonic()
    while not training.done:
        training.step()
        if time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            get_worker().log_event(topic, (name, training.steps_done / training.plan.steps))
            if stop.exists():
                training.save(path)
                return False
    return True
