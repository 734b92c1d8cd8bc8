"""FLOPs as executed: a multiply-add is 2, training is the forward and the backward pass as they run.

Counted are matrix products, which is what ``torch.utils.flop_counter.FlopCounterMode`` counts, and our numbers equal
its numbers exactly for the naive backend with the explicit attention kernel. A product Y = X·W costs 2·m·n·k forward
and twice that backward (one product for the gradient of X, one for W). Attention scores are counted in full, T² a head,
although a causal kernel may skip the half that is masked.
"""

from dataclasses import dataclass

from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.config import ModelConfig, RunConfig

TRAIN = 3  # forward 1, backward 2


def flops_by_part(config: ModelConfig, context: int | None = None) -> dict[str, int]:
    """Forward FLOPs a token, by part, in a sequence of ``context`` tokens (default: the config's)."""
    d, layers = config.d_model, config.n_layers
    length = config.context if context is None else context
    expert = 2 * 3 * d * config.d_expert
    return {
        "projections": layers * 2 * 4 * d * d,
        "attention": layers * 2 * 2 * length * d,  # queries·keys, weights·values
        "router": layers * 2 * d * config.n_experts if config.has_router else 0,
        "shared": layers * config.n_shared_experts * expert,
        "routed": layers * config.top_k * expert,
        "head": 2 * d * config.vocab_size,
    }


def flops_per_token(config: ModelConfig) -> int:
    """Training FLOPs a token, forward and backward."""
    return TRAIN * sum(flops_by_part(config).values())


def flops_per_step(config: ModelConfig, batch_size: int) -> int:
    """Training FLOPs of one step on ``batch_size`` sequences."""
    return flops_per_token(config) * config.context * batch_size


def active_flops_6nd(config: ModelConfig, tokens: int) -> int:
    """The usual estimate 6·N_a·D (Kaplan et al. 2020, arXiv 2001.08361): no attention scores, no input table."""
    count = count_parameters(config)
    return 6 * (count.active - count.embedding) * tokens


@dataclass(frozen=True)
class Plan:
    """What a budget buys: whole steps only, so ``flops`` ≤ the budget."""

    steps: int
    tokens: int
    flops: int


def plan(config: ModelConfig, run: RunConfig) -> Plan:
    """The longest run of whole steps within the run's budget of training FLOPs.

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
