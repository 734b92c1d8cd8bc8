"""Naive, grouped and MegaBlocks on the same weights and routing: outputs and all gradients, beside the processor's."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.agreement import TOLERANCE, difference
from benchmarks.timing import Row
from sparsity_lab.config import ModelConfig
from sparsity_lab.models.experts import Experts
from sparsity_lab.models.megablocks import supplied, why_not
from sparsity_lab.models.router import Routing

SHAPES = {  # tokens, d_model, d_expert, experts, of them chosen, of them ever chosen
    "even": (512, 128, 256, 8, 2, 8),
    "many narrow experts": (1024, 64, 128, 64, 4, 64),
    "most experts idle": (300, 128, 128, 16, 1, 3),
    "rows that are not aligned": (77, 20, 36, 4, 2, 4),
}
GRADIENTS = ("output", "gradient of x", "of the routing weights", "of gate and up", "of down")


def rows(device: str) -> Iterator[Row | str]:
    worst = dict.fromkeys(TOLERANCE, 0.0)
    failed: list[str] = []
    for name, shape in SHAPES.items():
        reference = outputs("naive", "cpu", torch.float32, *shape)
        for dtype, tolerance in TOLERANCE.items():
            short = f"{name}, {str(dtype).removeprefix('torch.')}"
            for backend in ("naive", "grouped", "megablocks"):
                what = f"{short}: {backend} beside the processor's naive in float32"
                if backend == "megablocks" and (reason := why_not()):
                    yield Row(what, "", reason, None)
                    continue
                try:
                    got = outputs(backend, device, dtype, *shape)
                except Exception as error:  # whatever a library says: the others are still to be compared
                    failed.append(f"{backend} ({name})")
                    yield Row(what, "", f"{type(error).__name__}: {error}"[:200], False)
                    continue
                found = {part: difference(a, b) for part, a, b in zip(GRADIENTS, got, reference, strict=True)}
                part = max(found, key=lambda each: (found[each] != found[each], found[each]))
                reached = found[part] <= tolerance
                worst[dtype] = max(worst[dtype], found[part])
                failed += [] if reached else [f"{backend} ({name})"]
                yield Row(what, f"≤ {tolerance:.0e}", f"{found[part]:.1e} ({part})", reached)
    largest = ", ".join(f"{value:.1e} in {str(dtype).removeprefix('torch.')}" for dtype, value in worst.items())
    missing = f"; MegaBlocks with plain torch for {', '.join(supplied()) or 'nothing'}" if not why_not() else ""
    agree = f"All agree: they differ by at most {largest}"
    yield (f"These do not agree: {', '.join(dict.fromkeys(failed))}" if failed else agree) + missing


def outputs(backend: str, device: str, dtype: torch.dtype, *shape: int) -> list[Tensor]:
    """Returns the experts' output and the gradients of everything that learns."""
    n, d_model, d_expert, experts, top_k, busy = shape
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = Experts(experts, d_expert, ModelConfig(d_model=d_model, n_heads=1, n_experts=experts, top_k=top_k))
    layer.to(device)
    scores_NE = torch.rand(n, experts, generator=generator)
    scores_NE[:, busy:] = -1
    weights_NK, experts_NK = scores_NE.topk(top_k)
    counts_E = torch.bincount(experts_NK.flatten(), minlength=experts)
    x_ND, g_ND = (torch.randn(n, d_model, generator=generator).to(device, dtype) for _ in range(2))
    x_ND.requires_grad_()
    weights_NK = weights_NK.to(device).requires_grad_()

    nothing = torch.zeros((), device=device)
    routing = Routing(weights_NK, experts_NK.to(device), counts_E.to(device), scores_NE, nothing, nothing)
    y_ND = getattr(layer, backend)(x_ND, routing)
    inputs = [x_ND, weights_NK, layer.gate_up_EDG, layer.down_EFD]
    return [y_ND, *torch.autograd.grad(y_ND, inputs, g_ND)]
