"""The peak of memory in a training step beside what `sparsity_lab.accounting.training_memory` predicts.

In bfloat16 it predicts mixed precision with bfloat16 weights. The lab keeps float32 weights and casts them for each
product, so here the prediction has weights, gradients and two moments in float32, a cast copy of the weights, and the
activations of bfloat16.
"""

from collections.abc import Iterator

import torch

from benchmarks.timing import Row
from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.accounting.train_memory import training_memory
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.trainer import Training

LARGE = ModelConfig(d_model=512, n_heads=8, d_expert=2048, n_layers=4, context=512)
DENSE = {"cuda": LARGE, "cpu": ModelConfig(d_model=16, n_heads=1, d_expert=32, n_layers=1, context=16)}
SEQUENCES, STEPS = 16, 3  # the optimizer's state is there from the second step on
APART = 0.25  # share by which a peak may differ: the allocator rounds, kernels need room, gradients pass through


def rows(device: str) -> Iterator[Row | str]:
    dense, shares = DENSE[device], []
    shapes = {"dense": dense, "2 of 16 experts": dense.replace(d_expert=dense.d_expert // 2, n_experts=16, top_k=2)}
    for name, model in shapes.items():
        for dtype in ("float32", "bfloat16"):
            predicted = expected(model, dtype)
            for backend in ("naive", "grouped"):
                what = f"{name}, {dtype}, {backend}: peak over the prediction, {predicted / 2**30:.2f} GiB"
                share = peak(model, dtype, backend, device) / predicted
                if backend == "naive" and device == "cuda":  # whose activations are counted
                    shares.append(share)
                    yield Row(what, f"1 ± {APART}", f"{share:.2f}", abs(share - 1) <= APART)
                else:
                    yield Row(what, "", f"{share:.2f}", None)
    found = f"{min(shares):.2f} to {max(shares):.2f} times" if shares else "on a processor not compared with"
    yield f"The peak of the plain model is {found} the prediction"


def expected(model: ModelConfig, dtype: str) -> float:
    """Returns the predicted bytes of a step."""
    tokens = SEQUENCES * model.context
    plain = training_memory(model, tokens, "float32")
    cast = 0 if dtype == "float32" else 2 * count_parameters(model).total
    return plain.total - plain.activations + cast + training_memory(model, tokens, dtype).activations


def peak(model: ModelConfig, dtype: str, backend: str, device: str) -> int:
    """Returns the bytes that training held at most; 0 on a processor, where torch does not count them."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    run = RunConfig(budget=1e20, batch_size=SEQUENCES, device=device, dtype=dtype, backend=backend)
    training = Training(model, run)
    for _ in range(STEPS if device == "cuda" else 1):
        training.step()
    return torch.cuda.max_memory_allocated() - before if device == "cuda" else 0
