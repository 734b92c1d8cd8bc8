"""Does it fit? Sizes of published checkpoints and caches, ZeRO's own numbers, and what a split adds up to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.devices import device
from sparsity_lab.accounting.fits import Split, largest, longest_context, serving, training
from sparsity_lab.accounting.formats import CACHES, FORMATS, published_format, stored_cache, weight_format
from sparsity_lab.accounting.hf_config import from_hf
from sparsity_lab.accounting.memory import cache_bytes
from sparsity_lab.accounting.presets import preset
from sparsity_lab.accounting.shape import Model, Shape
from sparsity_lab.accounting.train_memory import training_memory
from sparsity_lab.config import ModelConfig

ONE = Split()
V3, LLAMA = preset("deepseek-v3").config, preset("llama-3.1-8b").config


def weights(name: str, stored: str | None = None, config: ModelConfig | None = None) -> float:
    """The bytes of a preset's weights on one GPU, by default in the format of its config.json."""
    known = preset(name)
    config = config or known.config
    kind = weight_format(stored) if stored else published_format(known.settings, config.n_layers)
    return serving(config, ONE, kind, "bf16", context=1, batch=1).weights


# ---- Formats


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


# ---- Splits


@pytest.mark.parametrize(
    ("zero", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)]
)  # arXiv 1910.02054, Figure 1: 7.5e9 weights on 64 GPUs
def test_zero(zero: int, gigabytes: float) -> None:
    config = LLAMA.replace(d_expert=13_000, n_layers=31, n_kv_heads=None)
    scale = 7.5e9 / count_parameters(config).total
    held = training(config, Split(data=64), "bf16", zero, "layers", 1, 1)
    assert scale * (held.total - held.activations) / 1e9 == pytest.approx(gigabytes, abs=0.06)


@given(config=st.from_type(ModelConfig), batch=st.integers(1, 9))
def test_one_gpu_holds_all(config: ModelConfig, batch: int) -> None:
    held, memory = (
        training(config, ONE, "bf16", 3, "scores", config.context, batch),
        training_memory(config, batch * config.context),
    )
    assert held.weights == pytest.approx(memory.weights)
    assert held.gradients == pytest.approx(memory.gradients)
    assert held.optimizer == pytest.approx(memory.optimizer)
    assert held.activations == pytest.approx(memory.activations)
    served = serving(config, ONE, FORMATS["bf16"], "fp32", 7, batch)
    assert served.weights == pytest.approx(2 * count_parameters(config).total)
    assert served.cache == cache_bytes(config, 7, "fp32", batch)


def test_tensor_cuts_matrices_and_heads() -> None:
    count = count_parameters(LLAMA)
    held = {t: serving(LLAMA, Split(tensor=t), FORMATS["bf16"], "bf16", 1_000, 4) for t in (1, 8, 32)}
    for t, each in held.items():
        assert each.weights == pytest.approx(2 * ((count.total - count.norms) / t + count.norms))
    assert held[1].cache == 8 * held[8].cache == 8 * held[32].cache, "8 heads of keys and values"
    assert held[1].activations == 8 * held[8].activations


def test_latents_are_copied() -> None:
    """What all heads share cannot be cut by head; copies of the model each keep their own sequences."""
    alone = serving(V3, ONE, FORMATS["fp8"], "bf16", 1_000, 16)
    tensor, data = (serving(V3, split, FORMATS["fp8"], "bf16", 1_000, 16) for split in (Split(8), Split(data=8)))
    assert tensor.cache == alone.cache == 8 * data.cache
    assert serving(V3, Split(data=8), FORMATS["fp8"], "bf16", 1_000, 17).cache == 3 * data.cache / 2


def test_activations_of_a_server() -> None:
    """What the matrices of one layer give for 8,192 tokens, and scores of the next token for each sequence."""
    per_token = count_parameters(V3).active_with("none") / 61 / 7168
    held = serving(V3, ONE, FORMATS["fp8"], "bf16", 100_000, 16)
    assert held.activations == pytest.approx(2 * 8192 * per_token + 4 * 16 * 129_280)
    few = serving(V3, ONE, FORMATS["fp8"], "bf16", 100, 16)
    assert few.activations == pytest.approx(2 * 1600 * per_token + 4 * 16 * 129_280)


def test_experts_are_spread() -> None:
    """Whole experts, as many on the fullest GPU as it takes; the rest is cut by tensor, or copied."""
    count = count_parameters(V3)
    small = count.norms + count.router
    for split, experts in ((Split(8, expert=8), 8), (Split(8, data=12, expert=96), 256 / 3), (Split(4, 1, 8, 32), 32)):
        held = serving(V3, split, FORMATS["bf16"], "bf16", 1, 1)
        rest = (count.total - count.routed - small) / split.tensor + small
        assert held.weights == pytest.approx(2 * (rest + count.routed / experts)), split


def test_the_fullest_stage() -> None:
    """DeepSeek-V3's dense layers are the first three, so the last stage is the fullest: 16 layers of experts, or 15,
    and a table."""
    count = count_parameters(V3)
    held = serving(V3, Split(pipeline=4), FORMATS["bf16"], "bf16", 1_000, 1)
    layer = (count.attention + count.norms) / 61 + (count.router + count.shared + count.routed) / 58
    stages = [n * layer + table for n, table in ((15, 0), (15, count.head))]
    assert held.weights == pytest.approx(2 * max(stages))
    assert held.cache == pytest.approx(cache_bytes(V3, 1_000) * 15 / 61)


@given(config=st.from_type(ModelConfig), pipeline=st.integers(1, 3), zero=st.integers(0, 3), data=st.integers(1, 3))
def test_no_stage_holds_more_than_the_model(config: ModelConfig, pipeline: int, zero: int, data: int) -> None:
    split = Split(pipeline=min(pipeline, config.n_layers), data=data)
    held = training(config, split, "fp32", zero, "layers", config.context, data)
    count = count_parameters(config)
    bound = 4 * (count.total + count.mtp) * 1.0001
    copies = [data if zero >= stage else 1 for stage in (3, 2, 1)]
    assert held.weights * copies[0] <= bound
    assert held.gradients * copies[1] <= bound
    assert held.optimizer * copies[2] <= 2 * bound
    share = held.weights * copies[0] * split.pipeline
    assert share >= bound / 1.0001 * 0.99, "the fullest stage holds at least its even share"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("n_layers", "first", "last"), [(3, 2, 1), (2, 1, 1)])
def test_tables_stand_at_the_ends(n_layers: int, first: int, last: int, tied: bool) -> None:
    """The first stage looks tokens up, the last one predicts, and in training holds what predicts further tokens. A
    table that serves both ends is held twice."""
    config = ModelConfig(n_layers=n_layers, tied_embeddings=tied, vocab_size=1000, mtp_depth=1)
    count = count_parameters(config)
    layer = (count.attention + count.norms + count.routed) / n_layers
    ends = [first * layer + count.head, last * layer + count.head]
    held = serving(config, Split(pipeline=2), FORMATS["bf16"], "bf16", 1, 1)
    assert held.weights == pytest.approx(2 * max(ends), rel=1e-9)
    trained = training(config, Split(pipeline=2), "bf16", 0, "layers", 128, 1)
    assert trained.weights == pytest.approx(2 * max(ends[0], ends[1] + count.mtp), rel=1e-9)


def test_zero_spreads_experts_over_their_copies_alone() -> None:
    count = count_parameters(V3)
    held = training(V3, Split(data=64, expert=32), "bf16", 3, "layers", 128, 64)
    assert held.weights == pytest.approx(2 * ((count.total - count.routed) / 64 + count.routed / 32 / 2))
    assert held.optimizer == pytest.approx(6 * held.weights)
    cut = training(LLAMA, Split(tensor=8, data=2), "bf16", 0, "scores", 128, 6)
    assert cut.activations == pytest.approx(training_memory(LLAMA.replace(context=128), 3 * 128).activations / 8)


@pytest.mark.parametrize(
    ("name", "stored", "gpu", "gpus", "fits"),
    [
        ("gpt-oss-120b", None, "h100", 1, True),  # "runs within a single 80 GB GPU" (its model card)
        ("gpt-oss-20b", None, "rtx4090", 1, True),
        (
            "llama-3.1-405b",
            "fp8",
            "h100",
            8,
            True,
        ),  # Meta quantised it so that it fits one node (arXiv 2407.21783, 6.2)
        ("llama-3.1-405b", "bf16", "h100", 8, False),
        ("llama-3.1-405b", "bf16", "h100", 16, True),
        ("deepseek-v3", None, "h200", 8, True),  # the usual node for it
        ("deepseek-v3", None, "h100", 8, False),
        ("llama-3.1-70b", "bf16", "h100", 1, False),
        ("llama-3.1-70b", "bf16", "h100", 2, True),
    ],
)
def test_what_is_known_to_fit(name: str, stored: str | None, gpu: str, gpus: int, fits: bool) -> None:
    known = preset(name)
    kind = weight_format(stored) if stored else published_format(known.settings, known.config.n_layers)
    held = serving(known.config, Split(tensor=gpus), kind, "bf16", 4096, 1)
    assert (held.total <= 0.9 * device(gpu).memory) == fits


@pytest.mark.parametrize(
    ("model", "split", "message"),
    [
        ("llama-3.1-8b", Split(tensor=3), "tensor=3 must divide the model's 32 heads"),
        ("llama-3.1-8b", Split(tensor=0), "tensor=0 must be from 1 to 65536"),
        ("llama-3.1-8b", Split(pipeline=33), "pipeline=33 is more than the model's 32 layers"),
        ("llama-3.1-8b", Split(data=2, expert=2), "expert=2: this model has no experts to spread"),
        ("mixtral-8x7b", Split(data=16, expert=16), "expert=16 must be at most the model's 8 experts"),
        ("mixtral-8x7b", Split(tensor=4, expert=8), "expert=8 must .* divide tensor × data = 4"),
        ("switch-base-8", Split(), "n_encoder_layers=12: encoder-decoders are not split"),
    ],
)
def test_bad_splits(model: str, split: Split, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serving(preset(model).config, split, FORMATS["bf16"], "bf16", 1, 1)
    with pytest.raises(ValueError, match=message):
        training(preset(model).config, split, "bf16", 0, "layers", 128, 1)


def test_memory_as_the_driver_reports_it() -> None:
    """nvidia-smi's 81,559 MiB for an H100 of 80 GB, and 143,771 MiB for an H200 of 141 GB."""
    assert [device(name).memory / 2**20 for name in ("h100", "h200")] == [81_559, 143_771]


def test_bad_zero() -> None:
    with pytest.raises(ValueError, match="zero=4 must be 0, 1, 2 or 3"):
        training(LLAMA, ONE, "bf16", 4, "layers", 128, 1)
    assert Split(2, 3, 4, 8).devices == 24


# ---- The largest that fits


@given(limit=st.integers(0, 200), most=st.integers(1, 100))
def test_largest(limit: int, most: int) -> None:
    assert largest(lambda n: n <= limit, most) == min(limit, most)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


@pytest.mark.parametrize(
    ("settings", "context", "longest"),
    [
        ({}, 4096, 4096),
        ({"rope_scaling": None}, 4096, 4096),
        ({"rope_scaling": YARN}, 40_960, 131_072),  # Qwen3, as its card says to run it
        ({"rope_parameters": YARN}, 40_960, 131_072),
        ({"text_config": {"rope_scaling": YARN}}, 40_960, 131_072),
        ({"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}}, 163_840, 163_840),
        ({"rope_scaling": {"type": "yarn", "factor": 32}}, 4096, 131_072),
        ({"rope_scaling": {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 9}}, 4096, 16_384),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096, 8192),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}}, 131_072,
         131_072),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, 4096, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 1e300}}, 4096, 4096),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, 4096, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 2**24}}, 1, 2**24),
        ({"rope_scaling": {"type": "linear", "factor": 2**24 + 1}}, 1, 1),
        ({"rope_scaling": {"type": "linear"}}, 4096, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": None}}, 4096, 8192),
        ({"rope_scaling": {"type": "linear", "factor": True}}, 4096, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}}, 4096, 4096),
        ({"rope_scaling": "yarn"}, 4096, 4096),
    ],
)  # fmt: skip
def test_longest_context(settings: dict[str, Any], context: int, longest: int) -> None:
    assert longest_context(settings, context) == longest


def test_limits_of_a_split() -> None:
    """A layer for each stage, and an expert for each GPU; in float32 the optimizer keeps two moments."""
    held = training(LLAMA, Split(pipeline=32), "fp32", 0, "layers", 128, 1)
    assert held.optimizer == 2 * held.weights == 2 * held.gradients
    mixtral = preset("mixtral-8x7b").config
    spread = serving(mixtral, Split(data=8, expert=8), FORMATS["bf16"], "bf16", 1, 1).weights
    count = count_parameters(mixtral)
    assert spread == pytest.approx(2 * (count.total - count.routed * 7 / 8))
