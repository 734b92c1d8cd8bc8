"""The GPUs of this machine, and which workers of a sweep share one.

A process that has touched CUDA can't be forked, and holds half a gigabyte of each GPU. So a process of its own looks,
and the one that hands runs out never does.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

from sparsity_lab.accounting.train_memory import training_memory
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.grid import Pair
from sparsity_lab.units import size

CONTEXT = 0.8e9  # bytes that CUDA and its libraries take for each process, roughly: not measured here
ROOM = 1.5  # times what a run holds: gradients of activations, and what the allocator keeps


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use."""

    name: str
    id: str  # as $CUDA_VISIBLE_DEVICES names it
    free: float  # bytes


@cache
def gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs that torch finds (those in ``$CUDA_VISIBLE_DEVICES``, where it is set), and what was free when
    they were first asked for, which takes some seconds."""
    found = subprocess.run([sys.executable, "-m", __name__], stdout=subprocess.PIPE, check=True)
    return tuple(Gpu(**each) for each in json.loads(found.stdout))


def place(pairs: Sequence[Pair], per_gpu: int | None) -> list[Gpu]:
    """Returns the GPU of each worker, ``per_gpu`` of them on every GPU, in turn; none for None, or if there is nothing
    to train.

    Raises ValueError if there is no GPU and ``per_gpu`` or a run's device asks for one, or if that many of the largest
    runs would not fit side by side.
    """
    if per_gpu is not None and per_gpu < 1:
        raise ValueError(f"per_gpu={per_gpu} must be at least 1")
    if not pairs or (per_gpu is None and all(run.device != "cuda" for _, run in pairs)):
        return []
    found = gpus()
    if not found:
        asked = "device='cuda'" if per_gpu is None else f"per_gpu={per_gpu}"
        raise ValueError(f"{asked}, but torch finds no CUDA GPU here: leave it out to train on all cores")
    if per_gpu is None:
        return []

    most, (model, run) = max(((bytes_of_run(*pair), pair) for pair in pairs), key=lambda both: both[0])
    least = min(found, key=lambda gpu: gpu.free)
    fit = int(least.free // most)
    if per_gpu > fit:
        raise ValueError(
            f"per_gpu={per_gpu}: the largest run (width {model.d_model}, {model.n_experts} experts, batches of "
            f"{run.sequences}) may need {size(most)}, and GPU {least.id} ({least.name}) has {size(least.free)} free: "
            f"{f'use at most {fit}' if fit else 'not even one fits'}"
        )
    return [gpu for _ in range(per_gpu) for gpu in found]


def bytes_of_run(model: ModelConfig, run: RunConfig) -> float:
    """Returns the bytes of GPU memory that a process which trains this run may need: an upper bound, by counting."""
    return CONTEXT + ROOM * training_memory(model, run.sequences * model.context, "float32").total


def sharing(workers: Sequence[Gpu]) -> str:
    """Says in a sentence which workers share which GPU."""
    shares = [f"{workers.count(gpu)} on GPU {gpu.id} ({gpu.name})" for gpu in dict.fromkeys(workers)]
    return f"{len(workers)} worker{'s' * (len(workers) > 1)}: {', '.join(shares)}."


def _look() -> list[Gpu]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else [str(number) for number in range(count)]
    return [
        Gpu(torch.cuda.get_device_name(number), ids[number].strip(), float(torch.cuda.mem_get_info(number)[0]))
        for number in range(count)
    ]


if __name__ == "__main__":
    print(json.dumps([asdict(gpu) for gpu in _look()]))
