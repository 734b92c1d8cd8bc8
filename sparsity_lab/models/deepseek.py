"""The attention of a real DeepSeek-V2 or V3 checkpoint, from local files, as a `LatentAttention`."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparsity_lab.accounting.hf_config import load_hf_config
from sparsity_lab.config import ModelConfig
from sparsity_lab.models.attention import rotations
from sparsity_lab.models.mla import LatentAttention

INDEX = "model.safetensors.index.json"
NAMES = {
    "q_proj.weight": "q_up",
    "q_a_proj.weight": "q_down",
    "q_a_layernorm.weight": "q_norm",
    "q_b_proj.weight": "q_up",
    "kv_a_proj_with_mqa.weight": "kv_down",
    "kv_a_layernorm.weight": "kv_norm",
    "kv_b_proj.weight": "kv_up",
    "o_proj.weight": "out",
}


def attention_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `LatentAttention` from those of DeepSeek's attention, by their names in Hugging Face's files. Raises
    ValueError for a name that is none of these."""
    unknown = [name for name in state if name not in NAMES]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no weight of DeepSeek's attention; those are {', '.join(NAMES)}")
    return {NAMES[name]: weight.float() for name, weight in state.items()}


def load_attention(folder: str | Path, layer: int) -> tuple[LatentAttention, Tensor]:
    """One layer's attention, float32, and its `rotations`, from a folder with ``config.json`` and safetensors (one file
    or shards with an index). Only that layer's tensors are read.

    Raises ValueError for a folder that lacks them, for a model without MLA, and for 8-bit weights.
    """
    folder = Path(folder)
    config = load_hf_config(folder)
    if not config.is_mla:
        raise ValueError(f"{folder} is a model without multi-head latent attention")
    if not 0 <= layer < config.n_layers:
        raise ValueError(f"layer={layer} must be from 0 to {config.n_layers - 1}")
    prefix = f"model.layers.{layer}.self_attn."
    state = _tensors(folder, prefix)
    if any(weight.dtype.itemsize < 2 for weight in state.values()):
        raise ValueError(f"{folder} has 8-bit weights: convert the checkpoint to bfloat16 first")
    attention = LatentAttention(config, plain=False)
    try:
        attention.load_state_dict(attention_weights(state))
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise ValueError(f"{folder}: layer {layer} does not fit its config.json ({fault})") from None
    settings = json.loads((folder / "config.json").read_text())
    turns, temperature = yarn(config, settings.get("rope_scaling") or settings.get("rope_parameters") or {})
    attention.scale *= temperature
    return attention, turns


def _tensors(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, by the rest of the name."""
    try:
        if (folder / INDEX).exists():
            places: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
            files = sorted({file for name, file in places.items() if name.startswith(prefix)})
        else:
            files = ["model.safetensors"]
        found = {}
        for file in files:
            with safe_open(folder / file, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118, not a dict
                    if name.startswith(prefix):
                        found[name.removeprefix(prefix)] = shard.get_tensor(name)
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} has no readable model.safetensors or {INDEX} ({error})") from None
    if not found:
        raise ValueError(f"{folder} holds no tensor {prefix}…")
    return found


def yarn(config: ModelConfig, settings: dict[str, Any]) -> tuple[Tensor, float]:
    """The rotations of a model whose context was stretched with YaRN (Peng et al. 2023, arXiv 2309.00071, section 3),
    and what multiplies its softmax scale; the plain ones if ``settings`` do not ask for YaRN.

    Pairs that turn often within the original context keep their speed, those that turn less than once are slowed by
    ``factor``, and those between are mixed. Raises ValueError for another kind of scaling.
    """
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "default":
        return rotations(config), 1.0
    if kind != "yarn":
        raise ValueError(f"rope_type={kind!r} is not understood; we know default and yarn")
    factor, original = settings["factor"], settings["original_max_position_embeddings"]
    R = config.rope_dim

    def pair_that_turns(times: float) -> float:
        return R * math.log(original / (times * 2 * math.pi)) / (2 * math.log(config.rope_base))

    low = max(math.floor(pair_that_turns(settings.get("beta_fast", 32))), 0)
    high = min(math.ceil(pair_that_turns(settings.get("beta_slow", 1))), R - 1)
    slowed = ((torch.arange(R // 2) - low) / max(high - low, 1e-3)).clamp(0, 1)
    speed = config.rope_base ** (-torch.arange(0, R, 2) / R)
    speed = speed * (1 - slowed) + speed / factor * slowed

    def stretch(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    weight, all_dims = settings.get("mscale"), settings.get("mscale_all_dim")
    size = stretch(weight) / stretch(all_dims) if weight and all_dims else stretch(1)
    angles = torch.outer(torch.arange(config.context).float(), speed)
    return torch.polar(torch.full_like(angles, size), angles), stretch(all_dims) ** 2 if all_dims else 1.0
