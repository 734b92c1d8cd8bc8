"""What a config costs, against the live module, torch's FLOP counter, and models that others wrote."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from sparsity_lab.accounting import (
    Parameters,
    active_flops_6nd,
    count_parameters,
    flops_by_part,
    flops_per_step,
    flops_per_token,
    mtp_flops,
    plan,
)
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer

# ---- Parameters


def counted(model: Transformer) -> Counter[str]:
    """Weights of the live module by part, told from their names."""
    parts: Counter[str] = Counter()
    for name, weight in model.named_parameters():
        if name.startswith("mtp."):
            part = "mtp"
        elif "norm" in name:
            part = "norms"
        elif name in ("embedding", "head"):
            part = "head" if model.config.tied_embeddings else name
        else:
            _, layer, kind = name.split(".", 2)
            prefixes = {
                "attention.": "attention",
                "moe.router.": "router",
                "moe.shared.": "shared",
                "moe.experts.": "routed" if model.config.is_moe_layer(int(layer)) else "dense",
            }
            (part,) = [part for prefix, part in prefixes.items() if kind.startswith(prefix)]
        parts[part] += weight.numel()
    return parts


@settings(max_examples=60)
@given(config=st.from_type(ModelConfig))
@example(config=ModelConfig())
@example(config=ModelConfig(n_experts=16, top_k=3, n_shared_experts=2, n_heads=4))
def test_counts_are_the_live_modules(config: ModelConfig) -> None:
    model = Transformer(config)
    count = count_parameters(config)
    assert count.total + count.mtp == sum(weight.numel() for weight in model.parameters())
    parts = counted(model)
    for name in ("embedding", "attention", "norms", "router", "dense", "shared", "routed", "head", "mtp"):
        assert getattr(count, name) == parts[name], name


@settings(max_examples=40)
@given(config=st.from_type(ModelConfig), token=st.integers(0, 1), seed=st.integers(0, 9))
@example(config=ModelConfig(n_experts=8, top_k=3, n_shared_experts=1), token=0, seed=0)
def test_active_weights_are_those_a_token_uses(config: ModelConfig, token: int, seed: int) -> None:
    """One token's gradient reaches just the experts that are active on it, and all of the other weights."""
    torch.manual_seed(seed)
    config = config.replace(mtp_depth=0)
    model = Transformer(config.replace(balance_loss=0, z_loss=0), "naive")
    loss, _ = model.loss(torch.tensor([[token]]), torch.tensor([[1 - token]]))
    loss.backward()
    active = 0
    for name, weight in model.named_parameters():
        if "moe.experts" in name:
            assert weight.grad is not None
            active += sum(w.numel() for w, g in zip(weight, weight.grad, strict=True) if g.any())
        else:
            active += weight.numel()
    count = count_parameters(config)
    assert count.active == active
    assert count.inactive == count.total - active
    assert count.sparsity == pytest.approx(1 - active / count.total)


@given(config=st.from_type(ModelConfig))
def test_what_active_and_total_mean(config: ModelConfig) -> None:
    count = count_parameters(config)
    assert count.routed_active * config.n_experts == count.routed * config.top_k
    assert count.active <= count.total
    assert (count.active == count.total) == (config.sparsity == 0)
    experts_only = Parameters(0, 0, 0, 0, 0, 0, count.routed, count.routed_active, 0)
    assert experts_only.sparsity == pytest.approx(config.sparsity), "of the experts alone, both sparsities agree"


def qwen(config: ModelConfig) -> Qwen3MoeForCausalLM:
    """Qwen3-MoE as Hugging Face wrote it: QK-norm, SwiGLU experts, RMSNorm and two tables, as here."""
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.dense_width if config.has_router else config.d_expert,
            moe_intermediate_size=config.d_expert,
            num_experts=config.n_experts,
            num_experts_per_tok=config.top_k,
            decoder_sparse_step=config.moe_every,
            mlp_only_layers=list(range(config.n_dense_layers if config.has_router else config.n_layers)),
            tie_word_embeddings=config.tied_embeddings,
            attention_bias=False,
        )
    )


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(d_model=16, n_heads=2, d_expert=24, n_experts=4),
        ModelConfig(d_model=24, n_heads=3, d_expert=10, n_experts=6, top_k=3, n_layers=3, vocab_size=50),
        ModelConfig(d_model=16, n_heads=1, d_expert=48),
        ModelConfig(d_model=16, n_heads=6, n_kv_heads=2, d_head=10, n_experts=4, tied_embeddings=True),
        ModelConfig(n_layers=7, n_dense_layers=2, moe_every=2, d_dense=50, n_experts=4, top_k=2),
    ],
)
def test_as_many_weights_as_qwen3(config: ModelConfig) -> None:
    assert count_parameters(config).total == qwen(config).num_parameters()


def test_counts_by_hand() -> None:
    config = ModelConfig(
        vocab_size=10, d_model=4, n_layers=2, n_heads=1, d_expert=5, n_experts=3, top_k=2, n_shared_experts=1
    )
    expert = 3 * 4 * 5
    assert count_parameters(config) == Parameters(
        embedding=40,
        attention=2 * 4 * 16,
        norms=2 * (4 + 4 + 4 + 4) + 4,
        router=2 * 3 * 4,
        dense=0,
        shared=2 * expert,
        routed=2 * 3 * expert,
        routed_active=2 * 2 * expert,
        head=40,
    )


# ---- FLOPs


class Products(TorchDispatchMode):
    """Counts every operation that sounds like a matrix product, so that none is missed by who counts FLOPs."""

    WORDS = ("mm", "matmul", "linear", "attention", "conv", "dot", "mv", "einsum", "bilinear", "ger")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if any(word in name for word in self.WORDS):
            self.calls[name] += 1
            self.flops += 2 * result.numel() * args[0].shape[-1]
        return result


def measure(config: ModelConfig, batch_size: int, backward: bool) -> tuple[int, Products]:
    """FLOPs by torch's own counter, and all products, of the plain model on a batch."""
    torch.manual_seed(0)
    model = Transformer(config, backend="naive")
    x = torch.randint(config.vocab_size, (batch_size, config.context))
    counter, products = FlopCounterMode(display=False), Products()
    with sdpa_kernel(SDPBackend.MATH), counter, products:
        loss, aux_loss = model.loss(x, x)
        if backward:
            (loss + aux_loss).backward()
    return counter.get_total_flops(), products


SHAPES = [
    ModelConfig(d_model=16, n_heads=2, d_expert=20, context=16),
    ModelConfig(d_model=16, n_heads=1, d_expert=20, context=16, n_experts=8),
    ModelConfig(d_model=16, n_heads=2, d_expert=6, context=16, n_experts=8, top_k=3, n_shared_experts=2),
]


@settings(max_examples=250)
@given(config=st.from_type(ModelConfig), batch_size=st.integers(1, 3))
@example(config=SHAPES[0], batch_size=2)
@example(config=SHAPES[1], batch_size=2)
@example(config=SHAPES[2], batch_size=2)
def test_flops_are_the_counters(config: ModelConfig, batch_size: int) -> None:
    tokens = batch_size * config.context
    forward = tokens * sum(flops_by_part(config).values()) + batch_size * mtp_flops(config)
    for backward, expected in ((False, forward), (True, flops_per_step(config, batch_size))):
        total, products = measure(config, batch_size, backward)
        assert total == expected
        assert products.flops == expected, products.calls
        assert set(products.calls) == {"mm", "bmm"}
        moe = (config.router_width > 0) + 2 * config.n_experts if config.has_router else 2  # router; two an expert
        moe += 2 if config.n_shared_experts else 0
        passes, dense = (3 if backward else 1), config.n_layers - config.n_moe_layers
        attention = 2  # qkv, out
        if config.is_mla:  # queries, down, up, out
            attention = 4 if config.q_lora_rank is None else 5
        layers = attention * config.n_layers + config.n_moe_layers * moe + 2 * dense
        further = config.mtp_depth * (1 + attention + moe + 1)  # join, a layer, the head
        assert products.calls["mm"] == passes * (layers + 1 + further), "and the head"
        assert products.calls["bmm"] == passes * (config.n_layers + config.mtp_depth) * 2, "scores and values"
    assert flops_per_step(config, batch_size) == 3 * forward
    if not config.mtp_depth:
        assert 3 * forward == tokens * flops_per_token(config)


def test_flops_by_hand() -> None:
    config = ModelConfig(
        vocab_size=10, context=7, d_model=4, n_heads=1, d_expert=5, n_experts=3, top_k=2, n_shared_experts=1
    )
    assert flops_by_part(config) == {
        "projections": 2 * 2 * (4 * 12 + 4 * 4),
        "attention": 2 * 2 * 2 * 7 * 4,
        "router": 2 * 2 * 4 * 3,
        "dense": 0,
        "shared": 2 * 2 * 60,
        "routed": 2 * 2 * 60 * 2,
        "head": 2 * 4 * 10,
    }
    assert flops_by_part(config.replace(n_experts=1, top_k=1))["router"] == 0


def test_context_changes_attention_alone() -> None:
    config = SHAPES[2]
    short, long = flops_by_part(config, 4), flops_by_part(config, 12)
    assert long["attention"] == 3 * short["attention"]
    assert {**long, "attention": 0} == {**short, "attention": 0}
    assert flops_by_part(config, config.context) == flops_by_part(config)


def test_6nd_is_what_is_executed_but_for_attention_and_norms() -> None:
    config = SHAPES[2]
    tokens = 1_000
    scores = 3 * flops_by_part(config)["attention"]
    norms = 6 * count_parameters(config).norms
    assert active_flops_6nd(config, tokens) == tokens * (flops_per_token(config) - scores + norms)


# ---- What a budget buys


@given(config=st.from_type(ModelConfig), steps=st.floats(1, 1e6), batch_size=st.none() | st.integers(1, 64))
def test_plan_spends_the_budget(config: ModelConfig, steps: float, batch_size: int | None) -> None:
    run = RunConfig(budget=1e6, batch_size=batch_size)
    step = flops_per_step(config, run.sequences)
    run = RunConfig(budget=steps * step, batch_size=run.sequences)
    bought = plan(config, run)
    assert bought.flops <= run.budget < bought.flops + step
    assert bought.flops == bought.steps * step
    assert bought.tokens == bought.steps * run.sequences * config.context
    assert bought.steps in (math.floor(steps), math.ceil(steps))


def test_a_budget_below_one_step() -> None:
    config = ModelConfig()
    step = flops_per_step(config, 4)
    assert plan(config, RunConfig(budget=step, batch_size=4)).steps == 1
    with pytest.raises(ValueError, match=r"^budget=.* FLOPs is less than one step .* lower batch_size=4, the width"):
        plan(config, RunConfig(budget=step - 1, batch_size=4))
