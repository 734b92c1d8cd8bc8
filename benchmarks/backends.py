"""The experts' layer forward and backward by each backend, over numbers of experts and threads, against transformers.

Width 64, experts 192 wide, 2 of them work, float32. In the first rows 2,048 tokens are shared by more and more experts;
in the last each expert keeps 64 rows and the tokens grow with the experts.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks.moe_layer import Pass, moe_pass, plain_pass, transformers_layer
from benchmarks.timing import Row, at_least, at_most, ratio, take_turns
from sparsity_lab.config import ModelConfig
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.megablocks import why_not

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
    for threads in THREADS:
        torch.set_num_threads(threads)
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
            best = min(ours, key=lambda name: min(times[name]))
            yield Row(f"{what}: the fastest backend", "grouped", best, best == "grouped")
            text = f"{what}: grouped's time over transformers' grouped"
            yield at_most(text, ratio(times, "grouped", "transformers grouped_mm"), 1.0)
            eager = ratio(times, "transformers eager", "grouped")
            text = f"{what}: transformers' eager over grouped's time"
            yield at_least(text, eager, 2.0) if n_experts >= 64 else Row(text, "", f"{eager:.2f}", None)
    torch.set_num_threads(1)
    growing = {n: moe_pass(layers(n)["grouped"], torch.randn(ROWS * n // 2 // 32, 32, 64)) for n in (8, 256)}
    times = take_turns({str(n): growing[n] for n in growing}, SECONDS, block=3)
    measured = ratio(times, "256", "8") / (256 / 8)
    yield at_most(f"{ROWS} rows an expert: cost a token with 256 experts over that with 8", measured, 1.3)
