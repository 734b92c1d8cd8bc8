"""Whole models of text and images, against transformers' own code, built on the meta device."""

from dataclasses import fields
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.hf_config import FLAT, from_hf
from sparsity_lab.accounting.hf_vision import TOWERS, VISION
from tests.accounting import class_defaults

TEXT = {"vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 56, "head_dim": 12, "max_position_embeddings": 640, "moe_intermediate_size": 40,
        "pad_token_id": 0}  # fmt: skip
OF_TEXT: dict[str, tuple[str, dict[str, Any]]] = {  # a text part that a whole model may have
    "qwen2_vl": ("qwen2_vl_text", {}), "qwen2_5_vl": ("qwen2_5_vl_text", {}), "qwen3_vl": ("qwen3_vl_text", {}),
    "qwen3_vl_moe": ("qwen3_vl_moe_text", {}), "qwen3_5": ("qwen3_5_text", {}), "glm4v_moe": ("glm4v_moe_text", {}),
    "qwen3_5_moe": ("qwen3_5_moe_text", {}), "llama4": ("llama4_text", {"num_local_experts": 2}),
    "gemma3": ("gemma3_text", {}), "paligemma": ("gemma", {}), "cohere2_vision": ("cohere2", {}),
    "mistral3": ("ministral3", {}), "llava": ("llama", {}), "llava_next": ("mistral", {}),
    "llava_onevision": ("qwen2", {}), "internvl": ("qwen3", {}), "kimi_k25": ("deepseek_v3", {"qk_head_dim": 192}),
}  # fmt: skip
# In which no setting is what a class takes it to be.
SMALL: dict[str, Any] = {
    "hidden_size": 32, "embed_dim": 64, "intermediate_size": 72, "num_hidden_layers": 3, "depth": 3, "num_heads": 4,
    "num_attention_heads": 4, "image_size": 64, "patch_size": 8, "temporal_patch_size": 3, "spatial_merge_size": 3,
    "mlp_ratio": 3, "out_hidden_size": 48, "num_position_embeddings": 25, "deepstack_visual_indexes": [0, 2],
    "attention_bias": True, "vision_use_head": False, "vision_output_dim": 44, "projector_input_dim": 36,
    "projector_output_dim": 28, "use_qk_norm": True, "use_mask_token": True, "use_mean_pooling": False,
    "use_absolute_position_embeddings": False, "norm_type": "rms_norm", "pos_emb_height": 5, "pos_emb_width": 7,
}  # fmt: skip
OUTSIDE: dict[str, dict[str, Any]] = {  # beside vision_config
    "mistral3": {"vision_feature_layer": [0, 1], "multimodal_projector_bias": True, "spatial_merge_size": 3},
    "llava": {"vision_feature_layer": [0, 1, 2], "multimodal_projector_bias": False},
    "llava_next": {"vision_feature_layer": [0, 1]},
    "paligemma": {"projection_dim": 60},
    "cohere2_vision": {"downsample_factor": 4, "alignment_intermediate_size": 52},
    "kimi_k25": {"projection_hidden_size": 32},
}


def built(values: dict[str, Any]) -> int | None:
    """The weights of the whole model that transformers builds, or None if it does not build one."""
    named = dict(values)
    try:
        config = AutoConfig.for_model(named.pop("model_type"), **named)
        with torch.device("meta"):
            return int(AutoModelForImageTextToText.from_config(config).num_parameters())
    except Exception:  # they raise whatever comes
        return None


def counted(values: dict[str, Any]) -> int | None:
    """Our count of both parts, or None if the vision part is not counted."""
    shape = from_hf(values)
    return count_parameters(shape).total + shape.vision if shape.vision else None


def file_of(kind: str, vision: dict[str, Any]) -> dict[str, Any]:
    text, more = OF_TEXT[kind]
    known = {field.name for field in fields(class_defaults.class_of(text))}  # type: ignore[arg-type]
    own = {"model_type": text} | {name: value for name, value in TEXT.items() if name in known} | more
    return {"model_type": kind, "text_config": own, "vision_config": vision, "tie_word_embeddings": False}


def small(kind: str) -> dict[str, Any]:
    names = {name for name in SMALL if hasattr(AutoConfig.for_model(VISION[kind].usual), name)}
    return {"model_type": VISION[kind].usual} | {name: value for name, value in SMALL.items() if name in names}


@pytest.mark.parametrize("kind", VISION)
def test_as_the_class_takes_it_to_be(kind: str) -> None:
    """A vision_config that says nothing."""
    values = file_of(kind, {"model_type": VISION[kind].usual})
    if kind == "internvl":  # whose class gives pairs of sizes
        values["vision_config"] |= {"image_size": [448, 448], "patch_size": [14, 14]}
    if kind == "kimi_k25":
        values |= {"projection_hidden_size": 1152}
    theirs = built(values)
    assert theirs == counted(values) is not None


@pytest.mark.parametrize("kind", VISION)
def test_delete_any_setting(kind: str) -> None:
    vision = small(kind)
    values = file_of(kind, vision) | OUTSIDE.get(kind, {})
    assert built(values) == counted(values) is not None, "as it is"
    compared = 0
    for name in vision.keys() - {"model_type"}:
        without = values | {"vision_config": {other: value for other, value in vision.items() if other != name}}
        theirs, ours = built(without), counted(without)
        assert theirs is None or ours in (theirs, None), f"without {name}"
        compared += theirs is not None and ours == theirs
    for name in OUTSIDE.get(kind, ()):
        without = {other: value for other, value in values.items() if other != name}
        theirs, ours = built(without), counted(without)
        assert theirs is None or ours in (theirs, None), f"without {name}"
    assert compared > 0.5 * len(vision), "most models can be built, and most of these are counted"


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("tied", [{}, {"tie_word_embeddings": True}])
def test_files_without_a_text_config(kind: str, tied: dict[str, bool]) -> None:
    nested = file_of(kind, small(kind) | {"model_type": kind})
    text = {name: value for name, value in nested["text_config"].items() if name != "model_type"}
    flat = {"model_type": kind, "vision_config": nested["vision_config"]} | text | tied
    assert built(flat) == counted(flat) == (counted(nested) or 0) - (96 * 48 if tied else 0)


def test_a_published_model() -> None:
    """Qwen2.5-VL-7B-Instruct has 8,292,166,656 weights by its files' index, in bfloat16 16,584,333,312 bytes."""
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
              "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}  # fmt: skip
    values = {"model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
              "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064, "use_sliding_window": False,
              "vision_config": vision}  # fmt: skip
    assert counted(values) == 8_292_166_656
    assert from_hf(values).left_out == ("only the text part is counted; with its vision part (676.6M) it has 8.3B",)


@pytest.mark.parametrize("kind", [*TOWERS, *VISION])
def test_what_is_left_out_means_what_the_class_means(kind: str) -> None:
    own = class_defaults.of_class(kind, class_defaults.names_in_readers())
    assert class_defaults.read()[kind] == own, "run `python -m tests.accounting.class_defaults`"


@pytest.mark.parametrize("kind", VISION)
def test_a_file_without_vision_config_means_what_its_class_means(kind: str) -> None:
    values = file_of(kind, {})
    del values["vision_config"]
    theirs = built(values)
    assert theirs is not None
    assert counted(values) == theirs
