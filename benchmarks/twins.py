"""Each hand-written backward pass on its own against the plain torch that it stands for, forward and backward, and
against what the compiler makes of the plain one. One thread, float32, 2,048 tokens.

A hand-written pass earns its lines from 1.2 times the speed of plain torch.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Row, at_least, ratio, take_turns
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import experts, ops, router
from sparsity_lab.models.attention import norm_rope, norm_rope_plain, rotations
from sparsity_lab.training.compiled import has_compiler

TOKENS = 2048
WIDTHS = (16, 24, 32, 64, 96)
COMPILED = 32  # the width at which the compiler is tried, because it takes seconds a function
SECONDS = 2.0
EARNED = 1.2
KEPT = ("_Grouped",)  # below that; but without it the layer of experts misses the first of its bars (moe_layer: 1.4)

Twin = Callable[..., Tensor | tuple[Tensor, ...]]


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    ops.keep_heap()
    for name, twins in (("_RMSNorm", rms_norms), ("_NormRope", norm_ropes), ("_Route", routers), ("_Grouped", grouped)):
        for width in WIDTHS:
            hand, plain, inputs = twins(width)
            passes = {"hand": both_ways(hand, *inputs), "plain": both_ways(plain, *inputs)}
            if width == COMPILED and has_compiler():
                torch.compiler.reset()
                passes["compiled"] = both_ways(torch.compile(plain, dynamic=False), *inputs)
            times = take_turns(passes, SECONDS, block=9)
            what = f"{name}, width {width}: speed over plain torch's"
            speed = ratio(times, "plain", "hand")
            yield Row(what, "", f"{speed:.2f}", None) if name in KEPT else at_least(what, speed, EARNED)
            if "compiled" in passes:
                measured = f"{ratio(times, 'plain', 'compiled'):.2f}"
                yield Row(f"{name}, width {width}: the same of plain torch, compiled", "", measured, None)


def both_ways(function: Twin, *inputs: Tensor) -> Callable[[], None]:
    def run() -> None:
        for x in inputs:
            x.grad = None
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])

    return run


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def rms_norms(width: int) -> tuple[Twin, Twin, tuple[Tensor, ...]]:
    return ops.rms_norm, ops.rms_norm_plain, (leaf(TOKENS, width), leaf(width))


def norm_ropes(width: int) -> tuple[Twin, Twin, tuple[Tensor, ...]]:
    config = ModelConfig.of_width(width)
    heads, turns = config.n_heads, rotations(config)[: config.context]
    inputs = leaf(TOKENS // config.context, config.context, 3 * width), leaf(config.head_dim), leaf(config.head_dim)
    return (
        lambda qkv, q, k: norm_rope(qkv, heads, q, k, turns),
        lambda qkv, q, k: norm_rope_plain(qkv, heads, q, k, turns),
        inputs,
    )


def routers(width: int) -> tuple[Twin, Twin, tuple[Tensor, ...]]:
    """Of 16 experts; the width does not matter to a router's choice."""
    config = ModelConfig.of_width(width, n_experts=16)

    def parts(routing: router.Routing) -> tuple[Tensor, ...]:
        return routing.weights_NK, routing.balance, routing.z

    logits = leaf(TOKENS, 16)
    return lambda x: parts(router.route(x, 1)), lambda x: parts(router.route_plain(x, config)), (logits,)


def grouped(width: int) -> tuple[Twin, Twin, tuple[Tensor, ...]]:
    """Two of 16 experts."""
    routing = router.route(torch.randn(TOKENS, 16), 2)
    chosen, counts = routing.experts_NK, routing.counts_E

    def plain(x_ND: Tensor, weights_NK: Tensor, gate_up_EDG: Tensor, down_EFD: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # torch's own grouped_mm can't be traced in float32
            return experts.grouped_compiled(x_ND, weights_NK, chosen, counts, gate_up_EDG, down_EFD)
        order_S = chosen.view(-1).argsort(stable=True)
        ends_E = counts.cumsum(0, dtype=torch.int32)
        gate_SF, up_SF = F.grouped_mm(x_ND.index_select(0, order_S // 2), gate_up_EDG, offs=ends_E).chunk(2, -1)
        y_SD = F.grouped_mm(F.silu(gate_SF) * up_SF, down_EFD, offs=ends_E) * weights_NK.view(-1)[order_S, None]
        return torch.zeros_like(x_ND).index_add(0, order_S // 2, y_SD)

    def hand(x_ND: Tensor, weights_NK: Tensor, gate_up_EDG: Tensor, down_EFD: Tensor) -> Tensor:
        y_ND: Tensor = ops.apply(experts._Grouped, x_ND, weights_NK, chosen, counts, gate_up_EDG, down_EFD)
        return y_ND

    inputs = leaf(TOKENS, width), leaf(TOKENS, 2), leaf(16, width, 6 * width), leaf(16, 3 * width, width)
    return hand, plain, inputs
