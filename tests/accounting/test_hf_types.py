"""Every type of model that is understood, against transformers' own code, built on the meta device."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.hf_config import from_hf
from sparsity_lab.accounting.hf_types import TYPES
from tests.accounting import class_defaults

KINDS = [kind for kind in TYPES if kind in CAUSAL]
# What the classes themselves cannot be built without.
NEEDED: dict[str, dict[str, Any]] = {
    "ministral": {"head_dim": 64},
    "hunyuan_v1_dense": {"head_dim": 64},
    "hunyuan_v1_moe": {"head_dim": 64},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"], "num_hidden_layers": 3},
}


def built(values: dict[str, Any]) -> int | None:
    """The weights of the model that transformers builds, or None if it does not build one."""
    named = dict(values)
    try:
        config = AutoConfig.for_model(named.pop("model_type"), **named)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with torch.device("meta"):
            return int(auto.from_config(config).num_parameters()) - unused(config)
    except Exception:  # they raise whatever comes
        return None


def unused(config: Any) -> int:
    """Rows that LongCat's class makes for experts that compute nothing, and whose weights no file has."""
    if config.model_type != "longcat_flash":
        return 0
    return int(config.num_layers * config.zero_expert_num * 2 * config.expert_ffn_hidden_size * config.hidden_size)


def counted(values: dict[str, Any]) -> int | None:
    """Our count, or None if the file is refused."""
    try:
        return count_parameters(from_hf(values)).total
    except ValueError:
        return None


@pytest.mark.parametrize("kind", CAUSAL)
def test_every_type_is_counted_to_the_last_weight_or_refused_by_its_name(kind: str) -> None:
    """Its default configuration, of which the file says nothing but the type."""
    if kind not in TYPES:
        with pytest.raises(ValueError, match=f"^model_type='{kind}' is not understood"):
            from_hf({"model_type": kind})
        return
    values = {"model_type": kind} | NEEDED.get(kind, {})
    theirs = built(values)
    if kind == "dbrx":  # whose class cannot be built without settings of RoPE in a place where no file has them
        with pytest.raises(ValueError, match=r"^attn_config\.kv_n_heads is missing, and a dbrx model has no usual"):
            from_hf(values)
    else:
        assert theirs == counted(values)


def test_how_many_types() -> None:
    assert len(KINDS) >= 90
    assert "mamba" in KINDS
    assert "deepseek_v32" in KINDS


@pytest.mark.parametrize("kind", class_defaults.known_kinds())
def test_what_is_left_out_means_what_the_class_means(kind: str) -> None:
    own = class_defaults.of_class(kind, class_defaults.names_in_readers())
    assert class_defaults.read()[kind] == own, "run `python -m tests.accounting.class_defaults`"


@pytest.mark.parametrize("kind", ["llava", "gemma3", "llama4", "mistral3", "qwen3_vl", "qwen3_5_moe", "kimi_k25"])
def test_ties_of_whole_models(kind: str) -> None:
    assert class_defaults.read()["whole_models"][kind] is class_defaults.tied_by_class(kind)


# A small model of any type, in which no setting is what its class takes it to be.
SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 12, "num_key_value_heads": 6,
    "head_dim": 24, "intermediate_size": 112, "moe_intermediate_size": 40, "max_position_embeddings": 640,
    "tie_word_embeddings": True, "sliding_window": 48, "attention_bias": True, "mlp_bias": True, "use_bias": True,
    "num_experts": 6, "num_experts_per_tok": 3, "n_routed_experts": 6, "num_local_experts": 6, "n_shared_experts": 3,
    "num_shared_experts": 3, "first_k_dense_replace": 2, "shared_expert_intermediate_size": 56, "qkv_bias": False,
    "q_lora_rank": 72, "kv_lora_rank": 48, "qk_nope_head_dim": 20, "qk_rope_head_dim": 8, "v_head_dim": 28,
    "use_qk_norm": True, "qk_layernorm": True, "moe_num_experts": 6, "moe_k": 3, "moe_num_shared_experts": 3,
    "moe_layer_start_index": 2, "moe_layer_end_index": 4, "index_n_heads": 4, "index_head_dim": 20, "index_topk": 64,
    "linear_num_value_heads": 8, "linear_num_key_heads": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 20,
    "linear_conv_kernel_dim": 3, "decoder_sparse_step": 2, "shared_intermediate_size": 56, "intermediate_size_mlp": 88,
    "n_embd": 192, "n_layer": 3, "n_head": 12, "n_inner": 100, "n_positions": 80, "num_dense_layers": 2,
    "mamba_d_state": 24, "mamba_n_groups": 2, "mamba_d_conv": 3, "attn_layer_period": 3, "attn_layer_offset": 1,
    "expert_layer_period": 3, "expert_layer_offset": 2, "state_size": 24, "expand": 3, "conv_kernel": 3,
    "ssm_state_size": 24, "mamba_num_heads": 6, "n_groups": 2, "num_experts_per_token": 3, "linear_num_heads": 6,
    "linear_head_dim": 20, "model_max_length": 640, "conv_L_cache": 4, "moe_shared_expert_intermediate_size": 56,
    "interleave_moe_layer_step": 2, "use_parallel_residual": True, "use_qkv_bias": True, "use_post_norm": False,
}  # fmt: skip
SPECIAL: dict[str, dict[str, Any]] = {
    "jamba": {"num_experts": 4, "num_experts_per_tok": 2},
    "mamba2": {"num_heads": 24, "head_dim": 24},
    "bamba": {"mamba_n_heads": 6, "mamba_d_head": 64, "attn_layer_indices": [1, 4]},
    "granitemoehybrid": {"mamba_n_heads": 6, "mamba_d_head": 64, "layer_types": ["mamba"] * 4 + ["attention"] * 2},
    "falcon_h1": {"mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_head": 16},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "mlp", "moe"], "num_hidden_layers": 5},
    "lfm2": {"full_attn_idxs": [1, 3]},
    "deepseek_v4": {
        "hc_mult": 3,
        "o_groups": 6,
        "o_lora_rank": 20,
        "compress_rates": {"compressed_sparse_attention": 8, "heavily_compressed_attention": 16},
        "layer_types": [
            "sliding_attention",
            *["compressed_sparse_attention", "heavily_compressed_attention"] * 2,
            "sliding_attention",
        ],
    },
    "longcat_flash": {
        "moe_topk": 3,
        "num_layers": 3,
        "ffn_hidden_size": 112,
        "expert_ffn_hidden_size": 40,
        "zero_expert_num": 2,
        "head_dim": 8,
    },
    "hunyuan_v1_moe": {"moe_topk": 3, "head_dim": 24},
    "bailing_hybrid": {"layer_group_size": 4, "short_conv_kernel_size": 3},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 2, "num_hidden_layers": 6},
}
# What these classes ignore, so that we refuse it.
WITHOUT: dict[str, set[str]] = {
    "kimi_linear": {"tie_word_embeddings"},
    "bailing_hybrid": {"tie_word_embeddings"},
    "nemotron_h": {"tie_word_embeddings", "attention_bias", "use_bias"},
    "deepseek_v32": {"mlp_bias"},
    "glm_moe_dsa": {"mlp_bias"},
    "deepseek_v2": {"mlp_bias"},
    "hy_v3": {"mlp_bias"},
    "minicpm3": {"mlp_bias"},
    "deepseek_v4": {"attention_bias", "mlp_bias", "n_shared_experts", "num_key_value_heads"},
}


def small_file(kind: str) -> dict[str, Any]:
    own = class_defaults.class_of(kind)
    known = {field.name for field in fields(own)}  # type: ignore[arg-type]
    values = {name: value for name, value in SMALL.items() if name in known and name not in WITHOUT.get(kind, ())}
    if kind in ("helium", "stablelm", "olmoe"):
        values["head_dim"] = 16
    if "pad_token_id" in known:
        values["pad_token_id"] = 0  # the class's may lie outside of so small a vocabulary
    return {"model_type": kind} | values | NEEDED.get(kind, {}) | SPECIAL.get(kind, {})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dbrx"])
def test_delete_any_setting(kind: str) -> None:
    values = small_file(kind)
    assert built(values) == counted(values) is not None, "as it is"
    compared = 0
    for name in values.keys() - {"model_type"}:
        without = {other: value for other, value in values.items() if other != name}
        theirs, ours = built(without), counted(without)
        assert theirs is None or ours in (theirs, None), f"without {name}"
        compared += theirs is not None and ours == theirs
    assert compared > 0.5 * len(values), "most models can be built, and none of these is refused"


@pytest.mark.parametrize(
    ("whole", "kind"),
    [
        ("qwen3_vl", "qwen3_vl_text"),
        ("qwen3_vl_moe", "qwen3_vl_moe_text"),
        ("qwen2_5_vl", "qwen2_5_vl_text"),
        ("qwen2_vl", "qwen2_vl_text"),
        ("glm4v_moe", "glm4v_moe_text"),
        ("mistral3", "mistral4"),
    ],
)
def test_text_parts_of_whole_models(whole: str, kind: str) -> None:
    """Types that stand only inside of others: all weights but those of the part that sees."""
    config = AutoConfig.for_model(whole, text_config={"model_type": kind})
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    seeing = ("visual", "vision", "projector")
    theirs = sum(w.numel() for name, w in model.named_parameters() if not any(word in name for word in seeing))
    assert counted({"model_type": whole, "text_config": {"model_type": kind}}) == theirs
