"""Train a model within a budget of FLOPs, and keep its record."""

import argparse
import sys

from sparsity_lab.config import BACKENDS, ModelConfig, RunConfig


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

    from tqdm import tqdm

    from sparsity_lab.runs import user_store
    from sparsity_lab.training import Training, load_corpus
    from sparsity_lab.training.compiled import should_compile
    from sparsity_lab.training.distributed import Workers

    workers = Workers(options.parallel) if options.parallel else None
    first = workers is None or workers.rank == 0  # it alone prints and saves
    store, corpus = user_store(), load_corpus(config.corpus)

    # Whoever wants a checkpoint wants the weights, and a record has none.
    record = None if options.again or options.checkpoint else store.finished(model, config, corpus.fingerprint)
    found = record is not None
    if not (found if workers is None else workers.agree(found)):
        saving = {"checkpoint_path": options.checkpoint, "checkpoint_seconds": options.checkpoint_seconds}
        compiled = should_compile(model, config)
        training = Training(model, config, corpus=corpus, workers=workers, compiled=compiled, **saving)
        label = f"S={model.sparsity:.4g}"
        with tqdm(total=config.budget, desc=label, unit="FLOP", unit_scale=True, disable=not first) as bar:
            while not training.done:
                step = training.step()
                bar.update(step.flops - bar.n)
                bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
        if options.checkpoint:  # the end of the run, for `measure` and `prune`
            training.save(options.checkpoint)
        record = training.record(training.evaluate())
        if first:
            store.save(record)
    elif first:
        print(f"This run was trained before and is kept in {store.folder}; --again trains it again.", file=sys.stderr)

    if record is not None and first:
        print(record.to_json() if options.json else record.summary())
    status = 0 if record is None or record.status == "finished" else 1  # another process may have found the record
    if workers is not None:
        workers.leave(status)
    return status
