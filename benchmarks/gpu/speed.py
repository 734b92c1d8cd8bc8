"""A layer with experts and a whole training step beside dense ones of equal FLOPs, plain torch and transformers.

All in bfloat16. Weights are bfloat16 too in the layers, in plain torch's and in transformers' steps; in ours they are
float32 and cast in each step, as the lab trains. MFU is a step's FLOPs over its time, as a share of the rate of a large
product in the same run.
"""

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks import baseline
from benchmarks.gpu.device import data_sheet, product_rate
from benchmarks.moe_layer import Pass, SwiGLU, moe_pass, plain_pass, transformers_layer
from benchmarks.timing import Row, ratio, take_turns
from sparsity_lab.accounting import flops_per_step
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.megablocks import why_not
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import Training

# layers: d_model, d_expert, experts, of them chosen, tokens
TINY, SMALL, LARGE = (16, 32, 4, 2, 64), (256, 512, 16, 2, 8192), (1024, 1024, 64, 4, 16_384)
DTYPE = torch.bfloat16
SECONDS = {"cuda": 4.0, "cpu": 0.0}
ROOMY = 40e9  # bytes of a GPU that is large and fast enough for the large layer and step


def rows(device: str) -> Iterator[Row | str]:
    for shape in (TINY,) if device == "cpu" else (SMALL, LARGE) if _is_roomy() else (SMALL,):
        yield from layer_rows(device, *shape)
    yield from step_rows(device)


def layer_rows(device: str, d_model: int, d_expert: int, experts: int, top_k: int, tokens: int) -> Iterator[Row]:
    """Forward and backward of one layer."""
    torch.manual_seed(0)
    what = f"layer, width {d_model}, {top_k} of {experts} experts, each {d_expert} wide"
    config = ModelConfig(d_model=d_model, n_heads=1, d_expert=d_expert, n_experts=experts, top_k=top_k)
    x_BTD = torch.randn(16, tokens // 16, d_model, device=device)
    weights = MoE(config, "grouped").to(device)
    makers: dict[str, Callable[[], Pass]] = {
        "dense": lambda: plain_pass(SwiGLU(d_model, top_k * d_expert).to(device, DTYPE), x_BTD.to(DTYPE)),
        "plain torch": lambda: moe_pass(baseline.MoE(config).to(device, DTYPE), x_BTD.to(DTYPE)),
    }
    for backend in ("grouped", "naive", "megablocks")[: 2 if why_not() else 3]:
        makers[backend] = lambda backend=backend: moe_pass(_with(weights, config, backend), x_BTD.to(DTYPE))
    for way in ("eager", "grouped_mm"):
        makers[f"transformers {way}"] = lambda way=way: plain_pass(
            _theirs(way, weights, x_BTD, device).to(DTYPE), x_BTD.to(DTYPE)
        )
    passes, refused = _that_run(makers)
    yield from (Row(f"{what}: {name}", "", reason, None) for name, reason in refused.items())
    times = take_turns(passes, SECONDS[device], block=3, device=device)
    for name in passes:
        if name != "dense" and "dense" in passes:
            yield Row(f"{what}: {name}'s time over the dense layer's", "", f"{ratio(times, name, 'dense'):.2f}", None)


def step_rows(device: str) -> Iterator[Row | str]:
    """A whole step, with the optimizer."""
    sparse, sequences = _model(device)
    dense = sparse.replace(n_experts=1, top_k=1, d_expert=sparse.top_k * sparse.d_expert)
    text = load_corpus().train
    makers: dict[str, Callable[[], Pass]] = {
        "grouped": lambda: _ours(sparse, sequences, device, "grouped"),
        "dense": lambda: _ours(dense, sequences, device, "grouped"),
        "plain torch": lambda: baseline.training_step(sparse, text, sequences, device, DTYPE),
        "transformers grouped_mm": lambda: _transformers_step(sparse, sequences, device),
        "naive": lambda: _ours(sparse, sequences, device, "naive"),
    }
    if not why_not():
        makers["megablocks"] = lambda: _ours(sparse, sequences, device, "megablocks")
    what = f"step, width {sparse.d_model}, {sparse.n_layers} layers, {sparse.top_k} of {sparse.n_experts} experts"
    passes, refused = _that_run(makers)
    yield from (Row(f"{what}: {name}", "", reason, None) for name, reason in refused.items())
    peak, sheet = product_rate(device, DTYPE), data_sheet(device)
    times = take_turns(passes, SECONDS[device], block=2, device=device)
    said = {}
    for name in passes:
        seconds, config = statistics.median(times[name]), dense if name == "dense" else sparse
        rate = flops_per_step(config, sequences) / seconds
        said[name] = f"{rate / peak:.0%}"
        measured = f"{sequences * config.context / seconds:,.0f} tokens/s, MFU {said[name]}"
        if sheet and "bfloat16" in sheet.flops:
            measured += f" ({rate / sheet.flops['bfloat16']:.0%} of the data sheet's peak)"
        if name != "grouped" and "grouped" in passes:
            measured += f"; {ratio(times, name, 'grouped'):.2f} times grouped's time"
        yield Row(f"{what}: {name}", "", measured, None)
    yield "MFU of a whole step: " + ", ".join(f"{name} {share}" for name, share in said.items())


def _is_roomy() -> bool:
    return torch.cuda.get_device_properties(0).total_memory > ROOMY


def _that_run(makers: dict[str, Callable[[], Pass]]) -> tuple[dict[str, Pass], dict[str, str]]:
    """Returns those that can be made and run once, and why the others can't: a library may refuse a type or a GPU."""
    passes, refused = dict[str, Pass](), dict[str, str]()
    for name, make in makers.items():
        try:
            made = make()
            made()
            passes[name] = made
        except Exception as error:
            refused[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return passes, refused


def _with(weights: MoE, config: ModelConfig, backend: str) -> MoE:
    layer = MoE(config, backend).to(next(weights.parameters()).device)
    layer.load_state_dict(weights.state_dict())
    return layer.to(DTYPE)


def _theirs(way: str, weights: MoE, x_BTD: torch.Tensor, device: str) -> nn.Module:
    few_BTD = x_BTD[:, :4]  # compared with ours; of many tokens, rounding would send one to another expert
    with torch.device(device):
        return transformers_layer(way, weights, few_BTD)


def _model(device: str) -> tuple[ModelConfig, int]:
    """The model whose steps are timed, and its sequences per step: 16,384 tokens on a large GPU, 8,192 on a small."""
    if device == "cpu":
        return ModelConfig(d_model=16, n_heads=1, d_expert=32, n_experts=4, top_k=2, n_layers=1, context=16), 2
    shape = ModelConfig(d_model=1024, n_heads=16, d_expert=2048, n_experts=16, top_k=2, n_layers=4, context=1024)
    if _is_roomy():
        return shape, 16
    return shape.replace(d_model=512, n_heads=8, d_expert=1024), 8


def _ours(model: ModelConfig, sequences: int, device: str, backend: str) -> Pass:
    dtype = str(DTYPE).removeprefix("torch.")
    return Training(
        model, RunConfig(budget=1e20, batch_size=sequences, device=device, dtype=dtype, backend=backend)
    ).step


def _transformers_step(model: ModelConfig, sequences: int, device: str) -> Pass:
    """Qwen3's model with experts, of the same shape, on random tokens."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    settings = Qwen3MoeConfig(
        vocab_size=model.vocab_size, max_position_embeddings=model.context, tie_word_embeddings=False, use_cache=False,
        hidden_size=model.d_model, num_hidden_layers=model.n_layers, mlp_only_layers=[], head_dim=model.head_dim,
        num_attention_heads=model.n_heads, num_key_value_heads=model.n_heads, moe_intermediate_size=model.d_expert,
        num_experts=model.n_experts, num_experts_per_tok=model.top_k, norm_topk_prob=True,
    )  # fmt: skip
    settings._attn_implementation, settings._experts_implementation = "sdpa", "grouped_mm"
    with torch.device(device):
        network = Qwen3MoeForCausalLM(settings).to(DTYPE)
        tokens_BT = torch.randint(model.vocab_size, (sequences, model.context))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        network(input_ids=tokens_BT, labels=tokens_BT).loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
