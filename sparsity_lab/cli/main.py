"""`sparsity-lab`: what the notebooks do, without a browser. Results on stdout, progress and errors on stderr."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sparsity_lab import __version__
from sparsity_lab.accounting import CONVENTIONS, presets
from sparsity_lab.accounting.devices import DEVICES, device
from sparsity_lab.classroom import assignments as course
from sparsity_lab.classroom import execute as notebooks
from sparsity_lab.cli import report
from sparsity_lab.config import BACKENDS, ModelConfig, RunConfig
from sparsity_lab.laws.optimum import optimal
from sparsity_lab.laws.published import LAWS, published_law
from sparsity_lab.runs.store import user_store

MODEL = f"a preset ({', '.join(presets.PRESETS)}), or the path of a Hugging Face config.json"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done; 1 a run diverged or failed, a notebook failed or `doctor` found a fault; 2 bad input; 130
    Ctrl-C."""
    options = _parser().parse_args(arguments)
    work: Callable[[argparse.Namespace], int] = options.work
    try:
        return work(options)
    except (ValueError, OSError) as error:  # OSError: a checkpoint's folder that can't be written, a full disk
        print(f"sparsity-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsparsity-lab: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparsity-lab", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = verbs.add_parser("train", help="train a model within a budget of FLOPs")
    train.set_defaults(work=_train)
    train.add_argument("--sparsity", type=float, default=0.0, help="S = (E-K)/E, from 0 (dense) to below 1")
    train.add_argument("--budget", type=float, default=1e11, help="training FLOPs (default 1e11)")
    train.add_argument("--width", type=int, default=32, help="d_model (default 32)")
    train.add_argument("--hold", choices=("active", "total"), default="active", help="what the dial holds constant")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--corpus", default="python", help="a name or the path of a text file or folder")
    train.add_argument("--learning-rate", type=float, help="peak (default: the lab's choice)")
    train.add_argument("--batch-size", type=int, help="sequences a step (default: the lab's choice)")
    train.add_argument("--backend", default="grouped", help=f"how experts are computed: {', '.join(BACKENDS)}")
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--dtype", default="float32", help="of the matrix products: float32 or bfloat16")
    train.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    train.add_argument(
        "--checkpoint", metavar="FILE", help="save here on the way and at the end; go on from it if it is there"
    )
    train.add_argument("--checkpoint-seconds", type=float, default=30.0, help="how often (default 30)")
    train.add_argument("--parallel", choices=("data", "experts"), help="under torchrun: what the processes share out")
    train.add_argument("--again", action="store_true", help="train anew a run that is kept from before")
    train.add_argument("--json", action="store_true", help="print the run's record as JSON, and nothing else")

    sweep = verbs.add_parser("sweep", help="train a grid of runs on all cores or a cluster; started again it goes on")
    sweep.set_defaults(work=_sweep)
    sweep.add_argument("grid", help="a TOML file with [[runs]] tables: width, sparsity, budget, seed, …")
    sweep.add_argument("--out", required=True, metavar="DIR", help="folder of the records, one file a run")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="processes on this machine (default: one a core)")
    where.add_argument("--scheduler", metavar="ADDR", help="of a Dask cluster, e.g. tcp://host:8786")
    sweep.add_argument("--estimate", action="store_true", help="say what it would take, and train nothing")

    count = verbs.add_parser("count", help="weights of a published model, or of a config.json")
    count.set_defaults(work=_count)
    count.add_argument("model", help=MODEL)
    count.add_argument("--json", action="store_true")

    cost = verbs.add_parser("cost", help="hours, money and energy of a training run")
    cost.set_defaults(work=_cost)
    cost.add_argument("model", help=MODEL)
    cost.add_argument("--tokens", type=float, required=True, help="training tokens, e.g. 14.8e12")
    cost.add_argument("--device", default="h100", help=f"one of {', '.join(DEVICES)} (default h100)")
    cost.add_argument("--utilisation", type=float, default=0.4, help="share of the device's peak (default 0.4)")
    cost.add_argument("--dtype", help="whose peak, e.g. bf16 or fp8 (default: the device's fastest)")
    cost.add_argument("--price", type=float, help="$ an hour (default: the table's)")
    cost.add_argument("--convention", default="6ND", help=f"of FLOPs: {', '.join(CONVENTIONS)} (default 6ND)")
    cost.add_argument("--json", action="store_true")

    compare = verbs.add_parser("compare", help="two models side by side")
    compare.set_defaults(work=_compare)
    compare.add_argument("a", help=MODEL)
    compare.add_argument("b", help=MODEL)
    compare.add_argument("--json", action="store_true")

    cache = verbs.add_parser("cache", help="bytes that attention remembers")
    cache.set_defaults(work=_cache)
    cache.add_argument("model", help=MODEL)
    cache.add_argument("--tokens", type=float, required=True, help="of each sequence, e.g. 131072")
    cache.add_argument("--dtype", default="bf16", help="bf16 (default), fp32, fp8, int8, …")
    cache.add_argument("--batch", type=int, default=1, help="sequences (default 1)")
    cache.add_argument("--json", action="store_true")

    optimum = verbs.add_parser("optimum", help="the best model a budget can buy, by a published scaling law")
    optimum.set_defaults(work=_optimum)
    optimum.add_argument("--law", default="abnar", help=f"one of {', '.join(LAWS)} (default abnar)")
    optimum.add_argument("--compute", type=float, required=True, help="training FLOPs, 6·N_a·D, e.g. 1e21")
    optimum.add_argument("--sparsity", type=float, help="S (default: the best in the range of the law's fit)")
    optimum.add_argument("--memory", type=float, metavar="N", help="at most so many parameters in all")
    optimum.add_argument("--active", type=float, metavar="N", help="at most so many parameters at work on a token")
    optimum.add_argument("--serve", type=float, default=0.0, metavar="TOKENS", help="to generate, paid of the budget")
    optimum.add_argument("--granularity", type=float, help="G, for a law that has it")
    optimum.add_argument("--json", action="store_true")

    fit = verbs.add_parser("fit", help="fit a scaling law to a folder of runs")
    fit.set_defaults(work=_fit)
    fit.add_argument("folder", metavar="DIR", help="of run records")
    fit.add_argument("--law", default="abnar", help="abnar (default), reduced, or chinchilla, one a sparsity")
    fit.add_argument("--top-k", type=int, metavar="K", help="only runs in which K experts work")
    fit.add_argument(
        "--near-best", type=float, metavar="F", help="only runs within a factor F of the best size of their budget"
    )
    fit.add_argument("--holdout", type=float, metavar="BUDGET", help="predict the runs of this budget, don't fit them")
    fit.add_argument("--bootstraps", type=int, default=200, help="resamples, for intervals (default 200)")
    fit.add_argument("--out", metavar="FILE", help="save the fit here as JSON, with all that predicting takes")
    fit.add_argument("--json", action="store_true")

    measure = verbs.add_parser("measure", help="how sparse weights are, or a network, by every measure")
    measure.set_defaults(work=_measure)
    measure.add_argument("file", help="weights (.safetensors), or edges (.csv with source,target and perhaps weight)")
    measure.add_argument("--json", action="store_true")

    prune = verbs.add_parser("prune", help="turn weights or experts of a checkpoint off, and see what that costs")
    prune.set_defaults(work=_prune)
    prune.add_argument("checkpoint", help="a file that `train --checkpoint` wrote")
    prune.add_argument(
        "--method",
        required=True,
        help="magnitude, magnitude-layer, wanda, 2:4, heads or neurons; experts-load, experts-loss or merge",
    )
    prune.add_argument("--sparsity", type=float, default=0.5, help="share of them that goes (default 0.5)")
    prune.add_argument("--out", metavar="FILE", help="write the pruned checkpoint here")
    prune.add_argument("--json", action="store_true")

    doctor = verbs.add_parser("doctor", help="what is installed, how fast it is, and what to do about what is missing")
    doctor.set_defaults(work=_doctor)
    doctor.add_argument("--json", action="store_true")

    runner = verbs.add_parser("notebooks", help="execute notebooks without a browser")
    runner.set_defaults(work=notebooks.run_from_command_line)
    notebooks.add_arguments(runner)

    pages = verbs.add_parser("gallery", help="executed notebooks as pages to read without Python and without a network")
    pages.set_defaults(work=_gallery)
    pages.add_argument("--notebooks", type=Path, default=Path("build/notebooks"), help="a folder of executed ones")
    pages.add_argument("--out", type=Path, default=Path("build/gallery"))

    course.add_arguments(verbs.add_parser("course", help="assignments for students, and grading them in a sandbox"))
    return parser


def _train(options: argparse.Namespace) -> int:
    model = ModelConfig.on_dial(options.width, options.sparsity, options.hold)
    names = ("budget", "seed", "corpus", "learning_rate", "batch_size", "backend", "device", "dtype", "threads")
    run = RunConfig(**{name: getattr(options, name) for name in names})

    from tqdm import tqdm

    from sparsity_lab.training.corpus import load_corpus
    from sparsity_lab.training.distributed import Workers
    from sparsity_lab.training.trainer import Training  # here, because torch takes seconds to import

    workers = Workers.join(options.parallel) if options.parallel else None
    first = workers is None or workers.rank == 0
    store, corpus = user_store(), load_corpus(run.corpus)

    # A checkpoint is asked for its weights, which a record does not have.
    record = None if options.again or options.checkpoint else store.finished(model, run, corpus.fingerprint)
    found = record is not None
    if not (found if workers is None else workers.agree(found)):
        training = Training(
            model,
            run,
            corpus=corpus,
            checkpoint_path=options.checkpoint,
            checkpoint_seconds=options.checkpoint_seconds,
            workers=workers,
        )
        description = f"S={model.sparsity:.4g}"
        with tqdm(
            total=run.budget, unit="FLOP", unit_scale=True, desc=description, file=sys.stderr, disable=not first
        ) as bar:
            while not training.done:
                step = training.step()
                bar.update(step.flops - bar.n)
                bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
        if options.checkpoint:  # the end of the run: what `measure` and `prune` are asked about
            training.save(options.checkpoint)
        record = training.record(training.evaluate())
        if first:
            store.save(record)
    elif first:
        print(f"Trained before and kept in {store.folder}; --again trains it anew.", file=sys.stderr)

    assert record is not None
    if first:
        print(record.to_json() if options.json else record.summary())
    status = 0 if record.status == "finished" else 1
    if workers is not None:
        workers.leave(status)
    return status


def _sweep(options: argparse.Namespace) -> int:
    from sparsity_lab.runs.grid import read_grid
    from sparsity_lab.runs.provenance import write_provenance
    from sparsity_lab.runs.sweep import estimate, missing, sweep
    from sparsity_lab.training.corpus import load_corpus
    from sparsity_lab.training.timing import calibrate

    if options.workers is not None and options.workers < 1:
        raise ValueError(f"workers={options.workers} must be at least 1")
    pairs, folder = read_grid(options.grid), Path(options.out)
    todo = missing(pairs, folder)
    speed = calibrate(load_corpus(todo[0][1].corpus)) if todo else None
    print(estimate(todo, folder, options.workers, speed).summary(), file=sys.stderr)
    if options.estimate:
        return 0
    progress = sweep(pairs, folder, workers=options.workers, scheduler=options.scheduler, speed=speed)
    write_provenance(folder, f"sparsity-lab sweep {Path(options.grid).name} --out .")
    print(progress.summary())
    if progress.done + progress.failed < progress.total:
        return 130
    return 1 if progress.failed else 0


def _count(options: argparse.Namespace) -> int:
    name, config = presets.named_model(options.model)
    print(json.dumps({"model": name} | report.count(config)) if options.json else report.count_text(name, config))
    return 0


def _cost(options: argparse.Namespace) -> int:
    name, config = presets.named_model(options.model)
    machine = device(options.device)
    if options.price is not None:
        if not 0 <= options.price < 1e6:
            raise ValueError(f"price={options.price:g} must be $ an hour, from 0 to 1e6")
        machine = device(options.device, price=options.price)
    data = report.cost(
        config, options.tokens, machine, options.utilisation, options.dtype or machine.fastest, options.convention
    )
    if options.json:
        print(json.dumps({"model": name, "tokens": options.tokens} | data))
    else:
        print(report.cost_text(name, data, options.tokens))
    return 0


def _cache(options: argparse.Namespace) -> int:
    name, config = presets.named_model(options.model)
    if options.tokens != options.tokens // 1:
        raise ValueError(f"tokens={options.tokens:g} must be a whole number")
    tokens = int(options.tokens)
    if options.json:
        data = report.cache(config, tokens, options.dtype, options.batch)
        print(json.dumps({"model": name, "tokens": tokens, "dtype": options.dtype, "batch": options.batch} | data))
    else:
        print(report.cache_text(name, config, tokens, options.dtype, options.batch))
    return 0


def _compare(options: argparse.Namespace) -> int:
    (a, first), (b, second) = presets.named_model(options.a), presets.named_model(options.b)
    rows = report.compare(first, second)
    print(json.dumps({"a": a, "b": b, "rows": rows}) if options.json else report.compare_text(a, b, rows))
    return 0


def _optimum(options: argparse.Namespace) -> int:
    law = published_law(options.law)
    names = ("compute", "sparsity", "memory", "active", "serve", "granularity")
    best = asdict(optimal(law, **{name: getattr(options, name) for name in names}))
    if options.json:
        print(json.dumps({"law": law.name, "compute": options.compute} | best))
    else:
        print(report.optimum_text(law.name, law.source, law.n_means, options.compute, best))
    return 0


def _fit(options: argparse.Namespace) -> int:
    from sparsity_lab.laws import fitting
    from sparsity_lab.laws.isoflop import near_best
    from sparsity_lab.laws.power_law import named
    from sparsity_lab.runs import store as records  # here, for scipy and torch take seconds to import

    runs = records.load_frame(Path(options.folder))
    kinds = sorted(runs["top_k"].unique()) if options.top_k is None else [options.top_k]
    if len(kinds) > 1:
        raise ValueError(
            f"the runs have top_k={' and '.join(map(str, kinds))}, and laws know no granularity: add --top-k {kinds[0]}"
        )
    runs = runs[runs["top_k"].isin(kinds)]
    if options.near_best is not None:
        runs = near_best(runs, options.near_best)
    holdout = None
    if options.holdout is not None:
        holdout = runs["budget"] == options.holdout
        if not holdout.any():
            budgets = ", ".join(f"{budget:g}" for budget in sorted(runs["budget"].unique()))
            raise ValueError(f"holdout={options.holdout:g} is the budget of no run: use one of {budgets}")
    if "S" in named(options.law).exponents.values():
        fits = [fitting.fit(runs, options.law, holdout=holdout, bootstraps=options.bootstraps)]
    else:
        fits = fitting.fit_each(runs, options.law, holdout=holdout, bootstraps=options.bootstraps)
    if options.out:
        fitting.save_fits(options.out, fits)
    print(json.dumps([fit.report() for fit in fits]) if options.json else "\n\n".join(fit.summary() for fit in fits))
    return 0


def _measure(options: argparse.Namespace) -> int:
    from sparsity_lab.cli import measure as measure_file

    data = measure_file.measure(Path(options.file))
    print(json.dumps(data) if options.json else measure_file.text(data))
    return 0


def _prune(options: argparse.Namespace) -> int:
    from sparsity_lab.cli import prune as prune_file

    out = Path(options.out) if options.out else None
    data = prune_file.prune(Path(options.checkpoint), options.method, options.sparsity, out)
    print(json.dumps(data) if options.json else prune_file.text(data))
    return 0


def _gallery(options: argparse.Namespace) -> int:
    from sparsity_lab.classroom import gallery

    pages = gallery.build(options.notebooks, options.out, Path("README.md"))
    print(f"{len(pages)} notebooks → {options.out / 'index.html'}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from sparsity_lab.cli.doctor import examine

    findings = examine()
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.ok else '-- '} {finding.name:<12} {finding.value}")
            if finding.advice:
                print(f"{'':16} {finding.advice}")
    return 0 if all(finding.ok or finding.optional for finding in findings) else 1
