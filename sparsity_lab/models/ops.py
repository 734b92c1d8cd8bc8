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

from sparsity_lab.models import routes

EPS = 1e-6


def keep_heap() -> None:
    """Asks glibc to keep freed memory. Without it, every step pays page faults for its activations again."""
    try:
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 1 << 25), (-1, 1 << 29)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
    except (OSError, AttributeError, TypeError):
        pass  # another C library: nothing to ask


def is_fast(x: Tensor) -> bool:
    """Tells whether the fast twins are for this tensor. A compiler makes its own from plain torch."""
    return is_cpu_float32(x) and not torch.compiler.is_compiling()


def is_cpu_float32(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """Calls ``function.apply``, which torch leaves untyped."""
    return function.apply(*inputs)


@torch.library.custom_op("sparsity_lab::onednn_mm", mutates_args=())
def onednn_mm(a_ND: Tensor, b_DM: Tensor) -> Tensor:
    """Returns a @ b by oneDNN, also in a compiled graph and with gradients."""
    return routes.multiply_large(a_ND, b_DM)


@onednn_mm.register_fake
def _(a_ND: Tensor, b_DM: Tensor) -> Tensor:
    return a_ND.new_empty(len(a_ND), b_DM.shape[1])


def _onednn_gradients(ctx: Any, g_NM: Tensor) -> tuple[Tensor, Tensor]:
    a_ND, b_DM = ctx.saved_tensors
    return onednn_mm(g_NM, b_DM.t()), onednn_mm(a_ND.t(), g_NM)


onednn_mm.register_autograd(_onednn_gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


def linear(x: Tensor, w_MD: Tensor) -> Tensor:
    """Returns x @ w.T over the last axis, in x's dtype, by the library that is faster here."""
    if not (is_cpu_float32(x) and routes.in_use.large_linear(x.numel() * len(w_MD))):
        return linear_plain(x, w_MD)
    y_NM: Tensor = onednn_mm(x.reshape(-1, x.shape[-1]), w_MD.t())
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
    return F.cross_entropy(linear(x_ND, w_VD).float(), y_N)
