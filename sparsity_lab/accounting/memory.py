"""Counts what has to be stored and moved: numbers by their type, and the cache of attention."""

from sparsity_lab.accounting.flops import tokens_seen
from sparsity_lab.config import ModelConfig, one_of

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
SCALE = 4  # bytes of the scale that belongs to a vector in int8
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def bytes_of(dtype: str) -> float:
    """Returns the bytes of one number. fp32, bf16 and fp16 are known too. Raises ValueError for an unknown type."""
    name = SHORT.get(dtype, dtype)
    one_of("dtype", dtype, (*BYTES, *SHORT))
    return BYTES[name]


def cache_elements_per_layer(config: ModelConfig) -> int:
    """Returns how many numbers one layer's attention keeps per token (DeepSeek-V2, arXiv 2405.04434, Table 1): keys
    and values of its key-value heads, or for MLA the latent and the RoPE key that all heads share."""
    if config.kv_lora_rank is not None:
        return config.kv_lora_rank + config.rope_dim
    return 2 * config.kv_heads * config.head_dim


def cache_bytes(config: ModelConfig, tokens: int, dtype: str = "bfloat16", batch: int = 1) -> float:
    """Returns the bytes of the cache of ``batch`` sequences of ``tokens`` tokens. A layer with a sliding window keeps
    no more tokens than the window holds. int8 comes with a float32 scale for each vector: a key or value of a head,
    or a latent."""
    bytes_per_layer = cache_elements_per_layer(config) * bytes_of(dtype)
    if dtype == "int8":
        bytes_per_layer += SCALE * (1 if config.is_mla else 2 * config.kv_heads)
    return batch * tokens_seen(config, tokens) * bytes_per_layer


def attention_twins(config: ModelConfig) -> dict[str, ModelConfig]:
    """Returns the model with other attention: mha, gqa (8 groups, or the largest number below 8 that fits) and mqa.

    If the model has MLA, the part of a head without positions gives the width of the twins' heads, as in Table 1 of
    DeepSeek-V2 (arXiv 2405.04434).
    """
    groups = max(g for g in range(1, min(8, config.n_heads) + 1) if config.n_heads % g == 0)
    plain = dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    width = config.nope_dim if config.is_mla else config.d_head
    heads = {"mha": config.n_heads, "gqa": groups, "mqa": 1}
    return {name: config.replace(**plain, d_head=width, n_kv_heads=n) for name, n in heads.items()}
