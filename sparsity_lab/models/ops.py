"""Products, normalisation and the loss, each as plain torch and, for float32 on a CPU, with a hand-written backward.

At the widths of this lab (16 to 64) a step's time goes into passes over activations, not into products, so the fast
versions make fewer passes and keep what the backward pass needs. Tests hold each to its plain twin, gradients too.

Legend: N tokens (all rows of a batch), D width, M width out, V vocabulary.
"""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

EPS = 1e-6

# MKL runs float32 products with AVX2 on AMD processors; oneDNN uses AVX-512 there, at up to twice the rate, but costs
# about 10 µs a call and 0.5 ms the first time it meets a shape: it is for large products of recurring shapes.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ONEDNN_MACS = 1_000_000  # multiply-adds from which it wins


def keep_heap() -> None:
    """Asks glibc to keep freed memory: without it every step page-faults its activations in anew."""
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 1 << 25), (-1, 1 << 29)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError, TypeError):
        pass  # another C library: nothing to ask


def is_fast(x: Tensor) -> bool:
    """Whether the hand-written versions are for this tensor."""
    return x.device.type == "cpu" and x.dtype == torch.float32


def uses_onednn(x: Tensor, macs: int) -> bool:
    return ONEDNN and macs >= ONEDNN_MACS and is_fast(x)


def matmul(a_ND: Tensor, b_DM: Tensor) -> Tensor:
    """a @ b for matrices, by whichever library is faster; no gradient."""
    y_NM: Tensor
    (N, D), M = a_ND.shape, b_DM.shape[1]
    if uses_onednn(a_ND, N * D * M) and N * M >= 2048:
        y_NM = torch.ops.mkldnn._linear_pointwise(a_ND, b_DM.t(), None, "none", [], "")
    else:
        y_NM = a_ND @ b_DM
    return y_NM


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """``function.apply``, which torch leaves untyped."""
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
    """x @ w.T over the last axis, in x's dtype."""
    if not uses_onednn(x, x.numel() * len(w_MD) // 8):  # too small to repay a Python function
        return linear_plain(x, w_MD)
    y_NM: Tensor = apply(_Linear, x.reshape(-1, x.shape[-1]), w_MD)
    return y_NM.view(*x.shape[:-1], -1)


def linear_plain(x: Tensor, w_MD: Tensor) -> Tensor:
    y_NM: Tensor = F.linear(x, w_MD.to(x.dtype))
    return y_NM


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
    """x / sqrt(mean(x²) + 1e-6) · w over the last axis (Zhang and Sennrich 2019, arXiv 1910.07467)."""
    if not is_fast(x):
        return rms_norm_plain(x, w_D)
    y_ND: Tensor = apply(_RMSNorm, x.reshape(-1, x.shape[-1]), w_D)
    return y_ND.view(x.shape)


def rms_norm_plain(x: Tensor, w_D: Tensor) -> Tensor:
    y: Tensor = x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * w_D
    return y


class _CrossEntropy(torch.autograd.Function):
    """Keeps softmax − one-hot, the gradient of the logits but for a scale: the backward pass only multiplies."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_VD: Tensor, y_N: Tensor) -> Tensor:
        logits_NV = matmul(x_ND, w_VD.t())
        y_N1 = y_N.view(-1, 1)
        largest_N, own_N = logits_NV.amax(-1), logits_NV.gather(1, y_N1).view(-1)
        p_NV = aten._softmax.out(logits_NV, -1, False, out=logits_NV)  # in place
        # the log-sum-exp from the largest entry: its probability is at least 1/V, so the logarithm is safe
        loss: Tensor = (largest_N - p_NV.amax(-1).log_() - own_N).mean()
        p_NV.scatter_add_(1, y_N1, p_NV.new_full((1, 1), -1.0).expand(len(y_N), 1))
        ctx.save_for_backward(x_ND, w_VD, p_NV)
        return loss

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x_ND, w_VD, d_NV = ctx.saved_tensors
        scale = g / len(x_ND)  # on the small results, not on (N, V)
        return matmul(d_NV, w_VD).mul_(scale), matmul(d_NV.t(), x_ND).mul_(scale), None


def linear_cross_entropy(x_ND: Tensor, w_VD: Tensor, y_N: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of the logits x @ w.T against the targets y (int64)."""
    if not is_fast(x_ND):
        return linear_cross_entropy_plain(x_ND, w_VD, y_N)
    loss: Tensor = apply(_CrossEntropy, x_ND, w_VD, y_N)
    return loss


def linear_cross_entropy_plain(x_ND: Tensor, w_VD: Tensor, y_N: Tensor) -> Tensor:
    return F.cross_entropy(linear_plain(x_ND, w_VD).float(), y_N)
