"""Causal multi-head attention with rotary positions and normalised queries and keys.

Legend: B batch, T tokens of a sequence, H heads of queries, J heads of keys and values (J = H, or fewer: grouped-query
attention, Ainslie et al. 2023, arXiv 2305.13245), C width of a head, D model width, Q = (H + J)·C queries and keys,
P = (H + 2·J)·C all three.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_lab.config import ModelConfig
from sparsity_lab.models.cache import Cache
from sparsity_lab.models.ops import EPS, apply, is_fast, linear, linear_plain, rms_norm_plain


def rotations(config: ModelConfig) -> Tensor:
    """Returns the cosine and sine by which each pair of numbers is turned at each position, (context, rope_dim / 2, 2),
    for rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34; neighbours make a pair)."""
    half = torch.arange(0, config.rope_dim, 2) / config.rope_dim
    angles_TC = torch.outer(torch.arange(config.context).float(), config.rope_base**-half)
    return torch.stack([angles_TC.cos(), angles_TC.sin()], -1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turns neighbouring pairs of the last axis. x float32 (…, n), turns (…, n/2, 2) as `rotations` gives them."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turns.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention in which queries and keys pass an RMSNorm each before they are turned (QK-norm, Dehghani et
    al. 2023, arXiv 2302.05442). It keeps scores small at the high learning rates that suit small models."""

    def __init__(self, config: ModelConfig, plain: bool):
        super().__init__()
        d = config.d_model
        self.n_heads, self.window = config.n_heads, config.window
        self.linear = linear_plain if plain else linear
        self.norm_rope = norm_rope_plain if plain else norm_rope

        inner, kv = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
        self.qkv = nn.Parameter(torch.randn(inner + 2 * kv, d) * d**-0.5)
        self.out = nn.Parameter(torch.randn(d, inner) * (2 * inner * config.n_layers) ** -0.5)
        self.q_norm = nn.Parameter(torch.ones(config.head_dim))
        self.k_norm = nn.Parameter(torch.ones(config.head_dim))

    def forward(self, x_BTD: Tensor, turns: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        """(B, T, D) → (B, T, D). ``turns``: `rotations` of the positions, (T, C/2, 2) or (B, T, C/2, 2)."""
        qkv = self.norm_rope(self.linear(x_BTD, self.qkv), self.n_heads, self.q_norm, self.k_norm, turns)
        if cache is not None:
            C = len(self.k_norm)
            k_BJSC, v_BJSC = cache.append(layer, *(x.unflatten(-1, (-1, C)).transpose(1, 2) for x in qkv[1:]))
        if cache is None or cache.only_new:
            y_BTD = attend(qkv, self.n_heads, self.window)
        else:
            y_BTD = attend_held(qkv[0], k_BJSC, v_BJSC, cache.mask(x_BTD.device))
        return self.linear(y_BTD, self.out)


QKV = tuple[Tensor, Tensor, Tensor]  # (B, T, H·C), (B, T, J·C) and (B, T, J·C)


def norm_rope_plain(qkv_BTP: Tensor, n_heads: int, q_norm_C: Tensor, k_norm_C: Tensor, turns: Tensor) -> QKV:
    """Returns queries and keys, normalised head by head and turned, and values as they are."""
    C = len(q_norm_C)
    kv = (qkv_BTP.shape[-1] - n_heads * C) // 2  # width of all keys, and of all values
    q, k, v = (x.unflatten(-1, (-1, C)) for x in qkv_BTP.split((n_heads * C, kv, kv), -1))
    turned = [
        rotate(rms_norm_plain(x.float(), w_C), turns[..., None, :, :]).to(v.dtype).flatten(-2)
        for x, w_C in ((q, q_norm_C), (k, k_norm_C))
    ]
    return turned[0], turned[1], v.flatten(-2)


def causal_mask(T: int, window: int | None, device: torch.device) -> Tensor | None:
    """Returns which tokens each token may look at, bool (T, T); None if no window hides any that came before."""
    if window is None or window >= T:
        return None
    back_TT = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    return (back_TT >= 0) & (back_TT < window)


def attend(qkv: QKV, n_heads: int, window: int | None = None) -> Tensor:
    """Returns softmax(q·k/√C)·v over each token and those before it, at most ``window`` of them in all."""
    C = qkv[0].shape[-1] // n_heads
    q_BHTC, k_BJTC, v_BJTC = (x.unflatten(-1, (-1, C)).transpose(1, 2) for x in qkv)

    shared = n_heads // k_BJTC.shape[1]  # heads of queries that share keys and values
    k_BHTC, v_BHTC = (x if shared == 1 else x.repeat_interleave(shared, 1) for x in (k_BJTC, v_BJTC))

    mask = causal_mask(q_BHTC.shape[2], window, q_BHTC.device)
    y_BHTC = F.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, attn_mask=mask, is_causal=mask is None)
    return y_BHTC.transpose(1, 2).flatten(-2)


def attend_held(q_BTD: Tensor, k_BJSC: Tensor, v_BJSC: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the same for new queries over what a cache holds. Heads of queries that share keys stand below each other
    as if they were more tokens, so that no key is copied."""
    B, J, _, C = k_BJSC.shape
    q_BHTC = q_BTD.unflatten(-1, (-1, C)).transpose(1, 2)
    H, T = q_BHTC.shape[1:3]
    if mask is not None:
        mask = mask.repeat(1, 1, H // J, 1)
    y_BJMC = F.scaled_dot_product_attention(q_BHTC.reshape(B, J, H // J * T, C), k_BJSC, v_BJSC, attn_mask=mask)
    return y_BJMC.reshape(B, H, T, C).transpose(1, 2).flatten(-2)


# ---- The fast twin, for float32 on a CPU. Whole rows, all heads side by side, go through each operation, because loops
# over the 8 to 32 numbers of one head are slow. A small product spreads one number per head over the head's width.


def norm_rope(qkv_BTP: Tensor, n_heads: int, q_norm_C: Tensor, k_norm_C: Tensor, turns: Tensor) -> QKV:
    """Does what `norm_rope_plain` does, in few passes."""
    if not is_fast(qkv_BTP) or turns.ndim > 3:  # sequences at different positions, as a cache may hold them
        return norm_rope_plain(qkv_BTP, n_heads, q_norm_C, k_norm_C, turns)
    C = len(q_norm_C)
    heads = (n_heads + qkv_BTP.shape[-1] // C) // 2  # H + J
    return apply(_NormRope, qkv_BTP, n_heads, q_norm_C, k_norm_C, torch.view_as_complex(turns).repeat(1, heads))


def _rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Does what `rotate` does in one pass, for tensors without gaps."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


class _NormRope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_BTP: Tensor, n_heads: int, q_norm_C: Tensor, k_norm_C: Tensor, turns_TQ: Tensor
    ) -> tuple[Tensor, ...]:
        C, Q = len(q_norm_C), turns_TQ.shape[1] * 2
        spread_HQ = torch.eye(Q // C, dtype=qkv_BTP.dtype).repeat_interleave(C, 1)
        qk_BTQ, v_BTJ = qkv_BTP[..., :Q], qkv_BTP[..., Q:]

        mean_BTH = (qk_BTQ * qk_BTQ).unflatten(-1, (-1, C)).sum(-1).div_(C)
        r_BTQ = mean_BTH.add_(EPS).rsqrt_() @ spread_HQ
        xhat_BTQ = qk_BTQ * r_BTQ

        w_Q = torch.cat([q_norm_C.repeat(n_heads), k_norm_C.repeat(Q // C - n_heads)])
        ctx.queries = n_heads * C
        q_BTH, k_BTJ = _rotate(xhat_BTQ * w_Q, turns_TQ).split((ctx.queries, Q - ctx.queries), -1)
        ctx.save_for_backward(xhat_BTQ, r_BTQ, w_Q, turns_TQ, spread_HQ)
        return q_BTH, k_BTJ, v_BTJ

    @staticmethod
    def backward(ctx: Any, gq_BTH: Tensor, gk_BTJ: Tensor, gv_BTJ: Tensor) -> tuple[Tensor | None, ...]:
        xhat_BTQ, r_BTQ, w_Q, turns_TQ, spread_HQ = ctx.saved_tensors
        heads, Q = spread_HQ.shape
        C = Q // heads
        g_BTQ = _rotate(torch.cat([gq_BTH, gk_BTJ], -1), turns_TQ.conj().resolve_conj())  # turned back

        t_BTQ = g_BTQ * xhat_BTQ
        dw_HC = t_BTQ.flatten(0, -2).sum(0).view(heads, C)
        dq_norm_C, dk_norm_C = dw_HC[: ctx.queries // C].sum(0), dw_HC[ctx.queries // C :].sum(0)

        mean_BTQ = t_BTQ.mul_(w_Q / C).unflatten(-1, (-1, C)).sum(-1) @ spread_HQ
        d_BTP = g_BTQ.new_empty(*g_BTQ.shape[:-1], Q + gv_BTJ.shape[-1])
        dx_BTQ = g_BTQ.mul_(w_Q).addcmul_(xhat_BTQ, mean_BTQ, value=-1)
        torch.mul(dx_BTQ, r_BTQ, out=d_BTP[..., :Q])
        d_BTP[..., Q:] = gv_BTJ
        return d_BTP, None, dq_norm_C, dk_norm_C, None
