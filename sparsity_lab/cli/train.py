"""Train a model within a budget of FLOPs, and keep its record."""

import argparse
import math
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sparsity_lab.cli.stopping import Stop
from sparsity_lab.config import BACKENDS, ModelConfig, RunConfig
from sparsity_lab.files import unwritable
from sparsity_lab.record import run_id

if TYPE_CHECKING:
    from tqdm import tqdm

    from sparsity_lab.training import Training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sparsity", type=float, default=0.0, help="S = (E-K)/E, from 0 (dense) to below 1")
    add("--budget", type=float, default=1e11, help="training FLOPs (default 1e11)")
    add("--width", type=int, default=32, help="d_model (default 32)")
    add("--hold", choices=("active", "total"), default="active", help="the parameters that the dial holds constant")
    add("--seed", type=int, default=0, help="of the weights and of the order of the data (default 0)")
    add("--corpus", default="python", help="a name, or the path of a text file or folder (default python)")
    add("--learning-rate", type=float, help="peak (default: the lab's choice)")
    add("--batch-size", type=int, help="sequences per step (default: the lab's choice)")
    add("--backend", default="grouped", help=f"how experts are computed: {', '.join(BACKENDS)}")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--dtype", default="float32", help="type of the matrix products: float32 or bfloat16")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--checkpoint", metavar="FILE", help="save the run here now and then and at the end, or resume it from here")
    add("--checkpoint-seconds", type=float, default=30.0, help="seconds between two checkpoints (default 30)")
    add("--parallel", choices=("data", "experts"), help="under torchrun: what the processes divide among themselves")
    add("--again", action="store_true", help="train again even if the finished run was kept")
    add("--json", action="store_true", help="print nothing but the run's record, as JSON")


def run(options: argparse.Namespace) -> int:
    model = ModelConfig.on_dial(options.width, options.sparsity, options.hold)
    names = ("budget", "seed", "corpus", "learning_rate", "batch_size", "backend", "device", "dtype", "threads")
    config = RunConfig(**{name: getattr(options, name) for name in names})
    seconds = options.checkpoint_seconds
    if not 0 <= seconds < math.inf:
        raise ValueError(f"--checkpoint-seconds {seconds:g} must be a number of seconds, 0 or more")

    from tqdm import tqdm

    from sparsity_lab.runs import user_store
    from sparsity_lab.training import Training, load_corpus
    from sparsity_lab.training.compiled import should_compile
    from sparsity_lab.training.distributed import Workers

    workers = Workers(options.parallel) if options.parallel else None
    alone = workers is None
    first = workers is None or workers.rank == 0  # it alone prints and saves
    store, corpus = user_store(), load_corpus(config.corpus)

    # Whoever wants a checkpoint wants the weights, and a record has none.
    record = None if options.again or options.checkpoint else store.finished(model, config, corpus.fingerprint)
    found = record is not None
    trouble, status = "", 0
    if not (found if workers is None else workers.agree(found)):
        # A run that is stopped is kept where a sweep or a cell would look for it, unless there is a place for it.
        left = store.folder / "checkpoints" / f"{run_id(model, config)}.safetensors"
        path = Path(options.checkpoint) if options.checkpoint else left
        is_there = path.exists() if workers is None else workers.agree(path.exists())
        resumed = path if options.checkpoint or is_there else None
        compiled = should_compile(model, config)
        training = Training(
            model, config, corpus=corpus, workers=workers, compiled=compiled, checkpoint_path=resumed,
            checkpoint_seconds=math.inf if alone else seconds,
        )  # fmt: skip

        label = f"S={model.sparsity:.4g}"
        bar = tqdm(total=config.budget, desc=label, unit="FLOP", unit_scale=True, disable=not first)
        with Stop(again=alone) as stop, bar:
            _train(training, path if options.checkpoint else None, seconds, stop, bar)
            loss = training.evaluate(stop if alone else lambda: False) if training.done else None
            if not training.done or (loss is None and not training.diverged):
                bar.close()
                return _stopped(training, path, options, stop.status, first)

        if options.checkpoint:  # the end of the run, for `measure` and `prune`
            trouble = _saved(training, path)
        record = training.record(loss)
        if first:
            try:
                store.save(record)
                with suppress(OSError):
                    left.unlink(missing_ok=True)
            except OSError as error:  # printed in full below, so that it is not lost
                trouble, options.json = unwritable(store.folder, error), True
    elif first:
        print(f"This run was trained before and is kept in {store.folder}; --again trains it again.", file=sys.stderr)

    if record is not None and first:
        print(record.to_json() if options.json else record.summary())
    if trouble:
        print(f"sparsity-lab: the run is trained, but not all is saved: {trouble}", file=sys.stderr)
    if trouble or (record is not None and record.status != "finished"):  # another process may have found the record
        status = 1
    if workers is not None:
        workers.leave(status)
    return status


def _train(training: "Training", path: Path | None, seconds: float, stop: Stop, bar: "tqdm[NoReturn]") -> None:
    """Trains until the end or ``stop``, and saves a checkpoint every so many seconds if there is a ``path``."""
    workers, save_at, trouble = training.workers, time.monotonic() + seconds, ""
    while not training.done and not (stop() if workers is None else workers.agree(stop())):
        step = training.step()
        bar.update(step.flops - bar.n)
        bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
        if path is not None and workers is None and time.monotonic() >= save_at:  # several processes save by themselves
            said, trouble = trouble, _saved(training, path)
            save_at = time.monotonic() + seconds
            if trouble and not said:
                print(f"\nsparsity-lab: no checkpoint was saved: {trouble}. Training goes on.", file=sys.stderr)


def _saved(training: "Training", path: Path) -> str:
    """Saves a checkpoint, and returns why that was not possible."""
    try:
        training.save(path)
        return ""
    except OSError as error:
        return unwritable(path.parent, error)


def _stopped(training: "Training", path: Path, options: argparse.Namespace, status: int, first: bool) -> int:
    """Saves a run that a signal has stopped, and says how it resumes."""
    trouble, alone = _saved(training, path), training.workers is None
    if first and trouble:
        print(f"sparsity-lab: stopped, but the run was not saved: {trouble}", file=sys.stderr)
    elif first:
        share = training.steps_done / training.plan.steps
        print(f"sparsity-lab: stopped at {share:.0%}; {path} has the run. To resume:", file=sys.stderr)
        print(f"  {options.command if alone else 'start torchrun as before'}", file=sys.stderr)
    if training.workers is not None:
        training.workers.leave(status)
    return status
