"""The lab's small models over widths, one run at a time: tokens/s on the GPU over one core's and over all cores'."""

import os
import time
from collections.abc import Iterator

import torch

from benchmarks.timing import Row
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.trainer import Training

WIDTHS = {"cuda": (16, 32, 64, 128, 256, 512), "cpu": (8, 16)}
SPARSITY, SEQUENCES = 0.9375, 16
SECONDS = {"cuda": 1.5, "cpu": 0.01}  # of steps, at least `LEAST`
LEAST = 3


def rows(device: str) -> Iterator[Row | str]:
    cores = os.cpu_count() or 1
    over_one = over_all = None
    for width in WIDTHS[device]:
        model = ModelConfig.on_dial(width, SPARSITY)
        core = tokens_per_second(model, "cpu", "float32", SECONDS[device])
        gpu = {dtype: tokens_per_second(model, device, dtype, SECONDS[device]) for dtype in ("float32", "bfloat16")}
        best = max(gpu.values())
        over_one = over_one or (width if best > core else None)
        over_all = over_all or (width if best > core * cores else None)
        measured = ", ".join(f"{rate:,.0f} in {dtype}" for dtype, rate in gpu.items())
        measured += f"; one core {core:,.0f}: {best / core:.1f} times one core, {best / core / cores:.2f} times {cores}"
        yield Row(f"width {width}: tokens/s on the GPU", "", measured, None)
    one, every = (f"from width {width}" if width else "at no width tried" for width in (over_one, over_all))
    yield f"One run at a time, the GPU is faster than one core {one}, and than {cores} cores with a run each {every}"


def tokens_per_second(model: ModelConfig, device: str, dtype: str, seconds: float) -> float:
    """Returns the rate of training steps. Compiled code is left out."""
    training = Training(model, RunConfig(budget=1e20, batch_size=SEQUENCES, device=device, dtype=dtype))
    training.step()
    finish(device)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() < start + seconds or steps < LEAST:
        training.step()
        steps += 1
    finish(device)
    return steps * SEQUENCES * model.context / (time.perf_counter() - start)


def finish(device: str) -> None:
    """Waits for what was given to the GPU: a step returns before it is done there."""
    if device == "cuda":
        torch.cuda.synchronize()
