"""The router chooses which experts are active on a token: each expert gets a score, and the top K win.

Legend: N tokens (batch and sequence flattened), D model width, E experts, K experts per token, S = N·K choices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from sparsity_lab.config import ModelConfig
from sparsity_lab.models.ops import apply, linear, linear_plain

aten = torch.ops.aten


@dataclass
class Routing:
    """One layer's decisions for N tokens."""

    weights_NK: Tensor  # weight of each chosen expert's answer
    experts_NK: Tensor  # the chosen experts, int64, the favourite first
    counts_E: Tensor  # assignments that each expert got, int64
    probs_NE: Tensor  # the router's full distribution, without gradient
    balance: Tensor  # load-balance loss: 1 for an even load
    z: Tensor  # z-loss
    tokens_S: Tensor | None = None  # expert choice only: the token of each choice; the first two are then (S, 1)


@dataclass
class RoutingStats:
    """The load that a layer's router gave its experts in the last batch."""

    load: list[float]  # share of the assignments that each expert got; sums to 1
    max_load: float  # the busiest expert's load in multiples of the even share; 1 is perfectly even
    dead: int  # experts that got nothing


class Router(nn.Module):
    """Takes the top K of the scores of all experts, in float32.

    Scores are a softmax over the experts, or a sigmoid for each (DeepSeek-V3, arXiv 2412.19437, section 2.1.2). With
    ``bias_rate``, the choice is made by score + bias. After every step, the bias falls for an expert with more than the
    mean load and rises for one with less (Wang et al. 2024, arXiv 2408.15664). Weights come from the scores alone. With
    groups, a token may choose only from the ``top_groups`` whose two best experts together score highest.

    The balance loss is E·Σ_e f_e·P_e over *all* experts (Fedus et al. 2021, arXiv 2101.03961, eq. 4; f_e is the share
    of assignments, P_e the mean share of the scores). The z-loss is the mean squared log-sum-exp of the logits (Zoph et
    al. 2022, arXiv 2202.08906, eq. 5).

    There are three more kinds to compare with, which have no bias and no groups. With ``expert_choice``, the experts
    choose their tokens (`route_by_experts`). ``hash`` and ``random`` learn nothing. With ``hash``, each kind of token
    has K experts, drawn once (Roller et al. 2021, arXiv 2106.04426). With ``random``, every token draws K experts each
    time it is read, so no expert can specialise.
    """

    weight: nn.Parameter | None
    bias_E: Tensor | None
    table_VK: Tensor | None
    draw: Tensor | None

    def __init__(self, config: ModelConfig, plain: bool):
        super().__init__()
        self.config = config
        self.linear = linear_plain if plain else linear
        simple = config.router == "softmax" and config.n_groups == 1 and not config.bias_rate
        self.fast = simple and config.route_scale == 1 and not plain

        E, learns = config.n_experts, config.router_width > 0
        self.weight = nn.Parameter(torch.randn(E, config.d_model) * config.d_model**-0.5) if learns else None
        biased = config.bias_rate and config.router in ("softmax", "sigmoid")
        self.register_buffer("bias_E", torch.zeros(E) if biased else None)
        table_VK = _drawn(config.vocab_size, config) if config.router == "hash" else None
        self.register_buffer("table_VK", table_VK, persistent=False)
        # the seed of the next draw is kept with the weights, so that a resumed run draws what it would have drawn
        self.register_buffer("draw", torch.randint(2**62, ()) if config.router == "random" else None)

        self.last: Routing | None = None
        self.all_reduce: Callable[[Tensor], Tensor] | None = None  # sums over processes, where there are several

    def forward(self, x_ND: Tensor, tokens_N: Tensor | None = None) -> Routing:
        """Routes tokens, (N, D). Only ``hash`` needs ``tokens_N``, the tokens' ids."""
        if self.draw is not None:
            experts_NK = _drawn(len(x_ND), self.config, int(self.draw))
            self.last = route_fixed(experts_NK.to(x_ND.device, non_blocking=True), self.config)
            self.draw += 1
        elif self.weight is None:
            assert self.table_VK is not None
            assert tokens_N is not None, "hash routing needs the tokens"
            self.last = route_fixed(self.table_VK[tokens_N], self.config)
        else:
            logits_NE = self.linear(x_ND.float(), self.weight)
            if self.config.router == "expert_choice":
                self.last = route_by_experts(logits_NE, self.config)
            elif self.fast and self.all_reduce is None and not torch.compiler.is_compiling():
                self.last = route(logits_NE, self.config.top_k)
            else:
                self.last = route_plain(logits_NE, self.config, self.bias_E, self.all_reduce)
        return self.last

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the router to a device, but not the seed of the next draw, which the host reads at each step."""
        draw = self.draw
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.draw = draw
        return self

    def aux_loss(self, routing: Routing) -> Tensor:
        """Returns the two losses, weighted as the config says."""
        return self.config.balance_loss * routing.balance + self.config.z_loss * routing.z

    @torch.no_grad()
    def update_bias(self) -> None:
        """Moves the bias, after a training step, to even the load. Does nothing without ``bias_rate``."""
        if self.bias_E is not None and self.last is not None:
            counts_E = self.last.counts_E.float()
            if self.all_reduce is not None:
                counts_E = self.all_reduce(counts_E)
            self.bias_E += self.config.bias_rate * (counts_E.mean() - counts_E).sign()

    def stats(self) -> RoutingStats | None:
        """Returns the last batch's load, computed when asked so that a step pays nothing; None before the first."""
        if self.last is None:
            return None
        load_E = self.last.counts_E / self.last.counts_E.sum()
        return RoutingStats(load_E.tolist(), (load_E.max() * len(load_E)).item(), int((load_E == 0).sum()))


def _drawn(n_tokens: int, config: ModelConfig, seed: int = 0) -> Tensor:
    """Draws K different experts for each token, uniformly, (N, K)."""
    draws_NE = torch.rand(n_tokens, config.n_experts, generator=torch.Generator().manual_seed(seed))
    return draws_NE.topk(config.top_k).indices


def _counted(experts_NK: Tensor, n_experts: int) -> Tensor:
    """Returns how often each expert was chosen, int64, (E,). On a GPU `bincount` would wait for its result; a compiler
    can't trace it."""
    choices_S = experts_NK.flatten()
    return choices_S.new_zeros(n_experts).index_add(0, choices_S, torch.ones_like(choices_S))


def route_fixed(experts_NK: Tensor, config: ModelConfig) -> Routing:
    """Returns a routing with these choices and equal weights, in which there is nothing to learn."""
    N, K = experts_NK.shape
    counts_E = _counted(experts_NK, config.n_experts)
    weights_NK = torch.full((N, K), config.route_scale / K, device=experts_NK.device)
    probs_NE = torch.zeros(N, config.n_experts, device=experts_NK.device).scatter(1, experts_NK, 1 / K)
    nothing = weights_NK.new_zeros(())
    return Routing(weights_NK, experts_NK, counts_E, probs_NE, nothing, nothing)


def route_plain(
    logits_NE: Tensor,
    config: ModelConfig,
    bias_E: Tensor | None = None,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
) -> Routing:
    """Routes by every kind of learnt router; the oracle of `route`. ``all_reduce`` sums the load over processes."""
    E, K = config.n_experts, config.top_k
    scores_NE = logits_NE.softmax(-1) if config.router == "softmax" else logits_NE.sigmoid()
    choice_NE = scores_NE if bias_E is None else scores_NE + bias_E
    if config.top_groups is not None and config.top_groups < config.n_groups:
        choice_NE = _best_groups(choice_NE, config.n_groups, config.top_groups)

    experts_NK = _largest(choice_NE, K)[1] if torch.compiler.is_compiling() else choice_NE.topk(K, -1).indices
    weights_NK = scores_NE.gather(1, experts_NK)
    if K > 1:  # for K = 1 the weight stays the score, or no gradient would reach the router
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)

    counts_E = _counted(experts_NK, E)
    probs_NE = scores_NE if config.router == "softmax" else scores_NE / scores_NE.sum(-1, keepdim=True)
    load_E = (counts_E if all_reduce is None else all_reduce(counts_E)).float()
    balance = E * (load_E / load_E.sum() * probs_NE.mean(0)).sum()
    z = logits_NE.logsumexp(-1).square().mean()
    return Routing(weights_NK * config.route_scale, experts_NK, counts_E, probs_NE.detach(), balance, z)


def route_by_experts(logits_NE: Tensor, config: ModelConfig) -> Routing:
    """Routes by expert choice: each expert takes the C = N·K/E tokens it scores highest, so that all are equally busy
    (Zhou et al. 2022, arXiv 2202.09368, section 3.2). Some tokens get many experts, some none. The weight of an
    expert's answer is its share of the token's softmax, not rescaled. If E does not divide N·K, the experts whose next
    token scores highest take that one too, so there are always N·K choices.

    The choice of a token depends on the others of the batch, **later ones too**. So in a language model this is only a
    baseline for training: its losses, held-out ones included, know a little of the future. A token that is read alone,
    as when a text is written, competes with no other and gets its own K best experts. That is well defined, but not
    what the model was trained on.
    """
    (N, E), K = logits_NE.shape, config.top_k
    probs_NE = logits_NE.softmax(-1)

    whole, rest = divmod(N * K, E)
    best = probs_NE.t().topk(min(whole + 1, N))  # each expert's tokens, and its next one
    takes_next = best.values[:, -1].topk(rest).indices  # no expert if the division leaves no rest
    every_E = torch.arange(E, device=probs_NE.device)
    experts_S = torch.cat([every_E[:, None].expand(E, whole).flatten(), takes_next]).sort().values
    counts_E = _counted(experts_S, E)
    place_S = torch.arange(N * K, device=probs_NE.device) - (counts_E.cumsum(0) - counts_E)[experts_S]
    tokens_S = best.indices[experts_S, place_S]

    weights_S1 = probs_NE[tokens_S, experts_S, None] * config.route_scale
    balance = E * (counts_E / (N * K) * probs_NE.mean(0)).sum()
    z = logits_NE.logsumexp(-1).square().mean()
    return Routing(weights_S1, experts_S[:, None], counts_E, probs_NE.detach(), balance, z, tokens_S)


def _best_groups(choice_NE: Tensor, n_groups: int, top_groups: int) -> Tensor:
    """Returns the scores, with −∞ outside each token's best groups. A group counts as its two best experts together."""
    of_groups_NGe = choice_NE.unflatten(-1, (n_groups, -1))
    two = min(2, of_groups_NGe.shape[-1])
    best_NG = of_groups_NGe.topk(two, -1).values.sum(-1).topk(top_groups, -1).indices
    allowed_NG = torch.zeros_like(of_groups_NGe[..., 0], dtype=torch.bool).scatter(1, best_NG, True)
    return of_groups_NGe.masked_fill(~allowed_NG[..., None], float("-inf")).flatten(1)


def route(logits_NE: Tensor, top_k: int) -> Routing:
    """Routes N tokens by the router's logits, (N, E) float32, with one hand-written backward for everything."""
    return Routing(*apply(_Route, logits_NE, top_k))


def _largest(p_NE: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Does what `topk` does. On a CPU, a few passes of max are several times faster."""
    if K > 8:
        return p_NE.topk(K, -1)
    found = [p_NE.max(-1, keepdim=True)]
    for _ in range(K - 1):
        p_NE = p_NE.scatter(1, found[-1][1], float("-inf"))
        found.append(p_NE.max(-1, keepdim=True))
    return torch.cat([p for p, _ in found], 1), torch.cat([i for _, i in found], 1)


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_NE: Tensor, K: int) -> tuple[Tensor, ...]:
        N, E = logits_NE.shape
        p_NE = logits_NE.softmax(-1)

        p_NK, experts_NK = _largest(p_NE, K)
        sum_N1 = p_NK.sum(-1, keepdim=True)
        weights_NK = p_NK.clone() if K == 1 else p_NK / sum_N1

        # the log-sum-exp from the favourite: its probability is at least 1/E, so the logarithm is safe
        lse_N1 = logits_NE.gather(1, experts_NK[:, :1]) - p_NK[:, :1].log()
        counts_E = _counted(experts_NK, E)
        share_E = counts_E.to(p_NE.dtype) * (E / (N * K))
        balance = torch.dot(share_E, p_NE.mean(0))
        z = lse_N1.square().mean()

        ctx.save_for_backward(p_NE, weights_NK, experts_NK, sum_N1, share_E, lse_N1)
        probs_NE = p_NE.detach()
        ctx.mark_non_differentiable(experts_NK, counts_E, probs_NE)
        ctx.set_materialize_grads(False)
        return weights_NK, experts_NK, counts_E, probs_NE, balance, z

    @staticmethod
    def backward(ctx: Any, dweights_NK: Tensor | None, *rest: Tensor | None) -> tuple[Tensor, None]:
        *_, dbalance, dz = rest
        p_NE, weights_NK, experts_NK, sum_N1, share_E, lse_N1 = ctx.saved_tensors
        N, E = p_NE.shape

        dp_NE = torch.zeros_like(p_NE) if dbalance is None else (share_E * (dbalance / N)).expand(N, E).contiguous()
        if dweights_NK is not None:
            if weights_NK.shape[1] > 1:  # through w = p / sum(p)
                dweights_NK = (dweights_NK - (dweights_NK * weights_NK).sum(-1, keepdim=True)) / sum_N1
            dp_NE.scatter_add_(1, experts_NK, dweights_NK)
        dlogits_NE = aten._softmax_backward_data(dp_NE, p_NE, -1, p_NE.dtype)
        if dz is not None:
            dlogits_NE.addcmul_(p_NE, lse_N1 * (2 * dz / N))
        return dlogits_NE, None
