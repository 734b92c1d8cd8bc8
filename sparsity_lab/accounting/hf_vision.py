"""Counts the part of a model that sees: a vision transformer, and what turns its patches into tokens of the text part.

For each type of a whole model, `VISION` has the type that its vision_config has if it says none, and what counts the
weights of both. All vision transformers are alike but for biases, norms, gates, and what stands before and after the
blocks.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sparsity_lab.accounting.hf_settings import MOST_LAYERS, FileSettings

Tower = Callable[[FileSettings], int]
Bridge = Callable[[FileSettings, FileSettings, int], int]  # of the whole file, vision_config, and the width of the text


def matrix(into: int, out: int, bias: bool = True) -> int:
    return into * out + out * bias


def read_width(s: FileSettings) -> int:
    return s.whole("hidden_size")


def read_size(s: FileSettings, name: str) -> int:
    """Reads a size in pixels: a number, or the same number for height and width."""
    value = s.get(name)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1] and type(value[0]) is int:
        s.values[s.aliases.get(name, name)] = value[0]
    return s.whole(name)


def read_patches(s: FileSettings) -> int:
    """Returns how many patches an image has."""
    return (read_size(s, "image_size") // read_size(s, "patch_size")) ** 2


def read_patch(s: FileSettings, d: int, bias: bool, frames: int = 1) -> int:
    """Returns the weights that make a vector of a patch."""
    s.only("num_channels", 3)
    s.only("in_channels", 3)
    s.only("in_chans", 3)
    return matrix(3 * frames * read_size(s, "patch_size") ** 2, d, bias)


def blocks(
    s: FileSettings,
    d: int,
    hidden: int | None = None,
    *,
    norm: int = 2,
    biases: int = 4,
    gated: bool = False,
    mlp_bias: bool = True,
    more: int = 0,
) -> int:
    """Returns the weights of all blocks. ``norm``: vectors of each of two norms; ``biases``: those of queries, keys,
    values and the output; ``more``: other weights of a block."""
    hidden = s.whole("intermediate_size") if hidden is None else hidden
    s.only("head_dim", d // s.whole("num_attention_heads"))
    into = 2 if gated else 1
    one = (
        4 * d * d + biases * d + into * matrix(d, hidden, mlp_bias) + matrix(hidden, d, mlp_bias) + 2 * norm * d + more
    )
    return s.whole("num_hidden_layers", 1, MOST_LAYERS) * one


def two_layers(into: int, hidden: int, out: int, bias: bool = True) -> int:
    return matrix(into, hidden, bias) + matrix(hidden, out, bias)


# ---- Towers


def count_qwen2(s: FileSettings) -> int:
    d = s.whole("embed_dim")
    return read_patch(s, d, False, s.whole("temporal_patch_size")) + blocks(s, d, d * s.whole("mlp_ratio"))


def count_qwen2_5(s: FileSettings) -> int:
    d = read_width(s)
    return read_patch(s, d, False, s.whole("temporal_patch_size")) + blocks(s, d, norm=1, gated=True)


def count_qwen3(s: FileSettings) -> int:
    d = read_width(s)
    return (
        read_patch(s, d, True, s.whole("temporal_patch_size")) + s.whole("num_position_embeddings") * d + blocks(s, d)
    )


def count_glm4v(s: FileSettings) -> int:
    """Its blocks are as wide inside as its output; intermediate_size belongs to what follows."""
    d = read_width(s)
    outside = read_patch(s, d, True, s.whole("temporal_patch_size")) + read_patches(s) * d + 2 * d
    biases = 3 if s.flag("attention_bias") else 0
    return outside + blocks(s, d, s.whole("out_hidden_size"), norm=1, biases=biases, gated=True, mlp_bias=False)


def count_siglip(s: FileSettings) -> int:
    d = read_width(s)
    pooled = 0
    if s.flag("vision_use_head"):
        hidden = s.whole("intermediate_size")
        pooled = d + 4 * matrix(d, d) + 2 * d + two_layers(d, hidden, d)
    return read_patch(s, d, True) + read_patches(s) * d + blocks(s, d) + 2 * d + pooled


def count_clip(s: FileSettings) -> int:
    d = read_width(s)
    return read_patch(s, d, False) + (read_patches(s) + 2) * d + blocks(s, d) + 4 * d


def count_pixtral(s: FileSettings) -> int:
    d = read_width(s)
    return read_patch(s, d, False) + d + blocks(s, d, norm=1, biases=0, gated=True, mlp_bias=False)


def count_llama4(s: FileSettings) -> int:
    d, hidden, out = read_width(s), s.whole("intermediate_size"), s.whole("projector_output_dim")
    adapter = matrix(hidden, s.whole("projector_input_dim"), False) + matrix(out, out, False)
    s.only("multi_modal_projector_bias", False)
    return read_patch(s, d, False) + (read_patches(s) + 2) * d + blocks(s, d) + 4 * d + adapter


def count_internvl(s: FileSettings) -> int:
    d = read_width(s)
    s.only("norm_type", "layer_norm", "rms_norm")
    table = read_patches(s) + 1 if s.flag("use_absolute_position_embeddings") else 0
    vectors = 1 + table + s.flag("use_mask_token") + (0 if s.flag("use_mean_pooling") else 2)
    own = 2 * d + (2 * d if s.flag("use_qk_norm") else 0)
    norm, biases = 2 if s.get("norm_type") == "layer_norm" else 1, 4 if s.flag("attention_bias") else 1
    return read_patch(s, d, True) + vectors * d + blocks(s, d, norm=norm, biases=biases, more=own)


def count_kimi(s: FileSettings) -> int:
    d = read_width(s)
    return read_patch(s, d, True) + s.whole("pos_emb_height") * s.whole("pos_emb_width") * d + blocks(s, d) + 2 * d


# ---- Bridges


def merger(s: FileSettings, d: int, out: int, norm: int) -> int:
    """Joins neighbouring patches into one token."""
    wide = s.whole("spatial_merge_size") ** 2 * d
    return norm + two_layers(wide, wide, out)


def bridge_qwen2(whole: FileSettings, s: FileSettings, text: int) -> int:
    d = s.whole("embed_dim")
    return merger(s, d, s.whole("hidden_size"), 2 * d)


def bridge_qwen2_5(whole: FileSettings, s: FileSettings, text: int) -> int:
    d = read_width(s)
    return merger(s, d, s.whole("out_hidden_size"), d)


def bridge_qwen3(whole: FileSettings, s: FileSettings, text: int) -> int:
    """Qwen3-VL takes what some of its blocks see into the text part as well, each through a merger."""
    d, out = read_width(s), s.whole("out_hidden_size")
    wide, listed = s.whole("spatial_merge_size") ** 2 * d, s.numbers("deepstack_visual_indexes")
    deep = len(listed) if s.says("deepstack_visual_indexes") else 3
    deep = 0 if s.kind.startswith("qwen3_5") else deep  # whose class has no such mergers
    return merger(s, d, out, 2 * d) + deep * merger(s, d, out, 2 * wide)


def bridge_glm4v(whole: FileSettings, s: FileSettings, text: int) -> int:
    d, out = read_width(s), s.whole("out_hidden_size")
    joined = matrix(s.whole("spatial_merge_size") ** 2 * d, out)
    return joined + out * out + 2 * out + 3 * out * s.whole("intermediate_size")


def read_features(whole: FileSettings) -> int:
    """Returns of how many layers the features are used."""
    layers = whole.get("vision_feature_layer")
    return len(layers) if isinstance(layers, list) and layers else 1


def bridge_llava(whole: FileSettings, s: FileSettings, text: int) -> int:
    lines = text if whole.kind in ("llava_next", "llava_onevision") else 0  # a vector that ends a line of patches
    return two_layers(read_features(whole) * read_width(s), text, text, whole.flag("multimodal_projector_bias")) + lines


def bridge_mistral3(whole: FileSettings, s: FileSettings, text: int) -> int:
    d = read_width(s)
    merged = matrix(whole.whole("spatial_merge_size") ** 2 * d, d, False)
    return d + merged + two_layers(read_features(whole) * d, text, text, whole.flag("multimodal_projector_bias"))


def bridge_gemma3(whole: FileSettings, s: FileSettings, text: int) -> int:
    return read_width(s) * (text + 1)


def bridge_paligemma(whole: FileSettings, s: FileSettings, text: int) -> int:
    return matrix(read_width(s), whole.whole("projection_dim"))


def bridge_llama4(whole: FileSettings, s: FileSettings, text: int) -> int:
    return matrix(s.whole("vision_output_dim"), text, False)


def bridge_internvl(whole: FileSettings, s: FileSettings, text: int) -> int:
    whole.only("downsample_ratio", 0.5)
    wide = 4 * read_width(s)
    return 2 * wide + two_layers(wide, text, text)


def bridge_cohere2(whole: FileSettings, s: FileSettings, text: int) -> int:
    hidden = whole.whole("alignment_intermediate_size")
    return matrix(whole.whole("downsample_factor") ** 2 * read_width(s), hidden) + matrix(hidden // 2, text)


def bridge_kimi(whole: FileSettings, s: FileSettings, text: int) -> int:
    d = read_width(s)
    whole.only("projection_hidden_size", d)
    s.only("mm_hidden_size", d)
    s.only("merge_kernel_size", [2, 2])
    return 2 * d + two_layers(4 * d, 4 * d, text)


# ---- Whole models

TOWERS: Mapping[str, Tower] = {
    "qwen2_vl_vision": count_qwen2,
    "qwen2_5_vl_vision": count_qwen2_5,
    "qwen3_vl_vision": count_qwen3,
    "qwen3_vl_moe_vision": count_qwen3,
    "qwen3_5_vision": count_qwen3,
    "qwen3_5_moe_vision": count_qwen3,
    "glm4v_moe_vision": count_glm4v,
    "siglip_vision_model": count_siglip,
    "clip_vision_model": count_clip,
    "pixtral": count_pixtral,
    "llama4_vision_model": count_llama4,
    "internvl_vision": count_internvl,
    "kimi_k25_vision": count_kimi,
}


class Vision(NamedTuple):
    usual: str  # the model_type of vision_config, if it has none
    bridge: Bridge
    absent: Mapping[str, Any] = {}  # what the class takes vision_config to be if there is none, beyond the tower's own


LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
LARGE |= {"image_size": 336, "patch_size": 14}  # CLIP
SIGLIP = {"hidden_size": 1152, "num_hidden_layers": 27}
WIDE = SIGLIP | {"num_attention_heads": 16, "patch_size": 14, "vision_use_head": False}
ONEVISION = WIDE | {"num_hidden_layers": 26, "intermediate_size": 4304, "image_size": 384}


VISION: Mapping[str, Vision] = {
    "qwen2_vl": Vision("qwen2_vl_vision", bridge_qwen2),
    "qwen2_5_vl": Vision("qwen2_5_vl_vision", bridge_qwen2_5),
    "qwen3_vl": Vision("qwen3_vl_vision", bridge_qwen3),
    "qwen3_vl_moe": Vision("qwen3_vl_moe_vision", bridge_qwen3),
    "qwen3_5": Vision("qwen3_5_vision", bridge_qwen3),
    "qwen3_5_moe": Vision("qwen3_5_moe_vision", bridge_qwen3),
    "glm4v_moe": Vision("glm4v_moe_vision", bridge_glm4v),
    "llama4": Vision("llama4_vision_model", bridge_llama4),
    "gemma3": Vision("siglip_vision_model", bridge_gemma3),
    "paligemma": Vision("siglip_vision_model", bridge_paligemma, WIDE | {"intermediate_size": 4096}),
    "cohere2_vision": Vision("siglip_vision_model", bridge_cohere2, SIGLIP | {"image_size": 512}),
    "mistral3": Vision("pixtral", bridge_mistral3, {"image_size": 1540, "patch_size": 14}),
    "llava": Vision("clip_vision_model", bridge_llava, LARGE),
    "llava_next": Vision("clip_vision_model", bridge_llava, LARGE),
    "llava_onevision": Vision("siglip_vision_model", bridge_llava, ONEVISION),
    "internvl": Vision("internvl_vision", bridge_internvl, {"image_size": 448, "patch_size": 14}),
    "kimi_k25": Vision("kimi_k25_vision", bridge_kimi),
}
OWN_NAMES = ("vt_", "init_")  # what Moonshot's files write before some names


def count_vision(values: Mapping[str, Any], text: int) -> int:
    """Returns the weights of the part that sees, with its bridge to a text part of width ``text``; 0 if there is none,
    or none of a type that is known. Raises ValueError naming what is not understood, or makes no sense."""
    own, kind = values.get("vision_config"), str(values.get("model_type"))
    if kind not in VISION:
        return 0
    usual, bridge, absent = VISION[kind]
    own = absent if own is None else own
    if not isinstance(own, dict):
        return 0
    tower = str(own.get("model_type") or usual)
    if tower == kind:  # some files repeat the type of the whole model
        tower = usual
    if tower not in TOWERS:
        return 0
    if kind == "kimi_k25":
        for prefix in OWN_NAMES:
            own = {name.removeprefix(prefix): value for name, value in own.items()}
    s = FileSettings(own, tower, "vision_config.")
    weights = TOWERS[tower](s) + bridge(FileSettings(dict(values), kind), s, text)
    s.refuse_unread()
    return weights
