"""Published models: our counts against Hugging Face's own code, and against what their makers published."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from sparsity_lab.accounting import count_parameters, flops_by_part
from sparsity_lab.accounting.hf_config import from_hf, load_hf_config
from sparsity_lab.accounting.memory import cache_bytes_per_token
from sparsity_lab.accounting.presets import PRESETS, Preset, preset
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer

V3 = {
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "n_group": 8,
    "topk_group": 4,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
}
V2_LITE = V3 | {
    "vocab_size": 102400,
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
}
MIXTRAL = {
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
QWEN_30B = {
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
GPT_OSS_20B = {
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "hidden_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "attention_bias": True,
    "sliding_window": 128,
    "rope_theta": 150000,
    "tie_word_embeddings": False,
}
GLM_AIR = {
    "vocab_size": 151552,
    "max_position_embeddings": 131072,
    "hidden_size": 4096,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "num_nextn_predict_layers": 1,
    "attention_bias": True,
    "use_qk_norm": False,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
SCOUT = {
    "vocab_size": 202048,
    "max_position_embeddings": 10485760,
    "hidden_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
}
LLAMA_8B = {
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
}
# The settings in the makers' own config.json files that concern the shape.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek-v2-lite": ("deepseek_v2", V2_LITE),
    "deepseek-v2": (
        "deepseek_v2",
        V3
        | {
            "vocab_size": 102400,
            "hidden_size": 5120,
            "num_hidden_layers": 60,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "n_routed_experts": 160,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "topk_group": 3,
            "scoring_func": "softmax",
            "topk_method": "group_limited_greedy",
            "norm_topk_prob": False,
            "routed_scaling_factor": 16.0,
        },
    ),
    "deepseek-v3": ("deepseek_v3", V3),
    "deepseek-r1": ("deepseek_v3", V3),
    "kimi-k2": (
        "deepseek_v3",
        V3
        | {
            "vocab_size": 163840,
            "max_position_embeddings": 131072,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "n_routed_experts": 384,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 2.827,
            "rope_theta": 50000,
        },
    ),
    "mixtral-8x7b": ("mixtral", MIXTRAL),
    "mixtral-8x22b": (
        "mixtral",
        MIXTRAL
        | {
            "max_position_embeddings": 65536,
            "hidden_size": 6144,
            "num_hidden_layers": 56,
            "num_attention_heads": 48,
            "intermediate_size": 16384,
        },
    ),
    "olmoe-1b-7b": (
        "olmoe",
        {
            "vocab_size": 50304,
            "max_position_embeddings": 4096,
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 1024,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "rope_theta": 10000,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3-30b-a3b": ("qwen3_moe", QWEN_30B),
    "qwen3-235b-a22b": (
        "qwen3_moe",
        QWEN_30B
        | {
            "hidden_size": 4096,
            "num_hidden_layers": 94,
            "num_attention_heads": 64,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
        },
    ),
    "gpt-oss-20b": ("gpt_oss", GPT_OSS_20B),
    "gpt-oss-120b": ("gpt_oss", GPT_OSS_20B | {"num_hidden_layers": 36, "num_local_experts": 128}),
    "glm-4.5": (
        "glm4_moe",
        GLM_AIR
        | {
            "hidden_size": 5120,
            "num_hidden_layers": 92,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "n_routed_experts": 160,
            "first_k_dense_replace": 3,
            "routed_scaling_factor": 2.5,
            "use_qk_norm": True,
        },
    ),
    "glm-4.5-air": ("glm4_moe", GLM_AIR),
    "dbrx": (
        "dbrx",
        {
            "vocab_size": 100352,
            "max_seq_len": 32768,
            "d_model": 6144,
            "n_layers": 40,
            "n_heads": 48,
            "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
            "tie_word_embeddings": False,
        },
    ),
    "llama-4-scout": ("llama4_text", SCOUT),
    "llama-4-maverick": (
        "llama4_text",
        SCOUT | {"max_position_embeddings": 1048576, "num_local_experts": 128, "interleave_moe_layer_step": 2},
    ),
    "switch-base-8": (
        "switch_transformers",
        {
            "vocab_size": 32128,
            "d_model": 768,
            "d_kv": 64,
            "d_ff": 3072,
            "num_layers": 12,
            "num_decoder_layers": 12,
            "num_sparse_encoder_layers": 6,
            "num_sparse_decoder_layers": 6,
            "num_heads": 12,
            "num_experts": 8,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": ("gpt2", {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}),
    "llama-3.1-8b": ("llama", LLAMA_8B),
    "llama-3.1-70b": (
        "llama",
        LLAMA_8B
        | {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672},
    ),
    "llama-3.1-405b": (
        "llama",
        LLAMA_8B
        | {"hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128, "intermediate_size": 53248},
    ),
    "deepseek-67b": (
        "llama",
        LLAMA_8B
        | {
            "vocab_size": 102400,
            "max_position_embeddings": 4096,
            "hidden_size": 8192,
            "num_hidden_layers": 95,
            "num_attention_heads": 64,
            "intermediate_size": 22016,
            "rope_theta": 10000,
        },
    ),
}


def hugging_face(name: str) -> PretrainedConfig:
    kind, settings = FILES[name]
    config: PretrainedConfig = AutoConfig.for_model(kind, **settings)
    return config


def test_every_preset_has_an_anchor() -> None:
    assert set(FILES) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_as_many_weights_as_in_transformers(name: str) -> None:
    """To the last one, of the model that transformers builds from the makers' settings."""
    config = hugging_face(name)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    assert count_parameters(PRESETS[name].config).total == model.num_parameters()


@pytest.mark.parametrize("name", PRESETS)
def test_read_from_the_makers_file(name: str, tmp_path: Path) -> None:
    """Both from the few settings of their file and from all that transformers writes."""
    kind, settings = FILES[name]
    assert from_hf({"model_type": kind, **settings}) == PRESETS[name].config
    hugging_face(name).save_pretrained(tmp_path)
    assert load_hf_config(tmp_path) == PRESETS[name].config
    assert load_hf_config(tmp_path / "config.json") == PRESETS[name].config


@pytest.mark.parametrize(
    ("name", "router"),
    [
        ("deepseek-v3", ("sigmoid", 0.001, 8, 4, 2.5)),  # arXiv 2412.19437, section 4.2, but for the scale
        ("deepseek-r1", ("sigmoid", 0.001, 8, 4, 2.5)),
        ("deepseek-v2", ("softmax", 0.0, 8, 3, 16.0)),
        ("deepseek-v2-lite", ("softmax", 0.0, 1, None, 1.0)),
        ("kimi-k2", ("sigmoid", 0.001, 1, None, 2.827)),
        ("glm-4.5", ("sigmoid", 0.001, 1, None, 2.5)),
        ("glm-4.5-air", ("sigmoid", 0.001, 1, None, 1.0)),
        ("mixtral-8x7b", ("softmax", 0.0, 1, None, 1.0)),
    ],
)
def test_routers(name: str, router: tuple[object, ...]) -> None:
    config = preset(name).config
    assert (config.router, config.bias_rate, config.n_groups, config.top_groups, config.route_scale) == router


def test_a_small_deepseek_v3_is_built_and_chooses_within_its_groups() -> None:
    """With the preset's router on a laptop's shape."""
    config = preset("deepseek-v3").config
    small = ModelConfig(
        d_model=16, n_heads=1, d_expert=8, context=8, n_layers=1,
        **{name: getattr(config, name) for name in (
            "n_experts", "top_k", "n_shared_experts", "router", "bias_rate", "n_groups", "top_groups", "route_scale",
        )},
    )  # fmt: skip
    model = Transformer(small)
    model(torch.randint(256, (4, 8)))
    (router,) = model.routers()
    assert router.last is not None
    assert all(len(row.unique()) <= 4 for row in router.last.experts_NK // 32)
    torch.testing.assert_close(router.last.weights_NK.sum(1), torch.full((32,), 2.5))


def says(published: float, ours: float) -> bool:
    """Whether ``published`` may stand for our number: within 1.5 %, or ours rounded or cut off to its digits."""
    digits = len(str(published).partition(".")[2].rstrip("0"))
    cut = math.floor(ours * 10**digits) / 10**digits
    return abs(ours / published - 1) <= 0.015 or published in (cut, round(ours, digits))


def test_says() -> None:
    assert says(2.4, 2.451)  # cut off
    assert not says(2.4, 2.52)
    assert says(37, 36.6)
    assert not says(37, 38.0)
    assert not says(3.61, 3.7)


@pytest.mark.parametrize("case", PRESETS.values(), ids=lambda case: case.name)
def test_published_numbers(case: Preset) -> None:
    count = count_parameters(case.config)
    assert says(case.total, count.total / 1e9)
    assert says(case.active, count.active_with(case.embeddings) / 1e9)


def test_deepseek_v3_by_convention() -> None:
    count = count_parameters(preset("deepseek-v3").config)
    assert round(count.total / 1e9, 1) == 671.0
    assert round(count.active_with("output") / 1e9, 1) == 36.6
    assert round(count.active_with("both") / 1e9, 1) == 37.6
    assert count.active_with("none") < count.active_with("output") < count.active_with("both")
    with pytest.raises(ValueError, match="embeddings='all' is not known: use one of both, output, none"):
        count.active_with("all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "bytes_"),
    [("deepseek-v3", 70_272), ("llama-3.1-405b", 516_096), ("llama-3.1-70b", 327_680)],  # the last: as Qwen2.5-72B
)
def test_cache_of_a_token(name: str, bytes_: int) -> None:
    """DeepSeek-V3 report (arXiv 2412.19437) and Table 1 of "Insights into DeepSeek-V3" (arXiv 2505.09343), bfloat16."""
    assert cache_bytes_per_token(preset(name).config) == bytes_


def test_the_whole_table_in_an_instant() -> None:
    """A slider that moves may recount every model; generous, for the machine is shared."""
    start = time.perf_counter()
    for case in PRESETS.values():
        count_parameters(case.config)
        if not case.config.n_encoder_layers:
            flops_by_part(case.config)
    assert time.perf_counter() - start < 0.05


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match=r"no preset 'gpt-5': use one of deepseek-v2-lite, .*, or the path"):
        preset("gpt-5")


# ---- What is not understood


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen9_moe"}, "model_type='qwen9_moe' is not understood; we know llama"),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": ["deepseek_v3"]}, "model_type is missing"),
        ({"scoring_func": "sqrtsoftplus"}, "scoring_func=sqrtsoftplus is not understood; we know softmax, sigmoid"),
        ({"topk_group": 9}, "top_groups=9 must be from 1 to n_groups=8"),
        ({"moe_layer_freq": 2}, "moe_layer_freq=2 is not understood; we know 1"),
        ({"attention_bias": True}, "attention_bias=True is not understood; we know False"),
        ({"index_n_heads": 64}, "index_n_heads=64 is not understood in a deepseek_v3 model, so it is not counted"),
        ({"n_zero_experts": 4}, "n_zero_experts=4 is not understood"),
        ({"kv_lora_rank": None}, "kv_lora_rank is missing"),
        ({"num_hidden_layers": 10**30}, "n_layers=1e\\+30 is out of range|n_layers=10+ is out of range"),
        ({"num_hidden_layers": -5}, "n_layers=-5 is out of range"),
        ({"num_hidden_layers": "many"}, "n_layers='many' must be a whole number"),
        ({"num_hidden_layers": [61]}, r"n_layers=\[61\] must be a whole number"),
        ({"hidden_size": 0}, "d_model=0 is out of range"),
        ({"hidden_size": True}, "d_model=True must be a whole number"),
        ({"first_k_dense_replace": 10**30}, "first_k_dense_replace=1000.* must be a whole number from 0 to 512"),
        ({"first_k_dense_replace": 61}, "n_experts=256, but none of n_layers=61 has experts"),
        ({"num_experts_per_tok": 500}, "top_k=500 needs n_experts"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no' must be true or false"),
        ({"rope_theta": {}}, "rope_base=.* must be a finite number"),
    ],
)
def test_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_hf({"model_type": "deepseek_v3"} | V3 | changes)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", LLAMA_8B | {"num_local_experts": 8}, "num_local_experts=8 is not understood in a llama model"),
        ("qwen3_moe", QWEN_30B | {"decoder_sparse_step": 2}, "decoder_sparse_step=2 is not understood"),
        ("qwen3_moe", QWEN_30B | {"shared_expert_intermediate_size": 99}, "shared_expert_intermediate_size=99"),
        ("mixtral", MIXTRAL | {"kv_lora_rank": 64}, "kv_lora_rank=64 is not understood in a mixtral model"),
        ("llama4_text", SCOUT | {"moe_layers": [0, 5]}, r"moe_layers=\[0, 5\] is not understood"),
        ("switch_transformers", FILES["switch-base-8"][1] | {"num_sparse_decoder_layers": 5}, "must be the same whole"),
        ("dbrx", FILES["dbrx"][1] | {"ffn_config": [1]}, "attn_config and ffn_config must be JSON objects"),
        ("gpt2", {**FILES["gpt2"][1], "n_embd": "wide"}, "n_embd=wide must be a whole number"),
    ],
)
def test_a_variant_is_refused_by_name(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_hf({"model_type": kind} | settings)


def test_text_part_of_a_model_of_images() -> None:
    assert from_hf({"model_type": "llama4", "text_config": {"model_type": "llama4_text"} | SCOUT}) == (
        preset("llama-4-scout").config
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama", "hidden', "not valid JSON"),
        ("", "not valid JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        ('{"n": ' + "9" * 5_000 + "}", "not valid JSON"),
        (" " * 1_000_001, "more than 1,000,000 bytes"),
        ('{"model_type": "llama", "vocab_size": NaN}', "num_attention_heads is missing"),
        (json.dumps({"model_type": "llama"} | LLAMA_8B | {"vocab_size": math.nan}), "vocab_size=nan must be a whole"),
    ],
)
def test_hostile_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        load_hf_config(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 1_000
    assert time.monotonic() - start < 5


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        load_hf_config(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_hf_config(tmp_path / "binary.json")
