"""Counts what has to be stored and moved: bytes of numbers, and the cache of attention."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from sparsity_lab.accounting.shape import Block, Mixer, Model, Shape, attention, shape_of
from sparsity_lab.config import ModelConfig, one_of

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
SCALE = 4  # bytes of the scale that belongs to a vector in int8
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def bytes_of(dtype: str) -> float:
    """Returns the bytes of one number. fp32, bf16 and fp16 are known too, in capitals or not. Raises ValueError for an
    unknown type."""
    one_of("dtype", dtype.lower(), (*BYTES, *SHORT))
    return BYTES[long_name(dtype)]


def long_name(dtype: str) -> str:
    """Returns float32 for fp32, FP32 or float32."""
    return SHORT.get(dtype.lower(), dtype.lower())


def cache_elements_per_layer(model: Model) -> int:
    """Returns how many numbers one layer's attention keeps per token (DeepSeek-V2, arXiv 2405.04434, Table 1): keys
    and values of its key-value heads, or for MLA the latent and the RoPE key that all heads share. Where layers differ,
    it is the most that one keeps."""
    return max((mixer.cache // mixer.stride for mixer, _ in shape_of(model).mixers()), default=0)


def cache_bytes(model: Model, tokens: int, dtype: str = "bfloat16", batch: int = 1) -> float:
    """Returns the bytes of the cache of ``batch`` sequences of ``tokens`` tokens. A layer with a window keeps no more
    tokens than the window holds; a recurrence keeps a state of one size. The decoder of an encoder-decoder keeps keys
    and values of as many source tokens, too. int8 comes with a float32 scale for each vector: a key or value of a head,
    or a latent."""
    size, total = bytes_of(dtype), 0.0
    scale = SCALE if long_name(dtype) == "int8" else 0
    for mixer, times in shape_of(model).mixers():
        total += times * (mixer.kept(tokens) * (mixer.cache * size + mixer.vectors * scale) + mixer.state * size)
    return batch * total


def growth_per_token(model: Model, dtype: str = "bfloat16") -> float:
    """Returns the bytes that one more token adds to a sequence's cache, until a window is full: its share of an entry,
    where several tokens have one."""
    size = bytes_of(dtype)
    scale = SCALE if long_name(dtype) == "int8" else 0
    every = shape_of(model).mixers()
    return sum(times * (mixer.cache * size + mixer.vectors * scale) / mixer.stride for mixer, times in every)


def attention_twins(model: Model) -> Mapping[str, Model]:
    """Returns the model with other attention: mha, gqa (8 groups, or the largest number below 8 that fits) and mqa.

    If the model has MLA, the part of a head without positions gives the width of the twins' heads, as in Table 1 of
    DeepSeek-V2 (arXiv 2405.04434). Layers that keep no keys and values stay as they are. Where older tokens share
    entries of the cache, a twin keeps each of them.
    """
    if isinstance(model, ModelConfig):
        plain = dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        width = model.nope_dim if model.is_mla else model.d_head
        heads = {"mha": model.n_heads, "gqa": _groups(model.n_heads), "mqa": 1}
        return {name: model.replace(**plain, d_head=width, n_kv_heads=n) for name, n in heads.items()}
    most: dict[str, Callable[[int], int]] = {"mha": lambda heads: heads, "gqa": _groups, "mqa": lambda heads: 1}
    return {name: _with_heads(model, kv_heads) for name, kv_heads in most.items()}


def _groups(heads: int) -> int:
    return max(groups for groups in range(1, min(8, heads) + 1) if heads % groups == 0)


def _with_heads(shape: Shape, kv_heads: Callable[[int], int]) -> Shape:
    def twin(mixer: Mixer, sees_all: bool) -> Mixer:
        if not mixer.heads or not mixer.cache:
            return mixer
        kind = "full" if sees_all else mixer.kind
        plain = attention(shape.d_model, mixer.heads, kv_heads(mixer.heads), mixer.key_dim, kind=kind)
        if kind in ("sliding", "chunked"):
            return replace(plain, sees=mixer.sees, keeps=mixer.keeps)
        return plain

    def twins(layer: Block) -> Block:
        single = [mixer for mixer in layer.mixers if mixer.stride == 1]
        return replace(layer, mixers=tuple(twin(mixer, len(single) < len(layer.mixers)) for mixer in single))

    return replace(shape, layers=tuple((twins(layer), times) for layer, times in shape.layers), lab={})
