"""The experts' layer forward and backward by each backend, over numbers of experts and threads, against transformers.

Width 64, experts 192 wide, 2 of them work, float32. In the first rows 2,048 tokens are shared by more and more experts;
then, where products get small, other ways to compute them are tried; in the last each expert keeps 64 rows and the
tokens grow with the experts.

Memory is kept as in training (`keep_heap`): without it, time at 256 experts is that of the operating system zeroing
pages. Tried and not used in the grouped backend: padding all groups to the largest, for one batched product.
"""

import statistics
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.moe_layer import Pass, moe_pass, plain_pass, transformers_layer
from benchmarks.timing import Row, at_least, at_most, ratio, take_turns
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import routes
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.megablocks import why_not
from sparsity_lab.models.ops import keep_heap
from sparsity_lab.models.router import Routing

EXPERTS = (8, 64, 256)
THREADS = (1, 2)
TOKENS = 2048
ROWS = 64  # of each expert, at fixed tokens an expert
SECONDS = 5.0


def config(n_experts: int) -> ModelConfig:
    return ModelConfig(d_model=64, n_heads=4, d_expert=192, n_experts=n_experts, top_k=2)


def layers(n_experts: int) -> dict[str, MoE]:
    """By backend, all of the same weights."""
    backends = ["grouped", "naive"] if why_not() else ["grouped", "naive", "megablocks"]
    made = {backend: MoE(config(n_experts), backend) for backend in backends}
    for layer in made.values():
        layer.load_state_dict(made["grouped"].state_dict())
    return made


def rows() -> Iterator[Row]:
    torch.manual_seed(0)
    keep_heap()
    for threads in THREADS:
        torch.set_num_threads(threads)
        routes.use(routes.here())
        clock = time.thread_time if threads == 1 else time.perf_counter
        for n_experts in EXPERTS:
            ours, x_BTD = layers(n_experts), torch.randn(TOKENS // 128, 128, 64)
            passes: dict[str, Pass] = {name: moe_pass(layer, x_BTD) for name, layer in ours.items()}
            for name in ("eager", "grouped_mm"):
                passes[f"transformers {name}"] = plain_pass(transformers_layer(name, ours["grouped"], x_BTD), x_BTD)
            times = take_turns(passes, SECONDS, block=3, clock=clock)
            what = f"{n_experts} experts, {threads} thread{'s'[: threads > 1]}"
            for name in passes:
                if name in ours and name != "grouped":
                    yield Row(f"{what}: {name}'s time over grouped's", "", f"{ratio(times, name, 'grouped'):.2f}", None)
            best = min(ours, key=lambda name: statistics.median(times[name]))
            over = ratio(times, "grouped", best)
            yield at_most(f"{what}: grouped's time over the fastest backend's", over, 1.05, f" ({best})")
            over = max(ratio(times, "grouped", name) for name in times if name.startswith("transformers"))
            yield at_most(f"{what}: grouped's time over transformers' best", over, 1.0)
            eager = ratio(times, "transformers eager", "grouped")
            text = f"{what}: transformers' eager over grouped's time"
            yield at_least(text, eager, 2.0) if n_experts >= 64 else Row(text, "", f"{eager:.2f}", None)
    torch.set_num_threads(1)
    for n_experts in EXPERTS:
        yield from trials(n_experts)
    growing = {n: moe_pass(layers(n)["grouped"], torch.randn(ROWS * n // 2 // 32, 32, 64)) for n in (8, 256)}
    times = take_turns({str(n): growing[n] for n in growing}, SECONDS, block=3)
    measured = ratio(times, "256", "8") / (256 / 8)
    yield at_most(f"{ROWS} rows an expert: cost a token with 256 experts over that with 8", measured, 1.3)


def trials(n_experts: int) -> Iterator[Row]:
    """What could make small products cheaper, as time a token over the grouped backend's."""
    layer, x_BTD = MoE(config(n_experts), "grouped"), torch.randn(TOKENS // 128, 128, 64)
    padded = MoE(config(n_experts), "grouped")
    padded.load_state_dict(layer.state_dict())
    padded.route_to = lambda x_ND, routing: batched(padded, x_ND, routing)
    torch.testing.assert_close(padded(x_BTD)[0], layer(x_BTD)[0], rtol=1e-3, atol=1e-4)
    blocks = {f"{times} times the tokens": times for times in (2, 4)}
    passes = {
        "grouped": moe_pass(layer, x_BTD),
        "groups padded to one batched product": moe_pass(padded, x_BTD),
        "bfloat16": moe_pass(layer, x_BTD.bfloat16()),
    } | {what: moe_pass(layer, x_BTD.repeat(times, 1, 1)) for what, times in blocks.items()}
    times = take_turns(passes, SECONDS, block=3)
    for what in passes:
        if what != "grouped":
            measured = ratio(times, what, "grouped") / blocks.get(what, 1)
            yield Row(f"{n_experts} experts, {what}: time a token over grouped's", "", f"{measured:.2f}", None)


def batched(layer: MoE, x_ND: Tensor, routing: Routing) -> Tensor:
    """Every group padded to the largest, C rows, so that one batched product computes all."""
    (N, K), E, C = routing.experts_NK.shape, len(routing.counts_E), int(routing.counts_E.max())
    order_S = routing.experts_NK.flatten().argsort(stable=True)
    before_E = routing.counts_E.cumsum(0) - routing.counts_E
    shift_E = torch.arange(E) * C - before_E
    place_S = torch.arange(N * K) + shift_E.repeat_interleave(routing.counts_E, output_size=N * K)
    tokens_EC = order_S.new_zeros(E * C).scatter_(0, place_S, order_S // K)
    x_ECD = x_ND.index_select(0, tokens_EC).view(E, C, -1)
    gate_ECF, up_ECF = torch.bmm(x_ECD, layer.experts.gate_up_EDG).chunk(2, -1)
    y_ECD = torch.bmm(F.silu(gate_ECF) * up_ECF, layer.experts.down_EFD)
    slots_NK = torch.empty_like(order_S).scatter_(0, order_S, place_S).view(N, K)
    y_ND: Tensor = (y_ECD.flatten(0, 1)[slots_NK] * routing.weights_NK[..., None]).sum(1)
    return y_ND
