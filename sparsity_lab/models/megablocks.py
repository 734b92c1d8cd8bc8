"""MegaBlocks' own dropless experts (Gale et al. 2022, arXiv 2211.15841) run here on our weights and our routing.

MegaBlocks 0.10 asks for compiled pieces: ``megablocks_ops`` (histogram, running sums, sort) and ``grouped_gemm``
(products of groups). It gathers and scatters rows with Triton kernels. A compiled piece that is installed is used.
Plain torch stands in for each that is not, and for Triton on a CPU; `supplied` names them.

Legend: N tokens, D model width, E experts, F hidden width of an expert, K experts per token, S slots sorted by expert.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OPS, GEMM, ROWS = "megablocks_ops", "grouped_gemm", "gather and scatter"


@functools.cache
def why_not() -> str | None:
    """Returns the reason why MegaBlocks can't be used here; None if it can."""
    if importlib.util.find_spec("megablocks") is None:
        return "MegaBlocks is not installed: `make megablocks` installs it on Linux"
    try:
        _dropless()
    except (ImportError, RuntimeError, OSError) as error:
        return f"MegaBlocks cannot be imported here ({type(error).__name__}: {error})"
    return None


def supplied() -> list[str]:
    """Names the compiled pieces that plain torch stands in for on this machine."""
    missing = [name for name in (OPS, GEMM) if importlib.util.find_spec(name) is None]
    return missing if torch.cuda.is_available() else [*missing, ROWS]


class MegaBlocksExperts:
    """Calls MegaBlocks for one layer's experts. Raises ValueError, with the reason, where MegaBlocks can't be used."""

    def __init__(self, n_experts: int, d_hidden: int, d_model: int, top_k: int):
        reason = why_not()
        if reason is not None:
            raise ValueError(f"backend='megablocks': {reason}; use backend='grouped'")

        kind, arguments = _dropless()
        settings = arguments(
            hidden_size=d_model,
            ffn_hidden_size=max(d_hidden, 128),  # of its own weights; a width below its block would give log(0)
            moe_num_experts=n_experts,
            moe_top_k=top_k,
            mlp_type="glu",
            mlp_impl="grouped",
            activation_fn=F.silu,
            bias=False,
            return_bias=False,
            fp16=False,
            bf16=False,
            device="meta",  # its own weights are never made: it gets ours
        )

        self.layer: Any = kind(settings)
        for name in ("w1", "v1", "w2"):
            delattr(self.layer.mlp, name)
        self.contiguous = GEMM not in supplied()

    def __call__(
        self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, gate_up_EDG: Tensor, down_EFD: Tensor
    ) -> Tensor:
        """(N, D) → (N, D): each token's weighted sum of its experts' answers."""
        gate_EFD, up_EFD = (w.transpose(1, 2) for w in gate_up_EDG.chunk(2, -1))
        for name, weight in (("w1", gate_EFD), ("v1", up_EFD), ("w2", down_EFD)):
            setattr(self.layer.mlp, name, weight.contiguous() if self.contiguous else weight)
        try:
            y_ND: Tensor = self.layer.grouped_forward_once(x_ND, weights_NK, experts_NK)[0]
        finally:
            for name in ("w1", "v1", "w2"):
                setattr(self.layer.mlp, name, None)
        return y_ND


@functools.cache
def _dropless() -> tuple[type, type]:
    """Returns MegaBlocks' dropless layer and the class of its arguments."""
    with _stand_ins(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = importlib.import_module("megablocks.layers.arguments").Arguments
        layer = importlib.import_module("megablocks.layers.dmoe").ParallelDroplessMLP

    class OnCpu(layer):  # type: ignore[misc, valid-type]
        """MegaBlocks' layer with its two row-moving kernels as index operations."""

        def grouped_permute_and_compute(
            self, x: Tensor, tokens_per_expert: Tensor, indices: Tensor, bin_ids: Tensor, expert_weights: Tensor,
            bins: Tensor, expert_capactiy: int, top_k: int,
        ) -> Tensor:  # fmt: skip
            order_S = indices.long()
            y_SD = self.mlp(x.index_select(0, order_S // top_k), tokens_per_expert)
            y_SD = y_SD[order_S.argsort()] * expert_weights[:, None].to(y_SD.dtype)
            return y_SD.view(-1, top_k, y_SD.shape[-1]).sum(1)

    own_kernels = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    return (layer if own_kernels else OnCpu), arguments


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Puts modules of plain torch under the names of missing compiled ones, while MegaBlocks is imported."""
    modules = {OPS: _ops, GEMM: _grouped_gemm}
    new = {name: make() for name, make in modules.items() if importlib.util.find_spec(name) is None}
    sys.modules.update(new)
    try:
        yield
    finally:
        for name in new:
            sys.modules.pop(name, None)


def _ops() -> Any:
    """Provides what MegaBlocks' csrc/ops.cu does, as far as the dropless layer calls it."""
    ops: Any = types.ModuleType(OPS)

    def sort(x: Tensor, end_bit: int, x_out: Tensor, iota_out: Tensor) -> None:
        values, order = x.sort(stable=True)
        x_out.copy_(values)
        iota_out.copy_(order)

    ops.sort = sort
    ops.histogram = lambda x, n: torch.bincount(x.flatten().long(), minlength=int(n)).int()
    ops.inclusive_cumsum = lambda x, dim, out: out.copy_(x.cumsum(dim))
    ops.exclusive_cumsum = lambda x, dim, out: out.copy_(x.cumsum(dim) - x)
    ops.indices = ops.replicate_forward = ops.replicate_backward = None
    return ops


def _grouped_gemm() -> Any:
    """Provides what the dropless layer calls of the package grouped_gemm."""
    package: Any = types.ModuleType(GEMM)
    package.backend, package.ops = types.ModuleType("backend"), types.ModuleType("ops")
    package.ops.gmm = _gmm
    return package


def _gmm(a_SA: Tensor, b_EAB: Tensor, batch_sizes_E: Tensor, trans_b: bool = False) -> Tensor:
    """Computes y[group e] = a[group e] @ b[e]; with ``trans_b``, b comes as (E, B, A)."""
    w_EAB = b_EAB.transpose(1, 2) if trans_b else b_EAB
    rows = (a_SA.shape[-1] * a_SA.itemsize, w_EAB.shape[-1] * a_SA.itemsize)
    if a_SA.dtype == torch.float64 or any(length % 16 for length in rows):  # what torch's grouped product refuses
        groups = a_SA.split(batch_sizes_E.tolist())
        return torch.cat([a @ w for a, w in zip(groups, w_EAB, strict=True)])
    ends_E = batch_sizes_E.cumsum(0).to(a_SA.device, torch.int32)
    return F.grouped_mm(a_SA, w_EAB, offs=ends_E)
