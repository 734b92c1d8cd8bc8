"""The types of models that are understood: for each model_type of a ``config.json``, what its layers are made of.

A reader turns `Settings` into a `Shape`. Most types are decoders that differ in a few ways, which `_decoder` takes by
name; types with other layers give a function from a layer's number to its mixer or its feed-forward part. Tests build
every type with transformers and compare.
"""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sparsity_lab.accounting.hf_settings import MOST_LAYERS, Settings
from sparsity_lab.accounting.shape import (
    NOTHING,
    FeedForward,
    Layer,
    Mixer,
    Shape,
    Weights,
    attention,
    latent_attention,
    network,
    tally,
)
from sparsity_lab.config import LARGEST

Lab = dict[str, Any]  # fields of the lab's ModelConfig that say what a file says
Reader = Callable[[Settings], Shape]

NO_GROUPS = {"persimmon", "gpt_neox", "gpt2", "gptj", "codegen"}  # as many heads of keys and values as of queries
SPLIT_EVENLY = NO_GROUPS | {"helium", "stablelm", "olmoe", "gpt_bigcode"}  # whose heads are as wide as hidden_size / heads

FULL, SLIDING = "full", "sliding"
WORDS = {"full_attention": FULL, "attention": FULL, "sliding_attention": SLIDING}
LINEAR = {"full_attention": FULL, "attention": FULL, "linear_attention": "linear", "mamba": "linear"}

# How DeepSeek-V3 (arXiv 2412.19437, section 4.2) and GLM-4.5 (arXiv 2508.06471, section 2.4) balance the load for most
# of their training. Reports say this, config files don't. Kimi-K2, whose router is V3's, is taken to do the same. Their
# loss of 0.0001 is computed for each sequence, the lab's for the batch.
BY_BIAS: Lab = {"router": "sigmoid", "bias_rate": 0.001, "balance_loss": 1e-4, "z_loss": 0.0}


# ---- What decoders share


def _layers(s: Settings, name: str = "num_hidden_layers") -> int:
    return s.whole(name, 1, MOST_LAYERS)


def _decoder(
    s: Settings,
    mixer: Callable[[int], Mixer | tuple[Mixer, ...]],
    ffn: Callable[[int], FeedForward | tuple[FeedForward, ...]],
    *,
    norm: float = 1,
    norms: float = 2,
    context: str | None = "max_position_embeddings",
    layers: int | None = None,
    head_bias: bool = False,
    positions: int = 0,
    final: int | None = None,
    lab: Lab | None = None,
) -> Shape:
    """Returns a decoder whose layers have ``norms`` norms of ``norm`` vectors (1, 2 with a bias, or 0)."""
    d, vocab, n = s.whole("hidden_size"), s.whole("vocab_size"), layers or _layers(s)
    tied = s.flag("tie_word_embeddings")

    def layer(i: int) -> Layer:
        mixers, parts = mixer(i), ffn(i)
        return Layer(
            mixers=mixers if isinstance(mixers, tuple) else (mixers,),
            feed_forwards=parts if isinstance(parts, tuple) else (parts,),
            norms=round(norms * norm * d),
        )

    length = (s.maybe(context) if context else None) or 2**20
    return Shape(
        kind=s.kind,
        vocab_size=vocab,
        context=length,
        d_model=d,
        layers=tally(layer(i) for i in range(n)),
        embedding=(0 if tied else vocab * d) + positions * d,
        head=Weights(vocab * d, vocab if head_bias else 0),
        norms=round((norm if final is None else final) * d),
        lab={
            "vocab_size": vocab,
            "context": length,
            "d_model": d,
            "n_layers": n,
            "tied_embeddings": tied,
            "rope_base": _rope_base(s),
            "qk_norm": "none",
            **(lab or {}),
        },
    )


def _rope_base(s: Settings) -> float:
    theta, nested = s.get("rope_theta"), s.get("rope_parameters")
    if theta is None and isinstance(nested, dict):
        theta = nested.get("rope_theta")
    if theta is None:
        return 10_000.0
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 0 < theta < LARGEST:
        raise ValueError(f"{s.where}rope_theta={reprlib.repr(theta)} must be a positive number")
    return float(theta)


def _heads(s: Settings) -> tuple[int, int, int]:
    """Returns the number of heads, of key-value heads, and the width of a head."""
    heads = s.whole("num_attention_heads", 1, 2**14)
    if s.kind in SPLIT_EVENLY:
        if s.whole("hidden_size") % heads:
            raise ValueError(f"{s.where}num_attention_heads={heads} must divide hidden_size={s.whole('hidden_size')}")
        s.only("head_dim", s.whole("hidden_size") // heads)
    if s.kind in NO_GROUPS:
        s.only("num_key_value_heads", heads)
    kv_heads = s.maybe("num_key_value_heads", 1, 2**14) or heads
    if heads % kv_heads:
        raise ValueError(f"{s.where}num_key_value_heads={kv_heads} must divide num_attention_heads={heads}")
    width = s.maybe("head_dim") or s.whole("hidden_size") // heads
    if not width:
        raise ValueError(f"{s.where}num_attention_heads={heads} is more than hidden_size={s.whole('hidden_size')}")
    return heads, kv_heads, width


def _windows(s: Settings, usual: Callable[[int], str], layers: int | None = None) -> list[str]:
    """Returns which layers see all tokens and which a window, by layer_types or by the type's usual pattern."""
    return s.per_layer("layer_types", layers or _layers(s), WORDS, usual)


def _attention(
    s: Settings,
    kinds: list[str] | None = None,
    *,
    bias: str = "none",
    qk_norm: str = "none",
    sinks: bool = False,
    gate: str = "none",
    others: int = 0,
) -> tuple[Callable[[int], Mixer], Lab]:
    """Returns multi-head attention for each layer, and what of it the lab's ModelConfig can say.

    ``kinds``: full or sliding, by layer; if not given, all layers have the sliding_window, if there is one. ``qk_norm``:
    norms of queries and keys, per head (head, or head_bias with a bias) or over all heads (full). ``gate``: a gate on
    the output, of each of its numbers (full).
    """
    d, (heads, kv_heads, width) = s.whole("hidden_size"), _heads(s)
    window = s.maybe("sliding_window", 0) or None
    norms = {"none": 0, "head": 2 * width, "head_bias": 4 * width, "full": (heads + kv_heads) * width}[qk_norm]
    plain = attention(
        d,
        heads,
        kv_heads,
        width,
        bias=bias,
        norm=norms,
        gate=heads * width if gate == "full" else 0,
        others=others + (heads if sinks else 0),
    )
    sliding = plain if window is None else replace(plain, kind=SLIDING, sees=window, keeps=window)
    same = all(kind == SLIDING for kind in kinds) if kinds else True
    lab: Lab = {
        "n_heads": heads,
        "n_kv_heads": None if kv_heads == heads else kv_heads,
        "d_head": None if width * heads == d else width,
        "window": window if same else None,
        "qk_norm": qk_norm if qk_norm in ("head", "full") else "none",
    }
    return lambda i: plain if kinds and kinds[i] == FULL else sliding, lab


def _mla(s: Settings, bias: bool = False) -> tuple[Callable[[int], Mixer], Lab]:
    d, heads = s.whole("hidden_size"), s.whole("num_attention_heads", 1, 2**14)
    s.get("num_key_value_heads"), s.get("head_dim"), s.get("qk_head_dim")  # MLA has its own widths
    q_rank, kv_rank = s.maybe("q_lora_rank"), s.whole("kv_lora_rank")
    nope, rope, value = s.whole("qk_nope_head_dim", 0), s.whole("qk_rope_head_dim"), s.maybe("v_head_dim")
    value = d // heads if value is None else value  # by MiniCPM3's class; the others have a width
    biases = ((q_rank or 0) + kv_rank + rope + d) if bias else 0
    mixer = latent_attention(d, heads, q_rank, kv_rank, nope, rope, value, bias=biases)
    lab: Lab = {
        "n_heads": heads,
        "d_head": None if d % (2 * heads) == 0 else 2,  # which MLA does not use
        "kv_lora_rank": kv_rank,
        "q_lora_rank": q_rank,
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": value,
    }
    return lambda i: mixer, lab


def _one(weights: Weights) -> FeedForward:
    """A dense model's feed-forward part: one expert, no router."""
    return FeedForward(expert=weights, n_experts=1, top_k=1)


def _dense(s: Settings, gated: bool = True, bias: bool = False, width: str = "intermediate_size") -> FeedForward:
    return _one(network(s.whole("hidden_size"), s.whole(width), gated, bias))


def _experts(
    s: Settings,
    count: str,
    width: str = "moe_intermediate_size",
    top: str = "num_experts_per_tok",
    *,
    shared: int = 0,
    n_shared: int = 0,
    shared_gate: bool = False,
    bias: bool = False,
    router_bias: bool = False,
    gated: bool = True,
) -> FeedForward:
    """Reads the experts. ``count``, ``width`` and ``top`` are the settings that hold their number, their hidden width
    and how many are active; ``shared`` is the hidden width of all shared experts together."""
    d, n = s.whole("hidden_size"), s.whole(count, 1, 2**14)
    top_k = s.whole(top, 1, 2**14)
    if top_k > n:
        raise ValueError(f"{s.where}{top}={top_k} is more than {count}={n}")
    beside = network(d, shared, gated) if shared else NOTHING
    return FeedForward(
        shared=Weights(beside.matrices + (d if shared_gate else 0), beside.others),
        router=Weights(d * n, n if router_bias else 0),
        expert=network(d, s.whole(width), gated, bias),
        n_experts=n,
        top_k=top_k,
        n_shared=n_shared or (1 if shared else 0),
    )


def _sparse_from(s: Settings, first: int, experts: FeedForward, **dense: Any) -> tuple[Callable[[int], FeedForward], Lab]:
    """Returns dense layers up to ``first``, and experts from there on."""
    plain = _plain(_dense(s, **dense))
    return lambda i: plain if i < first else experts, {"n_dense_layers": first}


def _plain(part: FeedForward) -> FeedForward:
    """The same network as a dense layer of a model that has experts elsewhere."""
    return FeedForward(dense=part.expert)


def _lab_experts(s: Settings, experts: FeedForward, **more: Any) -> Lab:
    d = s.whole("hidden_size")
    lab: Lab = {"n_experts": experts.n_experts, "top_k": experts.top_k, "n_shared_experts": experts.n_shared}
    return lab | {"d_expert": experts.expert.matrices // (3 * d)} | more


def _lab_dense(part: FeedForward, s: Settings) -> Lab:
    return {"d_expert": part.expert.matrices // (3 * s.whole("hidden_size"))}


def _simple(
    s: Settings, kinds: list[str] | None = None, *, gated: bool = True, mlp_bias: bool = False, norm: float = 1,
    norms: float = 2, head_bias: bool = False, final: int | None = None, **own: Any,
) -> Shape:  # fmt: skip
    """A dense decoder; ``own`` goes to `_attention`."""
    mixer, lab = _attention(s, kinds, **own)
    part = _dense(s, gated, mlp_bias)
    lab |= _lab_dense(part, s)
    return _decoder(s, mixer, lambda i: part, norm=norm, norms=norms, head_bias=head_bias, final=final, lab=lab)


def _moe(s: Settings, experts: FeedForward, kinds: list[str] | None = None, *, norm: float = 1, norms: float = 2,
         head_bias: bool = False, **own: Any) -> Shape:  # fmt: skip
    """A decoder with experts in every layer; ``own`` goes to `_attention`."""
    mixer, lab = _attention(s, kinds, **own)
    lab |= _lab_experts(s, experts)
    return _decoder(s, mixer, lambda i: experts, norm=norm, norms=norms, head_bias=head_bias, lab=lab)


def _all(s: Settings, name: str = "attention_bias") -> str:
    return "all" if s.flag(name) else "none"


def _qkv(s: Settings, name: str = "attention_bias") -> str:
    return "qkv" if s.flag(name) else "none"


def _every(n: int, first: bool = False) -> Callable[[int], str]:
    """Every ``n``-th layer sees all tokens: the first of each n, or the last. 0: none does."""
    return lambda i: FULL if n and (i if first else i + 1) % n == 0 else SLIDING


def _full(i: int) -> str:
    return FULL


# ---- Dense decoders


def _llama(s: Settings) -> Shape:
    return _simple(s, [FULL] * _layers(s), bias=_all(s), mlp_bias=s.flag("mlp_bias"))


def _qwen_kinds(s: Settings) -> list[str]:
    """Qwen2 and Qwen3: layers from max_window_layers on have a window, if use_sliding_window says so."""
    used, first = s.flag("use_sliding_window"), s.maybe("max_window_layers", 0) or 0
    windowed = used and s.maybe("sliding_window", 0) is not None
    kinds = _windows(s, lambda i: SLIDING if windowed and i >= first else FULL)
    return kinds if windowed else [FULL] * len(kinds)


def _qwen2(s: Settings) -> Shape:
    return _simple(s, _qwen_kinds(s), bias="qkv")


def _qwen3(s: Settings) -> Shape:
    return _simple(s, _qwen_kinds(s), bias=_all(s), qk_norm="head")


def _smollm3(s: Settings) -> Shape:
    used, interval = s.flag("use_sliding_window"), s.whole("no_rope_layer_interval")
    rope = s.numbers("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(_layers(s))]
    if len(rope) < _layers(s):
        raise ValueError(f"{s.where}no_rope_layers has {len(rope)} entries for {_layers(s)} layers")
    kinds = _windows(s, lambda i: SLIDING if used and not rope[i] else FULL)
    return _simple(s, kinds if used else [FULL] * len(kinds), bias=_all(s), mlp_bias=s.flag("mlp_bias"))


def _gemma(s: Settings, kinds: list[str] | None = None, **own: Any) -> Shape:
    return _simple(s, kinds, bias=_all(s), **own)


def _gemma3(s: Settings) -> Shape:
    pattern = s.maybe("sliding_window_pattern") or s.maybe("_sliding_window_pattern") or 6
    s.only("use_bidirectional_attention", False)
    return _gemma(s, _windows(s, _every(pattern)), qk_norm="head", norms=4)


def _exaone4_kinds(s: Settings) -> list[str]:
    if s.get("layer_types") is not None:
        s.get("sliding_window_pattern")  # may be letters here
        return _windows(s, _full)
    if s.maybe("sliding_window", 0) is None:
        return [FULL] * _layers(s)
    return _windows(s, _every(s.whole("sliding_window_pattern", 0)))


def _cohere(s: Settings) -> Shape:
    heads, kv_heads, width = _heads(s)
    norm = (heads + kv_heads) * width if s.flag("use_qk_norm") else 0
    shape = _simple(s, [FULL] * _layers(s), bias=_all(s), norms=1)
    return _with_norms(shape, norm)


def _with_norms(shape: Shape, norm: int) -> Shape:
    """Gives every mixer norms of ``norm`` weights."""
    layers = (
        (replace(layer, mixers=tuple(replace(mixer, norms=norm) for mixer in layer.mixers)), times)
        for layer, times in shape.layers
    )
    return replace(shape, layers=tuple(layers))


def _stablelm(s: Settings) -> Shape:
    heads, kv_heads, width = _heads(s)
    norms = 1 if s.flag("use_parallel_residual") else 2
    shape = _simple(s, [FULL] * _layers(s), bias=_qkv(s, "use_qkv_bias"), norm=2, norms=norms)
    return _with_norms(shape, (heads + kv_heads) * width if s.flag("qk_layernorm") else 0)


def _phi(s: Settings) -> Shape:
    norm = "head_bias" if s.flag("qk_layernorm") else "none"
    return _simple(s, bias="all", gated=False, mlp_bias=True, norm=2, norms=1, head_bias=True, qk_norm=norm)


def _inner(s: Settings) -> FeedForward:
    """GPT-2's network, by default four times as wide as the model."""
    d = s.whole("hidden_size")
    return _one(network(d, s.maybe("n_inner") or 4 * d, gated=False, bias=True))


def _gpt2(s: Settings) -> Shape:
    s.only("add_cross_attention", False)
    mixer, _ = _attention(s, bias="all")
    part = _inner(s)
    return _decoder(s, mixer, lambda i: part, norm=2, positions=s.whole("n_positions"))


def _gpt_bigcode(s: Settings) -> Shape:
    s.only("add_cross_attention", False)
    d, (heads, _, width) = s.whole("hidden_size"), _heads(s)
    plain = attention(d, heads, 1 if s.flag("multi_query") else heads, width, bias="all")
    part = _inner(s)
    return _decoder(s, lambda i: plain, lambda i: part, norm=2, positions=s.whole("n_positions"))


def _gptj(s: Settings) -> Shape:
    mixer, _ = _attention(s)
    part = _inner(s)
    return _decoder(s, mixer, lambda i: part, norm=2, norms=1, head_bias=True)


def _mla_dense(s: Settings) -> Shape:
    mixer, lab = _mla(s, s.flag("attention_bias"))
    part = _dense(s)
    return _decoder(s, mixer, lambda i: part, lab=lab | _lab_dense(part, s))


# ---- Decoders with experts


def _qwen_sparse(s: Settings, experts: FeedForward) -> tuple[Callable[[int], FeedForward], Lab]:
    """Qwen's rule: every decoder_sparse_step-th layer has experts, unless mlp_only_layers lists it."""
    step, only = s.whole("decoder_sparse_step", 0) or 0, set(s.numbers("mlp_only_layers"))
    plain = _plain(_dense(s))
    lab = _lab_experts(s, experts, moe_every=step or 1, d_dense=s.whole("intermediate_size"))
    return lambda i: experts if step and i not in only and (i + 1) % step == 0 else plain, lab


def _qwen3_moe(s: Settings) -> Shape:
    windowed = s.flag("use_sliding_window")
    kinds = None if windowed else [FULL] * _layers(s)
    mixer, lab = _attention(s, kinds, bias=_all(s), qk_norm="head")
    ffn, more = _qwen_sparse(s, _experts(s, "num_experts"))
    return _decoder(s, mixer, ffn, lab=lab | more)


def _qwen2_moe(s: Settings) -> Shape:
    windowed, first = s.flag("use_sliding_window"), s.maybe("max_window_layers", 0) or 0
    kinds = _windows(s, lambda i: SLIDING if windowed and not i % 2 and i < first else FULL)
    mixer, lab = _attention(s, kinds if windowed else [FULL] * len(kinds), bias=_qkv(s, "qkv_bias"))
    shared = s.whole("shared_expert_intermediate_size")
    ffn, more = _qwen_sparse(s, _experts(s, "num_experts", shared=shared, shared_gate=True))
    return _decoder(s, mixer, ffn, lab=lab | more)


def _gpt_oss(s: Settings) -> Shape:
    experts = _experts(s, "num_local_experts", "intermediate_size", bias=True, router_bias=True)
    s.only("experts_per_token", experts.top_k)
    return _moe(s, experts, _windows(s, _every(2)), bias=_all(s), sinks=True)


def _deepseek_experts(s: Settings, count: str = "n_routed_experts", shared: str = "n_shared_experts") -> FeedForward:
    """Reads experts by DeepSeek's names."""
    n = s.maybe(shared, 0, 2**14) or 0
    return _experts(s, count, shared=n * s.whole("moe_intermediate_size"), n_shared=n)


def _groups(s: Settings, scores: str) -> Lab:
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


def _deepseek(s: Settings, scores: str = "sigmoid") -> Shape:
    s.only("moe_layer_freq", 1)
    mixer, lab = _mla(s, s.flag("attention_bias"))
    experts = _deepseek_experts(s)
    first = min(s.whole("first_k_dense_replace", 0), _layers(s))
    ffn, more = _sparse_from(s, first, experts)
    return _decoder(s, mixer, ffn, lab=lab | more | _lab_experts(s, experts) | _groups(s, scores))


def _indexed(s: Settings) -> Shape:
    """DeepSeek-V3.2 and GLM-5: an indexer compares a token with all others, and attention sees the best of them."""
    s.only("mlp_bias", False)
    s.only("moe_layer_freq", 1)
    d, layers = s.whole("hidden_size"), _layers(s)
    heads, width, best = s.whole("index_n_heads"), s.whole("index_head_dim"), s.whole("index_topk")
    s.per_layer("layer_types", layers, {"indexed_attention": "sparse", "deepseek_sparse_attention": "sparse"}, _full)
    of_layer, lab = _mla(s, s.flag("attention_bias"))
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
    usual = _indexers(s) if s.kind == "glm_moe_dsa" else _full
    modes = s.per_layer("indexer_types", layers, {"full": FULL, "shared": "shared"}, usual)
    ffn, more = _by_words(s, _deepseek_experts(s), s.whole("first_k_dense_replace", 0))
    return _decoder(s, lambda i: full if modes[i] == FULL else shared, ffn, lab=lab | more)


def _indexers(s: Settings) -> Callable[[int], str]:
    s.only("index_topk_pattern")
    every, offset = max(s.maybe("index_topk_freq", 0) or 1, 1), s.maybe("index_skip_topk_offset", 0)
    offset = 2 if offset is None else offset
    return lambda i: FULL if max(i - offset + 1, 0) % every == 0 else "shared"


def _by_words(
    s: Settings, experts: FeedForward, dense: int | None = None, **plain: Any
) -> tuple[Callable[[int], FeedForward], Lab]:
    """Returns dense and sparse layers as mlp_layer_types lists them; if it is left out, the first ``dense`` are dense."""
    first = 1 if dense is None else dense
    words = {"dense": "dense", "sparse": "sparse"}
    kinds = s.per_layer("mlp_layer_types", _layers(s), words, lambda i: "dense" if i < first else "sparse")
    network_ = _plain(_dense(s, **plain))
    return lambda i: experts if kinds[i] == "sparse" else network_, _lab_experts(s, experts, n_dense_layers=first)


def _glm4_moe(s: Settings) -> Shape:
    norm = "head" if s.flag("use_qk_norm") else "none"
    mixer, lab = _attention(s, [FULL] * _layers(s), bias=_qkv(s), qk_norm=norm)
    experts = _deepseek_experts(s)
    ffn, more = _sparse_from(s, min(s.whole("first_k_dense_replace", 0), _layers(s)), experts)
    return _decoder(s, mixer, ffn, lab=lab | more | _lab_experts(s, experts) | _groups(s, "sigmoid"))


def _glm4_moe_lite(s: Settings) -> Shape:
    mixer, lab = _mla(s, s.flag("attention_bias"))
    ffn, more = _by_words(s, _deepseek_experts(s))
    return _decoder(s, mixer, ffn, lab=lab | more | _groups(s, "sigmoid"))


def _dots1(s: Settings) -> Shape:
    windowed, first = s.maybe("sliding_window", 0) is not None, s.whole("max_window_layers", 0)
    kinds = _windows(s, lambda i: SLIDING if windowed and i >= first else FULL)
    mixer, lab = _attention(s, kinds, bias=_all(s), qk_norm="head")
    ffn, more = _sparse_from(s, s.whole("first_k_dense_replace", 0), _deepseek_experts(s))
    return _decoder(s, mixer, ffn, lab=lab | more)


def _ernie4_5_moe(s: Settings) -> Shape:
    bias, d = s.flag("use_bias"), s.whole("hidden_size")
    n, width = s.maybe("moe_num_shared_experts", 0, 2**14) or 0, s.whole("moe_intermediate_size")
    experts = _experts(s, "moe_num_experts", top="moe_k", shared=n * width, n_shared=n)
    shared = network(d, n * width, bias=bias) if n else NOTHING
    experts = replace(experts, shared=shared, router=Weights(experts.router.matrices, experts.n_experts))
    layers, step = _layers(s), s.whole("moe_layer_interval")
    start, end = s.whole("moe_layer_start_index", 0), s.whole("moe_layer_end_index", -1)
    end = layers - 1 if end == -1 else end
    plain = _plain(_dense(s, bias=bias))
    mixer, lab = _attention(s, bias="all" if bias else "none")

    def ffn(i: int) -> FeedForward:
        return experts if (i + 1) % step == 0 and start <= i <= end else plain

    return _decoder(s, mixer, ffn, head_bias=bias, lab=lab)


def _llama4(s: Settings) -> Shape:
    layers, every = _layers(s), s.whole("interleave_moe_layer_step")
    rope = s.numbers("no_rope_layers") or [int((i + 1) % s.whole("no_rope_layer_interval") != 0) for i in range(layers)]
    if len(rope) < layers:
        raise ValueError(f"{s.where}no_rope_layers has {len(rope)} entries for {layers} layers")
    s.get("use_qk_norm")  # a norm without weights
    chunk = s.maybe("attention_chunk_size", 0) or None
    words = {"full_attention": FULL, "chunked_attention": "chunked"}
    kinds = s.per_layer("layer_types", layers, words, lambda i: "chunked" if rope[i] else FULL)
    sparse = set(range(every - 1, layers, every)) if s.get("moe_layers") is None else set(s.numbers("moe_layers"))

    of_layer, lab = _attention(s, [FULL] * layers, bias=_all(s))
    full = of_layer(0)
    chunked = full if chunk is None else replace(full, kind="chunked", sees=chunk, keeps=chunk)
    experts = _experts(s, "num_local_experts", "intermediate_size", shared=s.whole("intermediate_size"))
    plain = _plain(_dense(s, width="intermediate_size_mlp"))
    return _decoder(
        s,
        lambda i: chunked if kinds[i] == "chunked" else full,
        lambda i: experts if i in sparse else plain,
        lab=lab | _lab_experts(s, experts, moe_every=every, d_dense=s.whole("intermediate_size_mlp")),
    )


def _dbrx(s: Settings) -> Shape:
    own = {"attn_config": s.section("attn_config") or {}, "ffn_config": s.section("ffn_config") or {}}
    a, f = (Settings(own[name], s.kind, f"{s.where}{name}.") for name in own)
    f.get("ffn_act_fn"), a.get("clip_qkv"), a.get("rope_theta"), f.get("moe_jitter_eps"), f.get("moe_loss_weight")
    d, heads, kv_heads = s.whole("d_model"), s.whole("n_heads"), a.whole("kv_n_heads")
    mixer = attention(d, heads, kv_heads, d // heads)
    n, top_k, expert = f.whole("moe_num_experts"), f.whole("moe_top_k"), network(d, f.whole("ffn_hidden_size"))
    part = FeedForward(router=Weights(d * n), expert=expert, n_experts=n, top_k=top_k)
    a.refuse_unread()
    f.refuse_unread()
    lab = _lab_experts(s, part, n_heads=heads, n_kv_heads=kv_heads, rope_base=a.get("rope_theta") or 10_000)
    return _decoder(s, lambda i: mixer, lambda i: part, lab=lab)


def _afmoe(s: Settings) -> Shape:
    kinds = _windows(s, _every(s.whole("global_attn_every_n_layers")))
    mixer, _ = _attention(s, kinds, bias=_all(s), qk_norm="head", gate="full")
    experts = _deepseek_experts(s, "num_experts", "num_shared_experts")
    experts = replace(experts, router=Weights(experts.router.matrices, experts.n_experts))
    ffn, _ = _sparse_from(s, s.whole("num_dense_layers", 0), experts)
    return _decoder(s, mixer, ffn, norms=4)


def _exaone_moe(s: Settings) -> Shape:
    mixer, _ = _attention(s, _exaone4_kinds(s), qk_norm="head")
    experts = _deepseek_experts(s, "num_experts", "num_shared_experts")
    ffn, _ = _by_words(s, experts, s.whole("first_k_dense_replace", 0))
    return _decoder(s, mixer, ffn)


def _hy_v3(s: Settings) -> Shape:
    s.only("mlp_bias", False)
    s.whole("num_shared_experts")
    mixer, _ = _attention(s, bias=_all(s), qk_norm="head")
    ffn, _ = _by_words(s, _deepseek_experts(s, "num_experts", "num_shared_experts"))
    return _decoder(s, mixer, ffn)


def _granitemoe(s: Settings, shared: bool = False, kinds: list[str] | None = None, sinks: bool = False) -> Shape:
    beside = (s.maybe("shared_intermediate_size", 0) or 0) if shared else 0
    experts = _experts(s, "num_local_experts", "intermediate_size", shared=beside)
    return _moe(s, experts, kinds, bias=_all(s), sinks=sinks)


def _minimax_m2(s: Settings) -> Shape:
    s.only("use_qk_norm", True)
    s.only("qk_norm_type", "per_layer")
    s.only("shared_intermediate_size", 0)
    s.get("shared_moe_mode")
    return _moe(s, _experts(s, "num_local_experts", "intermediate_size"), qk_norm="full")


def _mellum(s: Settings) -> Shape:
    mixer, _ = _attention(s, _windows(s, _full), bias=_all(s), qk_norm="head")
    ffn, _ = _by_words(s, _experts(s, "num_local_experts"), 0)
    return _decoder(s, mixer, ffn)


def _aria(s: Settings) -> Shape:
    n, width = s.whole("moe_num_shared_experts", 0), s.whole("intermediate_size")
    experts = _experts(s, "moe_num_experts", "intermediate_size", "moe_topk", n_shared=n)
    shared = network(s.whole("hidden_size"), n * width, bias=s.flag("mlp_bias")) if n else NOTHING
    return _moe(s, replace(experts, shared=shared), bias=_all(s))


# ---- Recurrences in place of attention


def _recurrent(kind: str, matrices: int, others: int, norms: int, state: int, step: int) -> Mixer:
    return Mixer(kind=kind, weights=Weights(matrices, others), norms=norms, state=state, step=step)


def _delta_net(s: Settings) -> Mixer:
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
    return _recurrent("linear", matrices, 2 * heads, value, state + channels * kernel, 3 * state)


def _kinds(s: Settings, usual: Callable[[int], str], words: Mapping[str, str] = LINEAR) -> list[str]:
    return s.per_layer("layer_types", _layers(s), dict(words), usual)


def _qwen3_next(s: Settings, sparse: bool = True, shared: bool = True) -> Shape:
    every = s.maybe("full_attention_interval") or 4
    kinds = _kinds(s, lambda i: FULL if (i + 1) % every == 0 else "linear")
    s.only("use_sliding_window", False)
    s.only("attn_output_gate", True)
    heads, _, width = _heads(s)
    gate_bias = heads * width if s.flag("attention_bias") else 0
    of_layer, _ = _attention(s, [FULL] * _layers(s), bias=_all(s), qk_norm="head", gate="full", others=gate_bias)
    full, linear = of_layer(0), _delta_net(s)
    if sparse:
        width = s.whole("shared_expert_intermediate_size")
        experts = _experts(s, "num_experts", shared=width, shared_gate=True)
        ffn = _qwen_sparse(s, experts)[0] if s.kind == "qwen3_next" else lambda i: experts
    else:
        part = _dense(s)
        ffn = lambda i: part  # noqa: E731
    return _decoder(s, lambda i: full if kinds[i] == FULL else linear, ffn)


def _olmo_hybrid(s: Settings) -> Shape:
    last = _layers(s) - 1  # sees all in a model of fewer than four layers
    kinds = _kinds(s, lambda i: FULL if i % 4 == 3 or i == last < 3 else "linear")
    full, _ = _attention(s, [FULL] * _layers(s), bias=_all(s), qk_norm="full")
    linear, part = _delta_net(s), _dense(s)
    return _decoder(s, lambda i: full(i) if kinds[i] == FULL else linear, lambda i: part)


def _kimi_linear(s: Settings) -> Shape:
    """Kimi Delta Attention (arXiv 2510.26692) in most layers, MLA in the others."""
    s.only("tie_word_embeddings", False)
    nested = s.section("linear_attn_config") or {}
    own = Settings(nested, "linear_attn_config", f"{s.where}linear_attn_config.")
    d, layers = s.whole("hidden_size"), _layers(s)
    width = own.maybe("head_dim") or s.whole("linear_head_dim")
    heads = own.maybe("num_heads") or s.whole("linear_num_heads")
    kernel = own.maybe("short_conv_kernel_size") or s.whole("linear_conv_kernel_dim")
    full = set(own.numbers("full_attn_layers")) if own.says("kda_layers") else {i + 1 for i in range(4, layers, 4)}
    if own.says("kda_layers") and set(own.numbers("kda_layers")) != set(range(1, layers + 1)) - full:
        raise ValueError(f"{own.where}kda_layers and full_attn_layers must list each of {layers} layers once")
    own.refuse_unread()
    kinds = _kinds(s, lambda i: FULL if i + 1 in full else "linear")

    size = heads * width
    matrices = d * (3 * size + heads + 2 * width) + 2 * width * size + size * d + 3 * size * kernel
    linear = _recurrent(
        "linear", matrices, size + heads, width, size * width + 3 * size * kernel, 3 * size * width
    )
    mla, _ = _mla(s, s.flag("attention_bias"))
    first = s.maybe("first_k_dense_replace", 0)
    s.only("moe_layer_freq", 1)
    s.get("num_expert_group")  # limits which experts, not how many
    ffn, _ = _by_words(s, _deepseek_experts(s, "num_experts", "num_shared_experts"), first)
    return _decoder(s, lambda i: mla(i) if kinds[i] == FULL else linear, ffn)


def _minimax(s: Settings) -> Shape:
    """Lightning attention in every second layer: a state of a matrix per head that decays."""
    kinds = _kinds(s, lambda i: "linear" if i % 2 else FULL)
    d, (heads, _, width) = s.whole("hidden_size"), _heads(s)
    size = heads * width
    linear = _recurrent("linear", 5 * d * size, 0, size, size * width, 2 * size * width)
    full, _ = _attention(s)
    experts = _experts(s, "num_local_experts", "intermediate_size")
    return _decoder(s, lambda i: full(i) if kinds[i] == FULL else linear, lambda i: experts)


def _mamba1(d: int, inner: int, state: int, rank: int, kernel: int, conv_bias: bool, bias: bool, norms: int) -> Mixer:
    """Mamba (arXiv 2312.00752)."""
    matrices = d * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * d + inner * kernel
    others = inner * conv_bias + inner + inner * state + inner + (2 * inner + d) * bias
    return _recurrent("mamba", matrices, others, norms, inner * (state + kernel), 2 * inner * state)


def _mamba2(
    d: int, heads: int, width: int, state: int, groups: int, kernel: int, conv_bias: bool, bias: bool, norm: bool = True
) -> Mixer:
    """Mamba-2 (arXiv 2405.21060)."""
    inner = heads * width
    channels, into = inner + 2 * groups * state, 2 * inner + 2 * groups * state + heads
    matrices = d * into + inner * d + channels * kernel
    others = channels * conv_bias + 3 * heads + (into + d) * bias
    return _recurrent(
        "mamba", matrices, others, inner * norm, inner * state + channels * kernel, 2 * inner * state
    )


def _mamba(s: Settings) -> Shape:
    d, inner = s.whole("hidden_size"), s.whole("hidden_size") * s.whole("expand")
    rank = s.get("time_step_rank")
    rank = -(-d // 16) if rank in ("auto", None) else s.whole("time_step_rank")
    mixer = _mamba1(
        d, inner, s.whole("state_size"), rank, s.whole("conv_kernel"), s.flag("use_conv_bias"), s.flag("use_bias"), 0
    )
    return _decoder(s, lambda i: mixer, lambda i: (), norms=1, context=None)


def _pure_mamba2(s: Settings) -> Shape:
    d, heads, width = s.whole("hidden_size"), s.whole("num_heads"), s.whole("head_dim")
    if heads * width != d * s.whole("expand"):
        raise ValueError(f"{s.where}num_heads={heads} × head_dim={width} must be expand × hidden_size")
    mixer = _mamba2(
        d, heads, width, s.whole("state_size"), s.whole("n_groups"), s.whole("conv_kernel"), s.flag("use_conv_bias"),
        s.flag("use_bias"),
    )  # fmt: skip
    return _decoder(s, lambda i: mixer, lambda i: (), norms=1, context=None)


def _named_mamba2(s: Settings, inner: int, norm: bool = True) -> Mixer:
    """Reads Mamba-2 by Bamba's names; ``inner`` is its width."""
    heads = s.whole("mamba_n_heads")
    width = inner // heads if s.get("mamba_d_head") == "auto" else s.whole("mamba_d_head")
    if heads * width != inner:
        raise ValueError(f"{s.where}mamba_n_heads={heads} × mamba_d_head={width} must be {inner}, the width inside")
    return _mamba2(
        s.whole("hidden_size"), heads, width, s.whole("mamba_d_state"), s.whole("mamba_n_groups"),
        s.whole("mamba_d_conv"), s.flag("mamba_conv_bias"), s.flag("mamba_proj_bias"), norm,
    )  # fmt: skip


def _jamba(s: Settings) -> Shape:
    s.only("mamba_inner_layernorms", True)
    d, rank = s.whole("hidden_size"), s.get("mamba_dt_rank")
    rank = -(-d // 16) if rank in ("auto", None) else s.whole("mamba_dt_rank")
    state, inner = s.whole("mamba_d_state"), d * s.whole("mamba_expand")
    mamba = _mamba1(
        d, inner, state, rank, s.whole("mamba_d_conv"), s.flag("mamba_conv_bias"), s.flag("mamba_proj_bias"),
        rank + 2 * state,
    )  # fmt: skip
    full, _ = _attention(s, [FULL] * _layers(s))
    experts, plain = _experts(s, "num_experts", "intermediate_size"), _dense(s)
    period, offset = s.whole("attn_layer_period"), s.whole("attn_layer_offset", 0)
    every, start = s.whole("expert_layer_period"), s.whole("expert_layer_offset", 0)
    return _decoder(
        s,
        lambda i: full(i) if i % period == offset else mamba,
        lambda i: experts if i % every == start and experts.n_experts > 1 else _plain(plain),
    )


def _bamba(s: Settings) -> Shape:
    d, attentive = s.whole("hidden_size"), set(s.numbers("attn_layer_indices"))
    full, _ = _attention(s, [FULL] * _layers(s), bias=_all(s))
    mamba, part = _named_mamba2(s, d * s.whole("mamba_expand")), _dense(s, bias=s.flag("mlp_bias"))
    return _decoder(s, lambda i: full(i) if i in attentive else mamba, lambda i: part)


def _granitemoehybrid(s: Settings) -> Shape:
    d, kinds = s.whole("hidden_size"), _kinds(s, lambda i: "linear")
    full, _ = _attention(s, [FULL] * _layers(s), bias=_all(s))
    mamba = _named_mamba2(s, d * s.whole("mamba_expand"))
    shared = s.whole("shared_intermediate_size", 0)
    if s.maybe("num_local_experts", 0):
        part = _experts(s, "num_local_experts", "intermediate_size", shared=shared)
    else:  # a dense model of this type has the shared network alone
        part = _one(network(d, shared))
    return _decoder(s, lambda i: full(i) if kinds[i] == FULL else mamba, lambda i: part)


def _falcon_h1(s: Settings) -> Shape:
    d, inner = s.whole("hidden_size"), s.maybe("mamba_d_ssm")
    inner = d * s.whole("mamba_expand") if inner is None else inner
    s.get("mamba_expand")
    full, _ = _attention(s, bias=_all(s))
    s.only("mamba_use_mlp", True)
    s.only("attn_layer_indices", [])
    mamba, part = _named_mamba2(s, inner, s.flag("mamba_rms_norm")), _dense(s, bias=s.flag("mlp_bias"))
    into, out = s.flag("mamba_proj_bias"), s.flag("projectors_bias")
    mamba = replace(mamba, weights=Weights(mamba.weights.matrices, mamba.weights.others + d * (out - into)))
    return _decoder(s, lambda i: (full(i), mamba), lambda i: part)


def _nemotron_h(s: Settings) -> Shape:
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

    full, _ = _attention(s, [FULL], bias=_all(s))
    mamba = _mamba2(
        d, s.whole("mamba_num_heads"), s.whole("mamba_head_dim"), s.whole("ssm_state_size"), s.whole("n_groups"),
        s.whole("conv_kernel"), s.flag("use_conv_bias"), s.flag("mamba_proj_bias"),
    )  # fmt: skip
    parts: dict[str, FeedForward] = {}
    if "mlp" in kinds:
        parts["mlp"] = _dense(s, gated=False, bias=s.flag("mlp_bias"))
        parts["mlp"] = _plain(parts["mlp"]) if "moe" in kinds else parts["mlp"]
    if "moe" in kinds:
        shared = network(d, s.whole("moe_shared_expert_intermediate_size"), False, s.flag("mlp_bias"))
        experts = _experts(s, "n_routed_experts", n_shared=s.whole("n_shared_experts"), gated=False)
        parts["moe"] = replace(experts, shared=shared)
    return _decoder(
        s,
        lambda i: full(0) if kinds[i] == FULL else mamba if kinds[i] == "mamba" else (),
        lambda i: parts[kinds[i]] if kinds[i] in parts else (),
        norms=1,
        layers=len(kinds),
    )


def _lfm2(s: Settings) -> Shape:
    """Short convolutions with gates in most layers, attention in the others."""
    d, kernel = s.whole("hidden_size"), s.whole("conv_L_cache")
    only = set(s.numbers("full_attn_idxs")) if s.get("full_attn_idxs") is not None else set(range(_layers(s)))
    words = {"full_attention": FULL, "conv": "convolution"}
    kinds = _kinds(s, lambda i: FULL if i in only else "convolution", words)
    bias = s.flag("conv_bias")
    conv = _recurrent("convolution", d * 3 * d + d * d + d * kernel, 5 * d if bias else 0, 0, d * kernel, 0)
    full, _ = _attention(s, [FULL] * _layers(s), qk_norm="head")
    if s.kind == "lfm2_moe":
        experts = _experts(s, "num_experts")
        ffn, _ = _sparse_from(s, s.whole("num_dense_layers", 0), experts)
    else:
        width = s.whole("intermediate_size")
        if s.flag("block_auto_adjust_ff_dim"):
            times, step = s.get("block_ffn_dim_multiplier"), s.whole("block_multiple_of")
            width = int(2 * width / 3)
            width = step * -(-int((1 if times is None else times) * width) // step)
        part = _one(network(d, width))
        ffn = lambda i: part  # noqa: E731
    return _decoder(s, lambda i: full(i) if kinds[i] == FULL else conv, ffn)


# ---- Encoder-decoders

def _switch(s: Settings) -> Shape:
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

    def half(name: str, layers: int, mixers: tuple[Mixer, ...]) -> tuple[tuple[Layer, int], ...]:
        sparse = s.whole(f"num_sparse_{name}_layers", 0, MOST_LAYERS)
        step = s.maybe(f"{name}_sparse_step", 0)
        if step is None:
            step = layers // sparse if sparse else layers
        return tally(
            Layer(
                mixers=mixers,
                feed_forwards=(experts if step == 1 or (step and i % step == 1) else plain,),
                norms=(len(mixers) + 1) * d,
            )
            for i in range(layers)
        )

    layers = _layers(s, "num_layers")
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


TYPES: Mapping[str, Reader] = {
    # Dense
    "llama": _llama,
    "mistral": _simple,
    "ministral3": _simple,
    "ministral": lambda s: _simple(s, _windows(s, lambda i: SLIDING)),
    "qwen2": _qwen2,
    "qwen2_vl_text": _qwen2,
    "qwen2_5_vl_text": _qwen2,
    "qwen3": _qwen3,
    "qwen3_vl_text": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s), qk_norm="head"),
    "phi3": _simple,
    "smollm3": _smollm3,
    "granite": _llama,
    "granite_swa": lambda s: _simple(
        s, _windows(s, _every(4, True)), bias=_all(s), mlp_bias=s.flag("mlp_bias"), sinks=True
    ),
    "hyperclovax": lambda s: _simple(
        s, [FULL] * _layers(s), bias=_all(s), mlp_bias=s.flag("mlp_bias"), norms=4 if s.flag("use_post_norm") else 2
    ),
    "helium": lambda s: _simple(s, [FULL] * _layers(s), bias=_qkv(s), mlp_bias=s.flag("mlp_bias")),
    "internlm3": _llama,
    "iquestcoder": _llama,
    "ernie4_5": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s, "use_bias"), mlp_bias=s.flag("use_bias")),
    "cwm": lambda s: _simple(s, _windows(s, _every(4, True)), mlp_bias=s.flag("mlp_bias")),
    "olmo": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s), norm=0),
    "olmo2": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s), qk_norm="full"),
    "olmo3": lambda s: _simple(s, _windows(s, _every(4)), bias=_all(s), qk_norm="full"),
    "seed_oss": lambda s: _simple(
        s, [FULL] * _layers(s), bias=_qkv(s), mlp_bias=s.flag("mlp_bias"),
        others=s.whole("hidden_size") if s.flag("attention_out_bias") else 0,
    ),  # fmt: skip
    "gemma": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s)),
    "gemma2": lambda s: _gemma(s, _windows(s, _every(2)), norms=4),
    "gemma3_text": _gemma3,
    "vaultgemma": lambda s: _gemma(s, _windows(s, _every(2))),
    "glm": lambda s: _simple(s, [FULL] * _layers(s), bias=_qkv(s)),
    "glm4": lambda s: _simple(s, [FULL] * _layers(s), bias=_qkv(s), norms=4),
    "exaone4": lambda s: _simple(s, _exaone4_kinds(s), qk_norm="head"),
    "arcee": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s), gated=False, mlp_bias=s.flag("mlp_bias")),
    "nanochat": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s), gated=False, norm=0),
    "jais2": lambda s: _simple(s, [FULL] * _layers(s), bias=_all(s), gated=False, mlp_bias=s.flag("mlp_bias"), norm=2),
    "cohere": _cohere,
    "cohere2": lambda s: _simple(
        s, _windows(s, _every(s.maybe("sliding_window_pattern") or 4)), bias=_all(s), norms=1
    ),
    "starcoder2": lambda s: _simple(
        s, bias=_all(s, "use_bias"), gated=False, mlp_bias=s.flag("use_bias"), norm=2
    ),
    "stablelm": _stablelm,
    "persimmon": lambda s: _simple(
        s, bias="all", gated=False, mlp_bias=True, norm=2, qk_norm="head_bias" if s.flag("qk_layernorm") else "none"
    ),
    "phi": _phi,
    "gpt_neox": lambda s: _simple(s, bias=_all(s), gated=False, mlp_bias=True, norm=2),
    "hunyuan_v1_dense": lambda s: _simple(s, bias=_all(s), qk_norm="head"),
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt_bigcode,
    "gptj": _gptj,
    "codegen": _gptj,
    "youtu": _mla_dense,
    "minicpm3": _mla_dense,
    # Experts
    "mixtral": lambda s: _moe(s, _experts(s, "num_local_experts", "intermediate_size")),
    "olmoe": lambda s: _moe(s, _experts(s, "num_experts", "intermediate_size"), bias=_all(s), qk_norm="full"),
    "flex_olmo": lambda s: _moe(s, _experts(s, "num_experts", "intermediate_size"), bias=_all(s), qk_norm="full"),
    "minimax_m2": _minimax_m2,
    "phimoe": lambda s: _moe(
        s, _experts(s, "num_local_experts", "intermediate_size"), bias=_all(s), norm=2, head_bias=s.flag("lm_head_bias")
    ),
    "granitemoe": _granitemoe,
    "granitemoeshared": lambda s: _granitemoe(s, True),
    "granitemoe_swa": lambda s: _granitemoe(s, True, _windows(s, _every(4, True)), True),
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
    "qwen3_vl_moe_text": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "dbrx": _dbrx,
    "deepseek_v2": lambda s: _deepseek(s, "softmax"),
    "deepseek_v3": _deepseek,
    "kimi_k2": _deepseek,
    "mistral4": _deepseek,
    "deepseek_v32": _indexed,
    "glm_moe_dsa": _indexed,
    "glm4_moe": _glm4_moe,
    "glm4v_moe_text": _glm4_moe,
    "glm4_moe_lite": _glm4_moe_lite,
    "solar_open": lambda s: _moe(s, _deepseek_experts(s), bias=_qkv(s)),
    "dots1": _dots1,
    "ernie4_5_moe": _ernie4_5_moe,
    "exaone_moe": _exaone_moe,
    "hy_v3": _hy_v3,
    "afmoe": _afmoe,
    "mellum": _mellum,
    "aria_text": _aria,
    "llama4_text": _llama4,
    # Recurrences
    "qwen3_next": _qwen3_next,
    "qwen3_5_text": lambda s: _qwen3_next(s, sparse=False),
    "qwen3_5_moe_text": _qwen3_next,
    "olmo_hybrid": _olmo_hybrid,
    "kimi_linear": _kimi_linear,
    "minimax": _minimax,
    "mamba": _mamba,
    "falcon_mamba": _mamba,
    "mamba2": _pure_mamba2,
    "jamba": _jamba,
    "bamba": _bamba,
    "granitemoehybrid": _granitemoehybrid,
    "falcon_h1": _falcon_h1,
    "nemotron_h": _nemotron_h,
    "lfm2": _lfm2,
    "lfm2_moe": _lfm2,
    # Encoder-decoders
    "switch_transformers": _switch,
}

