"""Readers of models with experts, for `hf_types`."""

from collections.abc import Callable
from dataclasses import replace

from sparsity_lab.accounting.hf_deepseek import deepseek_experts, read_groups
from sparsity_lab.accounting.hf_dense import exaone4_kinds
from sparsity_lab.accounting.hf_layers import (
    FULL,
    SLIDING,
    Lab,
    all_full,
    as_dense_layer,
    bias_all,
    bias_qkv,
    count_layers,
    decoder,
    each,
    expert_decoder,
    lab_experts,
    read_attention,
    read_experts,
    read_heads,
    read_latents,
    read_network,
    read_windows,
    sparse_by_words,
    sparse_from,
)
from sparsity_lab.accounting.hf_settings import MOST_LAYERS, FileSettings
from sparsity_lab.accounting.shape import NOTHING, Block, FeedForward, Mixer, Shape, Weights, attention, network, tally

# ---- Decoders with experts


def qwen_sparse(s: FileSettings, experts: FeedForward) -> tuple[Callable[[int], FeedForward], Lab]:
    """Qwen's rule: every decoder_sparse_step-th layer has experts, unless mlp_only_layers lists it."""
    step, only = s.whole("decoder_sparse_step", 0) or 0, set(s.numbers("mlp_only_layers"))
    plain = as_dense_layer(read_network(s))
    lab = lab_experts(s, experts, moe_every=step or 1, d_dense=s.whole("intermediate_size"))
    return lambda i: experts if step and i not in only and (i + 1) % step == 0 else plain, lab


def read_qwen3_moe(s: FileSettings) -> Shape:
    windowed = s.flag("use_sliding_window")
    kinds = None if windowed else [FULL] * count_layers(s)
    mixer, lab = read_attention(s, kinds, bias=bias_all(s), qk_norm="head")
    ffn, more = qwen_sparse(s, read_experts(s, "num_experts"))
    return decoder(s, mixer, ffn, lab=lab | more)


def read_qwen2_moe(s: FileSettings) -> Shape:
    windowed, first = s.flag("use_sliding_window"), s.maybe("max_window_layers", 0) or 0
    kinds = read_windows(s, lambda i: SLIDING if windowed and not i % 2 and i < first else FULL)
    mixer, lab = read_attention(s, kinds if windowed else [FULL] * len(kinds), bias=bias_qkv(s, "qkv_bias"))
    shared = s.whole("shared_expert_intermediate_size")
    ffn, more = qwen_sparse(s, read_experts(s, "num_experts", shared=shared, shared_gate=True))
    return decoder(s, mixer, ffn, lab=lab | more)


def read_gpt_oss(s: FileSettings) -> Shape:
    experts = read_experts(s, "num_local_experts", "intermediate_size", bias=True, router_bias=True)
    s.only("experts_per_token", experts.top_k)
    return expert_decoder(s, experts, read_windows(s, each(2)), bias=bias_all(s), sinks=True)


def read_glm4_moe(s: FileSettings) -> Shape:
    norm = "head" if s.flag("use_qk_norm") else "none"
    mixer, lab = read_attention(s, [FULL] * count_layers(s), bias=bias_qkv(s), qk_norm=norm)
    experts = deepseek_experts(s)
    ffn, more = sparse_from(s, min(s.whole("first_k_dense_replace", 0), count_layers(s)), experts)
    return decoder(s, mixer, ffn, lab=lab | more | lab_experts(s, experts) | read_groups(s, "sigmoid"))


def read_glm4_moe_lite(s: FileSettings) -> Shape:
    mixer, lab = read_latents(s, s.flag("attention_bias"))
    ffn, more = sparse_by_words(s, deepseek_experts(s))
    return decoder(s, mixer, ffn, lab=lab | more | read_groups(s, "sigmoid"))


def read_dots1(s: FileSettings) -> Shape:
    windowed, first = s.maybe("sliding_window", 0) is not None, s.whole("max_window_layers", 0)
    kinds = read_windows(s, lambda i: SLIDING if windowed and i >= first else FULL)
    mixer, lab = read_attention(s, kinds, bias=bias_all(s), qk_norm="head")
    ffn, more = sparse_from(s, s.whole("first_k_dense_replace", 0), deepseek_experts(s))
    return decoder(s, mixer, ffn, lab=lab | more)


def read_ernie4_5_moe(s: FileSettings) -> Shape:
    bias, d = s.flag("use_bias"), s.whole("hidden_size")
    n, width = s.maybe("moe_num_shared_experts", 0, 2**14) or 0, s.whole("moe_intermediate_size")
    experts = read_experts(s, "moe_num_experts", top="moe_k", shared=n * width, n_shared=n)
    shared = network(d, n * width, bias=bias) if n else NOTHING
    experts = replace(experts, shared=shared, router=Weights(experts.router.matrices, experts.n_experts))
    layers, step = count_layers(s), s.whole("moe_layer_interval")
    start, end = s.whole("moe_layer_start_index", 0), s.whole("moe_layer_end_index", -1)
    end = layers - 1 if end == -1 else end
    plain = as_dense_layer(read_network(s, bias=bias))
    mixer, lab = read_attention(s, bias="all" if bias else "none")

    def ffn(i: int) -> FeedForward:
        return experts if (i + 1) % step == 0 and start <= i <= end else plain

    return decoder(s, mixer, ffn, head_bias=bias, lab=lab)


def read_llama4(s: FileSettings) -> Shape:
    layers, every = count_layers(s), s.whole("interleave_moe_layer_step")
    rope = s.numbers("no_rope_layers") or [int((i + 1) % s.whole("no_rope_layer_interval") != 0) for i in range(layers)]
    if len(rope) < layers:
        raise ValueError(f"{s.where}no_rope_layers has {len(rope)} entries for {layers} layers")
    s.get("use_qk_norm")  # a norm without weights
    chunk = s.maybe("attention_chunk_size", 0) or None
    words = {"full_attention": FULL, "chunked_attention": "chunked"}
    kinds = s.per_layer("layer_types", layers, words, lambda i: "chunked" if rope[i] else FULL)
    sparse = set(range(every - 1, layers, every)) if s.get("moe_layers") is None else set(s.numbers("moe_layers"))

    of_layer, lab = read_attention(s, [FULL] * layers, bias=bias_all(s))
    full = of_layer(0)
    chunked = full if chunk is None else replace(full, kind="chunked", sees=chunk, keeps=chunk)
    experts = read_experts(s, "num_local_experts", "intermediate_size", shared=s.whole("intermediate_size"))
    plain = as_dense_layer(read_network(s, width="intermediate_size_mlp"))
    return decoder(
        s,
        lambda i: chunked if kinds[i] == "chunked" else full,
        lambda i: experts if i in sparse else plain,
        lab=lab | lab_experts(s, experts, moe_every=every, d_dense=s.whole("intermediate_size_mlp")),
    )


def read_dbrx(s: FileSettings) -> Shape:
    own = {"attn_config": s.section("attn_config") or {}, "ffn_config": s.section("ffn_config") or {}}
    a, f = (FileSettings(own[name], s.kind, f"{s.where}{name}.") for name in own)
    f.get("ffn_act_fn"), a.get("clip_qkv"), a.get("rope_theta"), f.get("moe_jitter_eps"), f.get("moe_loss_weight")
    d, heads, kv_heads = s.whole("d_model"), s.whole("n_heads"), a.whole("kv_n_heads")
    mixer = attention(d, heads, kv_heads, d // heads)
    n, top_k, expert = f.whole("moe_num_experts"), f.whole("moe_top_k"), network(d, f.whole("ffn_hidden_size"))
    part = FeedForward(router=Weights(d * n), expert=expert, n_experts=n, top_k=top_k)
    a.refuse_unread()
    f.refuse_unread()
    lab = lab_experts(s, part, n_heads=heads, n_kv_heads=kv_heads, rope_base=a.get("rope_theta") or 10_000)
    return decoder(s, lambda i: mixer, lambda i: part, lab=lab)


def read_afmoe(s: FileSettings) -> Shape:
    kinds = read_windows(s, each(s.whole("global_attn_every_n_layers")))
    mixer, _ = read_attention(s, kinds, bias=bias_all(s), qk_norm="head", gate="full")
    experts = deepseek_experts(s, "num_experts", "num_shared_experts")
    experts = replace(experts, router=Weights(experts.router.matrices, experts.n_experts))
    ffn, _ = sparse_from(s, s.whole("num_dense_layers", 0), experts)
    return decoder(s, mixer, ffn, norms=4)


def read_exaone_moe(s: FileSettings) -> Shape:
    mixer, _ = read_attention(s, exaone4_kinds(s), qk_norm="head")
    experts = deepseek_experts(s, "num_experts", "num_shared_experts")
    ffn, _ = sparse_by_words(s, experts, s.whole("first_k_dense_replace", 0))
    return decoder(s, mixer, ffn)


def read_hy_v3(s: FileSettings) -> Shape:
    s.only("mlp_bias", False)
    s.whole("num_shared_experts")
    mixer, _ = read_attention(s, bias=bias_all(s), qk_norm="head")
    ffn, _ = sparse_by_words(s, deepseek_experts(s, "num_experts", "num_shared_experts"))
    return decoder(s, mixer, ffn)


def read_granitemoe(
    s: FileSettings, shared: bool = False, kinds: list[str] | None = None, sinks: bool = False
) -> Shape:
    beside = (s.maybe("shared_intermediate_size", 0) or 0) if shared else 0
    experts = read_experts(s, "num_local_experts", "intermediate_size", shared=beside)
    return expert_decoder(s, experts, kinds, bias=bias_all(s), sinks=sinks)


def read_minimax_m2(s: FileSettings) -> Shape:
    s.only("use_qk_norm", True)
    s.only("qk_norm_type", "per_layer")
    s.only("shared_intermediate_size", 0)
    s.get("shared_moe_mode")
    return expert_decoder(s, read_experts(s, "num_local_experts", "intermediate_size"), qk_norm="full")


def read_mellum(s: FileSettings) -> Shape:
    mixer, _ = read_attention(s, read_windows(s, all_full), bias=bias_all(s), qk_norm="head")
    ffn, _ = sparse_by_words(s, read_experts(s, "num_local_experts"), 0)
    return decoder(s, mixer, ffn)


def read_aria(s: FileSettings) -> Shape:
    n, width = s.whole("moe_num_shared_experts", 0), s.whole("intermediate_size")
    experts = read_experts(s, "moe_num_experts", "intermediate_size", "moe_topk", n_shared=n)
    shared = network(s.whole("hidden_size"), n * width, bias=s.flag("mlp_bias")) if n else NOTHING
    return expert_decoder(s, replace(experts, shared=shared), bias=bias_all(s))


def read_hunyuan_moe(s: FileSettings) -> Shape:
    """A shared network beside the experts. Numbers of experts may be listed by layer in the file."""
    for name in ("num_experts", "moe_topk"):
        if isinstance(listed := s.get(name), list) and listed and listed.count(listed[0]) == len(listed):
            s.values[name] = listed[0]
    s.only("use_qk_norm", True)
    s.only("use_mixed_mlp_moe", True)
    s.only("use_cla", False)
    s.only("num_shared_expert", 1, [1] * count_layers(s))
    width = s.whole("intermediate_size")
    s.only("moe_intermediate_size", width, [width] * count_layers(s))
    experts = read_experts(s, "num_experts", "intermediate_size", "moe_topk", shared=width)
    return expert_decoder(s, experts, bias=bias_all(s), qk_norm="head")


def read_mimo_v2(s: FileSettings) -> Shape:
    """MiMo-V2: most layers have a window, twice as many heads of keys and values, and sinks."""
    heads, kv_heads, width = read_heads(s)
    d, value, bias = s.whole("hidden_size"), s.whole("v_head_dim"), bias_qkv(s)
    before = s.maybe("sliding_window_size")  # tokens before the one that sees them
    window = s.whole("sliding_window") if before is None else before + 1
    full = attention(d, heads, kv_heads, width, value, bias=bias)
    sliding = attention(d, heads, 2 * kv_heads, width, value, bias=bias, others=heads, kind=SLIDING, window=window)
    kinds = read_windows(s, lambda i: FULL if i == 0 or (i + 1) % 6 == 0 else SLIDING)
    ffn, _ = sparse_by_words(s, read_experts(s, "n_routed_experts"))

    # The makers' file says this in names of its own, which the class does not read.
    s.only("swa_num_attention_heads", heads)
    s.only("swa_num_key_value_heads", 2 * kv_heads)
    s.only("swa_head_dim", width)
    s.only("swa_v_head_dim", value)
    s.only("hybrid_layer_pattern", [int(kind == SLIDING) for kind in kinds])
    s.only("moe_layer_freq", [int(i > 0) for i in range(count_layers(s))])
    s.only("add_swa_attention_sink_bias", True)
    s.only("add_full_attention_sink_bias", False)
    s.only("attention_chunk_size", before)
    s.only("n_shared_experts", 0)
    return decoder(s, lambda i: full if kinds[i] == FULL else sliding, ffn)


# ---- Encoder-decoders


def read_switch(s: FileSettings) -> Shape:
    """Switch Transformer (arXiv 2101.03961): T5 with experts in some layers of both halves."""
    s.only("is_gated_act", False)
    s.only("dense_act_fn", "relu")
    s.only("feed_forward_proj", "relu")
    d, vocab, heads, width = s.whole("d_model"), s.whole("vocab_size"), s.whole("num_heads"), s.whole("d_kv")
    n, buckets, hidden = s.whole("num_experts"), s.whole("relative_attention_num_buckets"), s.whole("d_ff")
    own = attention(d, heads, heads, width)
    expert = network(d, hidden, gated=False)
    router = Weights(d * n, n if s.flag("router_bias") else 0)
    experts = FeedForward(router=router, expert=expert, n_experts=n, top_k=1)
    plain = FeedForward(dense=expert)

    def half(name: str, layers: int, mixers: tuple[Mixer, ...]) -> tuple[tuple[Block, int], ...]:
        sparse = s.whole(f"num_sparse_{name}_layers", 0, MOST_LAYERS)
        step = s.maybe(f"{name}_sparse_step", 0)
        if step is None:
            step = layers // sparse if sparse else layers
        return tally(
            Block(
                mixers=mixers,
                feed_forwards=(experts if step == 1 or (step and i % step == 1) else plain,),
                norms=(len(mixers) + 1) * d,
            )
            for i in range(layers)
        )

    layers = count_layers(s, "num_layers")
    decoder = s.maybe("num_decoder_layers", 1, MOST_LAYERS) or layers
    tied = s.flag("tie_word_embeddings")
    return Shape(
        kind=s.kind,
        vocab_size=vocab,
        context=s.maybe("n_positions") or 512,
        d_model=d,
        layers=half("decoder", decoder, (own, replace(own, kind="cross"))),
        encoder=half("encoder", layers, (own,)),
        embedding=0 if tied else vocab * d,
        head=Weights(vocab * d),
        norms=2 * d,
        positions=2 * buckets * heads,
    )
