"""A whole training step: against the straightforward one, against the machine's matrix products, sparse against dense;
compiled and not.

One thread, float32, batches of 16 × 128 tokens, 16 experts unless said otherwise.
"""

from collections.abc import Callable, Iterator

import torch

from benchmarks.baseline import training_step
from benchmarks.timing import Row, at_least, at_most, ratio, take_turns
from sparsity_lab.accounting import flops_per_step
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.compiled import has_compiler
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import Training

SEQUENCES = 16
SECONDS = 12.0  # of timing, a comparison
COMPILED_BARS = {24: 1.5, 32: 1.5, 64: 1.5}


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    text = load_corpus().train
    for width in (16, 24, 32, 64, 96):
        model = ModelConfig.of_width(width, n_experts=16)
        steps = {"plain": training_step(model, text, SEQUENCES), "ours": ours(model)}
        if has_compiler():
            steps["compiled"] = ours(model, compiled=True)
        times = take_turns(steps, SECONDS)
        for name in list(steps)[1:]:
            what = f"step, width {width}, {name}: tokens/s over the same model's in plain torch"
            measured, bar = ratio(times, "plain", name), 1.0 if name == "ours" else COMPILED_BARS.get(width)
            yield at_least(what, measured, bar) if bar else Row(what, "", f"{measured:.2f}", None)

    dense = ModelConfig.of_width(64)
    square = torch.randn(2, 1024, 1024)
    steps = {"dense": ours(dense), "product": lambda: square[0] @ square[1]}
    if has_compiler():
        steps["dense, compiled"] = ours(dense, compiled=True)
    times = take_turns(steps, SECONDS)
    for name in set(steps) - {"product"}:
        share = flops_per_step(dense, SEQUENCES) / (2 * 1024**3) / ratio(times, name, "product")
        what = f"step, width 64, {name}: share of this machine's float32 product rate"
        yield at_least(what, share, 0.4) if "compiled" in name else Row(what, "", f"{share:.2f}", None)

    for width in (64, 32, 24):
        for experts, bar in ((16, 1.2), (64, 1.4)):
            config = ModelConfig.of_width(width)
            steps = {"sparse": ours(config.replace(n_experts=experts)), "dense": ours(config)}
            measured = ratio(take_turns(steps, SECONDS), "sparse", "dense")
            what = f"step, width {width}, 1 of {experts} experts: time over the dense step's"
            yield at_most(what, measured, bar) if width == 64 else Row(what, "", f"{measured:.2f}", None)


def ours(model: ModelConfig, compiled: bool = False) -> Callable[[], object]:
    return Training(model, RunConfig(budget=1e15, batch_size=SEQUENCES), compiled=compiled).step
