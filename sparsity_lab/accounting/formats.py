"""Knows how many bytes a number takes in the formats that weights and caches are stored in, with their scales."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsity_lab.accounting.memory import BYTES, SHORT, bytes_of, cache_bytes
from sparsity_lab.accounting.shape import Model
from sparsity_lab.config import one_of

LAYERS = ("attention", "dense", "shared", "routed")  # parts of `Parameters` whose matrices most formats compress
BLOCKS = {"q8_0": 34 / 32, "q4_0": 18 / 32}  # llama.cpp: 32 numbers of 8 or 4 bits, and a float16 scale
SCALED = {
    "fp8": 1 + 4 / 128**2,  # a float32 scale for each block of 128 × 128 (DeepSeek-V3, arXiv 2412.19437, section 3.3)
    "int8": 1.0,  # a scale for each row, too little to count
    "int4": (4 + (16 + 4) / 128) / 8,  # a float16 scale and a zero point for every 128, as in AWQ and GPTQ
    "nf4": 0.5 + 4 / 64,  # a float32 scale for every 64 (QLoRA, arXiv 2305.14314, section 3)
    "mxfp4": 17 / 32,  # a scale of one byte for every 32 (OCP Microscaling formats 1.0)
    "nvfp4": 9 / 16,  # a scale of one byte for every 16
}


@dataclass(frozen=True)
class WeightFormat:
    """How weights are stored. ``shares``: how much of each part of the model takes ``size`` bytes per weight, with its
    scales; everything else takes ``other`` bytes. ``experts``: bytes per weight of routed experts that have a format of
    their own."""

    name: str
    size: float
    shares: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(LAYERS, 1.0))
    other: float = 2.0
    experts: float | None = None

    def bytes_in(self, part: str) -> float:
        """Returns the bytes per weight of a part, by its name in `Parameters`."""
        share = self.shares.get(part, 0.0)
        size = self.experts if part == "routed" and self.experts else self.size
        return share * size + (1 - share) * self.other


TABLES = dict.fromkeys((*LAYERS, "embedding", "head"), 1.0)
FORMATS = {
    **{name: WeightFormat(name, BYTES[full], other=BYTES[full]) for name, full in SHORT.items()},
    **{name: WeightFormat(name, size) for name, size in SCALED.items()},
    "mxfp4": WeightFormat("mxfp4", SCALED["mxfp4"], {"routed": 1.0}),  # as in gpt-oss
    **{name: WeightFormat(name, size, TABLES, 4.0) for name, size in BLOCKS.items()},
}
CACHES = (*SHORT, "fp8", "int8", *BLOCKS)


def weight_format(name: str) -> WeightFormat:
    """Returns a format by its name. Raises ValueError for an unknown one."""
    one_of("weights", name, FORMATS)
    return FORMATS[name]


def stored_cache(config: Model, tokens: int, name: str, batch: int) -> float:
    """Returns the bytes of attention's cache in one of `CACHES`. Raises ValueError for another."""
    one_of("cache", name, CACHES)
    if name in BLOCKS:
        return cache_bytes(config, tokens, "bf16", batch) / bytes_of("bf16") * BLOCKS[name]
    return cache_bytes(config, tokens, name, batch)


# ---- What a config.json says


def published_format(settings: Mapping[str, Any], n_layers: int) -> WeightFormat:
    """Returns the format that the ``quantization_config`` of a ``config.json`` describes; bf16 if there is none.

    Raises ValueError naming the setting that is not understood.
    """
    text = settings.get("text_config")
    found = settings.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    if not found:
        return FORMATS["bf16"]
    if not isinstance(found, dict):
        raise ValueError(f"quantization_config={str(found)[:60]!r} must be a JSON object")
    name, size = _size(found)
    shares = _shares(found, name, n_layers)
    own = found.get("expert_dtype") or settings.get("expert_dtype")  # of DeepSeek-V4
    if own in (None, name):
        return WeightFormat(name, size, shares)
    if own != "fp4":
        raise ValueError(f"expert_dtype={str(own)[:40]!r} is not understood; we know fp4")
    return WeightFormat(f"{name}, experts mxfp4", size, shares, experts=SCALED["mxfp4"])


def _size(q: Mapping[str, Any]) -> tuple[str, float]:
    """Returns the name of a format and its bytes per number."""
    method = q.get("quant_method")
    if method in ("fp8", "fbgemm_fp8"):
        block = q.get("weight_block_size")
        if block is None:
            return "fp8", 1.0
        if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
            raise ValueError(f"quantization_config.weight_block_size={str(block)[:60]} must be two whole numbers")
        return "fp8", 1 + 4 / (block[0] * block[1])
    if method == "mxfp4":
        return "mxfp4", SCALED["mxfp4"]
    if method in ("awq", "gptq"):
        bits = _whole(q, "bits", 4)
        return f"{method} {bits}-bit", _grouped(bits, 16 + bits, _whole(q, "group_size", 128))
    if method == "bitsandbytes":
        if not (q.get("load_in_4bit") or q.get("_load_in_4bit")):
            return "int8", SCALED["int8"]
        twice = q.get("bnb_4bit_use_double_quant")  # scales of one byte, with a float32 scale for every 256
        return "nf4", 0.5 + (1 + 4 / 256 if twice else 4) / 64
    if method == "modelopt":
        algorithm = str(q.get("quant_algo")).lower()
        if algorithm in ("fp8", "nvfp4"):
            return algorithm, 1.0 if algorithm == "fp8" else SCALED["nvfp4"]
        raise ValueError(f"quantization_config.quant_algo={algorithm[:40]!r} is not understood; we know FP8, NVFP4")
    if method == "compressed-tensors":
        return _compressed_tensors(q)
    raise ValueError(
        f"quantization_config.quant_method={str(method)[:40]!r} is not understood; we know fp8, mxfp4, awq, gptq, "
        f"bitsandbytes, modelopt and compressed-tensors (or say --weights {', '.join(FORMATS)})"
    )


def _compressed_tensors(q: Mapping[str, Any]) -> tuple[str, float]:
    groups = q.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    if not isinstance(weights, dict):
        raise ValueError("quantization_config.config_groups must say how weights are stored")
    bits, is_float = _whole(weights, "num_bits", 8), weights.get("type") == "float"
    if bits == 4 and is_float:  # scales of one byte
        group = _whole(weights, "group_size", 16)
        return "nvfp4" if group == 16 else "mxfp4", _grouped(4, 8, group)
    return f"{'fp' if is_float else 'int'}{bits}", _grouped(bits, 16, _whole(weights, "group_size", -1))


def _grouped(bits: int, scale_bits: int, group: int) -> float:
    """Returns the bytes per number with a scale for each group; −1 stands for a whole row."""
    return (bits + (scale_bits / group if group > 0 else 0)) / 8


def _whole(q: Mapping[str, Any], name: str, default: int) -> int:
    value = default if q.get(name) is None else q[name]
    if type(value) is not int or not -1 <= value <= 65_536 or value == 0:
        raise ValueError(f"quantization_config {name}={str(value)[:40]} must be a whole number, e.g. {default}")
    return value


SKIPPED = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules")
PARTS = {"attention": r"attn|attention", "shared": r"shared_expert", "routed": r"(?<!shared_)(?<!shared)experts\b"}
IN_LAYER = re.compile(r"layers?[.\\]+(\d+)")


def _shares(q: Mapping[str, Any], name: str, n_layers: int) -> dict[str, float]:
    """Returns how much of each part is compressed. Lists of modules that are not hold names, patterns for all layers,
    or one name for each layer; a part is left out in so many layers as are named, or in all."""
    skipped = next((q[key] for key in SKIPPED if isinstance(q.get(key), list)), None)
    if skipped is None:
        return {"routed": 1.0} if name == "mxfp4" else dict.fromkeys(LAYERS, 1.0)
    layers: dict[str, set[str]] = {part: set() for part in LAYERS}
    for module in map(str, skipped):
        number = IN_LAYER.search(module)
        hit = [part for part, pattern in PARTS.items() if re.search(pattern, module)]
        if not hit and re.search(r"\bmlp\b", module) and not re.search(r"mlp\W*(gate|router)\W*$", module):
            hit = ["dense"] if re.search(r"proj", module) else ["dense", "shared", "routed"]
        for part in hit:
            layers[part].add(number[1] if number else "all")
    return {part: 0.0 if "all" in found else max(0.0, 1 - len(found) / n_layers) for part, found in layers.items()}
