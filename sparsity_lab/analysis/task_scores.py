"""Which answers of a model are exactly right, and how that depends on sparsity, with seeds and intervals.

Legend: B lines in a batch, T bytes of context, N lines, L bytes of a line.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from sparsity_lab.intervals import (
    CONFIDENCE,
    contrast_interval,
    holm,
    least_squares,
    over_seeds,
    ratio_interval,
    slope_interval,
)
from sparsity_lab.models import Transformer
from sparsity_lab.record import Record
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.kinds import KINDS, kinds
from sparsity_lab.training.tasks import RANKS, TASKS, Bytes, facts, lines, recall_lines
from sparsity_lab.training.trainer import Training

LINES = 1_000  # per task: the standard error of a share is then at most 1.6 %
SEED = 1_000_000  # far from the seeds of the text
CLOZE_KINDS = ("keyword", "name", "number", "operator", "indentation", "newline")  # strings and comments are long
CLOZE_BYTES = 100_000
BATCH = 250


@torch.no_grad()
def _likeliest(model: Transformer, tokens_NT: torch.Tensor) -> torch.Tensor:
    """Returns the byte that ``model`` finds likeliest after each of the given ones, (N, T)."""
    return torch.cat([model(tokens_BT.to(model.device)).argmax(-1).cpu() for tokens_BT in tokens_NT.split(BATCH)])


def right(model: Transformer, lines_NL: Bytes, answer: int) -> np.ndarray:
    """Tells which answers, the last ``answer`` bytes of each line, ``model`` gives exactly: (N,) bool.

    The model reads a newline and the line, answer included, and each byte of the answer has to be the likeliest one at
    its place. That is greedy decoding: as long as all bytes were right, it would have read the same.
    """
    started_NT = np.pad(lines_NL, ((0, 0), (1, 0)), constant_values=ord("\n"))
    tokens_NT = torch.from_numpy(started_NT.astype(np.int64))
    right_NL = _likeliest(model, tokens_NT[:, :-1]) == tokens_NT[:, 1:]
    return right_NL[:, -answer:].all(1).numpy()


def cloze(model: Transformer, source: bytes) -> pd.DataFrame:
    """Examines which words of Python source ``model`` completes exactly, by their kind: columns kind, words, accuracy.

    A word is a run of bytes of one kind (`routing.kinds`). It counts if the model has read at least half a context
    before it, and is right if each byte is the likeliest; where it ends is not asked. Kinds without words have no row.
    """
    words = _words(source, model.config.context)
    n_bytes = (len(source) - 1) // model.config.context * model.config.context
    data = torch.from_numpy(np.frombuffer(source, np.uint8)[: n_bytes + 1].astype(np.int64))
    said = _likeliest(model, data[:-1].view(-1, model.config.context)).flatten()
    is_right = (said == data[1:]).numpy()  # from the second byte on
    words["right"] = [bool(is_right[b - 1 : e - 1].all()) for b, e in zip(words["begin"], words["end"], strict=True)]
    return words.groupby("kind", observed=True).agg(words=("right", "size"), accuracy=("right", "mean")).reset_index()


def cloze_chance(source: bytes, context: int) -> dict[str, float]:
    """Returns for each kind the share of the commonest word among those that `cloze` asks for."""
    words = _words(source, context)
    words["text"] = [source[b:e] for b, e in zip(words["begin"], words["end"], strict=True)]
    commonest = words.groupby("kind", observed=True)["text"].agg(lambda own: own.value_counts(normalize=True).iloc[0])
    return {str(kind): float(share) for kind, share in commonest.items()}


def _words(source: bytes, context: int) -> pd.DataFrame:
    """Returns the words to complete: columns kind (in the order of `CLOZE_KINDS`), begin and end (bytes of source)."""
    labels = kinds(source)[1 : (len(source) - 1) // context * context + 1]
    begin = np.flatnonzero(np.diff(labels, prepend=255))
    end = np.append(begin[1:], len(labels))
    found = pd.DataFrame({"kind": np.array(KINDS)[labels[begin]], "begin": begin + 1, "end": end + 1})
    asked = (begin // context == (end - 1) // context) & (begin % context >= context // 2)
    words: pd.DataFrame = found[asked & found["kind"].isin(CLOZE_KINDS)]
    return words.assign(kind=pd.Categorical(words["kind"], CLOZE_KINDS))


def recall_by_rank(model: Transformer) -> pd.DataFrame:
    """Asks for every fact once, by how common it is: columns rank (facts from it to its double), facts, accuracy."""
    n = len(facts()[0])
    is_right = right(model, recall_lines(np.arange(n)), TASKS["recall"].answer)
    rank = 1 << np.log2(np.arange(n) + RANKS[0]).astype(int)
    groups = pd.DataFrame({"rank": rank, "right": is_right}).groupby("rank", as_index=False)
    return groups.agg(facts=("right", "size"), accuracy=("right", "mean"))


def score_tasks(training: Training) -> dict[str, float]:
    """Returns shares of right answers: by task; for facts by the rank they begin with, as "recall rank 8"; for words of
    held-out source by kind, as "cloze name"."""
    model = training.model
    ranks, by_kind = recall_by_rank(model), cloze(model, load_corpus("python").val[:CLOZE_BYTES].tobytes())
    found = {name: right(model, lines(task, LINES, SEED), task.answer).mean() for name, task in TASKS.items()}
    found |= {f"recall rank {rank}": share for rank, share in zip(ranks["rank"], ranks["accuracy"], strict=True)}
    found |= {f"cloze {kind}": share for kind, share in zip(by_kind["kind"], by_kind["accuracy"], strict=True)}
    return {name: round(float(share), 5) for name, share in found.items()}


def score_table(records: Iterable[Record]) -> pd.DataFrame:
    """Tabulates the scores of finished runs, one per row: columns `OF_RUN`, task, accuracy."""
    runs = [(record.row(), record.scores or {}) for record in records if record.status == "finished"]
    rows = [row | {"task": task, "accuracy": accuracy} for row, scores in runs for task, accuracy in scores.items()]
    return pd.DataFrame(rows, columns=[*OF_RUN, "task", "accuracy"])


OF_RUN = ["budget", "width", "params_active", "sparsity", "seed", "val_loss"]
BY = ["task", "budget", "sparsity"]


def mean_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns means over seeds: columns task, budget, sparsity, accuracy, half (of the 95 % interval), seeds."""
    return over_seeds(scores, BY, "accuracy")


def score_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """Returns how much more sparse models get right than dense ones: columns task, budget, sparsity, gain, half (of the
    95 % interval, in which each kind has a variance of its own), seeds (of the kind that has fewer)."""
    rows = []
    for (task, budget), own in scores.groupby(["task", "budget"], sort=False):
        dense = own.loc[own["sparsity"] == 0, "accuracy"].tolist()
        for sparsity, sparse in own[own["sparsity"] > 0].groupby("sparsity")["accuracy"]:
            if dense:
                gain = contrast_interval([sparse.tolist(), dense], [1, -1], alike=False)
                rows.append((task, budget, sparsity, *gain, min(len(dense), len(sparse))))
    return pd.DataFrame(rows, columns=[*BY, "gain", "half", "seeds"])


FLOOR, CEILING = 0.02, 0.98  # above chance, and of all: nearer than that to either, accuracies can't differ


def trends(scores: pd.DataFrame, equal: Literal["FLOPs", "loss"]) -> pd.DataFrame:
    """Asks how accuracy changes with four times as many experts, over all runs of a budget at once.

    At equal FLOPs every width has a level of its own. At equal loss there is a parabola in the held-out loss instead,
    so that a sparse model is compared with whichever dense one predicts the text as well as it does. It is the mean
    loss of a shape over its seeds: in a single run a task that happens to be learnt lowers the loss itself.

    Columns: budget, task, slope, half (of the 95 % interval), p (adjusted by Holm's method for the number of rows),
    verdict (rises, falls or undecided), runs, needed (about how many runs would decide, in 80 % of cases, a slope as
    large as this one: Cohen 1988, section 2.4), and note, which says that all accuracies are at chance or perfect, so
    that no difference could show. Raises ValueError if the runs cannot tell experts from widths or losses.
    """
    rows = []
    for (budget, task), own in scores[scores["task"].isin(TASKS)].groupby(["budget", "task"], sort=False):
        if equal == "FLOPs":
            beside = [(own["width"] == width).astype(float) for width in sorted(own["width"].unique())]
        else:
            loss = own.groupby(["width", "sparsity"])["val_loss"].transform("mean")
            away = loss - loss.mean()
            beside = [away**0, away, away**2]
        line = least_squares(np.stack([_fourfold(own), *beside], 1), own["accuracy"])
        slope, half, p = slope_interval(line, 0)
        error = line.covariance[0, 0] ** 0.5
        needed = len(own) * (2.8 * error / slope) ** 2 if slope else np.inf
        rows.append((budget, task, slope, half, p, len(own), needed, _note(own["accuracy"], str(task))))
    table = pd.DataFrame(rows, columns=["budget", "task", "slope", "half", "p", "runs", "needed", "note"])
    table["p"] = holm(table["p"])
    words = np.where(table["slope"] > 0, "rises", "falls")
    table.insert(5, "verdict", np.where(table["p"] < 1 - CONFIDENCE, words, "undecided"))
    return table


def worth_in_weights(scores: pd.DataFrame, task: str, budget: float) -> tuple[float, float, float]:
    """Returns how many times as many active weights a model needs, at this budget, for the accuracy that four times as
    many experts would give it, with the ends of the 95 % interval.

    Accuracy is a plane in log2 of the active weights and log4 of the number of experts; the number is 2 to the ratio of
    its slopes. Only widths at which more weights still help should be given. Infinite ends: the runs do not tell.
    """
    own = scores[(scores["task"] == task) & (scores["budget"] == budget)]
    weights = np.log2(own["params_active"].to_numpy(float))
    line = least_squares(np.stack([_fourfold(own), weights - weights.mean(), np.ones(len(own))], 1), own["accuracy"])
    value, low, high = (2.0**doublings for doublings in ratio_interval(line, 0, 1))
    return value, low, high


def _fourfold(scores: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Log4 of the number of experts, of which one is active."""
    return -np.log1p(-scores["sparsity"].to_numpy(float)) / np.log(4)


def _note(accuracies: "pd.Series[float]", task: str) -> str:
    if (accuracies < TASKS[task].chance + FLOOR).all():
        return f"{task} is at chance"
    return f"{task} is at its ceiling" if (accuracies > CEILING).all() else ""
