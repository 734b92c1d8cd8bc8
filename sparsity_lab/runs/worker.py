"""One run, trained in a process that may be killed at any moment: a worker of the pool or of Dask.

Torch is imported where it is needed, because whoever hands runs out does without.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.pool import Line, cores
from sparsity_lab.runs.store import RunStore

if TYPE_CHECKING:
    from sparsity_lab.training.corpus import Corpus
    from sparsity_lab.training.trainer import Training

Score = Callable[["Training"], dict[str, float]]

CURVE_POINTS = 512  # of a record's loss curve
SECONDS_BETWEEN_NEWS = 0.5
SECONDS_BETWEEN_CHECKPOINTS = 15.0


def kept(model: ModelConfig, run: RunConfig, store: RunStore, fingerprint: str, score: Score | None) -> Record | None:
    """Returns the record that spares training a run, if there is one; with its scores, if there is a ``score``."""
    record = store.finished(model, run, fingerprint)
    lacks_scores = score and record and record.scores is None and record.status == "finished"
    return None if lacks_scores else record


def train_run(
    model: ModelConfig,
    run: RunConfig,
    store: RunStore,
    tell: Callable[[float], None],
    stop: Callable[[], bool],
    score: Score | None = None,
    curve_points: int = CURVE_POINTS,
    compiled: bool = False,
) -> Record | None:
    """Trains a run, unless its record is there, and keeps the record; returns it, or None if the run was stopped.

    ``tell`` gets the share that is done now and then. Once ``stop()`` is true, the run saves a checkpoint and ends; the
    next call resumes it. While another process trains the same run, it waits. ``score`` examines the trained model. A
    record counts only if the run was ``compiled`` or not, as asked for.
    """
    from sparsity_lab.training.corpus import load_corpus

    checkpoint = store.folder / "checkpoints" / f"{run_id(model, run)}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoint.with_suffix(".lock"))  # freed by the system if this process dies

    record = None
    while record is None and not stop():
        with suppress(Timeout), lock.acquire(timeout=0.5):
            corpus = load_corpus(run.corpus)
            record = kept(model, run, store, corpus.fingerprint, score)
            if record is None or record.compiled != compiled:
                if compiled and not code_is_there(model, run, stop):
                    return None
                training = _begin(model, run, corpus, checkpoint, compiled)
                record = _trained(training, tell, stop, curve_points)
                if record is None:
                    training.save(checkpoint)
                    return None
                if score and record.status == "finished":
                    record = replace(record, scores=score(training))
                store.save(record)
                record = Record.from_json(record.to_json())  # as others will read it, without types of torch's
            checkpoint.unlink(missing_ok=True)

    if record is not None:
        with suppress(OSError):  # whoever still waits for it finds the record; Windows keeps a file that is open
            Path(lock.lock_file).unlink()
    return record


_building = threading.Lock()  # threads share the random numbers that weights start from


def _begin(model: ModelConfig, run: RunConfig, corpus: "Corpus", path: Path, compiled: bool) -> "Training":
    """Builds a run, from its checkpoint if there is one."""
    from sparsity_lab.training.trainer import Training

    seconds = SECONDS_BETWEEN_CHECKPOINTS
    with _building:
        return Training(model, run, corpus=corpus, compiled=compiled, checkpoint_path=path, checkpoint_seconds=seconds)


def _trained(
    training: "Training", tell: Callable[[float], None], stop: Callable[[], bool], curve_points: int
) -> Record | None:
    told = time.monotonic()
    while not training.done:
        step = training.step()
        if stop():
            return None
        if time.monotonic() - told >= SECONDS_BETWEEN_NEWS:
            told = time.monotonic()
            tell(step.step / step.steps)

    loss = training.evaluate(stop)
    if loss is None and not training.diverged:
        return None
    return training.record(loss, curve_points=curve_points)


# ---- compiled code


def code_is_there(model: ModelConfig, run: RunConfig, stop: Callable[[], bool]) -> bool:
    """Waits until compiled code was made for a run, or could not be; returns False if it was stopped before."""
    from sparsity_lab.training import compiled

    while compiled.is_untried(model, run):
        process = compiled.make_ready(model, run)
        while process.poll() is None and not stop():
            time.sleep(0.05)
        if process.poll() is None:
            process.kill()
            return False
        if process.returncode != compiled.BUSY:
            break
    return not stop()


def to_compile(line: Line, pairs: Iterable[Pair], before: Mapping[str, bool], wait: bool = True) -> set[str]:
    """Returns the `run_id` of each run that compiled code should train. Runs of one budget are compared, so it is all
    of them or none. Those that are there ``before`` decide, if they agree: by `run_id`, whether they were compiled.
    Unless somebody can ``wait``, the code has to be there. With one core, a share of a machine perhaps, memory is
    scarcer than time, and nothing is compiled. If all are there and agree, it does not matter what can be made here."""
    from sparsity_lab.training.compiled import is_ready, should_compile

    def can(pair: Pair) -> bool:
        return cores() > 1 and should_compile(*pair) and (wait or is_ready(*pair))

    chosen, budgets = set[str](), defaultdict[float, list[Pair]](list)
    for pair in pairs:
        budgets[pair[1].budget].append(pair)
    for group in budgets.values():
        names = {run_id(*pair) for pair in group}
        were = {before[name] for name in names & before.keys()}
        if were <= {True} and (names <= before.keys() or all(map(can, group))):
            chosen |= names
    return chosen


def make_code(line: Line, pairs: Iterable[Pair]) -> None:
    """Makes compiled code for long runs that did not wait for it, so that it is there the next time."""
    if cores() == 1:
        return
    from sparsity_lab.training.compiled import is_untried, make_ready, should_compile

    for model, run in pairs:
        if should_compile(model, run) and is_untried(model, run):
            process = make_ready(model, run)
            with suppress(AttributeError, OSError):  # Windows; or it has ended
                os.setpriority(os.PRIO_PROCESS, process.pid, 10)  # what somebody waits for goes first
            process.wait()


# ---- in a worker of the pool


def train_in_pool(
    line: Line,
    model: ModelConfig,
    run: RunConfig,
    store: RunStore,
    score: Score | None,
    curve_points: int,
    compiled: bool,
) -> Record | None:
    """Does what `train_run` does, until anything is heard or whoever handed the run out is gone."""
    heard = list[object]()

    def stop() -> bool:
        try:
            heard.extend(line.heard())
        except EOFError:
            return True
        return bool(heard)

    return train_run(model, run, store, line.tell, stop, score, curve_points, compiled)


def fingerprints(line: Line, corpora: Iterable[str]) -> dict[str, str]:
    """Returns the fingerprints of texts, which are prepared where it is the first time."""
    from sparsity_lab.training.corpus import load_corpus

    return {name: load_corpus(name).fingerprint for name in corpora}
