"""How many workers should share a GPU? `python -m benchmarks.per_gpu` measures it on the machine where it runs.

A small model keeps a GPU waiting for its host, so several processes with a model each should get more done than one.
How many is not known: no GPU has run this yet. Nor has it been measured whether CUDA graphs, which launch a whole step
at once, or several models in one batched product would do better than processes; neither is written.

Each number of workers trains the same model for some seconds, all at the same time, once every worker has warmed up.
With ``--device cpu`` the same runs on processor cores, where more workers than cores bring nothing.
"""

import argparse
import time
from contextlib import closing
from threading import Semaphore

from sparsity_lab.accounting import plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.gpus import gpus, place, sharing
from sparsity_lab.runs.pool import Line, Pool

WARM_UP = 10  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16 (default) or float32")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers to try, per GPU")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--sparsity", type=float, default=0.9375)
    parser.add_argument("--budget", type=float, default=1e14, help="FLOPs of a run; sets its batches and steps")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each number of workers")
    options = parser.parse_args()
    if options.device == "cuda" and not gpus():
        parser.error("torch finds no CUDA GPU here; --device cpu measures its cores")

    model = ModelConfig.on_dial(options.width, options.sparsity)
    run = RunConfig(budget=options.budget, device=options.device, dtype=options.dtype)
    steps = plan(model, run).steps
    print(f"width {options.width}, S {model.sparsity:g}, {steps:,} steps per run of {options.budget:g} FLOPs\n")
    print("| workers per device | steps/s, all together | runs/minute | over one worker | peak memory of one |")
    print("|---|---|---|---|---|")
    rates = dict[int, float]()
    for workers in options.workers:
        rates[workers], peak = rate(model, run, workers, options.seconds)
        over = rates[workers] / rates[options.workers[0]]
        line = f"| {workers} | {rates[workers]:.1f} | {60 * rates[workers] / steps:.3g} | {over:.2f} |"
        print(line, f"{peak / 1e9:.2f} GB |" if peak else "– |", flush=True)
    best = max(rates, key=lambda workers: rates[workers])
    print(f"\nBest here: {best} worker{'s' * (best > 1)} per {'GPU' if options.device == 'cuda' else 'machine'}.")


def rate(model: ModelConfig, run: RunConfig, workers: int, seconds: float) -> tuple[float, float]:
    """Returns the steps per second that so many workers (on each GPU) make together, and the bytes of GPU memory that
    one of them held at most. The budget should pay for all these seconds."""
    on = place([(model, run)], workers if run.device == "cuda" else None)
    if on:
        print(f"<!-- {sharing(on)} -->")
    ready = Semaphore(0)
    with closing(Pool(len(on) or workers, [gpu.id for gpu in on])) as pool:
        jobs = [
            pool.submit(steps_in, model, run.replace(seed=seed), seconds, hear=lambda _: ready.release())
            for seed in range(pool.size)
        ]
        for _ in jobs:
            ready.acquire(timeout=300)
        for job in jobs:
            job.send("go")
        results = [job.result(seconds + 300) for job in jobs]
    return sum(each for each, _ in results), max(peak for _, peak in results)


def steps_in(line: Line, model: ModelConfig, run: RunConfig, seconds: float) -> tuple[float, float]:
    """Trains in a worker, and returns steps per second from "go" on, and the peak of its GPU memory."""
    import torch

    from sparsity_lab.training.trainer import Training

    training = Training(model, run)
    for _ in range(WARM_UP):
        training.step()
    training.read_losses()
    line.tell("ready")
    while not line.heard(1.0):
        pass

    start, before = time.perf_counter(), training.steps_done
    while time.perf_counter() - start < seconds and not training.done:
        training.step()
    training.read_losses()  # waits for the GPU
    took = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if training.device.type == "cuda" else 0
    return (training.steps_done - before) / took, float(peak)


if __name__ == "__main__":
    main()
