"""What a config.json says beside the layers: heads, parts, names, and what makes no sense."""

import json
import os
import random
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sparsity_lab.accounting import cache_bytes, count_parameters
from sparsity_lab.accounting.cost import training_bill
from sparsity_lab.accounting.devices import device
from sparsity_lab.accounting.hf_config import from_hf, load_hf_config
from sparsity_lab.accounting.presets import preset
from sparsity_lab.cli.main import build_parser, main

LLAMA = {
    "model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96,
}  # fmt: skip
QWEN2 = LLAMA | {"model_type": "qwen2"}
LLAMA4 = LLAMA | {
    "model_type": "llama4_text", "num_hidden_layers": 4, "head_dim": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "intermediate_size": 48, "intermediate_size_mlp": 176,
}  # fmt: skip


def total(values: dict[str, Any]) -> int:
    return count_parameters(from_hf(values)).total


# Small files whose right numbers are those of the models that transformers builds from them.
RIGHT: list[tuple[dict[str, Any], int]] = [
    ({"model_type": "mistral", "hidden_size": 5120, "head_dim": 128, "num_hidden_layers": 40, "vocab_size": 131_072,
      "intermediate_size": 14_336}, 12_247_782_400),
    ({"model_type": "mixtral"}, 46_702_792_704),
    ({"model_type": "gpt_oss", "hidden_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 16,
      "num_key_value_heads": 4, "intermediate_size": 512, "vocab_size": 1000, "num_local_experts": 8,
      "num_experts_per_tok": 2}, 125_927_520),
    ({"model_type": "deepseek_v3"}, 671_026_404_352),
    ({"model_type": "minimax_m2", "use_qk_norm": True, "qk_norm_type": "per_layer"}, 228_689_748_992),
    ({"model_type": "granitemoe", "hidden_size": 1536, "intermediate_size": 512, "num_attention_heads": 24,
      "num_key_value_heads": 8, "num_local_experts": 40, "num_experts_per_tok": 8, "tie_word_embeddings": True,
      "vocab_size": 49_155}, 3_298_793_472),
    (LLAMA4 | {"num_local_experts": 1, "interleave_moe_layer_step": 2}, 282_304),
    ({"model_type": "llama", "hidden_act": "relu"}, 6_738_415_616),
    ({"model_type": "llama", "rope_theta": 3_580_165_449.0}, 6_738_415_616),
    ({"model_type": "switch_transformers", "vocab_size": 1000, "d_model": 64, "d_kv": 8, "d_ff": 176, "num_layers": 4,
      "num_decoder_layers": 4, "num_heads": 8, "num_experts": 4, "num_sparse_encoder_layers": 2,
      "num_sparse_decoder_layers": 2, "encoder_sparse_step": 1, "decoder_sparse_step": 1}, 985_472),
]  # fmt: skip


@pytest.mark.parametrize(("values", "right"), RIGHT)
def test_right_numbers(values: dict[str, Any], right: int) -> None:
    assert total(values) == right


def test_all_layers_dense_and_widths_that_heads_do_not_split() -> None:
    v3 = preset("deepseek-v2-lite").settings | {"model_type": "deepseek_v3", "q_lora_rank": None}
    assert (
        total(v3 | {"first_k_dense_replace": 27, "vocab_size": 163_840, "intermediate_size": 11_264}) == 2_911_366_656
    )
    assert total(v3 | {"num_attention_heads": 20, "vocab_size": 163_840, "intermediate_size": 11_264}) == 16_045_043_200


def test_a_window_that_no_layer_has() -> None:
    values = QWEN2 | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    assert from_hf(values).kinds == {"full": 3}
    assert from_hf(values | {"max_window_layers": 1}).kinds == {"full": 1, "sliding": 2}


def test_chunks() -> None:
    scout = preset("llama-4-scout").shape
    for tokens in (10**6, 10_485_760):
        assert cache_bytes(scout, tokens) == (12 * tokens + 36 * 8192) * 4096
    paid = training_bill(scout, 1e12, device("h100"), 0.4, "bf16", "executed")
    assert paid.flops == pytest.approx(1.21e23, rel=0.01)
    assert training_bill(scout, 1e12, device("h100"), 0.4, "bf16", "executed", 4096).flops < paid.flops


# ---- architectures


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("LlamaForCausalLM", 1000 * 64),
        ("LlamaModel", 0),
        ("LlamaForSequenceClassification", 2 * 64),
    ],
)
def test_heads(name: str, more: int) -> None:
    headless = total(LLAMA) - 1000 * 64
    assert total(LLAMA | {"architectures": [name]}) == headless + more
    tied = LLAMA | {"architectures": [name], "tie_word_embeddings": True}
    assert total(tied) == headless + (0 if name.endswith("CausalLM") else more)


def test_labels() -> None:
    values = LLAMA | {"architectures": ["LlamaForSequenceClassification"]}
    assert total(values | {"num_labels": 1}) == total(values) - 64
    assert total(values | {"id2label": {"0": "a", "1": "b", "2": "c"}}) == total(values) + 64
    with pytest.raises(ValueError, match="num_labels=0 must be a whole number"):
        from_hf(values | {"num_labels": 0})


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (["LlamaForCausalLMEagle3"], "is a draft model"),
        (["DeepSeekMTPModel"], "is a draft model"),
        (["LlamaForTokenClassification"], "is no language model that we know"),
        (["Qwen2ForRewardModel"], "is no language model that we know"),
        (["MistralModel"], "is no language model that we know"),
        (["LlamaForCausalLM", "LlamaModel"], "must be a list of one name"),
        ("LlamaForCausalLM", "must be a list of one name"),
    ],
)
def test_other_architectures_are_refused(named: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^architectures=.*{message}"):
        from_hf(LLAMA | {"architectures": named})


def test_encoder_decoders_are_refused() -> None:
    with pytest.raises(ValueError, match="is_encoder_decoder=True is not understood in a llama model"):
        from_hf(LLAMA | {"is_encoder_decoder": True})


# ---- Models of text and more


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, "only text_config is counted; with its vision part (303.2M) it has 303.5M"),
        ({"audio_config": {}}, "only text_config is counted, without audio_config"),
        ({"model_type": "aria"}, "only text_config is counted, without vision_config"),
        ({"vision_config": {"model_type": "timm_wrapper"}}, "only text_config is counted, without vision_config"),
        ({"vision_config": None}, "only text_config is counted; with its vision part (303.6M) it has 303.8M"),
        ({"vision_config": None, "model_type": "aria"}, "only text_config is counted, without what stands beside it"),
        (
            {"vision_config": {"hidden_size": "wide"}},
            "only text_config is counted, without vision_config: vision_config.hidden_size='wide' must be a whole "
            "number from 1 to 16,777,216",
        ),
    ],
)
def test_the_text_part_is_counted_and_says_so(changes: dict[str, Any], note: str) -> None:
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    shape = from_hf({"model_type": "llava", "text_config": QWEN2, "vision_config": vision} | changes)
    assert count_parameters(shape).total == total(QWEN2)
    assert shape.left_out[-1] == note
    assert (shape.vision > 0) == any("vision part" in each for each in shape.left_out)


def test_ties_stand_inside_or_outside() -> None:
    tied, table = {"tie_word_embeddings": True}, 1000 * 64
    whole = {"model_type": "llava", "text_config": QWEN2}
    assert total(whole) == total(QWEN2), "LLaVA's class has two tables"
    assert total(whole | {"model_type": "gemma3"}) == total(QWEN2) - table, "Gemma's class has one"
    with pytest.raises(ValueError, match="tie_word_embeddings=False, as its class takes it to be, but text_config"):
        from_hf(whole | {"text_config": QWEN2 | tied})
    assert total(whole | tied) == total(whole | {"text_config": QWEN2 | tied} | tied) == total(QWEN2) - table
    with pytest.raises(ValueError, match=r"tie_word_embeddings=False, but text_config\.tie_word_embeddings=True"):
        from_hf(whole | {"text_config": QWEN2 | tied, "tie_word_embeddings": False})


def test_modules_for_more_tokens_are_left_out_and_named() -> None:
    draft = preset("deepseek-v4-flash").settings | {"dspark_markov_rank": 256}
    assert from_hf(draft).left_out[-1] == "the draft model (DSpark) is not counted"
    assert preset("deepseek-v3").shape.left_out == ("multi-token prediction (1 layer for training) is not counted",)


# ---- What makes no sense


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": "wide"}, "head_dim='wide' must be a whole number"),
        ({"num_hidden_layers": None}, "num_hidden_layers=null must be a whole number from 1 to 1,024"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 must divide num_attention_heads=4"),
        ({"mlp_bias": "no"}, "mlp_bias='no' must be true or false"),
        ({"n_routed_experts": 8}, "n_routed_experts=8 is not understood in a llama model"),
        ({"per_layer_config": {"0": {}}}, "per_layer_config=.* is not understood in a llama model"),
    ],
)
def test_refused_by_the_files_own_names(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        from_hf(LLAMA | changes)
    with pytest.raises(ValueError, match=r"text_config\."):
        from_hf({"model_type": "llava", "text_config": LLAMA | changes})


def test_names_of_one_setting_may_not_contradict() -> None:
    small = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    assert from_hf(small).n_experts == from_hf(small | {"num_local_experts": 4}).n_experts == 4
    with pytest.raises(ValueError, match="num_experts=4 and num_local_experts=8 are two names of one setting"):
        from_hf(small | {"num_local_experts": 8})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for 3 layers"),
        (
            {"layer_types": ["full_attention", "wavy", "full_attention"]},
            "layer_types has 'wavy', which is not understood",
        ),
        ({"layer_types": "full"}, "layer_types='full' must be a list"),
    ],
)
def test_layers_that_are_not_known(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        from_hf(QWEN2 | changes)


# ---- Files


def test_a_mark_at_the_beginning_and_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LLAMA).encode())
    assert load_hf_config(path) == from_hf(LLAMA)
    ignored = {"quantization_config": {"ignore": [f"model.layers.{i}.mlp" for i in range(120_000)]}}
    path.write_text(json.dumps(LLAMA | ignored))
    assert path.stat().st_size > 2_000_000
    assert load_hf_config(path) == from_hf(LLAMA)


def spoilt(chance: random.Random) -> bytes:
    """A file that is no config.json, or one in which something is wrong."""
    odd: list[Any] = [
        None, True, -1, 0, 1.5, 1e400, 10**400, "", "\x1b[31m", "ü" * 300, [], [[]], {}, {"a": {}}, ["x"], -(10**401),
        float("nan"), "9" * 500, [1] * 2000,
    ]  # fmt: skip
    kinds = ["llama", "deepseek_v3", "gpt_oss", "nemotron_h", "kimi_linear", "dbrx", "switch_transformers", "lfm2"]
    values: dict[str, Any] = LLAMA | {"model_type": chance.choice(kinds)}
    names = [*LLAMA, "layer_types", "text_config", "architectures", "linear_attn_config", "attn_config", "id2label",
             "hybrid_override_pattern", "tie_word_embeddings", "rope_theta", "head_dim", "num_experts",
             "num_nextn_predict_layers", "\x1b]0;title\x07_experts", "expert" * 80]  # fmt: skip
    for _ in range(chance.randint(1, 4)):
        values[chance.choice(names)] = chance.choice(odd)
    if chance.random() < 0.2:
        seeing = {name: chance.choice(odd) for name in ("hidden_size", "depth", "\x1b[1m_gate", "image_size")}
        kind = chance.choice(["llava", "qwen3_vl", "kimi_k25", "internvl", "mistral3"])
        values = {"model_type": kind, "text_config": LLAMA, "vision_config": seeing, chance.choice(names): 10**400}
    data = json.dumps(values).encode()
    if chance.random() < 0.3:
        cut = chance.randrange(len(data))
        data = data[:cut] + bytes(chance.randrange(256) for _ in range(chance.randint(0, 8))) + data[cut + 3 :]
    return data


def test_six_hundred_hostile_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted, or refused in one line and with status 2."""
    monkeypatch.setattr("sparsity_lab.cli.main.build_parser", cache(build_parser))  # or it takes most of the time
    path, chance, refused = tmp_path / "config.json", random.Random(0), 0
    main(["count", "gpt2"])  # imports what answers need
    for n in range(600):
        path.write_bytes(spoilt(chance))
        start = time.process_time()
        verb = ("count", "cache", "memory", "cost", "compare")[n % 5]
        more = {"cache": ["--tokens", "8"], "cost": ["--tokens", "1T"], "compare": ["gpt2"]}.get(verb, [])
        capsys.readouterr()
        status = main([verb, str(path), *more])
        out, error = capsys.readouterr()
        if status:
            refused += 1
            assert (status, out, error.count("\n")) == (2, "", 1), error
            assert error.rstrip("\n").isprintable(), "nothing that steers a terminal"
            assert len(error) < 1000
        assert time.process_time() - start < 2
    assert refused > 400


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "name"])
def test_no_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path = Path("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        path = tmp_path / "\x1b[31m\n.json"
    command = [sys.executable, "-m", "sparsity_lab", "count", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip("\n").isprintable()
