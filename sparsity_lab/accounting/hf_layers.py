"""Reads the layers that types of models share: attention, networks, experts, and the decoder around them.

Most types are decoders that differ in a few ways, which `decoder` takes by name; types with other layers give a
function from a layer's number to its mixer or its feed-forward part.
"""

import reprlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sparsity_lab.accounting.hf_settings import MOST_LAYERS, FileSettings
from sparsity_lab.accounting.shape import (
    NOTHING,
    Block,
    FeedForward,
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
Reader = Callable[[FileSettings], Shape]

NO_GROUPS = {"persimmon", "gpt_neox", "gpt2", "gptj", "codegen"}  # as many heads of keys and values as of queries
SPLIT_EVENLY = NO_GROUPS | {
    "helium",
    "stablelm",
    "olmoe",
    "gpt_bigcode",
}  # whose heads are as wide as hidden_size / heads

FULL, SLIDING = "full", "sliding"
WORDS = {"full_attention": FULL, "attention": FULL, "sliding_attention": SLIDING}
LINEAR = {"full_attention": FULL, "attention": FULL, "linear_attention": "linear", "mamba": "linear"}

# How DeepSeek-V3 (arXiv 2412.19437, section 4.2) and GLM-4.5 (arXiv 2508.06471, section 2.4) balance the load for most
# of their training. Reports say this, config files don't. Kimi-K2, whose router is V3's, is taken to do the same. Their
# loss of 0.0001 is computed for each sequence, the lab's for the batch.
BY_BIAS: Lab = {"router": "sigmoid", "bias_rate": 0.001, "balance_loss": 1e-4, "z_loss": 0.0}


# ---- What decoders share


def count_layers(s: FileSettings, name: str = "num_hidden_layers") -> int:
    return s.whole(name, 1, MOST_LAYERS)


def decoder(
    s: FileSettings,
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
    d, vocab, n = s.whole("hidden_size"), s.whole("vocab_size"), layers or count_layers(s)
    tied = s.flag("tie_word_embeddings")

    def layer(i: int) -> Block:
        mixers, parts = mixer(i), ffn(i)
        return Block(
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
            "rope_base": rope_base(s),
            "qk_norm": "none",
            **(lab or {}),
        },
    )


def rope_base(s: FileSettings) -> float:
    theta, nested = s.get("rope_theta"), s.get("rope_parameters")
    if theta is None and isinstance(nested, dict):
        theta = nested.get("rope_theta")
    if theta is None:
        return 10_000.0
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 0 < theta < LARGEST:
        raise ValueError(f"{s.where}rope_theta={reprlib.repr(theta)} must be a positive number")
    return float(theta)


def read_heads(s: FileSettings) -> tuple[int, int, int]:
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


def read_windows(s: FileSettings, usual: Callable[[int], str], layers: int | None = None) -> list[str]:
    """Returns which layers see all tokens and which a window, by layer_types or by the type's usual pattern."""
    return s.per_layer("layer_types", layers or count_layers(s), WORDS, usual)


def read_attention(
    s: FileSettings,
    kinds: list[str] | None = None,
    *,
    bias: str = "none",
    qk_norm: str = "none",
    sinks: bool = False,
    gate: str = "none",
    others: int = 0,
) -> tuple[Callable[[int], Mixer], Lab]:
    """Returns multi-head attention for each layer, and what of it the lab's ModelConfig can say.

    ``kinds``: full or sliding, by layer; if not given, all layers have the sliding_window, if there is one.
    ``qk_norm``: norms of queries and keys, per head (head, or head_bias with a bias) or over all heads (full).
    ``gate``: a gate on the output, of each of its numbers (full).
    """
    d, (heads, kv_heads, width) = s.whole("hidden_size"), read_heads(s)
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


def read_latents(s: FileSettings, bias: bool = False) -> tuple[Callable[[int], Mixer], Lab]:
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


def one_network(weights: Weights) -> FeedForward:
    """A dense model's feed-forward part: one expert, no router."""
    return FeedForward(expert=weights, n_experts=1, top_k=1)


def read_network(
    s: FileSettings, gated: bool = True, bias: bool = False, width: str = "intermediate_size"
) -> FeedForward:
    return one_network(network(s.whole("hidden_size"), s.whole(width), gated, bias))


def read_experts(
    s: FileSettings,
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


def sparse_from(
    s: FileSettings, first: int, experts: FeedForward, **dense: Any
) -> tuple[Callable[[int], FeedForward], Lab]:
    """Returns dense layers up to ``first``, and experts from there on."""
    plain = as_dense_layer(read_network(s, **dense))
    return lambda i: plain if i < first else experts, {"n_dense_layers": first}


def sparse_by_words(
    s: FileSettings, experts: FeedForward, dense: int | None = None, **plain: Any
) -> tuple[Callable[[int], FeedForward], Lab]:
    """Returns dense and sparse layers as mlp_layer_types lists them; if that is left out, the first ``dense`` layers
    are dense."""
    first = 1 if dense is None else dense
    words = {"dense": "dense", "sparse": "sparse"}
    kinds = s.per_layer("mlp_layer_types", count_layers(s), words, lambda i: "dense" if i < first else "sparse")
    network_ = as_dense_layer(read_network(s, **plain))
    return lambda i: experts if kinds[i] == "sparse" else network_, lab_experts(s, experts, n_dense_layers=first)


def as_dense_layer(part: FeedForward) -> FeedForward:
    """The same network as a dense layer of a model that has experts elsewhere."""
    return FeedForward(dense=part.expert)


def lab_experts(s: FileSettings, experts: FeedForward, **more: Any) -> Lab:
    d = s.whole("hidden_size")
    lab: Lab = {"n_experts": experts.n_experts, "top_k": experts.top_k, "n_shared_experts": experts.n_shared}
    return lab | {"d_expert": experts.expert.matrices // (3 * d)} | more


def lab_dense(part: FeedForward, s: FileSettings) -> Lab:
    return {"d_expert": part.expert.matrices // (3 * s.whole("hidden_size"))}


def dense_decoder(
    s: FileSettings, kinds: list[str] | None = None, *, gated: bool = True, mlp_bias: bool = False, norm: float = 1,
    norms: float = 2, head_bias: bool = False, final: int | None = None, **own: Any,
) -> Shape:  # fmt: skip
    """A dense decoder; ``own`` goes to `read_attention`."""
    mixer, lab = read_attention(s, kinds, **own)
    part = read_network(s, gated, mlp_bias)
    lab |= lab_dense(part, s)
    return decoder(s, mixer, lambda i: part, norm=norm, norms=norms, head_bias=head_bias, final=final, lab=lab)


def expert_decoder(
    s: FileSettings,
    experts: FeedForward,
    kinds: list[str] | None = None,
    *,
    norm: float = 1,
    norms: float = 2,
    head_bias: bool = False,
    **own: Any,
) -> Shape:
    """A decoder with experts in every layer; ``own`` goes to `read_attention`."""
    mixer, lab = read_attention(s, kinds, **own)
    lab |= lab_experts(s, experts)
    return decoder(s, mixer, lambda i: experts, norm=norm, norms=norms, head_bias=head_bias, lab=lab)


def bias_all(s: FileSettings, name: str = "attention_bias") -> str:
    return "all" if s.flag(name) else "none"


def bias_qkv(s: FileSettings, name: str = "attention_bias") -> str:
    return "qkv" if s.flag(name) else "none"


def each(n: int, first: bool = False) -> Callable[[int], str]:
    """Every ``n``-th layer sees all tokens: the first of each n, or the last. 0: none does."""
    return lambda i: FULL if n and (i if first else i + 1) % n == 0 else SLIDING


def all_full(i: int) -> str:
    return FULL
