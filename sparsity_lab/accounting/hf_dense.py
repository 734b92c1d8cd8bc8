"""Readers of dense decoders, for `hf_types`."""

from dataclasses import replace
from typing import Any

from sparsity_lab.accounting.hf_layers import (
    FULL,
    SLIDING,
    all_full,
    bias_all,
    bias_qkv,
    count_layers,
    decoder,
    dense_decoder,
    each,
    lab_dense,
    one_network,
    read_attention,
    read_heads,
    read_latents,
    read_network,
    read_windows,
)
from sparsity_lab.accounting.hf_settings import FileSettings
from sparsity_lab.accounting.shape import FeedForward, Shape, attention, network

# ---- Dense decoders


def read_llama(s: FileSettings) -> Shape:
    return dense_decoder(s, [FULL] * count_layers(s), bias=bias_all(s), mlp_bias=s.flag("mlp_bias"))


def read_qwen_kinds(s: FileSettings) -> list[str]:
    """Qwen2 and Qwen3: layers from max_window_layers on have a window, if use_sliding_window says so."""
    used, first = s.flag("use_sliding_window"), s.maybe("max_window_layers", 0) or 0
    windowed = used and s.maybe("sliding_window", 0) is not None
    kinds = read_windows(s, lambda i: SLIDING if windowed and i >= first else FULL)
    return kinds if windowed else [FULL] * len(kinds)


def read_qwen2(s: FileSettings) -> Shape:
    return dense_decoder(s, read_qwen_kinds(s), bias="qkv")


def read_qwen3(s: FileSettings) -> Shape:
    return dense_decoder(s, read_qwen_kinds(s), bias=bias_all(s), qk_norm="head")


def read_smollm3(s: FileSettings) -> Shape:
    used, interval = s.flag("use_sliding_window"), s.whole("no_rope_layer_interval")
    rope = s.numbers("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(count_layers(s))]
    if len(rope) < count_layers(s):
        raise ValueError(f"{s.where}no_rope_layers has {len(rope)} entries for {count_layers(s)} layers")
    kinds = read_windows(s, lambda i: SLIDING if used and not rope[i] else FULL)
    return dense_decoder(s, kinds if used else [FULL] * len(kinds), bias=bias_all(s), mlp_bias=s.flag("mlp_bias"))


def read_gemma(s: FileSettings, kinds: list[str] | None = None, **own: Any) -> Shape:
    return dense_decoder(s, kinds, bias=bias_all(s), **own)


def read_gemma3(s: FileSettings) -> Shape:
    pattern = s.maybe("sliding_window_pattern") or s.maybe("_sliding_window_pattern") or 6
    s.only("use_bidirectional_attention", False)
    return read_gemma(s, read_windows(s, each(pattern)), qk_norm="head", norms=4)


def exaone4_kinds(s: FileSettings) -> list[str]:
    if s.get("layer_types") is not None:
        s.get("sliding_window_pattern")  # may be letters here
        return read_windows(s, all_full)
    if s.maybe("sliding_window", 0) is None:
        return [FULL] * count_layers(s)
    return read_windows(s, each(s.whole("sliding_window_pattern", 0)))


def read_cohere(s: FileSettings) -> Shape:
    heads, kv_heads, width = read_heads(s)
    norm = (heads + kv_heads) * width if s.flag("use_qk_norm") else 0
    shape = dense_decoder(s, [FULL] * count_layers(s), bias=bias_all(s), norms=1)
    return read_with_norms(shape, norm)


def read_with_norms(shape: Shape, norm: int) -> Shape:
    """Gives every mixer norms of ``norm`` weights."""
    layers = (
        (replace(layer, mixers=tuple(replace(mixer, norms=norm) for mixer in layer.mixers)), times)
        for layer, times in shape.layers
    )
    return replace(shape, layers=tuple(layers))


def read_stablelm(s: FileSettings) -> Shape:
    heads, kv_heads, width = read_heads(s)
    norms = 1 if s.flag("use_parallel_residual") else 2
    shape = dense_decoder(s, [FULL] * count_layers(s), bias=bias_qkv(s, "use_qkv_bias"), norm=2, norms=norms)
    return read_with_norms(shape, (heads + kv_heads) * width if s.flag("qk_layernorm") else 0)


def read_phi(s: FileSettings) -> Shape:
    norm = "head_bias" if s.flag("qk_layernorm") else "none"
    return dense_decoder(s, bias="all", gated=False, mlp_bias=True, norm=2, norms=1, head_bias=True, qk_norm=norm)


def read_inner(s: FileSettings) -> FeedForward:
    """GPT-2's network, by default four times as wide as the model."""
    d = s.whole("hidden_size")
    return one_network(network(d, s.maybe("n_inner") or 4 * d, gated=False, bias=True))


def read_gpt2(s: FileSettings) -> Shape:
    s.only("add_cross_attention", False)
    mixer, _ = read_attention(s, bias="all")
    part = read_inner(s)
    return decoder(s, mixer, lambda i: part, norm=2, positions=s.whole("n_positions"))


def read_gpt_bigcode(s: FileSettings) -> Shape:
    s.only("add_cross_attention", False)
    d, (heads, _, width) = s.whole("hidden_size"), read_heads(s)
    plain = attention(d, heads, 1 if s.flag("multi_query") else heads, width, bias="all")
    part = read_inner(s)
    return decoder(s, lambda i: plain, lambda i: part, norm=2, positions=s.whole("n_positions"))


def read_gptj(s: FileSettings) -> Shape:
    mixer, _ = read_attention(s)
    part = read_inner(s)
    return decoder(s, mixer, lambda i: part, norm=2, norms=1, head_bias=True)


def read_mla_dense(s: FileSettings) -> Shape:
    mixer, lab = read_latents(s, s.flag("attention_bias"))
    part = read_network(s)
    return decoder(s, mixer, lambda i: part, lab=lab | lab_dense(part, s))
