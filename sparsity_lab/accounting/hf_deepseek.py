"""Readers of DeepSeek's models, and of those built like them, for `hf_types`."""

from collections.abc import Callable
from dataclasses import replace

from sparsity_lab.accounting.hf_layers import (
    BY_BIAS,
    FULL,
    SLIDING,
    Lab,
    all_full,
    count_layers,
    decoder,
    lab_experts,
    read_experts,
    read_latents,
    sparse_by_words,
    sparse_from,
)
from sparsity_lab.accounting.hf_settings import FileSettings
from sparsity_lab.accounting.shape import FeedForward, Mixer, Shape, Weights, network


def deepseek_experts(s: FileSettings, count: str = "n_routed_experts", shared: str = "n_shared_experts") -> FeedForward:
    """Reads experts by DeepSeek's names."""
    n = s.maybe(shared, 0, 2**14) or 0
    return read_experts(s, count, shared=n * s.whole("moe_intermediate_size"), n_shared=n)


def read_groups(s: FileSettings, scores: str) -> Lab:
    """Reads DeepSeek's router for the lab. ``scores``: the router's, if the file does not say."""
    s.only("scoring_func", "softmax", "sigmoid")
    groups, scale = s.maybe("n_group") or 1, s.get("routed_scaling_factor")
    best = s.maybe("topk_group") or groups
    if best > groups:
        raise ValueError(f"{s.where}topk_group={best} is more than n_group={groups}")
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    return (BY_BIAS if (s.get("scoring_func") or scores) == "sigmoid" else {}) | {
        "n_groups": groups,
        "top_groups": None if best == groups else best,
        "route_scale": float(scale) if number else 1.0,
        "d_dense": s.whole("intermediate_size"),
    }


def read_deepseek(s: FileSettings, scores: str = "sigmoid") -> Shape:
    s.only("moe_layer_freq", 1)
    mixer, lab = read_latents(s, s.flag("attention_bias"))
    experts = deepseek_experts(s)
    first = min(s.whole("first_k_dense_replace", 0), count_layers(s))
    ffn, more = sparse_from(s, first, experts)
    return decoder(s, mixer, ffn, lab=lab | more | lab_experts(s, experts) | read_groups(s, scores))


def read_indexed(s: FileSettings) -> Shape:
    """DeepSeek-V3.2 and GLM-5: an indexer compares a token with all others, and attention sees the best of them."""
    s.only("mlp_bias", False)
    s.only("moe_layer_freq", 1)
    d, layers = s.whole("hidden_size"), count_layers(s)
    heads, width, best = s.whole("index_n_heads"), s.whole("index_head_dim"), s.whole("index_topk")
    s.per_layer("layer_types", layers, {"indexed_attention": "sparse", "deepseek_sparse_attention": "sparse"}, all_full)
    of_layer, lab = read_latents(s, s.flag("attention_bias"))
    plain = of_layer(0)
    rank = s.whole("q_lora_rank")
    shared = replace(plain, kind="sparse", sees=best)  # uses the choice of a layer below
    own = Weights(rank * heads * width + d * width + d * heads)
    full = replace(
        shared,
        weights=Weights(plain.weights.matrices + own.matrices, plain.weights.others),
        norms=plain.norms + 2 * width,
        cache=plain.cache + width,
        vectors=plain.vectors + 1,
        scan=heads * (width + 1),  # a score by each head, and their weighted sum
    )
    usual = read_indexers(s) if s.kind == "glm_moe_dsa" else all_full
    modes = s.per_layer("indexer_types", layers, {"full": FULL, "shared": "shared"}, usual)
    ffn, more = sparse_by_words(s, deepseek_experts(s), s.whole("first_k_dense_replace", 0))
    return decoder(s, lambda i: full if modes[i] == FULL else shared, ffn, lab=lab | more)


def read_indexers(s: FileSettings) -> Callable[[int], str]:
    s.only("index_topk_pattern")
    every, offset = max(s.maybe("index_topk_freq", 0) or 1, 1), s.maybe("index_skip_topk_offset", 0)
    offset = 2 if offset is None else offset
    return lambda i: FULL if max(i - offset + 1, 0) % every == 0 else "shared"


# ---- DeepSeek-V4

COMPRESSED = {
    "sliding_attention": SLIDING,
    "compressed_sparse_attention": "sparse",
    "heavily_compressed_attention": "compressed",
}
RATIOS = {0: SLIDING, 4: "sparse", 128: "compressed"}  # compress_ratios of the makers' files


def read_deepseek_v4(s: FileSettings) -> Shape:
    """All layers see a window of single tokens; most see older tokens too, several to an entry of the cache: many
    tokens to an entry, all of which are seen, or a few, of which an indexer picks the best. A key is its own value,
    and all heads share it. Several streams of residuals are mixed by weights of their own (hyper-connections)."""
    for name, known in (("attention_bias", False), ("mlp_bias", False), ("n_shared_experts", 1)):
        s.only(name, known)
    s.only("num_key_value_heads", 1)
    s.only("scoring_func", "sqrtsoftplus", "softmax", "sigmoid")
    s.per_layer("mlp_layer_types", count_layers(s), {"hash_moe": "moe", "moe": "moe"}, all_full)  # weights are the same
    s.get("num_hash_layers"), s.get("expert_dtype"), s.get("qk_rope_head_dim")
    kinds = read_compressed(s)

    d, streams = s.whole("hidden_size"), s.whole("hc_mult", 1, 64)
    mixed = (2 + streams) * streams
    residuals = Weights(2 * mixed * streams * d, 2 * (mixed + 3))  # before attention, and before the experts
    own = read_shared_keys(s)
    weights = Weights(own.weights.matrices + residuals.matrices, own.weights.others + residuals.others)
    own = replace(own, weights=weights, step=2 * streams**2 * d)
    older = {kind: (read_compressor(s, own, kind),) for kind in ("sparse", "compressed")}

    expert = network(d, s.whole("moe_intermediate_size"))
    experts = replace(read_experts(s, "n_routed_experts"), shared=expert, n_shared=1)
    shape = decoder(s, lambda i: (own, *older.get(kinds[i], ())), lambda i: experts)
    return replace(shape, norms=shape.norms + streams * (streams * d + 1) + 1)  # where streams become one again


def read_compressed(s: FileSettings) -> list[str]:
    """Returns the kind of each layer, by layer_types or by the makers' own compress_ratios."""
    layers, ratios = count_layers(s), s.get("compress_ratios")
    if s.get("layer_types") is None and ratios is not None:
        good = isinstance(ratios, list) and len(ratios) >= layers
        if not good or any(type(ratio) is not int or ratio not in RATIOS for ratio in ratios):
            raise ValueError(f"{s.where}compress_ratios must list 0, 4 or 128 for each of {layers} layers")
        return [RATIOS[ratio] for ratio in ratios[:layers]]
    usual = lambda i: "sparse" if i > 1 and i % 2 else "compressed"  # noqa: E731
    return s.per_layer("layer_types", layers, COMPRESSED, usual)


def read_shared_keys(s: FileSettings) -> Mixer:
    d, heads, width = s.whole("hidden_size"), s.whole("num_attention_heads", 1, 2**14), s.whole("head_dim")
    rank, groups, out = s.whole("q_lora_rank"), s.whole("o_groups", 1, 2**14), s.whole("o_lora_rank")
    if heads * width % groups:
        raise ValueError(f"{s.where}o_groups={groups} must divide num_attention_heads × head_dim = {heads * width}")
    window = s.whole("sliding_window")
    return Mixer(
        kind=SLIDING,
        weights=Weights(d * rank + rank * heads * width + d * width + heads * width * out + groups * out * d, heads),
        norms=rank + width,
        heads=heads,
        kv_heads=1,
        key_dim=width,
        pair=2 * heads * width,
        sees=window,
        keeps=window,
        cache=width,
        vectors=1,
    )


def read_compressor(s: FileSettings, own: Mixer, kind: str) -> Mixer:
    """Returns what makes entries of several tokens each, and sees them. What it holds of tokens that do not fill an
    entry yet is not counted."""
    d, width, rates = s.whole("hidden_size"), own.key_dim, s.section("compress_rates")
    word = next(word for word, each in COMPRESSED.items() if each == kind)
    usual = {each: ratio for ratio, each in RATIOS.items()}[kind]
    rate = usual if rates is None else FileSettings(rates, s.kind, f"{s.where}compress_rates.").whole(word, 1, 2**16)
    plain = replace(own, kind=kind, sees=None, keeps=None, stride=rate, step=0)
    if kind == "compressed":
        return replace(plain, weights=Weights(2 * d * width, rate * width), norms=width)

    # Each token contributes to two entries. The indexer has a compressor of its own.
    heads, small, rank = s.whole("index_n_heads"), s.whole("index_head_dim"), s.whole("q_lora_rank")
    both = width + small
    return replace(
        plain,
        weights=Weights(4 * d * both + rank * heads * small + d * heads, 2 * rate * both),
        norms=both,
        sees=s.whole("index_topk"),
        cache=both,
        vectors=2,
        scan=heads * (small + 1),
    )


# ---- LongCat


def read_longcat(s: FileSettings) -> Shape:
    """LongCat-Flash (arXiv 2509.01322): a layer has attention and a dense network twice, and experts beside them, some
    of which compute nothing."""
    s.only("zero_expert_type", "identity")
    s.only("attention_method", "MLA")
    s.get("mla_scale_q_lora"), s.get("mla_scale_kv_lora"), s.whole("q_lora_rank")
    d, idle = s.whole("hidden_size"), s.maybe("zero_expert_num", 0, 2**14) or 0
    of_layer, _ = read_latents(s, s.flag("attention_bias"))
    mla, plain = of_layer(0), network(d, s.whole("ffn_hidden_size"))
    experts = read_experts(s, "n_routed_experts", "expert_ffn_hidden_size", "moe_topk")
    width = experts.n_experts + idle
    experts = replace(experts, router=Weights(d * width, width if s.flag("router_bias") else 0))
    dense = FeedForward(dense=Weights(2 * plain.matrices))
    shape = decoder(s, lambda i: (mla, mla), lambda i: (experts, dense), norms=4, layers=count_layers(s, "num_layers"))
    note = f"{idle} of {width} experts compute nothing: {experts.top_k} active experts are the most that a token takes"
    return replace(shape, left_out=(note,) if idle else ())
