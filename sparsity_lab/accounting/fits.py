"""Does it fit? Counts what each of several GPUs holds when a model is served or trained, split in four ways.

``tensor``: every matrix is cut into slices, and with it keys and values by head. ``pipeline``: each GPU has some of the
layers. ``data``: each group of GPUs has a copy of the model and its own share of the batch. ``expert``: the routed
experts of a layer are spread over so many GPUs of the tensor and data groups. What is counted is the fullest GPU.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from sparsity_lab.accounting.formats import WeightFormat, stored_cache
from sparsity_lab.accounting.memory import bytes_of
from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.accounting.shape import Model, Shape
from sparsity_lab.accounting.train_memory import Recompute, activation_bytes
from sparsity_lab.config import ModelConfig

PREFILL = 8192  # tokens that a server reads at a time, at most
MANY = 2**20  # no search for a larger batch


@dataclass(frozen=True)
class Split:
    """How a model is spread over GPUs. ``expert=None``: experts are cut like every matrix, by ``tensor``."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int | None = None

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline * self.data

    def check(self, config: Model) -> None:
        """Raises ValueError for a split that this model does not allow."""
        for name, value in asdict(self).items():
            if value is not None and not 1 <= value <= 2**16:
                raise ValueError(f"{name}={value} must be from 1 to {2**16}")
        if config.n_encoder_layers:
            raise ValueError(f"n_encoder_layers={config.n_encoder_layers}: encoder-decoders are not split")
        if config.n_heads % self.tensor:
            raise ValueError(
                f"tensor={self.tensor} must divide the model's {config.n_heads} heads; "
                f"give the other GPUs to pipeline or data"
            )
        if self.pipeline > config.n_layers:
            raise ValueError(f"pipeline={self.pipeline} is more than the model's {config.n_layers} layers")
        if self.expert is not None and not config.has_router:
            raise ValueError(f"expert={self.expert}: this model has no experts to spread")
        if self.expert is not None and (self.expert > config.n_experts or self.tensor * self.data % self.expert):
            raise ValueError(
                f"expert={self.expert} must be at most the model's {config.n_experts} experts and divide "
                f"tensor × data = {self.tensor * self.data}"
            )


@dataclass(frozen=True)
class Held:
    """The bytes that the fullest GPU holds."""

    weights: float
    cache: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.gradients + self.optimizer + self.activations


def serving(config: Model, split: Split, weights: WeightFormat, cache: str, context: int, batch: int) -> Held:
    """Returns what serving ``batch`` sequences of ``context`` tokens holds.

    The cache is cut by tensor as far as there are heads of keys and values; MLA's latents, which all heads share, are
    copied. Activations are an estimate: what all matrices of one layer make of the tokens that are read at a time, and
    the scores of the next token. Raises ValueError for a split, a format or a length that makes no sense.
    """
    split.check(config)
    ours = ceil(batch / split.data)
    copies = 1.0 if config.is_mla else ceil(config.kv_heads / split.tensor) / max(1, config.kv_heads)
    all_layers = stored_cache(config, context, cache, ours) * copies
    per_token = count_parameters(config).active_with("none") / config.n_layers / config.d_model
    rows = min(ours * context, PREFILL)
    working = (2 * rows * per_token + 4 * ours * config.vocab_size) / split.tensor

    stages = [
        Held(
            sum(n * weights.bytes_in(part) for part, n in held.items() if part != "mtp"),
            all_layers * layers / config.n_layers,
            activations=working,
        )
        for layers, held in _stages(config, split)
    ]
    return max(stages, key=lambda held: held.total)


def training(
    config: Model, split: Split, dtype: str, zero: int, recompute: Recompute, context: int, batch: int
) -> Held:
    """Returns what training on ``batch`` sequences of ``context`` tokens at a time holds, with AdamW as in
    `training_memory`.

    ZeRO (arXiv 1910.02054) spreads what copies of the model have in common: at stage 1 the state of the optimizer, at 2
    the gradients too, at 3 the weights too. Activations are cut by tensor (with sequence parallelism), not by pipeline,
    whose stages keep those of several batches. Raises ValueError as `serving` does.
    """
    split.check(config)
    if isinstance(config, Shape):
        raise ValueError(f"{config.kind}: activations are counted only for models whose layers are like the lab's")
    if zero not in range(4):
        raise ValueError(f"zero={zero} must be 0, 1, 2 or 3")
    kept = activation_bytes(config, dtype, recompute, context)
    activations = ceil(batch / split.data) * kept / split.tensor
    size = bytes_of(dtype)
    optimizer = 8 if size == 4 else 12

    # ZeRO spreads experts over fewer GPUs, if they are not copied to all.
    copies = split.tensor * split.data // (split.expert or split.tensor)
    stages = []
    for _, held in _stages(config, split):
        experts = held["routed"]
        others = sum(held.values()) - experts
        spread = others / split.data + experts / copies
        whole = others + experts
        weights, gradients, state = (spread if zero >= stage else whole for stage in (3, 2, 1))
        state *= optimizer
        stages.append(Held(size * weights, gradients=size * gradients, optimizer=state, activations=activations))
    return max(stages, key=lambda held: held.total)


def _stages(config: Model, split: Split) -> list[tuple[int, dict[str, float]]]:
    """Returns for each stage of the pipeline the number of its layers, and the weights that one of its GPUs holds, by
    part. Norms and routers are copied; matrices are cut, although some frameworks copy small ones."""
    count = count_parameters(config)
    tied = count.embedding < count.head  # positions may have a table of their own
    has_experts = _has_experts(config)
    moe = sum(has_experts)
    per_layer = {part: getattr(count, part) / config.n_layers for part in ("attention", "norms")}
    per_moe = {part: getattr(count, part) / max(1, moe) for part in ("router", "shared", "routed")}
    per_dense = count.dense / max(1, config.n_layers - moe)
    experts = split.tensor if split.expert is None else config.n_experts / ceil(config.n_experts / split.expert)

    stages = []
    for stage in range(split.pipeline):
        first, end = (ceil(config.n_layers * n / split.pipeline) for n in (stage, stage + 1))
        with_experts = sum(has_experts[first:end])
        held = {part: n * (end - first) for part, n in per_layer.items()}
        held |= {part: n * with_experts for part, n in per_moe.items()}
        held["dense"] = per_dense * (end - first - with_experts)
        is_last = stage == split.pipeline - 1
        held["embedding"] = count.embedding if stage == 0 else 0
        held["mtp"] = count.mtp if is_last else 0  # for training alone
        held["head"] = count.head if is_last or (tied and stage == 0) else 0
        for part in ("attention", "dense", "shared", "embedding", "mtp", "head"):
            held[part] /= split.tensor
        held["routed"] /= experts
        stages.append((end - first, held))
    return stages


def _has_experts(config: Model) -> list[bool]:
    """Tells for each layer whether it has experts. A Shape does not hold the order of its layers; if the lab's config
    does not say it either, those of a kind are taken to follow each other."""
    if isinstance(config, ModelConfig):
        return [config.is_moe_layer(layer) for layer in range(config.n_layers)]
    kinds = [
        any(part.n_experts for part in layer.feed_forwards) for layer, times in config.layers for _ in range(times)
    ]
    dense, every = config.lab.get("n_dense_layers", 0), config.lab.get("moe_every", 1)
    told = [layer >= dense and (layer + 1) % every == 0 for layer in range(len(kinds))]
    return told if sum(told) == sum(kinds) else kinds


def largest(fits: Callable[[int], bool], most: int) -> int:
    """Returns the largest whole number up to ``most`` for which ``fits`` holds, 0 if there is none; it must hold for
    all smaller ones too."""
    return bisect_left(range(1, most + 1), True, key=lambda n: not fits(n))


def longest_context(settings: Mapping[str, Any], context: int) -> int:
    """Returns the tokens up to which a model's positions were meant to work: its ``context``, stretched as
    ``rope_scaling`` says, if the file does not count that in already.

    YaRN (arXiv 2309.00071) multiplies the length that the model had before; linear and dynamic scaling multiply
    ``max_position_embeddings``.
    """
    text = settings.get("text_config")
    settings = text if isinstance(text, dict) else settings
    scaling = settings.get("rope_scaling") or settings.get("rope_parameters")
    if not isinstance(scaling, dict):
        return context
    kind, before = scaling.get("rope_type", scaling.get("type")), float(context)
    if kind == "yarn":
        before = _number(scaling.get("original_max_position_embeddings")) or context
    factor = _number(scaling.get("factor")) if kind in ("yarn", "linear", "dynamic") else 1
    return max(context, int(factor * before))


def _number(value: Any) -> float:
    """Returns a number that makes sense here, or 0."""
    return float(value) if type(value) in (int, float) and 0 < value <= 2**24 else 0.0
