"""DeepSeek's attention in this lab's terms: its weights by our names, and the rotations of its stretched context."""

import math
from typing import Any

import torch
from torch import Tensor

from sparsity_lab.config import ModelConfig
from sparsity_lab.models.attention import rotations

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
    """Returns the weights of a `LatentAttention`, float32, from DeepSeek's attention, named as in Hugging Face's
    files."""
    return {NAMES[name]: weight.float() for name, weight in state.items()}


def yarn(config: ModelConfig, settings: dict[str, Any]) -> tuple[Tensor, float]:
    """Returns the rotations of a model whose context was stretched with YaRN (Peng et al. 2023, arXiv 2309.00071,
    section 3), and the factor on its softmax scale.

    Pairs that turn often within the original context keep their speed, those that turn less than once are slowed by
    ``factor``, and those between are mixed.
    """
    factor, original = settings["factor"], settings["original_max_position_embeddings"]
    R = config.rope_dim

    def pair_that_turns(times: float) -> float:
        return R * math.log(original / (times * 2 * math.pi)) / (2 * math.log(config.rope_base))

    low = max(math.floor(pair_that_turns(settings["beta_fast"])), 0)
    high = min(math.ceil(pair_that_turns(settings["beta_slow"])), R - 1)
    slowed = ((torch.arange(R // 2) - low) / max(high - low, 1e-3)).clamp(0, 1)
    cos, sin = rotations(config)[1].unbind(-1)
    speed = torch.atan2(sin, cos)  # of each pair, per token
    speed = speed * (1 - slowed) + speed / factor * slowed

    def stretch(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    weight, all_dims = settings["mscale"], settings["mscale_all_dim"]
    size = stretch(weight) / stretch(all_dims) if weight and all_dims else stretch(1)
    angles = torch.outer(torch.arange(config.context).float(), speed)
    turns = size * torch.stack([angles.cos(), angles.sin()], -1)
    return turns, stretch(all_dims) ** 2 if all_dims else 1.0
