"""Train a grid of runs on all cores, on GPUs or on a cluster; a sweep that is started again resumes."""

import argparse
import errno
import sys
from pathlib import Path

from sparsity_lab.accounting.devices import DEVICES, device
from sparsity_lab.cli.stopping import Stop
from sparsity_lab.files import unwritable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", help="a TOML file with [[runs]] tables: width, sparsity, budget, seed, …")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the records, one file per run")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="processes on this machine (default: one per core)")
    where.add_argument(
        "--per-gpu", type=int, metavar="N", help="processes that share each GPU (default: one per core on the first)"
    )
    where.add_argument("--scheduler", metavar="ADDR", help="address of a Dask cluster, e.g. tcp://host:8786")
    parser.add_argument("--estimate", action="store_true", help="say how long it would take, and train nothing")
    parser.add_argument("--device", help=f"with --estimate: not this machine, but one of {', '.join(DEVICES)}")
    parser.add_argument("--utilisation", "--utilization", type=float, help="share of its peak that all runs reach")


def run(options: argparse.Namespace) -> int:
    from sparsity_lab.runs.gpus import place, sharing
    from sparsity_lab.runs.grid import read_grid
    from sparsity_lab.runs.lanes import measure_speed
    from sparsity_lab.runs.pool import pool
    from sparsity_lab.runs.provenance import write_provenance
    from sparsity_lab.runs.sweep import assumed, estimate, missing, sweep

    if options.workers is not None and options.workers < 1:
        raise ValueError(f"workers={options.workers} must be at least 1")
    if (options.device is None) != (options.utilisation is None) or (options.device and not options.estimate):
        raise ValueError("--device and --utilisation belong together, and to --estimate")
    pairs, folder = read_grid(options.grid), Path(options.out)
    todo = missing(pairs, folder)
    if options.device:
        print(*assumed(todo, device(options.device), options.utilisation), sep="\n", file=sys.stderr)
        return 0

    on = [] if options.scheduler else place(todo, options.per_gpu)
    if on:
        print(sharing(on), "Each is taken for as fast as one alone, which is too fast:", file=sys.stderr)
    speed = pool().submit(measure_speed, todo[0][1].corpus).result() if todo else None
    print(estimate(todo, folder, len(on) or options.workers, speed).summary(), file=sys.stderr)
    if options.estimate:
        return 0

    with Stop() as stop:
        try:
            where = {"workers": options.workers, "per_gpu": options.per_gpu, "scheduler": options.scheduler}
            progress = sweep(pairs, folder, **where, speed=speed, stop=stop)
            write_provenance(folder, f"sparsity-lab sweep {Path(options.grid).name} --out .")
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # no scheduler; or nobody reads
                raise
            kept = "Nothing that was finished is lost; the same command resumes the sweep."
            print(f"sparsity-lab: {unwritable(folder, error)}. {kept}", file=sys.stderr)
            return 1
    print(progress.summary())
    if progress.done + progress.failed < progress.total:
        print(f"sparsity-lab: stopped; runs under way are saved. To resume:\n  {options.command}", file=sys.stderr)
        return stop.status if stop() else 130
    return 1 if progress.failed else 0
