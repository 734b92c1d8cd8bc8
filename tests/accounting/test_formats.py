"""Formats of weights and caches, against published checkpoints and what servers report."""

from typing import Any

import pytest

from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.fits import Split, serving
from sparsity_lab.accounting.formats import CACHES, FORMATS, published_format, stored_cache, weight_format
from sparsity_lab.accounting.hf_config import from_hf
from sparsity_lab.accounting.presets import preset
from sparsity_lab.accounting.shape import Model, Shape
from sparsity_lab.config import ModelConfig

ONE = Split()
V3, LLAMA = preset("deepseek-v3").config, preset("llama-3.1-8b").config


def weights(name: str, stored: str | None = None, config: ModelConfig | None = None) -> float:
    """The bytes of a preset's weights on one GPU, by default in the format of its config.json."""
    known = preset(name)
    config = config or known.config
    kind = weight_format(stored) if stored else published_format(known.settings, config.n_layers)
    return serving(config, ONE, kind, "bf16", context=1, batch=1).weights


@pytest.mark.parametrize(
    ("name", "stored", "published"),
    [
        ("gpt-oss-20b", None, 12.8 * 2**30),  # arXiv 2508.10925, Table 1: "checkpoint size"
        ("gpt-oss-120b", None, 60.8 * 2**30),
        ("gpt-oss-120b", "mxfp4", 60.8 * 2**30),
        ("llama-3.1-8b", None, 16.06e9),  # total_size of meta-llama/Llama-3.1-8B: 16,060,522,496
        (
            "llama-3.1-8b",
            "q8_0",
            8.54e9,
        ),  # of bartowski/Meta-Llama-3.1-8B-Instruct-GGUF
    ],
)
def test_published_checkpoints(name: str, stored: str | None, published: float) -> None:
    assert weights(name, stored) == pytest.approx(published, rel=0.002)


def test_the_checkpoint_of_deepseek_v3() -> None:
    """688,586,727,753 bytes in the files of its weights: the model in fp8, and a module for multi-token prediction with
    both tables once more (README_WEIGHTS.md of the repository)."""
    module = count_parameters(V3.replace(mtp_depth=1)).mtp
    tables = 2 * count_parameters(V3).head
    size = weights("deepseek-v3") + FORMATS["fp8"].size * module + 2 * tables
    assert size == pytest.approx(688_586_727_753, rel=3e-4)


@pytest.mark.parametrize(("name", "gigabytes"), [("deepseek-v4-flash", 160), ("deepseek-v4-pro", 865)])
def test_the_checkpoints_of_deepseek_v4(name: str, gigabytes: float) -> None:
    """As their pages give them, with experts in mxfp4, and a module for multi-token prediction that is counted as one
    more layer."""
    known = preset(name)
    assert isinstance(known.config, Shape)
    layer = count_parameters(known.config).routed / known.config.n_layers * FORMATS["mxfp4"].size
    assert weights(name) + layer == pytest.approx(gigabytes * 1e9, rel=0.007)
    other = published_format(dict(known.settings) | {"expert_dtype": "fp8"}, 43)
    assert (other.name, other.experts) == ("fp8", None)
    with pytest.raises(ValueError, match="expert_dtype='int3' is not understood; we know fp4"):
        published_format(dict(known.settings) | {"expert_dtype": "int3"}, 43)


@pytest.mark.parametrize(
    ("name", "bytes_per_number"),
    [("fp32", 4), ("bf16", 2), ("fp16", 2), ("int8", 1), ("fp8", 1 + 4 / 16384), ("int4", 4.15625 / 8), ("nf4", 0.5625),
     ("mxfp4", 4.25 / 8), ("nvfp4", 4.5 / 8), ("q8_0", 34 / 32), ("q4_0", 18 / 32)],
)  # fmt: skip
def test_formats_by_hand(name: str, bytes_per_number: float) -> None:
    count, form = count_parameters(preset("mixtral-8x7b").config), FORMATS[name]
    assert form.size == bytes_per_number
    whole = {"fp32": 4, "q8_0": 4, "q4_0": 4}.get(name, 2)  # bytes of what is not compressed
    linear = {"attention": count.attention, "routed": count.routed}
    if name == "mxfp4":
        del linear["attention"]
    if name in ("q8_0", "q4_0"):
        linear |= {"embedding": count.embedding, "head": count.head}
    inside = sum(linear.values())
    expected = inside * bytes_per_number + (count.total - inside) * whole
    assert weights("mixtral-8x7b", name) == pytest.approx(expected, rel=1e-12)


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
GROUP = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}


@pytest.mark.parametrize(
    ("config", "name", "size"),
    [
        (FP8, "fp8", 1 + 4 / 16384),
        ({"quant_method": "fp8", "weight_block_size": [1, 32]}, "fp8", 1 + 4 / 32),
        ({"quant_method": "fp8"}, "fp8", 1),
        ({"quant_method": "fbgemm_fp8"}, "fp8", 1),
        ({"quant_method": "mxfp4"}, "mxfp4", 17 / 32),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq 4-bit", (4 + 20 / 128) / 8),
        ({"quant_method": "gptq", "bits": 8, "group_size": 32}, "gptq 8-bit", (8 + 24 / 32) / 8),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq 4-bit", 0.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 1),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", 0.5625),
        ({"quant_method": "bitsandbytes", "_load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "nf4",
         0.5 + (1 + 4 / 256) / 64),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 0.5625),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", 1),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": GROUP}}}, "int4", 4.5 / 8),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {
            "num_bits": 8, "type": "float", "strategy": "channel"}}}}, "fp8", 1),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {
            "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}}}}, "nvfp4", 0.5625),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {
            "num_bits": 4, "type": "float", "group_size": None}}}}, "nvfp4", 0.5625),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {
            "num_bits": 4, "type": "float", "group_size": 32}}}}, "mxfp4", 17 / 32),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"type": "int"}}}}, "int8", 1),
        ({"quant_method": "awq", "group_size": 65_536}, "awq 4-bit", (4 + 20 / 65_536) / 8),
        ({"quant_method": "awq"}, "awq 4-bit", (4 + 20 / 128) / 8),
        ({"quant_method": "gptq", "group_size": 1}, "gptq 4-bit", 3),
    ],
)  # fmt: skip
def test_quantization_config(config: dict[str, Any], name: str, size: float) -> None:
    for settings in ({"quantization_config": config}, {"text_config": {"quantization_config": config}}):
        found = published_format(settings, 32)
        assert (found.name, found.size, found.other) == (name, size, 2)


ALL = {"attention": 1.0, "dense": 1.0, "shared": 1.0, "routed": 1.0}


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (FP8, ALL),
        (FP8 | {"modules_to_not_convert": None}, ALL),
        (FP8 | {"modules_to_not_convert": ["lm_head", "model.embed_tokens", "model.layers.1.mlp.gate"]}, ALL),
        (FP8 | {"ignored_layers": ["re:.*self_attn.*", "lm_head"]}, ALL | {"attention": 0.0}),
        (FP8 | {"ignore": [f"model.layers.{i}.self_attn*" for i in range(32)]}, ALL | {"attention": 0.0}),
        (FP8 | {"ignore": [f"model.layers.{i}.self_attn.{m}_proj" for i in range(8) for m in "qkvo"]},
         ALL | {"attention": 0.75}),
        (FP8 | {"ignore": [r"re:.*mlp\.(gate|up|gate_up|down)_proj.*", "re:.*shared_experts.*", "re:.*self_attn.*"]},
         {"attention": 0.0, "dense": 0.0, "shared": 0.0, "routed": 1.0}),
        (FP8 | {"exclude_modules": ["model.layers.3.mlp.experts.*"]}, ALL | {"routed": 1 - 1 / 32}),
        (FP8 | {"ignore": ["model.layers.0.mlp"]},
         {"attention": 1.0, "dense": 1 - 1 / 32, "shared": 1 - 1 / 32, "routed": 1 - 1 / 32}),
        ({"quant_method": "mxfp4"}, {"routed": 1.0}),
    ],
)  # fmt: skip
def test_modules_that_stay_as_they_are(config: dict[str, Any], shares: dict[str, float]) -> None:
    assert published_format({"quantization_config": config}, 32).shares == shares


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("fp8", "quantization_config='fp8' must be a JSON object"),
        ({}, None),
        ({"quant_method": "aqlm"}, "quantization_config.quant_method='aqlm' is not understood; we know fp8"),
        ({"bits": 4}, "quantization_config.quant_method='None' is not understood"),
        (FP8 | {"weight_block_size": [128]}, r"weight_block_size=\[128\] must be two whole numbers"),
        (FP8 | {"weight_block_size": [128, 0]}, "weight_block_size=.* must be two whole numbers"),
        ({"quant_method": "awq", "bits": "four"}, "quantization_config bits=four must be a whole number"),
        ({"quant_method": "gptq", "group_size": -2}, "quantization_config group_size=-2 must be a whole number"),
        ({"quant_method": "gptq", "group_size": 65_537}, "quantization_config group_size=65537 must be .*, e.g. 128$"),
        ({"quant_method": "awq", "bits": "4" * 99}, "quantization_config bits=4{40} must be a whole number, e.g. 4$"),
        ({"quant_method": "gptq", "group_size": 0}, "quantization_config group_size=0 must be a whole number"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, "quant_algo='w4a8' is not understood; we know FP8, NVFP4"),
        ({"quant_method": "compressed-tensors"}, "^quantization_config.config_groups must say how weights are stored$"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "config_groups must say"),
    ],
)
def test_formats_that_are_not_understood(config: object, message: str | None) -> None:
    if message is None:
        assert published_format({"quantization_config": config}, 1) == FORMATS["bf16"]
        return
    with pytest.raises(ValueError, match=message):
        published_format({"quantization_config": config}, 1)


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="weights='fp7' is not known: use one of fp32, bf16"):
        weight_format("fp7")
    with pytest.raises(
        ValueError, match="cache='int4' is not known: use one of fp32, bf16, fp16, fp8, int8, q8_0, q4_0"
    ):
        stored_cache(V3, 1, "int4", 1)


@pytest.mark.parametrize(
    ("name", "kilobytes"), [("deepseek-v3", 70.272), ("llama-3.1-405b", 516.096)]
)  # arXiv 2505.09343, Table 1
def test_published_caches(name: str, kilobytes: float) -> None:
    assert stored_cache(preset(name).config, 1, "bf16", 1) == 1000 * kilobytes


def test_caches_of_a_million_tokens() -> None:
    """As vLLM gives them for DeepSeek-V4-Pro, and for V3.2 (https://vllm.ai/blog/deepseek-v4)."""
    sizes = {
        name: stored_cache(preset(name).config, 2**20, "bf16", 1) / 2**30
        for name in ("deepseek-v4-pro", "deepseek-v3.2")
    }
    assert {name: round(size, 2) for name, size in sizes.items()} == {"deepseek-v4-pro": 9.62, "deepseek-v3.2": 83.88}


QWEN3 = {"model_type": "qwen3", "num_key_value_heads": 8, "head_dim": 128}


@pytest.mark.parametrize(
    ("model", "gpus", "gibibytes", "tokens", "apart"),
    [
        # Qwen3-1.7B on one GPU, https://github.com/vllm-project/vllm/issues/33263
        (from_hf(QWEN3 | {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16}), 1, 18.78, 175_856,
         0.001),
        # Qwen3-235B-A22B on four, https://github.com/vllm-project/vllm/issues/21348
        (preset("qwen3-235b-a22b").config, 4, 8.11, 178_880, 0.015),
    ],
)  # fmt: skip
def test_caches_that_vllm_reported(model: Model, gpus: int, gibibytes: float, tokens: int, apart: float) -> None:
    """Its log gives the memory for the cache of each GPU, and the tokens that this holds."""
    held = serving(model, Split(tensor=gpus), FORMATS["bf16"], "bf16", tokens, 1).cache
    assert held == pytest.approx(gibibytes * 2**30, rel=apart)


def test_the_cache_of_opt_13b() -> None:
    """800 KB for a token (PagedAttention, arXiv 2309.06180, section 3.1), a GB and a half for 2,048."""
    opt = ModelConfig(d_model=5120, n_layers=40, n_heads=40, context=2048)
    assert stored_cache(opt, 1, "fp16", 1) == 800 * 1024


@pytest.mark.parametrize(("name", "bits"), [("q8_0", 8.5), ("q4_0", 4.5), ("fp8", 8), ("bf16", 16), ("fp32", 32)])
def test_types_of_cache(name: str, bits: float) -> None:
    assert stored_cache(LLAMA, 100, name, 3) == 3 * 100 * 32 * 2 * 8 * 128 * bits / 8
    assert set(CACHES) >= {name, "int8"}
    assert stored_cache(LLAMA, 100, "int8", 3) == 3 * 100 * 32 * 2 * 8 * (128 + 4), "a scale for each key and value"
