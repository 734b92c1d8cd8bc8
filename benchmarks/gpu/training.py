"""A dense and a sparse model of the lab, trained from the same weights on the same batches, on the GPU and not."""

from collections.abc import Iterator

from benchmarks.timing import Row
from sparsity_lab.accounting import flops_per_step
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.trainer import Training

STEPS, WIDTH, EVAL = {"cuda": 150, "cpu": 3}, {"cuda": 32, "cpu": 8}, {"cuda": 65_536, "cpu": 2_048}
SEQUENCES = 16
# nats per byte; two seeds of such a run differ by 0.01 to 0.03, and rounding grows in training as a seed's effect does
BAR = {"float32": 0.02, "bfloat16": 0.05}


def rows(device: str) -> Iterator[Row | str]:
    worst, ahead = 0.0, []
    for name, sparsity in (("dense", 0.0), ("1 of 16 experts", 0.9375)):
        model = ModelConfig.on_dial(WIDTH[device], sparsity)
        budget = STEPS[device] * flops_per_step(model, SEQUENCES)
        run = RunConfig(budget=budget, batch_size=SEQUENCES, eval_tokens=EVAL[device], device="cpu")
        losses = {dtype: loss(model, run.replace(device=device, dtype=dtype)) for dtype in BAR}
        for dtype, found in losses.items():  # at once, because the processor may take its time
            yield Row(f"{name}, {dtype}: loss on the GPU, nats per byte", "", f"{found:.4f}", None)
        wanted = loss(model, run)
        yield Row(f"{name}, float32: loss on the processor", "", f"{wanted:.4f}", None)
        for dtype, found in losses.items():
            worst = max(worst, abs(found - wanted) / BAR[dtype])
            what = f"{name}, {dtype}: the GPU's loss less the processor's"
            yield Row(what, f"± {BAR[dtype]:g}", f"{found - wanted:+.4f}", abs(found - wanted) <= BAR[dtype])
        ahead.append((losses["bfloat16"], wanted))
    on_gpu, on_cpu = (dense - sparse for dense, sparse in zip(*ahead, strict=True))
    learns = "The GPU learns what the processor learns" if worst <= 1 else "The GPU's losses are not the processor's"
    yield f"{learns}: sparse is ahead by {on_gpu:+.3f} nats on the GPU, and by {on_cpu:+.3f} on the processor"


def loss(model: ModelConfig, run: RunConfig) -> float:
    """Returns the held-out loss of a whole run, nats per byte. Raises ValueError if it diverged."""
    training = Training(model, run)
    while not training.done:
        training.step()
    found = training.evaluate()
    if found is None:
        raise ValueError(f"a run on {run.device} in {run.dtype} diverged after {training.steps_done} steps")
    return found
