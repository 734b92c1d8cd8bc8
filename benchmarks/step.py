"""A whole training step: against the straightforward one, against the machine's matrix products, sparse against dense.

One thread, float32, batches of 16 × 128 tokens unless said otherwise.
"""

from collections.abc import Callable, Iterator

import torch

from benchmarks.baseline import training_step
from benchmarks.timing import Row, at_least, at_most, ratio, take_turns
from sparsity_lab.accounting import flops_per_step
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import Training

SEQUENCES = 16
SECONDS = 12.0  # of timing, a comparison


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    text = load_corpus().train
    for width in (24, 32):
        shape = {"d_model": width, "d_expert": 96, "n_experts": 16}
        default = ModelConfig.of_width(width, d_expert=96, n_experts=16)
        plain = ModelConfig(**shape)
        for model, note in ((default, "the lab's heads"), (plain, "two heads")):
            if note == "two heads" and model == default:
                continue
            times = take_turns({"ours": ours(model), "plain": training_step(plain, text, SEQUENCES)}, SECONDS)
            what = f"step, width {width}, 16 experts, {note}: tokens/s over the straightforward step's"
            yield at_least(what, ratio(times, "plain", "ours"), 1.4)

    dense = ModelConfig.of_width(64)
    square = torch.randn(2, 1024, 1024)
    times = take_turns({"dense": ours(dense), "product": lambda: square[0] @ square[1]}, SECONDS)
    share = flops_per_step(dense, SEQUENCES) / (2 * 1024**3) / ratio(times, "dense", "product")
    yield at_least("step, width 64, dense: share of this machine's float32 product rate", share, 0.4)
    for width in (64, 32, 24):
        for experts, bar in ((16, 1.2), (64, 1.4)):
            config = ModelConfig.of_width(width)
            steps = {"sparse": ours(config.replace(n_experts=experts)), "dense": ours(config)}
            measured = ratio(take_turns(steps, SECONDS), "sparse", "dense")
            what = f"step, width {width}, 1 of {experts} experts: time over the dense step's"
            yield at_most(what, measured, bar) if width == 64 else Row(what, "", f"{measured:.2f}", None)


def ours(model: ModelConfig) -> Callable[[], object]:
    return Training(model, RunConfig(budget=1e15, batch_size=SEQUENCES)).step
