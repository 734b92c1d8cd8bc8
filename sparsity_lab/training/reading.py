"""Which experts read a text, character by character; and the kind of token that each expert came to read.

Legend: T tokens, L layers with experts, E experts, K experts per token, C kinds of token.
"""

import numpy as np
import torch

from sparsity_lab.models import Transformer
from sparsity_lab.training.kinds import KINDS, kinds
from sparsity_lab.training.tasks import Bytes

WINDOWS = 64  # of held-out text, by which `favourites` judges


@torch.no_grad()
def read(model: Transformer, text: bytes) -> list[list[list[int]]]:
    """Returns the experts that the routers choose for each byte of ``text``, as far as the model's context reaches, as
    L × T × K numbers, the favourite first. Empty for a model without a router that lets tokens choose."""
    if not model.routers() or model.config.router not in ("softmax", "sigmoid"):
        return []
    model.hidden(torch.tensor([list(text[: model.config.context])], device=model.device))
    return [router.last.experts_NK.tolist() for router in model.routers() if router.last is not None]


@torch.no_grad()
def favourites(model: Transformer, text: Bytes) -> list[list[str]]:
    """Returns for each layer and expert the kind of token that it reads most beyond its even share of all kinds, while
    ``model`` reads the first `WINDOWS` windows of ``text``, uint8 (bytes,); "" for an expert that reads nothing.
    L × E names of `KINDS`; empty where `read` is."""
    context = model.config.context
    windows = np.asarray(text[: WINDOWS * context])
    windows = windows[: len(windows) // context * context].reshape(-1, context)
    if not read(model, b"\n") or not len(windows):
        return []

    model.hidden(torch.from_numpy(windows.astype(np.int64)).to(model.device))
    kinds_T = kinds(windows.tobytes())
    return [
        _favourites(router.last.experts_NK[:, 0].cpu().numpy(), kinds_T, model.config.n_experts)
        for router in model.routers()
        if router.last is not None
    ]


def _favourites(experts_T: np.ndarray, kinds_T: np.ndarray, n_experts: int) -> list[str]:
    counts_EC = np.zeros((n_experts, len(KINDS)))
    np.add.at(counts_EC, (experts_T, kinds_T), 1)
    even_EC = counts_EC.sum(1, keepdims=True) * counts_EC.sum(0) / counts_EC.sum()
    best_E = (counts_EC - even_EC).argmax(1)
    return [KINDS[best] if reads else "" for best, reads in zip(best_E, counts_EC.sum(1), strict=True)]
