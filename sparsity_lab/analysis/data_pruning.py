"""Dropping training data: which windows of a text to keep, and training on those alone with the FLOPs of all.

Legend: W windows, B windows of a batch, T tokens of a window, N = B·T, V vocabulary, D width.
"""

import hashlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from datasketch import MinHash, MinHashLSH

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer
from sparsity_lab.record import Record
from sparsity_lab.training.batches import Indices, Windows, validation_batches
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.tasks import Bytes
from sparsity_lab.training.trainer import Training

SHINGLE = 8  # bytes
PERMUTATIONS = 128  # of a MinHash, whose estimate of a similarity J is off by about √(J·(1 − J)/128), at most 0.045


def part(corpus: Corpus, n_bytes: int) -> Corpus:
    """Returns the corpus with only the first ``n_bytes`` of its training text, a random piece because segments are
    shuffled. Raises ValueError if the text is shorter."""
    if not 0 < n_bytes <= corpus.train.size:
        raise ValueError(f"n_bytes={n_bytes:,} must be from 1 to the corpus's {corpus.train.size:,}")
    name = f"{corpus.name}, first {n_bytes:,} bytes"
    return replace(corpus, name=name, train=corpus.train[:n_bytes], fingerprint=_digest(corpus, "first bytes", n_bytes))


def train_on(corpus: Corpus, kept: Indices, model: ModelConfig, run: RunConfig) -> Record:
    """Trains on the windows ``kept`` of a corpus within the run's budget: the fewer windows, the more often each is
    read. The record's fingerprint is that of the kept part."""
    training = Training(model, run, corpus=replace(corpus, fingerprint=_digest(corpus, "windows", *np.sort(kept))))
    training.windows = Windows(corpus.train, model.context, run.order, kept)
    while not training.done:
        training.step()
    return training.record(training.evaluate())


def _digest(corpus: Corpus, what: str, *kept: int) -> str:
    return hashlib.sha256(repr((corpus.fingerprint, what, *map(int, kept))).encode()).hexdigest()


# ---- How hard a window is


@torch.no_grad()
def scores(model: Transformer, corpus: Corpus, batch_size: int = 64) -> pd.DataFrame:
    """Scores how hard ``model`` finds each window of the training text, in order; means over its T tokens.

    - loss: cross-entropy, nats.
    - el2n: ‖p − onehot(y)‖₂, the error of the predicted probabilities p (Paul et al. 2021, arXiv 2107.07075,
      definition 2.2), from 0 to √2.
    - grand: norm of the gradient of the window's loss (their definition 2.1) with respect to the output table alone:
      ‖1/T Σ_t (p_t − onehot(y_t)) h_tᵀ‖, with h the last hidden state.

    The paper averages over ten networks early in training; this uses the one network it is given.
    """
    rows = []
    context = model.config.context
    for x_BT, y_BT in validation_batches(corpus.train, context, batch_size, corpus.train.size):
        x_BT, y_BT = x_BT.to(model.device), y_BT.to(model.device)
        h_BTD = model.hidden(x_BT)[0].float()
        logits_BTV = F.linear(h_BTD, model.head)
        loss_BT = F.cross_entropy(logits_BTV.flatten(0, 1), y_BT.flatten(), reduction="none").view_as(y_BT)
        error_BTV = logits_BTV.softmax(-1) - F.one_hot(y_BT, logits_BTV.shape[-1])
        gradient_BVD = error_BTV.transpose(1, 2) @ h_BTD / context
        rows.append(torch.stack([loss_BT.mean(1), error_BTV.norm(dim=-1).mean(1), gradient_BVD.flatten(1).norm(dim=1)]))
    return pd.DataFrame(torch.cat(rows, 1).t().cpu().numpy(), columns=["loss", "el2n", "grand"])


def keep(score: npt.ArrayLike, fraction: float, hard: bool) -> Indices:
    """Returns the numbers of the hardest (highest score) or easiest windows, rising; at least one. Ties go to the
    earlier window. Raises ValueError unless 0 < fraction ≤ 1, and for no scores or NaN."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction} must be above 0 and at most 1")
    values = np.asarray(score, np.float64)
    if not len(values) or np.isnan(values).any():
        got = f"{np.isnan(values).sum()} of {len(values)} values are NaN"
        raise ValueError(f"score: {got}; give at least one, by a model that has not diverged")
    order = np.argsort(-values if hard else values, kind="stable")
    return np.sort(order[: max(1, round(fraction * len(values)))])


# ---- Near-duplicates


def shingles(window: Bytes) -> set[bytes]:
    """Returns all runs of SHINGLE bytes in a window, (T,)."""
    text = window.tobytes()
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def distinct(windows_WT: npt.NDArray[np.uint8], threshold: float = 0.5) -> Indices:
    """Returns the numbers of the windows that resemble no earlier kept one, rising: the first of near-duplicates stays.

    Two windows are near-duplicates if the Jaccard index of their shingles is at least ``threshold``. MinHash finds
    candidates (Broder 1997; Lee et al. 2022, arXiv 2107.06499, section 4.2, for training data) and the exact index
    decides, so everything dropped is a near-duplicate, while one just above the threshold may be missed. Raises
    ValueError unless 0 < threshold < 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must be above 0 and below 1")
    sets = [shingles(window) for window in windows_WT]
    hashes = MinHash.bulk([list(s) for s in sets], num_perm=PERMUTATIONS, seed=0)
    # A lower threshold than asked for, so that few are missed; the exact index below sorts out the others.
    index = MinHashLSH(threshold=threshold * 0.8, num_perm=PERMUTATIONS)
    kept = []
    for number, (own, hashed) in enumerate(zip(sets, hashes, strict=True)):
        others = [sets[other] for other in index.query(hashed)]
        if all(len(own & other) / len(own | other) < threshold for other in others):
            index.insert(number, hashed)
            kept.append(number)
    return np.array(kept, np.int64)
