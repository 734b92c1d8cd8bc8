"""The mixture-of-experts layer, forward and backward, against a dense layer of equal active FLOPs and against
transformers' own layer with the same weights. One thread, float32, 2,048 tokens.

Ours includes the router and its losses on both sides of the pass; transformers' layer computes no such losses.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Row, Times, at_most, ratio, take_turns
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import routes
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.ops import keep_heap

SHAPES = (  # d_model, d_expert, n_experts, top_k, bar: time over the dense layer's
    (64, 192, 16, 2, 1.25),
    (64, 192, 64, 2, 1.60),
    (128, 512, 16, 2, 1.12),
    (128, 256, 64, 4, 1.30),
)
TOKENS = 2048
SECONDS = 6.0  # of timing, a shape and comparison
SLOWER = 4.0  # an implementation that takes this many times as long as the fastest is out

FORCED = {
    "torch": routes.Routes(),
    "oneDNN": routes.Routes(("onednn",) * routes.CLASSES, ("onednn",) * routes.CLASSES),
}

Pass = Callable[[], object]


class SwiGLU(nn.Module):
    """The dense layer as one would write it."""

    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        y: Tensor = self.down(F.silu(gate) * up)
        return y


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    keep_heap()
    routes.use(routes.here())
    for d_model, d_expert, n_experts, top_k, bar in SHAPES:
        shape = f"MoE layer, width {d_model}, experts {top_k} of {n_experts}, each {d_expert} wide"
        torch.manual_seed(0)
        config = ModelConfig(d_model=d_model, d_expert=d_expert, n_experts=n_experts, top_k=top_k)
        ours = MoE(config, "grouped")
        x_BTD = torch.randn(16, TOKENS // 16, d_model)
        dense = SwiGLU(d_model, top_k * d_expert)
        passes = {"chosen": moe_pass(ours, x_BTD), "dense": plain_pass(dense, x_BTD)}
        if routes.has_onednn():
            passes |= {name: by(libraries, passes["chosen"]) for name, libraries in FORCED.items()}
        times = take_turns(passes, SECONDS)
        yield at_most(f"{shape}: time over a dense layer's", ratio(times, "chosen", "dense"), bar)
        for name in passes.keys() & FORCED.keys():
            measured = f"{ratio(times, name, 'dense'):.2f}"
            yield Row(f"{shape}: the same with all large products by {name}", "", measured, None)
        name, times = against_transformers(ours, x_BTD)
        yield at_most(f"{shape}: time over transformers' best ({name})", ratio(times, "ours", name), 1.0)


def by(libraries: routes.Routes, run: Pass) -> Pass:
    """Runs a pass with these libraries instead of those that were chosen for this machine."""

    def forced() -> None:
        chosen = routes.in_use
        routes.use(libraries)
        run()
        routes.use(chosen)

    return forced


def moe_pass(layer: MoE, x_BTD: Tensor) -> Pass:
    """Forward and backward of our layer, to the input too, with the auxiliary losses."""
    x_BTD = x_BTD.clone().requires_grad_()
    g_BTD = torch.randn_like(x_BTD)
    one = torch.ones((), device=x_BTD.device)

    def run() -> None:
        clear(layer, x_BTD)
        y_BTD, aux_loss = layer(x_BTD)
        torch.autograd.backward((y_BTD, aux_loss), (g_BTD, one))

    return run


def plain_pass(layer: nn.Module, x_BTD: Tensor) -> Pass:
    """Forward and backward of a layer that has one output."""
    x_BTD = x_BTD.clone().requires_grad_()
    g_BTD = torch.randn_like(x_BTD)

    def run() -> None:
        clear(layer, x_BTD)
        layer(x_BTD).backward(g_BTD)

    return run


def clear(layer: nn.Module, x_BTD: Tensor) -> None:
    layer.zero_grad(set_to_none=True)
    x_BTD.grad = None


def transformers_layer(implementation: str, ours: MoE, x_BTD: Tensor) -> nn.Module:
    """Their layer with our weights. Raises AssertionError if the output is not ours."""
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    assert ours.router is not None
    assert ours.router.weight is not None
    config = ours.router.config
    settings = Qwen3MoeConfig(
        hidden_size=config.d_model,
        moe_intermediate_size=config.d_expert,
        num_experts=config.n_experts,
        num_experts_per_tok=config.top_k,
        norm_topk_prob=True,
    )
    settings._experts_implementation = implementation
    block = Qwen3MoeSparseMoeBlock(settings)
    with torch.no_grad():
        block.gate.weight.copy_(ours.router.weight)
        block.experts.gate_up_proj.copy_(ours.experts.gate_up_EDG.transpose(1, 2))
        block.experts.down_proj.copy_(ours.experts.down_EFD.transpose(1, 2))
        torch.testing.assert_close(block(x_BTD), ours(x_BTD)[0], rtol=1e-3, atol=1e-4)
    return block


def against_transformers(ours: MoE, x_BTD: Tensor) -> tuple[str, Times]:
    """The fastest way that transformers has here, and times of it and of ours."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    passes: dict[str, Pass] = {}
    for implementation in ("eager", *sorted(ALL_EXPERTS_FUNCTIONS.valid_keys())):
        try:
            passes[implementation] = plain_pass(transformers_layer(implementation, ours, x_BTD), x_BTD)
            passes[implementation]()
        except (ImportError, RuntimeError, ValueError):  # not for a CPU
            passes.pop(implementation, None)
    first = take_turns(passes, 0.0, block=1)
    best = min(first, key=lambda name: min(first[name]))
    return best, take_turns({"ours": moe_pass(ours, x_BTD), best: passes[best]}, SECONDS)
