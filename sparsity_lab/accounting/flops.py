"""Counts FLOPs as they are executed: a multiply-add is 2, and training is the forward and the backward pass.

Matrix products are counted, as ``torch.utils.flop_counter.FlopCounterMode`` does, and the numbers equal its numbers
exactly for the naive backend with the explicit attention kernel. A product Y = X·W costs 2·m·n·k forward and twice that
backward (one product for the gradient of X, one for W). Attention scores are counted in full, T² per head, although a
causal kernel may skip the half that is masked. Other conventions stand beside this one, by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from sparsity_lab.accounting.parameters import attention_matrices, count_parameters
from sparsity_lab.config import ModelConfig, RunConfig

TRAIN = 3  # forward 1, backward 2

Decode = Literal["absorbed", "naive"]


def flops_by_part(config: ModelConfig, context: int | None = None, causal: bool = False) -> dict[str, int]:
    """Returns the forward FLOPs per token, by part, in a sequence of ``context`` tokens (default: the config's).

    ``causal`` counts only the scores that a causal mask leaves, (T + 1)/2 per token and head, instead of all T.
    Raises ValueError for an encoder-decoder, because a token passes only one of its halves.
    """
    if config.n_encoder_layers:
        raise ValueError(
            f"n_encoder_layers={config.n_encoder_layers}: FLOPs of encoder-decoders are not counted, because a "
            f"token passes only one of the halves; parameters are"
        )
    length = config.context if context is None else context
    twice_seen = length + 1 if causal else 2 * length  # 2 for each token that a query is compared with

    d, layers, moe_layers = config.d_model, config.n_layers, config.n_moe_layers
    matrices = 3 if config.ffn == "swiglu" else 2
    expert = 2 * matrices * d * config.d_expert
    key = config.nope_dim + config.rope_dim if config.is_mla else config.head_dim
    return {
        "projections": layers * 2 * sum(attention_matrices(config).values()),
        "attention": layers * twice_seen * config.n_heads * (key + config.value_dim),  # queries·keys, weights·values
        "router": moe_layers * 2 * d * config.router_width,
        "dense": (layers - moe_layers) * 2 * matrices * d * config.dense_width,
        "shared": moe_layers * config.n_shared_experts * expert,
        "routed": moe_layers * config.top_k * expert,
        "head": 2 * d * config.vocab_size,
    }


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


def decode_flops_by_part(config: ModelConfig, position: int, mla: Decode = "absorbed") -> dict[str, int]:
    """Returns the FLOPs, by part, of one new token that follows ``position`` tokens in the cache.

    MLA can decode in two ways that give the same numbers (DeepSeek-V2, arXiv 2405.04434, section 2.1.2). ``naive``
    recomputes the keys and values of all cached latents; ``absorbed`` folds the key matrix into the query and the value
    matrix into the output, and attends in the latent space.
    """
    if mla not in get_args(Decode):
        raise ValueError(f"mla={mla!r} is not known: use {' or '.join(get_args(Decode))}")
    seen = position + 1  # itself too
    attended = tokens_seen(config, seen)  # over all layers
    parts = flops_by_part(config, seen)

    if config.kv_lora_rank is not None and mla == "absorbed":
        return parts | {"attention": 2 * attended * config.n_heads * (2 * config.kv_lora_rank + config.rope_dim)}
    if config.is_mla:  # the matrix behind the latents meets all of them, not the new one alone
        parts["projections"] += 2 * attention_matrices(config)["kv_up"] * (attended - config.n_layers)
    return parts | {"attention": parts["attention"] * attended // (config.n_layers * seen)}


def tokens_seen(config: ModelConfig, tokens: int) -> int:
    """Returns how many of ``tokens`` tokens the next one sees, summed over layers. A sliding window hides others."""
    if config.window is None:
        return config.n_layers * tokens
    full = 0 if config.full_attention_every is None else config.n_layers // config.full_attention_every
    return full * tokens + (config.n_layers - full) * min(tokens, config.window)


def flops_per_token(config: ModelConfig) -> int:
    """Returns the training FLOPs per token, forward and backward."""
    return TRAIN * sum(flops_by_part(config).values())


def flops_per_step(config: ModelConfig, batch_size: int) -> int:
    """Returns the training FLOPs of one step on ``batch_size`` sequences, with those of multi-token prediction."""
    return (flops_per_token(config) * config.context + TRAIN * mtp_flops(config)) * batch_size


def mtp_flops(config: ModelConfig) -> int:
    """Returns the forward FLOPs per sequence of the modules for multi-token prediction. The module that predicts k
    tokens further on runs on the T − k tokens that have such a token."""
    lengths = [config.context - depth for depth in range(1, config.mtp_depth + 1)]
    layer = config.mtp_layer if lengths else config
    return sum(n * (4 * config.d_model**2 + sum(flops_by_part(layer, n).values())) for n in lengths)


def causal_flops_per_token(config: ModelConfig) -> int:
    """Returns the training FLOPs per token if the masked half of the scores is skipped."""
    return TRAIN * sum(flops_by_part(config, causal=True).values())


def active_flops_6nd(config: ModelConfig, tokens: int) -> int:
    """Returns the usual estimate 6·N_a·D (Kaplan et al. 2020, arXiv 2001.08361), without scores and input table."""
    return 6 * count_parameters(config).active_with("output") * tokens


def abnar_flops_per_token(config: ModelConfig) -> int:
    """Returns the training FLOPs per token by Abnar et al. 2025 (arXiv 2501.12370, appendix C), for models with
    full multi-head attention, SwiGLU experts in every layer, 4·d/G wide. A layer is projections 4·6·d², scores 2·6·T·d,
    the router R·d·E with R = 14, and experts 72·K·d²/G = 18·K·d·d_expert; the output table is 6·V·d."""
    d = config.d_model
    active = config.top_k + config.n_shared_experts
    router = 14 * d * config.n_experts if config.has_router else 0
    layer = 24 * d * d + 12 * config.context * d + router + 18 * active * d * config.d_expert
    return config.n_layers * layer + 6 * config.vocab_size * d


CONVENTIONS: dict[str, Callable[[ModelConfig], int]] = {  # training FLOPs per token
    "executed": flops_per_token,
    "causal": causal_flops_per_token,
    "6ND": lambda config: active_flops_6nd(config, 1),
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
