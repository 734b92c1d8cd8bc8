"""Readers of models in which recurrences or convolutions stand in the place of attention, for `hf_types`."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from sparsity_lab.accounting.hf_deepseek import deepseek_experts
from sparsity_lab.accounting.hf_experts import qwen_sparse
from sparsity_lab.accounting.hf_layers import (
    FULL,
    LINEAR,
    as_dense_layer,
    bias_all,
    count_layers,
    decoder,
    one_network,
    read_attention,
    read_experts,
    read_heads,
    read_latents,
    read_network,
    sparse_by_words,
    sparse_from,
)
from sparsity_lab.accounting.hf_settings import MOST_LAYERS, FileSettings
from sparsity_lab.accounting.shape import FeedForward, Mixer, Shape, Weights, network

# ---- Recurrences in place of attention


def read_recurrent(kind: str, matrices: int, others: int, norms: int, state: int, step: int) -> Mixer:
    return Mixer(kind=kind, weights=Weights(matrices, others), norms=norms, state=state, step=step)


def read_delta_net(s: FileSettings) -> Mixer:
    """Gated DeltaNet (arXiv 2412.06464): a state of a matrix per head, that each token corrects and reads."""
    d, kernel = s.whole("hidden_size"), s.whole("linear_conv_kernel_dim")
    # Only OLMo's class has no numbers for what is left out here.
    heads = s.maybe("linear_num_value_heads") or s.whole("num_attention_heads")
    key_heads = s.maybe("linear_num_key_heads") or s.whole("num_attention_heads")
    key = s.maybe("linear_key_head_dim") or int(0.75 * d / key_heads)
    value = s.maybe("linear_value_head_dim") or 2 * key
    keys, values = key_heads * key, heads * value
    channels = 2 * keys + values
    matrices = d * (2 * keys + 2 * values + 2 * heads) + values * d + channels * kernel
    state = heads * key * value
    return read_recurrent("linear", matrices, 2 * heads, value, state + channels * kernel, 3 * state)


def read_kinds(s: FileSettings, usual: Callable[[int], str], words: Mapping[str, str] = LINEAR) -> list[str]:
    return s.per_layer("layer_types", count_layers(s), dict(words), usual)


def read_qwen3_next(s: FileSettings, sparse: bool = True, shared: bool = True) -> Shape:
    every = s.maybe("full_attention_interval") or 4
    kinds = read_kinds(s, lambda i: FULL if (i + 1) % every == 0 else "linear")
    s.only("use_sliding_window", False)
    s.only("attn_output_gate", True)
    heads, _, width = read_heads(s)
    gate_bias = heads * width if s.flag("attention_bias") else 0
    of_layer, _ = read_attention(
        s, [FULL] * count_layers(s), bias=bias_all(s), qk_norm="head", gate="full", others=gate_bias
    )
    full, linear = of_layer(0), read_delta_net(s)
    if sparse:
        width = s.whole("shared_expert_intermediate_size")
        experts = read_experts(s, "num_experts", shared=width, shared_gate=True)
        ffn = qwen_sparse(s, experts)[0] if s.kind == "qwen3_next" else lambda i: experts
    else:
        part = read_network(s)
        ffn = lambda i: part  # noqa: E731
    return decoder(s, lambda i: full if kinds[i] == FULL else linear, ffn)


def read_olmo_hybrid(s: FileSettings) -> Shape:
    last = count_layers(s) - 1  # sees all in a model of fewer than four layers
    kinds = read_kinds(s, lambda i: FULL if i % 4 == 3 or i == last < 3 else "linear")
    full, _ = read_attention(s, [FULL] * count_layers(s), bias=bias_all(s), qk_norm="full")
    linear, part = read_delta_net(s), read_network(s)
    return decoder(s, lambda i: full(i) if kinds[i] == FULL else linear, lambda i: part)


def read_kimi_linear(s: FileSettings) -> Shape:
    """Kimi Delta Attention (arXiv 2510.26692) in most layers, MLA in the others."""
    s.only("tie_word_embeddings", False)
    nested = s.section("linear_attn_config") or {}
    own = FileSettings(nested, "linear_attn_config", f"{s.where}linear_attn_config.")
    d, layers = s.whole("hidden_size"), count_layers(s)
    width, heads, kernel = s.whole("linear_head_dim"), s.whole("linear_num_heads"), s.whole("linear_conv_kernel_dim")
    width, heads = own.maybe("head_dim") or width, own.maybe("num_heads") or heads
    kernel = own.maybe("short_conv_kernel_size") or kernel
    full = set(own.numbers("full_attn_layers")) if own.says("kda_layers") else {i + 1 for i in range(4, layers, 4)}
    if own.says("kda_layers") and set(own.numbers("kda_layers")) != set(range(1, layers + 1)) - full:
        raise ValueError(f"{own.where}kda_layers and full_attn_layers must list each of {layers} layers once")
    own.refuse_unread()
    kinds = read_kinds(s, lambda i: FULL if i + 1 in full else "linear")

    size = heads * width
    matrices = d * (3 * size + heads + 2 * width) + 2 * width * size + size * d + 3 * size * kernel
    linear = read_recurrent("linear", matrices, size + heads, width, size * width + 3 * size * kernel, 3 * size * width)
    mla, _ = read_latents(s, s.flag("attention_bias"))
    first = s.maybe("first_k_dense_replace", 0)
    s.only("moe_layer_freq", 1)
    s.get("num_expert_group")  # limits which experts, not how many
    ffn, _ = sparse_by_words(s, deepseek_experts(s, "num_experts", "num_shared_experts"), first)
    return decoder(s, lambda i: mla(i) if kinds[i] == FULL else linear, ffn)


def read_bailing(s: FileSettings) -> Shape:
    """Ling 3: Kimi Delta Attention with full gates in most layers, MLA with a gate for each head in the others."""
    s.only("tie_word_embeddings", False)
    d, heads, width = s.whole("hidden_size"), s.whole("num_attention_heads", 1, 2**14), s.whole("head_dim")
    size, kernel, every = heads * width, s.whole("short_conv_kernel_size"), s.whole("layer_group_size")
    matrices = d * (6 * size + heads) + 3 * size * kernel
    linear = read_recurrent("linear", matrices, size + heads, width, size * width + 3 * size * kernel, 3 * size * width)
    of_layer, _ = read_latents(s, s.flag("attention_bias"))
    mla = of_layer(0)
    mla = replace(mla, weights=Weights(mla.weights.matrices + d * heads, mla.weights.others))
    kinds = read_kinds(s, lambda i: FULL if (i + 1) % every == 0 else "linear")
    s.get("num_expert_group")  # limits which experts, not how many
    experts = deepseek_experts(s, "num_experts", "num_shared_experts")
    ffn, _ = sparse_by_words(s, experts, s.whole("first_k_dense_replace", 0))
    return decoder(s, lambda i: mla if kinds[i] == FULL else linear, ffn)


def read_minimax(s: FileSettings) -> Shape:
    """Lightning attention in every second layer: a state of a matrix per head that decays."""
    kinds = read_kinds(s, lambda i: "linear" if i % 2 else FULL)
    d, (heads, _, width) = s.whole("hidden_size"), read_heads(s)
    size = heads * width
    linear = read_recurrent("linear", 5 * d * size, 0, size, size * width, 2 * size * width)
    full, _ = read_attention(s)
    experts = read_experts(s, "num_local_experts", "intermediate_size")
    return decoder(s, lambda i: full(i) if kinds[i] == FULL else linear, lambda i: experts)


def read_mamba1(
    d: int, inner: int, state: int, rank: int, kernel: int, conv_bias: bool, bias: bool, norms: int
) -> Mixer:
    """Mamba (arXiv 2312.00752)."""
    matrices = d * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * d + inner * kernel
    others = inner * conv_bias + inner + inner * state + inner + (2 * inner + d) * bias
    return read_recurrent("mamba", matrices, others, norms, inner * (state + kernel), 2 * inner * state)


def read_mamba2(
    d: int, heads: int, width: int, state: int, groups: int, kernel: int, conv_bias: bool, bias: bool, norm: bool = True
) -> Mixer:
    """Mamba-2 (arXiv 2405.21060)."""
    inner = heads * width
    channels, into = inner + 2 * groups * state, 2 * inner + 2 * groups * state + heads
    matrices = d * into + inner * d + channels * kernel
    others = channels * conv_bias + 3 * heads + (into + d) * bias
    return read_recurrent("mamba", matrices, others, inner * norm, inner * state + channels * kernel, 2 * inner * state)


def read_mamba(s: FileSettings) -> Shape:
    d, inner = s.whole("hidden_size"), s.whole("hidden_size") * s.whole("expand")
    rank = s.get("time_step_rank")
    rank = -(-d // 16) if rank in ("auto", None) else s.whole("time_step_rank")
    mixer = read_mamba1(
        d, inner, s.whole("state_size"), rank, s.whole("conv_kernel"), s.flag("use_conv_bias"), s.flag("use_bias"), 0
    )
    return decoder(s, lambda i: mixer, lambda i: (), norms=1, context=None)


def read_pure_mamba2(s: FileSettings) -> Shape:
    d, heads, width = s.whole("hidden_size"), s.whole("num_heads"), s.whole("head_dim")
    if heads * width != d * s.whole("expand"):
        raise ValueError(f"{s.where}num_heads={heads} × head_dim={width} must be expand × hidden_size")
    mixer = read_mamba2(
        d, heads, width, s.whole("state_size"), s.whole("n_groups"), s.whole("conv_kernel"), s.flag("use_conv_bias"),
        s.flag("use_bias"),
    )  # fmt: skip
    return decoder(s, lambda i: mixer, lambda i: (), norms=1, context=None)


def read_named_mamba2(s: FileSettings, inner: int, norm: bool = True) -> Mixer:
    """Reads Mamba-2 by Bamba's names; ``inner`` is its width."""
    heads = s.whole("mamba_n_heads")
    width = inner // heads if s.get("mamba_d_head") == "auto" else s.whole("mamba_d_head")
    if heads * width != inner:
        raise ValueError(f"{s.where}mamba_n_heads={heads} × mamba_d_head={width} must be {inner}, the width inside")
    return read_mamba2(
        s.whole("hidden_size"), heads, width, s.whole("mamba_d_state"), s.whole("mamba_n_groups"),
        s.whole("mamba_d_conv"), s.flag("mamba_conv_bias"), s.flag("mamba_proj_bias"), norm,
    )  # fmt: skip


def read_jamba(s: FileSettings) -> Shape:
    s.only("mamba_inner_layernorms", True)
    d, rank = s.whole("hidden_size"), s.get("mamba_dt_rank")
    rank = -(-d // 16) if rank in ("auto", None) else s.whole("mamba_dt_rank")
    state, inner = s.whole("mamba_d_state"), d * s.whole("mamba_expand")
    mamba = read_mamba1(
        d, inner, state, rank, s.whole("mamba_d_conv"), s.flag("mamba_conv_bias"), s.flag("mamba_proj_bias"),
        rank + 2 * state,
    )  # fmt: skip
    full, _ = read_attention(s, [FULL] * count_layers(s))
    experts, plain = read_experts(s, "num_experts", "intermediate_size"), read_network(s)
    period, offset = s.whole("attn_layer_period"), s.whole("attn_layer_offset", 0)
    every, start = s.whole("expert_layer_period"), s.whole("expert_layer_offset", 0)
    return decoder(
        s,
        lambda i: full(i) if i % period == offset else mamba,
        lambda i: experts if i % every == start and experts.n_experts > 1 else as_dense_layer(plain),
    )


def read_bamba(s: FileSettings) -> Shape:
    d, attentive = s.whole("hidden_size"), set(s.numbers("attn_layer_indices"))
    full, _ = read_attention(s, [FULL] * count_layers(s), bias=bias_all(s))
    mamba, part = read_named_mamba2(s, d * s.whole("mamba_expand")), read_network(s, bias=s.flag("mlp_bias"))
    return decoder(s, lambda i: full(i) if i in attentive else mamba, lambda i: part)


def read_granitemoehybrid(s: FileSettings) -> Shape:
    d, kinds = s.whole("hidden_size"), read_kinds(s, lambda i: "linear")
    full, _ = read_attention(s, [FULL] * count_layers(s), bias=bias_all(s))
    mamba = read_named_mamba2(s, d * s.whole("mamba_expand"))
    shared = s.whole("shared_intermediate_size", 0)
    if s.maybe("num_local_experts", 0):
        part = read_experts(s, "num_local_experts", "intermediate_size", shared=shared)
    else:  # a dense model of this type has the shared network alone
        part = one_network(network(d, shared))
    return decoder(s, lambda i: full(i) if kinds[i] == FULL else mamba, lambda i: part)


def read_falcon_h1(s: FileSettings) -> Shape:
    d, inner = s.whole("hidden_size"), s.maybe("mamba_d_ssm")
    inner = d * s.whole("mamba_expand") if inner is None else inner
    s.get("mamba_expand")
    full, _ = read_attention(s, bias=bias_all(s))
    s.only("mamba_use_mlp", True)
    s.only("attn_layer_indices", [])
    mamba, part = read_named_mamba2(s, inner, s.flag("mamba_rms_norm")), read_network(s, bias=s.flag("mlp_bias"))
    into, out = s.flag("mamba_proj_bias"), s.flag("projectors_bias")
    mamba = replace(mamba, weights=Weights(mamba.weights.matrices, mamba.weights.others + d * (out - into)))
    return decoder(s, lambda i: (full(i), mamba), lambda i: part)


def read_nemotron_h(s: FileSettings) -> Shape:
    """Each layer is one block: Mamba-2, attention, a dense network, or experts."""
    s.only("moe_latent_size", 0)
    for name in ("tie_word_embeddings", "attention_bias", "mamba_proj_bias"):
        s.only(name, False)
    d, letters = s.whole("hidden_size"), {"M": "mamba", "*": FULL, "-": "mlp", "E": "moe"}
    words = {"linear_attention": "mamba", "mamba": "mamba", "full_attention": FULL, "attention": FULL}
    words |= {"mlp": "mlp", "moe": "moe"}
    listed, pattern = s.get("layers_block_type"), s.get("hybrid_override_pattern")
    if listed is None and pattern is not None:
        if not isinstance(pattern, str) or not set(pattern) <= set(letters) or not 0 < len(pattern) <= MOST_LAYERS:
            raise ValueError(f"{s.where}hybrid_override_pattern must be letters from {' '.join(letters)}")
        kinds = [letters[letter] for letter in pattern]
    else:
        usual = ["mamba", "moe", FULL, "mlp"]
        layers = len(listed) if isinstance(listed, list) and listed else len(usual)
        kinds = s.per_layer("layers_block_type", layers, words, lambda i: usual[i])

    full, _ = read_attention(s, [FULL], bias=bias_all(s))
    mamba = read_mamba2(
        d, s.whole("mamba_num_heads"), s.whole("mamba_head_dim"), s.whole("ssm_state_size"), s.whole("n_groups"),
        s.whole("conv_kernel"), s.flag("use_conv_bias"), s.flag("mamba_proj_bias"),
    )  # fmt: skip
    parts: dict[str, FeedForward] = {}
    if "mlp" in kinds:
        parts["mlp"] = read_network(s, gated=False, bias=s.flag("mlp_bias"))
        parts["mlp"] = as_dense_layer(parts["mlp"]) if "moe" in kinds else parts["mlp"]
    if "moe" in kinds:
        shared = network(d, s.whole("moe_shared_expert_intermediate_size"), False, s.flag("mlp_bias"))
        experts = read_experts(s, "n_routed_experts", n_shared=s.whole("n_shared_experts"), gated=False)
        parts["moe"] = replace(experts, shared=shared)
    return decoder(
        s,
        lambda i: full(0) if kinds[i] == FULL else mamba if kinds[i] == "mamba" else (),
        lambda i: parts.get(kinds[i], ()),
        norms=1,
        layers=len(kinds),
    )


def read_lfm2(s: FileSettings) -> Shape:
    """Short convolutions with gates in most layers, attention in the others."""
    d, kernel = s.whole("hidden_size"), s.whole("conv_L_cache")
    only = set(s.numbers("full_attn_idxs")) if s.get("full_attn_idxs") is not None else set(range(count_layers(s)))
    words = {"full_attention": FULL, "conv": "convolution"}
    kinds = read_kinds(s, lambda i: FULL if i in only else "convolution", words)
    bias = s.flag("conv_bias")
    conv = read_recurrent("convolution", d * 3 * d + d * d + d * kernel, 5 * d if bias else 0, 0, d * kernel, 0)
    full, _ = read_attention(s, [FULL] * count_layers(s), qk_norm="head")
    if s.kind == "lfm2_moe":
        experts = read_experts(s, "num_experts")
        ffn, _ = sparse_from(s, s.whole("num_dense_layers", 0), experts)
    else:
        width = s.whole("intermediate_size")
        if s.flag("block_auto_adjust_ff_dim"):
            times, step = s.get("block_ffn_dim_multiplier"), s.whole("block_multiple_of")
            width = int(2 * width / 3)
            width = step * -(-int((1 if times is None else times) * width) // step)
        part = one_network(network(d, width))
        ffn = lambda i: part  # noqa: E731
    return decoder(s, lambda i: full(i) if kinds[i] == FULL else conv, ffn)
