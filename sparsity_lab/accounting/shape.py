"""Describes a model by what is counted: layers of mixers and feed-forward parts, with their weights and caches.

A `ModelConfig` is the shape of a model that the lab trains, in which all layers are alike but for the experts. The
layers of published models differ, so a `Shape` holds every kind of layer, and how many of it there are. All counts are
sums over a Shape; `shape_of` makes one from a ModelConfig.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from sparsity_lab.config import ModelConfig


class Weights(NamedTuple):
    """Weights of a part: those in matrices, each of which is one multiply-add per token, and all others."""

    matrices: int = 0
    others: int = 0  # biases, norms, scales

    @property
    def total(self) -> int:
        return self.matrices + self.others


NOTHING = Weights()


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """The part of a layer in which tokens learn from each other: attention, or a recurrence in its place."""

    kind: str  # full, sliding, chunked, sparse, linear, mamba, convolution, cross
    weights: Weights
    norms: int = 0  # weights of norms of queries, keys or latents
    heads: int = 0
    kv_heads: int = 0
    key_dim: int = 0  # width of a key; of MLA the part without position
    pair: int = 0  # multiply-adds for each token that a query sees
    sees: int | None = None  # tokens that a query sees at most; None: all
    keeps: int | None = None  # tokens that stay in the cache at most; None: all
    stride: int = 1  # tokens that share one entry of the cache, and are seen as one
    cache: int = 0  # numbers kept per token, or per entry
    vectors: int = 0  # vectors kept per token, each with its scale in int8
    state: int = 0  # numbers kept per sequence, however long it is
    step: int = 0  # multiply-adds per token that update and read the state
    scan: int = 0  # multiply-adds for each token that an indexer compares before attention sees some of them
    latent: int = 0  # MLA: width of the latent
    rope_dim: int = 0  # MLA: width of the key that all heads share
    kv_up: int = 0  # MLA: weights that make keys and values from a latent

    def seen(self, tokens: int) -> int:
        """Returns how many of ``tokens`` tokens, or full entries, the last one sees, itself included."""
        if self.kind == "chunked" and self.sees is not None:
            return (tokens - 1) % self.sees + 1 if tokens else 0
        entries = tokens // self.stride
        return entries if self.sees is None else min(entries, self.sees)

    def seen_by_all(self, tokens: int) -> int:
        """Returns the sum of `seen` over the positions 1 to ``tokens``."""
        if self.kind == "chunked" and self.sees is not None:
            whole, rest = divmod(tokens, self.sees)
            return whole * _triangle(self.sees, None) + _triangle(rest, None)
        full, rest = divmod(tokens + 1, self.stride)  # `stride` tokens in a row see as many entries
        return self.stride * _triangle(full - 1, self.sees) + rest * self.seen(full * self.stride) if full else 0

    def kept(self, tokens: int) -> int:
        """Returns how many tokens, or entries, of a sequence stay in the cache after ``tokens`` tokens."""
        entries = tokens // self.stride
        return entries if self.keeps is None else min(entries, self.keeps)


def _triangle(tokens: int, most: int | None) -> int:
    """Returns min(1, most) + min(2, most) + … + min(tokens, most)."""
    rising = tokens if most is None else min(tokens, most)
    return rising * (rising + 1) // 2 + (tokens - rising) * rising


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """The part of a layer that works on each token alone: a dense network, or experts behind a router."""

    dense: Weights = NOTHING
    shared: Weights = NOTHING  # all shared experts, and the gate on them
    router: Weights = NOTHING
    expert: Weights = NOTHING  # one routed expert; a dense model is one such expert without a router
    n_experts: int = 0
    top_k: int = 0
    n_shared: int = 0  # shared experts, for the label


@dataclass(frozen=True, kw_only=True)
class Block:
    mixers: tuple[Mixer, ...] = ()
    feed_forwards: tuple[FeedForward, ...] = ()
    norms: int = 0  # weights of the norms before and after these


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is counted of a model. ``None`` or 0 stands for a part that it lacks."""

    kind: str  # the model_type of its file
    vocab_size: int
    context: int
    d_model: int
    layers: tuple[tuple[Block, int], ...]  # each kind of layer, and how many of it there are
    encoder: tuple[tuple[Block, int], ...] = ()  # of an encoder-decoder
    embedding: int = 0  # tables of tokens (unless one is the head too) and of positions, that are looked up
    head: Weights = NOTHING
    norms: int = 0  # outside layers
    positions: int = 0  # weights of relative positions, which attention adds to its scores
    vision: int = field(default=0, compare=False)  # weights of the part that sees, which are in no count of the model
    left_out: tuple[str, ...] = field(default=(), compare=False)  # parts of the file that are not counted, in words
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)  # of its file
    lab: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)  # the nearest `ModelConfig`

    @property
    def n_layers(self) -> int:
        return sum(times for _, times in self.layers)

    @property
    def n_encoder_layers(self) -> int:
        return sum(times for _, times in self.encoder)

    @cached_property
    def _mixers(self) -> list[Mixer]:
        """Attention first, then what stands in its place in other layers."""
        every = [mixer for layer, _ in self.layers for mixer in layer.mixers]
        return sorted(every, key=lambda mixer: not mixer.heads)

    @cached_property
    def _experts(self) -> FeedForward:
        """The feed-forward part with the most experts."""
        every = [part for layer, _ in self.layers for part in layer.feed_forwards]
        return max(every, key=lambda part: part.n_experts, default=FeedForward())

    @property
    def n_experts(self) -> int:
        return max(1, self._experts.n_experts)

    @property
    def top_k(self) -> int:
        return max(1, self._experts.top_k)

    @property
    def n_shared_experts(self) -> int:
        return self._experts.n_shared

    @property
    def has_router(self) -> bool:
        return self.n_experts > 1 or self._experts.router.total > 0

    @property
    def sparsity(self) -> float:
        """S = (E − K)/E, the share of routed experts inactive on a token."""
        return (self.n_experts - self.top_k) / self.n_experts

    @property
    def n_heads(self) -> int:
        return self._mixers[0].heads if self._mixers else 0

    @property
    def kv_heads(self) -> int:
        return self._mixers[0].kv_heads if self._mixers else 0

    @property
    def kv_lora_rank(self) -> int | None:
        return next((mixer.latent for mixer in self._mixers if mixer.latent), None)

    @property
    def is_mla(self) -> bool:
        return self.kv_lora_rank is not None

    @cached_property
    def kinds(self) -> dict[str, int]:
        """How many mixers of each kind there are, such as 36 chunked and 12 full."""
        found: Counter[str] = Counter()
        for layer, times in self.layers:
            for mixer in layer.mixers:
                found[mixer.kind] += times
        return dict(found)

    def mixers(self) -> Iterable[tuple[Mixer, int]]:
        """Returns each mixer with its number in the model, the encoder's not included."""
        found: Counter[Mixer] = Counter()
        for layer, times in self.layers:
            for mixer in layer.mixers:
                found[mixer] += times
        return found.items()


Model = ModelConfig | Shape  # what every count takes


def tally(layers: Iterable[Block]) -> tuple[tuple[Block, int], ...]:
    return tuple(Counter(layers).items())


# ---- The pieces that models are made of


def network(d: int, hidden: int, gated: bool = True, bias: bool = False) -> Weights:
    """A feed-forward network: up and down matrices, and a gate's where there is one."""
    into = 2 if gated else 1
    return Weights((into + 1) * d * hidden, into * hidden + d if bias else 0)


def attention(
    d: int,
    heads: int,
    kv_heads: int,
    key: int,
    value: int | None = None,
    *,
    bias: str = "none",
    norm: int = 0,
    gate: int = 0,
    others: int = 0,
    kind: str = "full",
    window: int | None = None,
) -> Mixer:
    """Returns multi-head attention; ``key`` and ``value`` are widths of a head.

    ``bias``: of none, of queries, keys and values (qkv), or of the output too (all). ``norm``: weights of the norms of
    queries and keys. ``gate``: columns of a matrix that gates the output. ``window``: tokens that are seen and kept.
    """
    value = key if value is None else value
    q, k, v = heads * key, kv_heads * key, kv_heads * value
    biases = {"none": 0, "qkv": q + k + v, "all": q + k + v + d}[bias]
    return Mixer(
        kind=kind,
        weights=Weights(d * (q + k + v + gate) + heads * value * d, biases + others),
        norms=norm,
        heads=heads,
        kv_heads=kv_heads,
        key_dim=key,
        pair=heads * (key + value),
        sees=window,
        keeps=window,
        cache=k + v,
        vectors=2 * kv_heads,
    )


def latent_attention(
    d: int, heads: int, q_rank: int | None, kv_rank: int, nope: int, rope: int, value: int, *, bias: int = 0
) -> Mixer:
    """Returns multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). Without ``q_rank``, queries are
    not compressed. ``bias``: weights of all biases."""
    query = heads * (nope + rope)
    queries = d * query if q_rank is None else d * q_rank + q_rank * query
    kv_up = kv_rank * heads * (nope + value)
    matrices = queries + d * (kv_rank + rope) + kv_up + heads * value * d
    return Mixer(
        kind="full",
        weights=Weights(matrices, bias),
        norms=kv_rank + (q_rank or 0),
        heads=heads,
        kv_heads=heads,
        key_dim=nope,
        pair=heads * (nope + rope + value),
        cache=kv_rank + rope,
        vectors=1,
        latent=kv_rank,
        rope_dim=rope,
        kv_up=kv_up,
    )


# ---- The lab's own models


@lru_cache(maxsize=256)
def _of_config(config: ModelConfig) -> Shape:
    if config.n_encoder_layers:
        raise ValueError(f"n_encoder_layers={config.n_encoder_layers}: encoder-decoders are counted as a Shape only")
    d, heads = config.d_model, config.n_heads
    norm = 2 * d if config.norm == "layer" else d
    if config.kv_lora_rank is not None:
        mixer = latent_attention(
            d, heads, config.q_lora_rank, config.kv_lora_rank, config.nope_dim, config.rope_dim, config.value_dim
        )
        mixer = replace(mixer, sees=config.window, keeps=config.window)
    else:
        mixer = attention(
            d,
            heads,
            config.kv_heads,
            config.head_dim,
            bias=config.attention_bias,
            norm={"head": 2, "full": heads + config.kv_heads, "none": 0}[config.qk_norm] * config.head_dim,
            others=heads if config.attention_sinks else 0,
            window=config.window,
        )
    if config.window is not None:
        mixer = replace(mixer, kind="sliding")

    gated = config.ffn == "swiglu"
    expert = network(d, config.d_expert, gated, config.ffn_bias)
    width, shared = config.router_width, config.n_shared_experts
    experts = FeedForward(
        shared=Weights(shared * expert.matrices, shared * expert.others),
        router=Weights(width * d, width * config.ffn_bias),
        expert=expert,
        n_experts=config.n_experts,
        top_k=config.top_k,
        n_shared=shared,
    )
    dense = FeedForward(dense=network(d, config.dense_width, gated, config.ffn_bias))

    def layer(i: int) -> Block:
        every = config.full_attention_every
        full = every is not None and (i + 1) % every == 0
        own = replace(mixer, kind="full", sees=None, keeps=None) if full else mixer
        return Block(mixers=(own,), feed_forwards=(experts if config.is_moe_layer(i) else dense,), norms=2 * norm)

    table = config.vocab_size * d
    return Shape(
        kind="the lab's",
        vocab_size=config.vocab_size,
        context=config.context,
        d_model=d,
        layers=tally(layer(i) for i in range(config.n_layers)),
        embedding=(0 if config.tied_embeddings else table) + (config.context * d if config.learned_positions else 0),
        head=Weights(table),
        norms=norm,
    )


def shape_of(model: Model) -> Shape:
    """Returns what is counted of a model."""
    return model if isinstance(model, Shape) else _of_config(model)


def lab_config(shape: Shape) -> ModelConfig | None:
    """Returns the config of the lab's model that is counted just like this one, or None if there is none."""
    try:
        config = ModelConfig(**shape.lab)
    except ValueError:
        return None
    same = replace(_of_config(config), kind=shape.kind)
    return config if same == shape else None
