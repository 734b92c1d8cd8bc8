"""Multi-head latent attention against DeepSeek's as Hugging Face wrote it, and its two forms against each other."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DeepseekV2Config, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention, DeepseekV2RotaryEmbedding
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer, generate
from sparsity_lab.models.attention import rotations
from sparsity_lab.models.cache import new_cache
from sparsity_lab.models.mla import LatentAttention
from tests.models.deepseek import attention_weights, yarn

KINDS = {
    "v3": (DeepseekV3Config, DeepseekV3Attention, DeepseekV3RotaryEmbedding),
    "v2": (DeepseekV2Config, DeepseekV2Attention, DeepseekV2RotaryEmbedding),
}
YARN = {
    "rope_type": "yarn",
    "factor": 40.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 10_000.0,
}


def shape(heads: int, nope: int, rope: int, value: int, rank: int, q_rank: int | None) -> ModelConfig:
    return ModelConfig(
        d_model=16, n_heads=heads, d_head=4, kv_lora_rank=rank, q_lora_rank=q_rank, qk_nope_head_dim=nope,
        qk_rope_head_dim=rope, v_head_dim=value, context=64,
    )  # fmt: skip


SHAPES = [
    shape(4, 8, 4, 6, 12, 10),  # as V3: queries compressed
    shape(4, 8, 4, 8, 12, None),  # as V2-Lite
    shape(1, 4, 2, 5, 2, 1),
    shape(8, 4, 8, 4, 32, 24),
]


def deepseek(kind: str, config: ModelConfig, scaling: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """DeepSeek's attention of that shape, and its rotary embedding."""
    settings_, attention, rotary = KINDS[kind]
    hf = settings_(
        hidden_size=config.d_model,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        kv_lora_rank=config.kv_lora_rank,
        q_lora_rank=config.q_lora_rank,
        qk_nope_head_dim=config.nope_dim,
        qk_rope_head_dim=config.rope_dim,
        v_head_dim=config.value_dim,
        head_dim=config.rope_dim,
        max_position_embeddings=config.context,
        rope_parameters=scaling or {"rope_type": "default", "rope_theta": config.rope_base},
    )
    hf._attn_implementation = "eager"
    return attention(hf, 0), rotary(hf)


def call(kind: str, module: Any, rotary: Any, x: Tensor) -> Tensor:
    T = x.shape[1]
    mask = torch.full((T, T), float("-inf")).triu(1)[None, None]
    places = rotary(x, torch.arange(T)[None])
    result: Tensor = module(x, attention_mask=mask, position_embeddings=places)[0]
    return result


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", SHAPES, ids=["v3", "v2-lite", "narrow", "wide"])
def test_outputs_and_gradients_are_deepseeks(config: ModelConfig, kind: str, plain: bool) -> None:
    torch.manual_seed(0)
    module, rotary = deepseek(kind, config)
    ours = LatentAttention(config, plain)
    ours.load_state_dict(attention_weights(module.state_dict()))
    for norm in ("q_norm", "kv_norm"):  # not all ones, or a forgotten norm would not be seen
        weight = getattr(ours, norm)
        if weight is not None:
            with torch.no_grad():
                weight.uniform_(0.5, 2)
                dict(module.named_parameters())[
                    "q_a_layernorm.weight" if norm == "q_norm" else "kv_a_layernorm.weight"
                ].copy_(weight)
    x = torch.randn(2, 33, config.d_model, requires_grad=True)
    mine, other = ours(x, rotations(config)[:33]), call(kind, module, rotary, x)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    g = torch.randn_like(mine)
    weights = dict(module.named_parameters())
    dx, *dw = torch.autograd.grad(mine, [x, *ours.parameters()], g)
    dx_, *dw_ = torch.autograd.grad(other, [x, *weights.values()], g)
    torch.testing.assert_close(dx, dx_, rtol=1e-3, atol=1e-5)
    named = attention_weights(dict(zip(weights, dw_, strict=True)))
    for (name, _), gradient in zip(ours.named_parameters(), dw, strict=True):
        torch.testing.assert_close(gradient, named[name], rtol=1e-3, atol=1e-4, msg=name)


def test_generates_what_deepseek_v3_generates() -> None:
    """Token for token, with dense models of the same weights around the attention."""
    config = SHAPES[0].replace(vocab_size=40, n_layers=3, d_expert=24)
    hf = DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            kv_lora_rank=12, q_lora_rank=10, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6, head_dim=4,
            intermediate_size=24, first_k_dense_replace=3, max_position_embeddings=64, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, bos_token_id=None, eos_token_id=None,
            pad_token_id=None,
        )
    ).eval()  # fmt: skip
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim == 2 else 1))
    ours = Transformer(config).eval()
    new = {"embedding": hf.model.embed_tokens.weight, "head": hf.lm_head.weight, "final_norm": hf.model.norm.weight}
    for i, layer in enumerate(hf.model.layers):
        prefix = f"layers.{i}."
        new |= {
            prefix + "attention_norm": layer.input_layernorm.weight,
            prefix + "moe_norm": layer.post_attention_layernorm.weight,
            prefix + "moe.experts.gate_up_EDG": torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]).T[
                None
            ],
            prefix + "moe.experts.down_EFD": layer.mlp.down_proj.weight.T[None],
        }
        state = attention_weights(layer.self_attn.state_dict())
        new |= {f"{prefix}attention.{name}": weight for name, weight in state.items()}
    ours.load_state_dict(new)
    prompt = torch.randint(40, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(ours(prompt), hf(prompt).logits, rtol=1e-3, atol=1e-3)
        expected = hf.generate(prompt, max_new_tokens=40, do_sample=False)
    assert torch.equal(generate(ours, prompt, 40, temperature=0), expected)
    assert len(expected[0].unique()) > 5, "not one token for ever"


@settings(max_examples=30)
@given(
    config=st.sampled_from(SHAPES), batch=st.integers(1, 3), past=st.integers(0, 30), new=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_absorbed_is_naive(config: ModelConfig, batch: int, past: int, new: int, dtype: torch.dtype) -> None:
    torch.manual_seed(past)
    attention = LatentAttention(config, plain=True).to(dtype)
    turns = rotations(config).to(dtype)
    x = torch.randn(batch, past + new, config.d_model, dtype=dtype)
    whole = attention(x, turns[: past + new])[:, past:]
    results = []
    for form in ("naive", "absorbed"):
        attention.form = form
        cache = new_cache(config, batch, dtype=dtype)
        for start, end in ((0, past), (past, past + new)):
            if end > start:
                cache.begin(batch, end - start)
                y = attention(x[:, start:end], turns[start:end], cache)
                cache.commit()
        results.append(y)
    tolerance = {"rtol": 1e-4, "atol": 1e-5}  # rms_norm and rotations are done in float32 whatever the type
    torch.testing.assert_close(results[0], results[1], **tolerance)
    torch.testing.assert_close(results[1], whole, **tolerance)


@given(config=st.sampled_from(SHAPES), new=st.integers(1, 64), held=st.integers(1, 4096))
def test_the_cheaper_form(config: ModelConfig, new: int, held: int) -> None:
    """Against the matrices of each form, multiplied out."""
    attention = LatentAttention(config, plain=True)
    H, N, R, V, K = config.n_heads, config.nope_dim, config.rope_dim, config.value_dim, attention.K
    naive = held * K * H * (N + V) + new * H * held * (N + R) + new * H * held * V
    absorbed = new * H * N * K + new * H * held * (K + R) + new * H * held * K + new * H * K * V
    assert attention.cheaper(new, held) == ("absorbed" if absorbed < naive else "naive")


def test_real_shape_prefers_absorbed_decoding_and_naive_prefill() -> None:
    attention = LatentAttention(shape(8, 128, 64, 128, 512, None), plain=True)
    assert attention.cheaper(1, 4096) == "absorbed"
    assert attention.cheaper(4096, 4096) == "naive"


# ---- A stretched context


def test_attention_with_yarn_is_deepseeks() -> None:
    """The released V2 and V3 stretch their context: without YaRN our attention would not be theirs."""
    config = SHAPES[0]
    module, rotary = deepseek("v3", config, YARN)
    turns, temperature = yarn(config, YARN)
    ours = LatentAttention(config, plain=False)
    ours.load_state_dict(attention_weights(module.state_dict()))
    ours.scale *= temperature
    x = torch.randn(1, 50, config.d_model)
    torch.testing.assert_close(ours(x, turns[:50]), call("v3", module, rotary, x), rtol=1e-4, atol=1e-5)
    assert (ours(x, rotations(config)[:50]) - ours(x, turns[:50])).abs().max() > 1e-3


@pytest.mark.parametrize("change", [{}, {"mscale": 0.707}, {"mscale_all_dim": 0}, {"factor": 1.0}])
def test_yarn_is_transformers(change: dict[str, Any]) -> None:
    config = shape(2, 4, 64, 4, 8, None).replace(context=300)
    settings_ = YARN | change
    _, rotary = deepseek("v3", config, settings_)
    cos, sin = rotary(torch.zeros(1, 300, 1), torch.arange(300)[None])
    turns, temperature = yarn(config, settings_)
    torch.testing.assert_close(turns[..., 0], cos[0, :, :32], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turns[..., 1], sin[0, :, :32], rtol=1e-4, atol=1e-4)
    module, _ = deepseek("v3", config, settings_)
    assert module.scaling == pytest.approx((4 + 64) ** -0.5 * temperature)
