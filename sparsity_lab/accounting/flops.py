"""Counts FLOPs as they are executed: a multiply-add is 2, and training is the forward and the backward pass.

Matrix products are counted, as ``torch.utils.flop_counter.FlopCounterMode`` does, and the numbers equal its numbers
exactly for the naive backend with the explicit attention kernel. A product Y = X·W costs 2·m·n·k forward and twice that
backward (one product for the gradient of X, one for W). Attention scores are counted in full, T² per head, although a
causal kernel may skip the half that is masked. Other conventions stand beside this one, by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.accounting.shape import Mixer, Model, Shape, lab_config, shape_of
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.units import quantity

TRAIN = 3  # forward 1, backward 2

Decode = Literal["absorbed", "naive"]


def flops_by_part(model: Model, context: int | None = None, causal: bool = False) -> dict[str, int]:
    """Returns the forward FLOPs per token, by part, in a sequence of ``context`` tokens (default: the config's).

    A layer with a window is counted as by a kernel that keeps to it: at most so many scores per token. ``causal``
    counts only the scores that a causal mask leaves, (T + 1)/2 per token and head in a layer that sees all, instead of
    all T. Raises ValueError for an encoder-decoder, because a token passes only one of its halves.
    """
    shape = shape_of(model)
    _refuse_halves(shape)
    length = shape.context if context is None else context
    parts = dict.fromkeys(("projections", "attention", "router", "dense", "shared", "routed"), 0.0)
    for mixer, times in shape.mixers():
        if causal:
            seen, compared = (each.seen_by_all(length) / length for each in (mixer, replace(mixer, sees=None)))
        else:
            seen, compared = _most_seen(mixer, length), length // mixer.stride
        parts["projections"] += 2 * times * mixer.weights.matrices
        parts["attention"] += 2 * times * (seen * mixer.pair + compared * mixer.scan + mixer.step)
    for layer, times in shape.layers:
        for part in layer.feed_forwards:
            parts["router"] += 2 * times * part.router.matrices
            parts["dense"] += 2 * times * part.dense.matrices
            parts["shared"] += 2 * times * part.shared.matrices
            parts["routed"] += 2 * times * part.top_k * part.expert.matrices
    return {name: round(flops) for name, flops in parts.items()} | {"head": 2 * shape.head.matrices}


def _most_seen(mixer: Mixer, length: int) -> int:
    if mixer.kind == "chunked" and mixer.sees is not None:
        return min(length, mixer.sees)
    return mixer.seen(length)


def _refuse_halves(shape: Shape) -> None:
    if shape.encoder:
        raise ValueError(
            f"a {shape.kind} model has {shape.n_encoder_layers} encoder layers: FLOPs of encoder-decoders are not "
            f"counted, because a token passes only one of the halves; parameters are"
        )


def flops_skipping_zeros(config: ModelConfig, nonzeros: Mapping[str, int]) -> float:
    """Returns the forward FLOPs per token of kernels that skip every zero among a pruned model's weights.

    A part that has kept a share of its weights needs that share of `flops_by_part`; attention scores are computed in
    full. For experts this is the mean over all of them, which is what evenly spread tokens need. ``nonzeros``: the
    number of weights that are not 0, by the names in `Parameters`.
    """
    weights = asdict(count_parameters(config))
    total = 0.0
    for part, flops in flops_by_part(config).items():
        field = "attention" if part == "projections" else part
        if flops:
            total += flops if part == "attention" else flops * nonzeros[field] / weights[field]
    return total


def decode_flops_by_part(model: Model, position: int, mla: Decode = "absorbed") -> dict[str, int]:
    """Returns the FLOPs, by part, of one new token that follows ``position`` tokens in the cache.

    MLA can decode in two ways that give the same numbers (DeepSeek-V2, arXiv 2405.04434, section 2.1.2). ``naive``
    recomputes the keys and values of all cached latents; ``absorbed`` folds the key matrix into the query and the value
    matrix into the output, and attends in the latent space.
    """
    if mla not in get_args(Decode):
        raise ValueError(f"mla={mla!r} is not known: use {' or '.join(get_args(Decode))}")
    shape, tokens = shape_of(model), position + 1  # the new token sees itself too
    parts = flops_by_part(shape, tokens) | {"attention": 0}
    for mixer, times in shape.mixers():
        seen, pair = mixer.seen(tokens), mixer.pair
        if mixer.latent and mla == "absorbed":
            pair = mixer.heads * (2 * mixer.latent + mixer.rope_dim)
        elif mixer.latent:  # the matrix behind the latents meets all of them, not the new one alone
            parts["projections"] += 2 * times * mixer.kv_up * (seen - 1)
        parts["attention"] += 2 * times * (seen * pair + tokens // mixer.stride * mixer.scan + mixer.step)
    return parts


def flops_per_token(model: Model, context: int | None = None) -> int:
    """Returns the training FLOPs per token, forward and backward, in sequences of ``context`` tokens."""
    return TRAIN * sum(flops_by_part(model, context).values())


def flops_per_step(config: ModelConfig, batch_size: int) -> int:
    """Returns the training FLOPs of one step on ``batch_size`` sequences, with those of multi-token prediction."""
    return (flops_per_token(config) * config.context + TRAIN * mtp_flops(config)) * batch_size


def mtp_flops(config: ModelConfig) -> int:
    """Returns the forward FLOPs per sequence of the modules for multi-token prediction. The module that predicts k
    tokens further on runs on the T − k tokens that have such a token."""
    lengths = [config.context - depth for depth in range(1, config.mtp_depth + 1)]
    layer = config.mtp_layer if lengths else config
    return sum(n * (4 * config.d_model**2 + sum(flops_by_part(layer, n).values())) for n in lengths)


def causal_flops_per_token(model: Model, context: int | None = None) -> int:
    """Returns the training FLOPs per token if the masked half of the scores is skipped."""
    return TRAIN * sum(flops_by_part(model, context, causal=True).values())


def active_flops_6nd(model: Model, tokens: int) -> int:
    """Returns the usual estimate 6·N_a·D (Kaplan et al. 2020, arXiv 2001.08361), without scores and input table.
    Raises ValueError for an encoder-decoder, as `flops_by_part` does."""
    _refuse_halves(shape_of(model))
    return 6 * count_parameters(model).active_with("output") * tokens


def abnar_flops_per_token(model: Model, context: int | None = None) -> int:
    """Returns the training FLOPs per token by Abnar et al. 2025 (arXiv 2501.12370, appendix C), for models with
    full multi-head attention, SwiGLU experts in every layer, 4·d/G wide. A layer is projections 4·6·d², scores 2·6·T·d,
    the router R·d·E with R = 14, and experts 72·K·d²/G = 18·K·d·d_expert; the output table is 6·V·d.

    Raises ValueError for models with other layers, to which the formula does not apply.
    """
    shape = shape_of(model)
    config = model if isinstance(model, ModelConfig) else lab_config(model)
    if config is None:
        raise ValueError(
            f"convention='abnar_app_c' is a formula for models whose layers are all alike: use another for a "
            f"{shape.kind} model"
        )
    d, length = config.d_model, shape.context if context is None else context
    active = config.top_k + config.n_shared_experts
    router = 14 * d * config.n_experts if config.has_router else 0
    layer = 24 * d * d + 12 * length * d + router + 18 * active * d * config.d_expert
    return config.n_layers * layer + 6 * config.vocab_size * d


SEQUENCE = 8192  # tokens of a sequence in training, where nobody says: what many models of these years began with


def sequence_length(model: Model, asked: float | str | None = None) -> int:
    """Returns the length of sequences to count with: what was ``asked`` for, or `SEQUENCE` if the model's context is
    not shorter. Text is read as `quantity` does. Raises ValueError for a length that is not whole, or longer than the
    context."""
    most = shape_of(model).context
    if asked is None:
        return min(most, SEQUENCE)
    asked = quantity("context", asked) if isinstance(asked, str) else asked
    if asked != asked // 1 or not 1 <= asked <= most:
        raise ValueError(f"context={asked:g} must be a whole number from 1 to {most}, the model's longest")
    return int(asked)


CONVENTIONS: dict[str, Callable[..., int]] = {  # training FLOPs per token, of a model at a length of its sequences
    "executed": flops_per_token,
    "causal": causal_flops_per_token,
    "6ND": lambda model, context=None: active_flops_6nd(model, 1),
    "abnar_app_c": abnar_flops_per_token,
}


@dataclass(frozen=True)
class Plan:
    """The steps that a budget buys. They are whole, so ``flops`` ≤ the budget."""

    steps: int
    tokens: int
    flops: int


def plan(config: ModelConfig, run: RunConfig) -> Plan:
    """Returns the longest run of whole steps within the run's budget of training FLOPs.

    Raises ValueError when the budget does not pay for one step.
    """
    step = flops_per_step(config, run.sequences)
    steps = int(run.budget // step)
    if steps < 1:
        raise ValueError(
            f"budget={run.budget:.3g} FLOPs is less than one step of this model ({step:.3g}): "
            f"raise the budget, or lower batch_size={run.sequences}, the width or the context"
        )
    return Plan(steps=steps, tokens=steps * run.sequences * config.context, flops=steps * step)
