"""A corpus is cut here into pieces that a model can read: windows to train on and to evaluate on; text becomes tokens.

Legend: B windows in a batch, T tokens of context.
"""

import functools
import reprlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsity_lab.training.tasks import Bytes

Indices = npt.NDArray[np.int64]


class Windows:
    """Non-overlapping windows of `context` bytes of `data`, uint8 (bytes,), in a new random order each epoch: all of
    them, or those with the numbers `kept`. A batch depends on seed and step alone, so a resumed run sees what it would
    have seen, without a replay. Raises ValueError if a number appears twice or belongs to no window, or for none."""

    def __init__(self, data: Bytes, context: int, seed: int, kept: Indices | None = None) -> None:
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed} must be in 0 … 2**32 - 1")
        self.n_windows = _count_windows(data, context)
        self.data = np.asarray(data)  # a plain view: indexing np.memmap itself is slower
        self.context, self.seed, self.kept = context, seed, kept
        if kept is not None:
            if not len(kept) or len(np.unique(kept)) < len(kept) or kept.min() < 0 or kept.max() >= self.n_windows:
                got, last = f"kept={reprlib.repr(list(map(int, kept)))}", self.n_windows - 1
                raise ValueError(f"{got} must be different numbers of windows from 0 to {last}, at least one")
            self.kept, self.n_windows = np.sort(kept), len(kept)
        # two are enough: an epoch, and the next where a batch straddles them
        self._kept_order = functools.lru_cache(maxsize=2)(self._order)

    def batch(self, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Returns x_BT and y_BT, int64; y is x one byte later. Steps count from 0; a batch may straddle epochs."""
        if step < 0 or batch_size < 1:
            raise ValueError(f"step={step} must be at least 0 and batch_size={batch_size} at least 1")
        epoch_B, place_B = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), self.n_windows)
        epochs = range(epoch_B[0], epoch_B[-1] + 1)
        window_B = np.concatenate([self._kept_order(epoch)[place_B[epoch_B == epoch]] for epoch in epochs])
        return _gather(self.data, window_B, self.context)

    def _order(self, epoch: int) -> Indices:
        # Not default_rng: RandomState is frozen for good (NEP 19), so a new numpy resumes the same run.
        order = np.random.RandomState([self.seed, epoch]).permutation(self.n_windows)
        return order if self.kept is None else self.kept[order]


def validation_batches(data: Bytes, context: int, batch_size: int, n_tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Returns the fixed windows of an evaluation, as batches x_BT, y_BT of int64; y is x one byte later.

    They are spread evenly over `data`, uint8 (bytes,), and depend on `context` and `n_tokens` alone: at most
    n_tokens bytes, fewer if the data is short. The last batch may be smaller, so weight batches by their size.
    Raises ValueError if not even one window fits.
    """
    if batch_size < 1 or n_tokens < context:
        got = f"batch_size={batch_size}, n_tokens={n_tokens}"
        raise ValueError(f"{got}: need batch_size ≥ 1 and n_tokens ≥ context={context}")
    available = _count_windows(data, context)
    n = min(available, n_tokens // context)
    windows = np.arange(n) * available // n
    return [_gather(np.asarray(data), windows[i : i + batch_size], context) for i in range(0, n, batch_size)]


def encode(text: str) -> Tensor:
    """Returns the UTF-8 bytes of a text, int64, (bytes,)."""
    return torch.tensor(list(text.encode()), dtype=torch.int64)


def decode(tokens: Tensor) -> str:
    """Returns the text of bytes, (bytes,) of any integer dtype. What is not UTF-8 or not a byte becomes U+FFFD."""
    return bytes(min(token, 255) for token in tokens.tolist()).decode(errors="replace")  # 255 is never UTF-8


def _count_windows(data: Bytes, context: int) -> int:
    if context < 1:
        raise ValueError(f"context={context} must be at least 1")
    if len(data) <= context:
        needs = f"needs at least {context + 1} bytes of data, got {len(data)}"
        raise ValueError(f"context={context} {needs}: lower context or take a longer text")
    return (len(data) - 1) // context


def _gather(data: Bytes, window_B: Indices, context: int) -> tuple[Tensor, Tensor]:
    block_BT1 = torch.from_numpy(data[window_B[:, None] * context + np.arange(context + 1)].astype(np.int64))
    return block_BT1[:, :-1].contiguous(), block_BT1[:, 1:].contiguous()
