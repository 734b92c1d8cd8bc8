"""Products, normalisation and the loss. Where plain torch is slow, it has a fast twin for float32 on a CPU.

At the widths of this lab (16 to 64) a step's time goes into passes over activations, not into products, so a fast twin
makes fewer passes and keeps what the backward pass needs. Tests hold it to plain torch, gradients too.

Legend: N tokens (all rows of a batch), D width, M width out, V vocabulary.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6

# MKL runs float32 products with AVX2 on AMD processors; oneDNN uses AVX-512 there, at up to twice the rate, but costs
# about 10 µs per call and 0.5 ms the first time it meets a shape: it is for large products of recurring shapes.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ONEDNN_MACS = 1_000_000  # multiply-adds from which it wins


def keep_heap() -> None:
    """Asks glibc to keep freed memory. Without it, every step pays page faults for its activations again."""
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 1 << 25), (-1, 1 << 29)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError, TypeError):
        pass  # another C library: nothing to ask


def is_fast(x: Tensor) -> bool:
    """Tells whether the fast twins are for this tensor."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def uses_onednn(x: Tensor, macs: int) -> bool:
    return ONEDNN and macs >= ONEDNN_MACS and is_fast(x)


def matmul(a_ND: Tensor, b_DM: Tensor) -> Tensor:
    """Returns a @ b for matrices, by whichever library is faster. It has no gradient."""
    (N, D), M = a_ND.shape, b_DM.shape[1]
    if uses_onednn(a_ND, N * D * M) and N * M >= 2048:
        return torch.ops.mkldnn._linear_pointwise(a_ND, b_DM.t(), None, "none", [], "")
    return a_ND @ b_DM


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """Calls ``function.apply``, which torch leaves untyped."""
    return function.apply(*inputs)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_MD: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, w_MD)
        return matmul(x_ND, w_MD.t())

    @staticmethod
    def backward(ctx: Any, g_NM: Tensor) -> tuple[Tensor, Tensor]:
        x_ND, w_MD = ctx.saved_tensors
        return matmul(g_NM, w_MD), matmul(g_NM.t(), x_ND)


def linear(x: Tensor, w_MD: Tensor) -> Tensor:
    """Returns x @ w.T over the last axis, in x's dtype."""
    if not uses_onednn(x, x.numel() * len(w_MD) // 8):  # too small to repay an autograd function in Python
        return linear_plain(x, w_MD)
    y_NM: Tensor = apply(_Linear, x.reshape(-1, x.shape[-1]), w_MD)
    return y_NM.view(*x.shape[:-1], -1)


def linear_plain(x: Tensor, w_MD: Tensor) -> Tensor:
    return F.linear(x, w_MD.to(x.dtype))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_D: Tensor) -> Tensor:
        norm_N1: Tensor = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        r_N1 = norm_N1.square_().div_(x_ND.shape[1]).add_(EPS).rsqrt_()
        xhat_ND = x_ND * r_N1
        ctx.save_for_backward(xhat_ND, r_N1, w_D)
        return xhat_ND * w_D

    @staticmethod
    def backward(ctx: Any, g_ND: Tensor) -> tuple[Tensor, Tensor]:
        xhat_ND, r_N1, w_D = ctx.saved_tensors
        t_ND = g_ND * xhat_ND
        dw_D = t_ND.sum(0)
        mean_N = torch.mv(t_ND, w_D / len(w_D))
        dx_ND = torch.mul(g_ND, w_D, out=t_ND).addcmul_(xhat_ND, mean_N[:, None], value=-1).mul_(r_N1)
        return dx_ND, dw_D


def rms_norm(x: Tensor, w_D: Tensor) -> Tensor:
    """Returns x / sqrt(mean(x²) + 1e-6) · w over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    if not is_fast(x):
        return rms_norm_plain(x, w_D)
    y_ND: Tensor = apply(_RMSNorm, x.reshape(-1, x.shape[-1]), w_D)
    return y_ND.view(x.shape)


def rms_norm_plain(x: Tensor, w_D: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * w_D


def linear_cross_entropy(x_ND: Tensor, w_VD: Tensor, y_N: Tensor) -> Tensor:
    """Returns the mean cross-entropy, in nats, of the logits x @ w.T against the targets y (int64)."""
    return F.cross_entropy(linear_plain(x_ND, w_VD).float(), y_N)
