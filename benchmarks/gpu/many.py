"""Many small runs that share one GPU, each in a process of its own: tokens/s of all together. Then the same by a sweep.

Processes take turns on the GPU, unless NVIDIA's MPS is on; they gain because one computes on its core while another
computes on the GPU.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.place import ROOT, environment
from benchmarks.gpu.worth import finish
from benchmarks.timing import Row
from sparsity_lab.config import ModelConfig, RunConfig

COUNTS = {"cuda": (1, 2, 4, 8, 16), "cpu": (1, 2)}  # of them, at most twice as many as cores
WIDTH, SEQUENCES = {"cuda": 32, "cpu": 8}, 16
SECONDS = {"cuda": 2.0, "cpu": 0.1}
BUDGET = {"cuda": 5e10, "cpu": 1e8}  # of each run of the sweep
GRID = "[[runs]]\nbudget = {budget}\nwidth = {width}\nsparsity = [0, 0.9375]\nseed = [0, 1, 2, 3]\neval_tokens = 8192\n"
SWEEP_SECONDS = {"cuda": 15, "cpu": 10}


def rows(device: str) -> Iterator[Row | str]:
    counts = [count for count in COUNTS[device] if count <= 2 * (os.cpu_count() or 1)]
    command = [sys.executable, "-m", "benchmarks.gpu.many", device]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    runs = [subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=environment()) for _ in range(max(counts))]
    for run in runs:
        if not run.stdout.readline():
            raise SystemExit(f"One of {len(runs)} processes that train on the GPU did not start")

    rates: dict[int, float] = {}
    for count in counts:
        for run in runs[:count]:
            print("go", file=run.stdin, flush=True)
        rates[count] = sum(float(run.stdout.readline()) for run in runs[:count])
        over = f", {rates[count] / rates[1]:.2f} times one's" if count > 1 else ""
        yield Row(f"{count} runs at once, width {WIDTH[device]}: tokens/s", "", f"{rates[count]:,.0f}{over}", None)
    for run in runs:
        run.stdin.close()
        run.wait()

    best = max(rates, key=lambda count: rates[count])
    yield f"{best} at once are the best of those tried: {rates[best] / rates[1]:.1f} times the tokens/s of one run"
    for count in sorted({1, best}):
        yield Row(f"sweep --per-gpu {count}: 8 runs of {BUDGET[device]:.0e} FLOPs", "", sweep(count, device), None)


def train(device: str) -> None:
    """One of the runs. It says that it is ready; then for each line that comes, it trains a while and prints its
    tokens/s."""
    from sparsity_lab.training.trainer import Training

    dtype = "bfloat16" if device == "cuda" else "float32"
    model = ModelConfig.on_dial(WIDTH[device], 0.9375)
    training = Training(model, RunConfig(budget=1e20, batch_size=SEQUENCES, device=device, dtype=dtype))
    for _ in range(3):
        training.step()
    print("ready", flush=True)
    for _ in sys.stdin:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() < start + SECONDS[device]:
            training.step()
            steps += 1
        finish(device)
        print(steps * SEQUENCES * model.context / (time.perf_counter() - start), flush=True)


def sweep(per_gpu: int, device: str) -> str:
    """Returns what `sparsity-lab sweep --per-gpu` has done with a small grid in its time."""
    with tempfile.TemporaryDirectory() as folder:
        grid, out, log = Path(folder, "grid.toml"), Path(folder, "out"), Path(folder, "log")
        grid.write_text(GRID.format(budget=BUDGET[device], width=WIDTH[device]))
        command = [sys.executable, "-m", "sparsity_lab", "sweep", str(grid), "--out", str(out)]
        start = time.monotonic()
        with open(log, "w") as file:
            to_log = {"stdout": file, "stderr": file}
            process = subprocess.Popen([*command, "--per-gpu", str(per_gpu)], cwd=ROOT, env=environment(), **to_log)
            try:
                status = process.wait(SWEEP_SECONDS[device])
            except subprocess.TimeoutExpired:  # it is asked to end, and ends its workers, so that they disturb no other
                process.terminate()
                status = process.wait()
        seconds, last = time.monotonic() - start, log.read_text().strip().splitlines()[-1:]
        done = f"{len(list(out.glob('*.json')))} done in {seconds:.1f} s"
        return done if status == 0 else f"{done}; exit status {status}: {''.join(last)}"[:200]


if __name__ == "__main__":
    train(sys.argv[1])
