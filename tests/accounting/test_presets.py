"""Published models: our counts against Hugging Face's own code, and against what their makers published."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
)

from sparsity_lab.accounting import count_parameters, flops_by_part
from sparsity_lab.accounting.hf_config import from_hf, load_hf_config
from sparsity_lab.accounting.memory import cache_bytes
from sparsity_lab.accounting.presets import PRESETS, Preset, pasted_model, preset
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer

V3, LLAMA_8B, SCOUT = (PRESETS[name].settings for name in ("deepseek-v3", "llama-3.1-8b", "llama-4-scout"))


def hugging_face(name: str) -> PretrainedConfig:
    settings = dict(PRESETS[name].settings)
    kind = settings.pop("model_type")
    config: PretrainedConfig = AutoConfig.for_model("deepseek_v3" if kind == "kimi_k2" else kind, **settings)
    return config


@pytest.mark.parametrize("name", PRESETS)
def test_as_many_weights_as_in_transformers(name: str) -> None:
    """To the last one, of the model that transformers builds from the makers' settings."""
    config = hugging_face(name)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    assert count_parameters(PRESETS[name].config).total == model.num_parameters()


@pytest.mark.parametrize("name", [name for name, case in PRESETS.items() if case.whole])
def test_whole_models(name: str) -> None:
    """Those of text and images, with the part that sees."""
    case = PRESETS[name]
    config = AutoConfig.for_model(**case.whole, text_config=dict(case.settings))
    config.tie_word_embeddings = case.settings["tie_word_embeddings"]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert count_parameters(case.config).total + case.shape.vision == model.num_parameters()


def test_a_published_vision_encoder() -> None:
    """That of Gemma 3 has 417M (arXiv 2503.19786, Table 1), besides a matrix and a norm that join it to the text."""
    case = preset("gemma-3-27b")
    encoder = case.shape.vision - (5376 + 1) * 1152
    assert round(encoder / 1e6) == 417


@pytest.mark.parametrize("name", PRESETS)
def test_read_from_the_makers_file(name: str, tmp_path: Path) -> None:
    """The few settings kept here mean what the whole file means that transformers writes from them."""
    hugging_face(name).save_pretrained(tmp_path)
    read = replace(load_hf_config(tmp_path), kind=PRESETS[name].shape.kind)  # transformers has no class for kimi_k2
    assert read == PRESETS[name].shape
    assert load_hf_config(tmp_path / "config.json") == load_hf_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "router"),
    [
        ("deepseek-v3", ("sigmoid", 0.001, 8, 4, 2.5)),  # arXiv 2412.19437, section 4.2, but for the scale
        ("deepseek-r1", ("sigmoid", 0.001, 8, 4, 2.5)),
        ("deepseek-v2", ("softmax", 0.0, 8, 3, 16.0)),
        ("deepseek-v2-lite", ("softmax", 0.0, 1, None, 1.0)),
        ("kimi-k2", ("sigmoid", 0.001, 1, None, 2.827)),
        ("mixtral-8x7b", ("softmax", 0.0, 1, None, 1.0)),
    ],
)
def test_routers(name: str, router: tuple[object, ...]) -> None:
    config = preset(name).config
    assert isinstance(config, ModelConfig)
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
    """Whether ``published`` may stand for our number: within 1.5 %, or ours rounded or cut off to its digits, which
    are those of trillions from 1,000 on."""
    if published >= 1000:
        published, ours = published / 1000, ours / 1000
    digits = len(str(published).partition(".")[2].rstrip("0"))
    cut = math.floor(ours * 10**digits) / 10**digits
    return abs(ours / published - 1) <= 0.015 or published in (cut, round(ours, digits))


def test_says() -> None:
    assert says(2.4, 2.451)  # cut off
    assert not says(2.4, 2.52)
    assert says(37, 36.6)
    assert not says(37, 38.0)
    assert not says(3.61, 3.7)
    assert says(1600, 1573)
    assert not says(1600, 1540)


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
    assert cache_bytes(preset(name).config, 1) == bytes_


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
        ({"model_type": "qwen9_moe"}, "model_type='qwen9_moe' is not understood"),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": ["deepseek_v3"]}, "model_type is missing"),
        ({"scoring_func": "sqrtsoftplus"}, "scoring_func='sqrtsoftplus' is not understood; we know softmax, sigmoid"),
        ({"topk_group": 9}, "topk_group=9 is more than n_group=8"),
        ({"moe_layer_freq": 2}, "moe_layer_freq=2 is not understood; we know 1"),
        ({"mlp_bias": True}, "mlp_bias=True is not understood in a deepseek_v3 model"),
        ({"index_n_heads": 64}, "index_n_heads=64 is not understood in a deepseek_v3 model, so it is not counted"),
        ({"n_zero_experts": 4}, "n_zero_experts=4 is not understood"),
        ({"kv_lora_rank": None}, "kv_lora_rank=null must be a whole number"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers=10+.* must be a whole number from 1 to 1,024"),
        ({"num_hidden_layers": -5}, "num_hidden_layers=-5 must be a whole number"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers='many' must be a whole number"),
        ({"num_hidden_layers": [61]}, r"num_hidden_layers=\[61\] must be a whole number"),
        ({"hidden_size": 0}, "hidden_size=0 must be a whole number"),
        ({"hidden_size": True}, "hidden_size=True must be a whole number"),
        ({"first_k_dense_replace": 10**30}, "first_k_dense_replace=10+.* must be a whole number"),
        ({"num_experts_per_tok": 500}, "num_experts_per_tok=500 is more than n_routed_experts=256"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no' must be true or false"),
        ({"rope_theta": {}}, "rope_theta={} must be a positive number"),
    ],
)
def test_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_hf(V3 | changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama-3.1-8b", {"num_local_experts": 8}, "num_local_experts=8 is not understood in a llama model"),
        ("qwen3-30b-a3b", {"shared_expert_intermediate_size": 99}, "shared_expert_intermediate_size=99"),
        ("mixtral-8x7b", {"kv_lora_rank": 64}, "kv_lora_rank=64 is not understood in a mixtral model"),
        ("llama-4-scout", {"moe_layers": "all"}, "moe_layers='all' must be a list"),
        ("switch-base-8", {"d_kv": 0}, "d_kv=0 must be a whole number"),
        ("dbrx", {"ffn_config": [1]}, r"ffn_config=\[1\] must be a JSON object"),
        ("gpt2", {"n_embd": "wide"}, "n_embd='wide' must be a whole number"),
    ],
)
def test_a_variant_is_refused_by_name(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_hf(PRESETS[name].settings | changes)


def test_text_part_of_a_model_of_images() -> None:
    assert from_hf({"model_type": "llama4", "text_config": SCOUT}) == preset("llama-4-scout").shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama", "hidden', "not valid JSON"),
        ("", "not valid JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("[" * 100_000, "nested too deeply|not valid JSON"),
        ('{"n": ' + "9" * 5_000 + "}", "not valid JSON"),
        (" " * 20_000_001, "more than 20,000,000"),
        (json.dumps(LLAMA_8B | {"vocab_size": math.nan}), "vocab_size=nan must be a whole"),
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


@pytest.mark.parametrize("text", ["deepseek-v3", " DeepSeek-ai/DeepSeek-V3\n"])
def test_a_published_model_can_be_pasted_by_name(text: str) -> None:
    found = pasted_model(text)
    assert (found.name, count_parameters(found.model).total) == ("deepseek-v3", 671_026_404_352)
    assert found.notes == preset("deepseek-v3").notes


def test_a_file_can_be_pasted() -> None:
    settings = preset("mixtral-8x7b").settings
    for text in (json.dumps(settings), "\ufeff\n" + json.dumps(settings, indent=2)):
        assert pasted_model(text).model == preset("mixtral-8x7b").shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: not valid JSON"),
        ("[1]", "config.json: expected a JSON object"),
        ("{" * 100_000, "config.json: (not valid JSON|nested too deeply)"),
        ('{"model_type": "\\ud800"}', "config.json: .*model_type"),
        ('{"model_type": "\ud800"}', "config.json: not valid JSON"),
        ('{"model_type": "llama", "hidden_size": 1e400}', "config.json: .*hidden_size"),
        ("hello \x1b[31m", r"^'hello \\x1b\[31m' is neither a config.json"),
        ("/etc/passwd", "'/etc/passwd' is neither a config.json"),
        ("", "'' is neither"),
    ],
)
def test_what_is_pasted_and_is_no_model(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        pasted_model(text)
    assert len(str(error.value)) < 2_000
