"""The experts' work in three ways on the same weights and routing: a loop to read (`naive`), a fast version (`grouped`)
and MegaBlocks' own (`megablocks`).

Legend: N tokens, D model width, E experts, F hidden width of an expert, G = 2·F gate and up side by side, K experts per
token, S slots: a row for each (token, choice), sorted by expert.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_lab.config import ModelConfig
from sparsity_lab.models import routes
from sparsity_lab.models.megablocks import MegaBlocksExperts
from sparsity_lab.models.ops import apply, is_cpu_float32
from sparsity_lab.models.router import Router, Routing

aten = torch.ops.aten

PAD = 32  # rows that groups are padded to when their products go to oneDNN, so that shapes recur


class Experts(nn.Module):
    """E SwiGLU networks of one width (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) · up(x))."""

    def __init__(self, n_experts: int, d_hidden: int, config: ModelConfig):
        super().__init__()
        d = config.d_model
        self.top_k = 1 if config.router == "expert_choice" else config.top_k  # experts for each row that comes in
        self.megablocks_layer: MegaBlocksExperts | None = None
        self.gate_up_EDG = nn.Parameter(torch.randn(n_experts, d, 2 * d_hidden) * d**-0.5)
        self.down_EFD = nn.Parameter(torch.randn(n_experts, d_hidden, d) * (2 * d_hidden * config.n_layers) ** -0.5)

    def one(self, expert: int, x_ND: Tensor) -> Tensor:
        """Runs one expert on the tokens it is given, (n, D) → (n, D)."""
        gate_NF, up_NF = (x_ND @ self.gate_up_EDG[expert].to(x_ND.dtype)).chunk(2, -1)
        return gated(gate_NF, up_NF) @ self.down_EFD[expert].to(x_ND.dtype)

    def naive(self, x_ND: Tensor, routing: Routing) -> Tensor:
        """Runs expert by expert on the tokens that chose it: the oracle of the other two."""
        y_ND = torch.zeros_like(x_ND)
        for expert in range(len(self.down_EFD)):
            token, choice = (routing.experts_NK == expert).nonzero(as_tuple=True)
            weight = routing.weights_NK[token, choice, None].to(x_ND.dtype)
            y_ND = y_ND.index_add(0, token, self.one(expert, x_ND[token]) * weight)
        return y_ND

    def grouped(self, x_ND: Tensor, routing: Routing) -> Tensor:
        """Gives the same numbers from tokens sorted by expert, with a product for each group."""
        weights_NK, *weights = (w.to(x_ND.dtype) for w in (routing.weights_NK, self.gate_up_EDG, self.down_EFD))
        compute = grouped_compiled if torch.compiler.is_compiling() else partial(apply, _Grouped)
        chosen = weights_NK, routing.experts_NK, routing.counts_E
        if x_ND.device.type == "cpu" or _is_aligned(x_ND, weights[0].shape[2]):
            return compute(x_ND, *chosen, *weights)
        wide_ND, *weights = _aligned(x_ND, *weights)  # a loop over the groups would wait for their sizes
        return compute(wide_ND, *chosen, *weights)[:, : x_ND.shape[1]]

    def megablocks(self, x_ND: Tensor, routing: Routing) -> Tensor:
        """Gives the same numbers by MegaBlocks' own layer."""
        if self.megablocks_layer is None:
            E, F_, D = self.down_EFD.shape
            self.megablocks_layer = MegaBlocksExperts(E, F_, D, self.top_k)
        weights_NK, *weights = (w.to(x_ND.dtype) for w in (routing.weights_NK, self.gate_up_EDG, self.down_EFD))
        return self.megablocks_layer(x_ND, weights_NK, routing.experts_NK, *weights)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # of silu it would compute two exponentials in the backward pass
        return gate * gate.sigmoid() * up
    return F.silu(gate) * up


class MoE(nn.Module):
    """The feed-forward part of a layer: routed experts, and shared ones if the config has any (side by side they are
    one wider network)."""

    def __init__(self, config: ModelConfig, backend: str):
        super().__init__()
        self.router = Router(config, plain=backend == "naive") if config.has_router else None
        self.experts = Experts(config.n_experts, config.d_expert, config)
        shared = config.n_shared_experts * config.d_expert
        self.shared = Experts(1, shared, config) if shared else None
        self.route_to: Callable[[Tensor, Routing], Tensor] = getattr(self.experts, backend)

    def forward(self, x_BTD: Tensor, tokens_BT: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) → (B, T, D) and the router's weighted auxiliary loss (None without a router). ``tokens_BT``: the
        tokens' ids, for a router that goes by them."""
        x_ND, aux_loss = x_BTD.flatten(0, 1), None

        if self.router is None:
            y_ND = self.experts.one(0, x_ND)
        else:
            routing = self.router(x_ND, None if tokens_BT is None else tokens_BT.flatten())
            aux_loss = self.router.aux_loss(routing)
            if routing.tokens_S is None:
                y_ND = self.route_to(x_ND, routing)
            else:  # expert choice: a row for each choice
                y_SD = self.route_to(x_ND.index_select(0, routing.tokens_S), routing)
                y_ND = torch.zeros_like(x_ND).index_add(0, routing.tokens_S, y_SD)

        if self.shared is not None:
            y_ND = y_ND + self.shared.one(0, x_ND)
        return y_ND.view_as(x_BTD), aux_loss


# ---- products of groups of rows, one group per expert; ends_E are the rows where the groups end

Multiply = Callable[[Tensor, Tensor], Tensor]


def _grouped_mm(x_SA: Tensor, w_EAB: Tensor, ends_E: Tensor, multiply: Multiply | None) -> Tensor:
    """Computes y[group e] = x[group e] @ w[e], by torch's `grouped_mm` or in a loop with ``multiply``."""
    if multiply is None:
        return F.grouped_mm(x_SA, w_EAB, offs=ends_E)
    return torch.cat([multiply(x, w) for x, w in zip(x_SA.tensor_split(ends_E[:-1].tolist()), w_EAB, strict=True)])


def _grouped_grad(x_SA: Tensor, g_SB: Tensor, ends_E: Tensor, multiply: Multiply | None) -> Tensor:
    """Computes dw[e] = x[group e].T @ g[group e]; zeros for an empty group."""
    if multiply is None:
        return F.grouped_mm(x_SA.t(), g_SB, offs=ends_E)
    groups = (rows.tensor_split(ends_E[:-1].tolist()) for rows in (x_SA, g_SB))
    return torch.stack([multiply(x.t(), g) for x, g in zip(*groups, strict=True)])


def _is_aligned(x_ND: Tensor, G: int) -> bool:
    """Tells whether `grouped_mm` takes these: it wants rows of a multiple of 16 bytes."""
    return x_ND.dtype != torch.float64 and x_ND.shape[1] * x_ND.itemsize % 16 == 0 and G * x_ND.itemsize % 32 == 0


def _aligned(x_ND: Tensor, gate_up_EDG: Tensor, down_EFD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Widens tokens and experts with zeros, which change nothing, to what `grouped_mm` takes."""
    unit = 16 // x_ND.itemsize
    D, F_ = (-size % unit for size in (x_ND.shape[1], down_EFD.shape[1]))  # how much is missing
    gate_up_ED2F = F.pad(gate_up_EDG.unflatten(-1, (2, -1)), (0, F_, 0, 0, 0, D))
    return F.pad(x_ND, (0, D)), gate_up_ED2F.flatten(-2), F.pad(down_EFD, (0, D, 0, F_))


class _Grouped(torch.autograd.Function):
    """Computes y[n] = Σ_k weights[n, k] · expert_{experts[n, k]}(x[n])."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weights_NK: Tensor,
        experts_NK: Tensor,
        counts_E: Tensor,
        gate_up_EDG: Tensor,
        down_EFD: Tensor,
    ) -> Tensor:
        N, K = weights_NK.shape
        E, D, G = gate_up_EDG.shape
        S = N * K
        order_S = experts_NK.view(-1).argsort(stable=True)  # choices n·K + k, sorted by expert
        slots_S = torch.empty_like(order_S)  # the slot of each choice

        # oneDNN takes the groups one by one, padded so that shapes recur.
        large = is_cpu_float32(x_ND) and routes.in_use.large_experts(S // E * D * G)
        ctx.multiply = routes.multiply_large if large else None if _is_aligned(x_ND, G) else torch.mm
        if large:
            padded_E = (counts_E + (PAD - 1)) // PAD * PAD
            ends_E = padded_E.cumsum(0, dtype=torch.int32)
            shift_E = (padded_E - counts_E).cumsum(0) - (padded_E - counts_E)
            place_S = torch.arange(S, device=x_ND.device) + shift_E.repeat_interleave(counts_E, output_size=S)
            slots_S.scatter_(0, order_S, place_S)
            S = int(ends_E[-1])
            tokens_S = order_S.new_zeros(S).scatter_(0, place_S, order_S // K)
            weights_S = weights_NK.new_zeros(S).scatter_(0, slots_S, weights_NK.view(-1))  # zero in the padding
        else:
            ends_E = counts_E.cumsum(0, dtype=torch.int32)
            slots_S.scatter_(0, order_S, torch.arange(S, device=x_ND.device))
            tokens_S = order_S // K
            weights_S = weights_NK.view(-1).index_select(0, order_S)

        # SwiGLU of each group with its expert's weights
        x_SD = x_ND.index_select(0, tokens_S)
        u_SG = _grouped_mm(x_SD, gate_up_EDG, ends_E, ctx.multiply)
        gate_SF, up_SF = u_SG.chunk(2, -1)
        s_SF = F.silu(gate_SF)
        h_SF = s_SF * up_SF
        y_SD = _grouped_mm(h_SF, down_EFD, ends_E, ctx.multiply)

        ctx.save_for_backward(ends_E, tokens_S, slots_S, weights_S, gate_up_EDG, down_EFD, x_SD, u_SG, s_SF, h_SF, y_SD)
        return F.embedding_bag(slots_S.view(N, K), y_SD, mode="sum", per_sample_weights=weights_NK)

    @staticmethod
    def backward(ctx: Any, g_ND: Tensor) -> tuple[Tensor | None, ...]:
        ends_E, tokens_S, slots_S, weights_S, gate_up_EDG, down_EFD, x_SD, u_SG, s_SF, h_SF, y_SD = ctx.saved_tensors
        slots_NK = slots_S.view(len(g_ND), -1)
        g_SD = g_ND.index_select(0, tokens_S)
        dweights_NK = (y_SD * g_SD).sum(-1).index_select(0, slots_S).view_as(slots_NK)
        g_SD.mul_(weights_S[:, None])

        gate_SF, up_SF = u_SG.chunk(2, -1)
        dh_SF = _grouped_mm(g_SD, down_EFD.transpose(1, 2), ends_E, ctx.multiply)
        du_SG = torch.empty_like(u_SG)
        dgate_SF, dup_SF = du_SG.chunk(2, -1)
        torch.mul(dh_SF, s_SF, out=dup_SF)
        aten.silu_backward.grad_input(dh_SF.mul_(up_SF), gate_SF, grad_input=dgate_SF)
        dx_SD = _grouped_mm(du_SG, gate_up_EDG.transpose(1, 2), ends_E, ctx.multiply)
        dgate_up_EDG = _grouped_grad(x_SD, du_SG, ends_E, ctx.multiply)
        ddown_EFD = _grouped_grad(h_SF, g_SD, ends_E, ctx.multiply)

        # a gather, because index_add is slow on a CPU
        dx_ND = F.embedding_bag(slots_NK, dx_SD, mode="sum")
        return dx_ND, dweights_NK, None, None, dgate_up_EDG, ddown_EFD


# ---- the same for a compiler, which fuses what stands between the products


def grouped_compiled(
    x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, counts_E: Tensor, gate_up_EDG: Tensor, down_EFD: Tensor
) -> Tensor:
    """Computes what `_Grouped` does in plain torch."""
    N, K = weights_NK.shape
    order_S = experts_NK.view(-1).argsort(stable=True)
    slots_S = torch.empty_like(order_S).scatter_(0, order_S, torch.arange(N * K, device=x_ND.device))
    ends_E = counts_E.cumsum(0, dtype=torch.int32)

    gate_SF, up_SF = grouped_mm(x_ND.index_select(0, order_S // K), gate_up_EDG, ends_E).chunk(2, -1)
    y_SD = grouped_mm(gated(gate_SF, up_SF), down_EFD, ends_E) * weights_NK.view(-1)[order_S, None]
    return y_SD.index_select(0, slots_S).view(N, K, -1).sum(1)


# Torch's own can't be traced in float32: the fake kernel that stands for it knows bfloat16 only. The operators are
# defined without `custom_op`, whose checks cost 5 % of a step, and both gradients come from one call (a call costs
# some 40 µs).

torch.library.define("sparsity_lab::grouped_mm", "(Tensor x_SA, Tensor w_EAB, Tensor ends_E) -> Tensor")
torch.library.define(
    "sparsity_lab::grouped_gradients", "(Tensor g_SB, Tensor x_SA, Tensor w_EAB, Tensor ends_E) -> (Tensor, Tensor)"
)
grouped_mm = torch.ops.sparsity_lab.grouped_mm  # y[group e] = x[group e] @ w[e]
grouped_gradients = torch.ops.sparsity_lab.grouped_gradients  # of its sum weighted with g, by x and by w


@torch.library.impl("sparsity_lab::grouped_mm", "cpu")
def _product(x_SA: Tensor, w_EAB: Tensor, ends_E: Tensor) -> Tensor:
    return F.grouped_mm(x_SA, w_EAB, offs=ends_E)


@torch.library.impl("sparsity_lab::grouped_gradients", "cpu")
def _gradients(g_SB: Tensor, x_SA: Tensor, w_EAB: Tensor, ends_E: Tensor) -> tuple[Tensor, Tensor]:
    g_SB = g_SB.contiguous()
    dx_SA = F.grouped_mm(g_SB, w_EAB.transpose(1, 2), offs=ends_E)
    return dx_SA, F.grouped_mm(x_SA.t(), g_SB, offs=ends_E)


def _shape_of_product(x_SA: Tensor, w_EAB: Tensor, ends_E: Tensor) -> Tensor:
    return x_SA.new_empty(len(x_SA), w_EAB.shape[2])


def _shapes_of_gradients(g_SB: Tensor, x_SA: Tensor, w_EAB: Tensor, ends_E: Tensor) -> tuple[Tensor, Tensor]:
    return x_SA.new_empty(x_SA.shape), w_EAB.new_empty(w_EAB.shape)


def _backward(ctx: Any, g_SB: Tensor) -> tuple[Tensor, Tensor, None]:
    return (*grouped_gradients(g_SB, *ctx.saved_tensors), None)


torch.library.register_fake("sparsity_lab::grouped_mm", _shape_of_product)
torch.library.register_fake("sparsity_lab::grouped_gradients", _shapes_of_gradients)
torch.library.register_autograd(
    "sparsity_lab::grouped_mm",
    _backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
