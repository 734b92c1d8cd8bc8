"""Two configs, from which everything else is derived: the shape of a model, and how to train it.

Both are frozen, are checked when they are built, and go to JSON and back. A mistake raises a ``ValueError`` that names
the field, its value and what would be right.
"""

import json
import math
import reprlib
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, NamedTuple, Self, get_args

Hold = Literal["active", "total"]

BACKENDS = ("grouped", "megablocks", "naive")  # ways to compute the experts
ROUTERS = ("softmax", "sigmoid", "expert_choice", "hash", "random")  # the last two learn nothing: baselines

LARGEST = 10**30  # a whole number past it may be more than a float can hold
MAX_WIDTH = 2**16
MAX_EXPERTS = 4096
SLIDER_EXPERTS = 256  # the dial's last stop; beyond it a laptop spends its time on routing


def _number(default: float | None, low: float, high: float) -> Any:
    """Declares a field for a number from ``low`` to ``high``, or None where its type allows that."""
    return field(default=default, metadata={"range": (low, high)})


def _choice(*choices: str) -> Any:
    """Declares a field for one of these words, the first by default."""
    return field(default=choices[0], metadata={"choices": choices})


@dataclass(frozen=True, kw_only=True)
class Config:
    """A frozen set of fields that are checked when it is built, and that go to JSON and back."""

    def __post_init__(self) -> None:
        values = vars(self)
        for name, kind, optional, low, high, choices in _rules(type(self)):  # type: ignore[arg-type]  # mypy asks its objects for a hash
            value = given = values[name]
            if value is None and optional:
                continue
            if type(value) is not kind:
                value = _checked_type(name, given, kind)
                object.__setattr__(self, name, value)
            if low is not None and not low <= value <= high:
                _checked_type(name, given, kind)  # raises for what has no place in any range
                raise ValueError(f"{name}={value:g} is out of range: use {low:g} to {high:g}")
            if choices and value not in choices:
                one_of(name, value, choices)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ValueError for a field that this config does not have."""
        known = list(cls.__dataclass_fields__)
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {unknown[0][:40]!r}; its fields are {', '.join(known)}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises ValueError for bad JSON and unknown fields."""
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{cls.__name__}: not valid JSON ({error}); {cls._example()}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__}: {text[:40]!r} is no JSON object with named fields; {cls._example()}")
        return cls.from_dict(values)

    @classmethod
    def _example(cls) -> str:
        return f"it looks like {cls().to_json()[:160]}"

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with some fields changed, checked again."""
        return replace(self, **changes)


class _Rule(NamedTuple):
    name: str
    kind: Any
    optional: bool  # it may be None
    low: float | None  # None if it is no number
    high: float
    choices: Collection[str]


@cache
def _rules(config: type[Config]) -> list[_Rule]:
    """Returns what each field may hold. It is worked out once, because records are read by the thousand."""
    rules = []
    for each in fields(config):
        optional = isinstance(each.type, UnionType)
        kind = get_args(each.type)[0] if optional else each.type
        low, high = each.metadata.get("range", (-math.inf, math.inf) if kind in (int, float) else (None, 0))
        rules.append(_Rule(each.name, kind, optional, low, high, each.metadata.get("choices", ())))
    return rules


def _checked_type(name: str, value: Any, kind: Any) -> Any:
    """Returns the value in its field's type: 2.0 becomes the whole number 2, or 2 becomes the float 2.0."""
    shown = reprlib.repr(value)  # because a value from a file may be long, or nested deeply
    if kind is int or kind is float:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"{name}={shown} is out of range")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name}={shown} must be a {'whole' if kind is int else 'finite'} number")
        if kind is int and value != int(value):
            raise ValueError(f"{name}={shown} must be a whole number, e.g. {round(value)}")
        return kind(value)
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name}={shown} must be True or False")
    if kind is str and not isinstance(value, str):
        raise ValueError(f"{name}={shown} must be text, e.g. {name}='...'")
    return value


def one_of(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises ValueError, which names the field, unless the value is one of these words."""
    if value not in choices:
        raise ValueError(f"{name}={reprlib.repr(value)} is not known: use one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The shape of a decoder-only language model whose feed-forward part is a mixture of SwiGLU experts.

    A dense model is the special case ``n_experts == top_k == 1``: one expert, no router. Every count, FLOP and byte is
    derived from this shape (`sparsity_lab.accounting`). ``None`` means what the comment says. The last block of fields
    describes published models: they can be counted, but `sparsity_lab.models` does not build them.
    """

    vocab_size: int = _number(256, 2, 2**20)
    context: int = _number(128, 2, 2**24)  # tokens per sequence
    d_model: int = _number(32, 2, MAX_WIDTH)
    n_layers: int = _number(2, 1, 512)
    n_heads: int = _number(2, 1, 1024)
    n_kv_heads: int | None = _number(None, 1, 1024)  # heads of keys and values; None: n_heads (1: multi-query)
    d_head: int | None = _number(None, 1, 2**16)  # width of a head; None: d_model / n_heads
    kv_lora_rank: int | None = _number(None, 1, 2**16)  # width of MLA's latent; None: no multi-head latent attention
    q_lora_rank: int | None = _number(None, 1, 2**16)  # MLA: width of the queries' latent; None: not compressed
    qk_nope_head_dim: int | None = _number(None, 1, 2**16)  # MLA: part of a head without position; None: head_dim
    qk_rope_head_dim: int | None = _number(None, 2, 2**16)  # MLA: part of a head that RoPE turns; None: head_dim / 2
    v_head_dim: int | None = _number(None, 1, 2**16)  # MLA: width of a value head; None: head_dim
    d_expert: int = _number(96, 1, 2**20)  # hidden width of one expert
    n_experts: int = _number(1, 1, MAX_EXPERTS)  # routed experts per layer, E
    top_k: int = _number(1, 1, MAX_EXPERTS)  # routed experts that are active on a token, K
    n_shared_experts: int = _number(0, 0, MAX_EXPERTS)  # experts that read every token, beside the routed ones
    n_dense_layers: int = _number(0, 0, 512)  # layers at the bottom whose feed-forward part is dense
    moe_every: int = _number(1, 1, 512)  # every n-th of the other layers has experts, the rest are dense
    d_dense: int | None = _number(None, 1, 2**20)  # hidden width of dense layers; None: that of all active experts
    window: int | None = _number(None, 1, 2**24)  # tokens that a token can look back on, itself included; None: all
    tied_embeddings: bool = False  # one table serves as input and output
    router: str = _choice(*ROUTERS)
    n_groups: int = _number(1, 1, MAX_EXPERTS)  # groups of experts
    top_groups: int | None = _number(None, 1, MAX_EXPERTS)  # groups that a token may choose from; None: all
    route_scale: float = _number(1.0, 1e-6, 1e6)  # factor on the weights of the chosen experts
    bias_rate: float = _number(0.0, 0, 1)  # step of the bias that balances the load (DeepSeek-V3); 0: no bias
    mtp_depth: int = _number(0, 0, 8)  # tokens that are predicted beyond the next one, in training
    mtp_weight: float = _number(0.3, 0, 10)  # weight of their loss
    balance_loss: float = _number(0.05, 0, 10)  # weight of the load-balance loss
    z_loss: float = _number(1e-3, 0, 10)  # weight of the router z-loss
    rope_base: float = _number(10_000.0, 1, 1e12)
    # Published models only
    full_attention_every: int | None = _number(None, 2, 512)  # every n-th layer has no window; None: all have one
    qk_norm: str = _choice("head", "full", "none")  # RMSNorm of queries and keys: of each head, or of all at once
    attention_bias: str = _choice("none", "qkv", "all")  # biases of queries, keys and values, or of the output too
    attention_sinks: bool = False  # a learned score per head that takes probability away (gpt-oss)
    ffn: str = _choice("swiglu", "plain")  # plain: two matrices and a nonlinearity
    ffn_bias: bool = False  # biases in experts and in the router
    norm: str = _choice("rms", "layer")  # layer: with a bias
    learned_positions: bool = False  # a table of positions instead of RoPE
    n_encoder_layers: int = _number(0, 0, 512)  # of an encoder-decoder (T5): layers before the n_layers of the decoder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k={self.top_k} needs n_experts ≥ {self.top_k}, got {self.n_experts}")

        if self.d_head is None and self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"n_heads={self.n_heads} must split d_model={self.d_model} into heads of even width (RoPE turns pairs)"
            )
        if self.head_dim % 2:
            raise ValueError(f"d_head={self.d_head} must be even (RoPE turns pairs)")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}")

        if self.n_dense_layers > self.n_layers:
            raise ValueError(f"n_dense_layers={self.n_dense_layers} is more than n_layers={self.n_layers}")
        if self.has_router and not self.n_moe_layers:
            raise ValueError(
                f"n_experts={self.n_experts}, but none of n_layers={self.n_layers} has experts: lower "
                f"n_dense_layers={self.n_dense_layers} or moe_every={self.moe_every}"
            )

        if self.kv_lora_rank is None:
            for name in ("q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}={getattr(self, name)} belongs to MLA: set kv_lora_rank too")
        elif self.kv_heads != self.n_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads} and kv_lora_rank={self.kv_lora_rank}: use one of them")
        elif self.rope_dim % 2:
            raise ValueError(f"qk_rope_head_dim={self.rope_dim} must be even (RoPE turns pairs)")

        if self.full_attention_every is not None and self.window is None:
            raise ValueError(f"full_attention_every={self.full_attention_every} needs a window for the other layers")
        if self.mtp_depth >= self.context:
            raise ValueError(f"mtp_depth={self.mtp_depth} must be below context={self.context}")

        if self.n_experts % self.n_groups:
            raise ValueError(f"n_groups={self.n_groups} must divide n_experts={self.n_experts}")
        allowed = self.n_experts // self.n_groups * (self.top_groups or self.n_groups)
        if (self.top_groups or 1) > self.n_groups or allowed < self.top_k:
            raise ValueError(
                f"top_groups={self.top_groups} must be from 1 to n_groups={self.n_groups} and hold at least "
                f"top_k={self.top_k} experts"
            )

    @classmethod
    def of_width(cls, width: int, **changes: Any) -> Self:
        """Returns the lab's default dense model of a width: experts three times as wide, heads of about 16.

        Raises ValueError for a width that is not a positive multiple of 4.
        """
        if isinstance(width, bool) or not isinstance(width, int) or width < 4 or width % 4:
            raise ValueError(f"width={reprlib.repr(width)} must be a positive multiple of 4")
        if width > MAX_WIDTH:
            raise ValueError(f"width={reprlib.repr(width)} is out of range: use 4 to {MAX_WIDTH:,}")
        heads = max(h for h in range(1, max(1, width // 16) + 1) if width % (2 * h) == 0)
        return cls(**{"d_model": width, "n_heads": heads, "d_expert": 3 * width} | changes)

    @classmethod
    def on_dial(cls, width: int, sparsity: float, hold: Hold = "active") -> Self:
        """Returns the model that the dial shows. ``hold="active"``: experts of 3·width hidden units, more and more of
        them. ``hold="total"``: 48·width hidden units per layer, in ever smaller experts. The two meet at 16 experts,
        S = 0.9375."""
        dense = cls.of_width(width)
        dense = dense if hold == "active" else dense.replace(d_expert=48 * width)
        return dense.with_sparsity(sparsity, hold)

    @property
    def head_dim(self) -> int:
        return self.d_head or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def is_mla(self) -> bool:
        return self.kv_lora_rank is not None

    @property
    def nope_dim(self) -> int:
        """MLA: the part of a query and key head without position."""
        return self.qk_nope_head_dim or self.head_dim

    @property
    def rope_dim(self) -> int:
        """The part of a query and key head that RoPE turns: for MLA a part of its own, else the whole head."""
        return (self.qk_rope_head_dim or self.head_dim // 2) if self.is_mla else self.head_dim

    @property
    def value_dim(self) -> int:
        return self.v_head_dim or self.head_dim

    @property
    def has_router(self) -> bool:
        return self.n_experts > 1

    @property
    def router_width(self) -> int:
        """Scores that a router computes for a token: one per expert, or none if nothing is learnt."""
        return 0 if self.router in ("hash", "random") or not self.has_router else self.n_experts

    @property
    def mtp_layer(self) -> Self:
        """The shape of a multi-token prediction module's one layer, which has experts if any layer has."""
        return self.replace(n_layers=1, n_dense_layers=0, moe_every=1, mtp_depth=0)

    def is_moe_layer(self, layer: int) -> bool:
        """Tells whether ``layer``, from 0, has the routed experts (or, in a dense model, the one expert)."""
        return layer >= self.n_dense_layers and (layer + 1) % self.moe_every == 0

    @property
    def n_moe_layers(self) -> int:
        """Number of layers for which `is_moe_layer` holds, by arithmetic."""
        return self.n_layers // self.moe_every - self.n_dense_layers // self.moe_every

    @property
    def dense_width(self) -> int:
        """Hidden width of the layers that are not MoE layers."""
        return self.d_dense or (self.top_k + self.n_shared_experts) * self.d_expert

    @property
    def sparsity(self) -> float:
        """S = (E − K)/E, the share of routed experts inactive on a token (Abnar et al. 2025, arXiv 2501.12370)."""
        return (self.n_experts - self.top_k) / self.n_experts

    def with_sparsity(self, sparsity: float, hold: Hold = "active") -> Self:
        """Returns this model at the achievable sparsity nearest to ``sparsity``; its ``.sparsity`` says which that is.

        ``top_k`` stays, and the number of experts becomes E = K/(1 − S). With ``hold="active"``, the experts keep their
        width, so the active part stays and the total grows. With ``hold="total"``, the same E·d_expert hidden units are
        cut into more, narrower experts, so the total stays and the active part shrinks. (In both, the router adds
        d_model weights per expert.) Raises ValueError outside [0, 1).
        """
        if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
            shown = reprlib.repr(sparsity)
            raise ValueError(
                f"sparsity={shown} must be at least 0 and below 1: at 1 no expert would be left; try 0.9375"
            )

        wanted = self.top_k / (1 - sparsity)
        if wanted > MAX_EXPERTS:
            raise ValueError(
                f"sparsity={sparsity!r} needs {wanted:.0f} experts per layer, more than {MAX_EXPERTS}; with top_k="
                f"{self.top_k} use at most {1 - self.top_k / MAX_EXPERTS:.6f}"
            )

        one_of("hold", hold, get_args(Hold))
        if hold == "active":
            around = (max(self.top_k, math.floor(wanted)), math.ceil(wanted))
            return self.replace(n_experts=min(around, key=lambda e: abs(self.top_k / e - (1 - sparsity))))

        pool = self.n_experts * self.d_expert
        divisors = (e for e in range(self.top_k, MAX_EXPERTS + 1) if pool % e == 0)
        experts = min(divisors, key=lambda e: abs(self.top_k / e - (1 - sparsity)), default=0)
        if not experts:
            raise ValueError(f"hold='total': {pool} hidden units can't be cut into {self.top_k} or more equal experts")
        return self.replace(n_experts=experts, d_expert=pool // experts)

    def sparsities(self, hold: Hold = "active") -> list[float]:
        """Returns the dial's stops: S for E = K, 2K, 4K, … up to 256 experts, where `with_sparsity` hits it exactly."""
        doublings = [self.top_k << i for i in range(9) if i == 0 or self.top_k << i <= SLIDER_EXPERTS]
        stops = [(e - self.top_k) / e for e in doublings]
        return [s for s in stops if self.with_sparsity(s, hold).sparsity == s]


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """How a model is trained. ``None`` leaves the choice to the lab (`resolve` says how it chooses)."""

    budget: float = _number(1e11, 1, 1e24)  # training FLOPs, forward and backward, as executed
    batch_size: int | None = _number(None, 1, 65_536)  # sequences per step
    learning_rate: float | None = _number(None, 1e-8, 10)  # peak
    warmup: float = _number(0.05, 0, 1)  # share of the steps
    decay: float = _number(0.3, 0, 1)  # share of the steps, linear to zero at the end
    weight_decay: float = _number(0.05, 0, 10)
    grad_clip: float = _number(1.0, 1e-6, 1e6)  # largest gradient norm
    seed: int = _number(0, 0, 2**31 - 1)  # of the weights, and of the order of the data unless that has its own
    order_seed: int | None = _number(None, 0, 2**31 - 1)
    corpus: str = "python"  # see sparsity_lab.training.corpus.load_corpus
    eval_tokens: int = _number(131_072, 1, 2**31)  # held-out tokens in the final loss
    dtype: str = _choice("float32", "bfloat16")  # of the matrix products; weights are always float32
    device: str = _choice("auto", "cpu", "cuda")
    backend: str = _choice(*BACKENDS)  # how the experts are computed
    threads: int = _number(1, 1, 1024)  # CPU threads

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup={self.warmup:g} and decay={self.decay:g} are shares of one run: keep the sum ≤ 1")
        if not self.corpus.strip():
            raise ValueError("corpus='' must be a name or a path, e.g. corpus='python'")

    @property
    def order(self) -> int:
        """The seed of the order of the data."""
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def sequences(self) -> int:
        """Sequences per step: ``batch_size``, or the lab's choice: 4 at 1e11 FLOPs, and twice as many for each tenfold.

        The lower the loss that a run reaches, the more tokens a step can use well (the critical batch size of Kaplan et
        al. 2020, arXiv 2001.08361, section 5.1). The choice depends on the budget alone, so models that are compared at
        equal FLOPs also take about the same number of steps.
        """
        return self.batch_size or 1 << min(6, max(1, round(2 + math.log10(self.budget / 1e11))))


def resolve(model: ModelConfig, run: RunConfig) -> RunConfig:
    """Returns ``run`` with every choice made that was left to the lab: `RunConfig.sequences`, and a learning rate of
    8e-3 at 1e11 FLOPs and 0.63 times as much for each tenfold budget, which was tried at the best shapes
    (`benchmarks/learning_rate.py`). Resolving twice changes nothing."""
    if run.batch_size and run.learning_rate:
        return run
    rate = run.learning_rate or 8e-3 * math.pow(run.budget / 1e11, -0.2)
    return run.replace(batch_size=run.sequences, learning_rate=rate)
