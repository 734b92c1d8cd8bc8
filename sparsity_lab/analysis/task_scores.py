"""How many answers of a model are exactly right, and what that says about sparsity, with seeds and intervals.

Legend: B lines in a batch, T bytes of context, V vocabulary, N lines, L bytes of a line.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from sparsity_lab.analysis.routing import KINDS, kinds
from sparsity_lab.intervals import mean_interval
from sparsity_lab.models import Transformer
from sparsity_lab.record import Record
from sparsity_lab.training.batches import Bytes
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.tasks import RANKS, TASKS, Task, facts, lines, recall_lines
from sparsity_lab.training.trainer import Training

LINES = 1_000  # a task: the standard error of a share is then at most 1.6 %
SEED = 1_000_000  # far from those of the text
CLOZE_KINDS = ("keyword", "name", "number", "operator", "indentation", "newline")  # strings and comments are long
CLOZE_BYTES = 100_000
BATCH = 250


@torch.no_grad()
def right(model: Transformer, lines_NL: Bytes, answer: int) -> np.ndarray:
    """Which answers, the last ``answer`` bytes of each line, ``model`` gives exactly: (N,) bool.

    It reads a newline and the line, answer included, and each byte of the answer has to be the likeliest one where it
    stands. That is greedy decoding: as long as all bytes were right, it would have read the same.
    """
    was_training = model.training
    model.eval()
    start = np.full((len(lines_NL), 1), ord("\n"), np.uint8)
    found = []
    for batch_BL in torch.from_numpy(np.concatenate([start, lines_NL], 1).astype(np.int64)).split(BATCH):
        said_BL = model(batch_BL[:, :-1].to(model.device)).argmax(-1).cpu()
        found.append((said_BL == batch_BL[:, 1:])[:, -answer:].all(1).numpy())
    model.train(was_training)
    return np.concatenate(found)


@torch.no_grad()
def cloze(model: Transformer, source: bytes) -> pd.DataFrame:
    """Words of Python source that ``model`` completes exactly, by their kind: columns kind, words, accuracy.

    A word is a run of bytes of one kind (`inside.kinds`). It counts if the model has read at least half a context
    before it, and is right if each of its bytes is the likeliest: its bytes, not where it ends. A kind without a word
    has no row.
    """
    context, was_training = model.config.context, model.training
    model.eval()
    n = (len(source) - 1) // context
    data = torch.from_numpy(np.frombuffer(source, np.uint8)[: n * context + 1].astype(np.int64))
    said = torch.cat([model(x_BT.to(model.device)).argmax(-1).cpu() for x_BT in data[:-1].view(n, context).split(32)])
    model.train(was_training)
    is_right = (said.flatten() == data[1:]).numpy()  # of the bytes from the second on
    words = _words(source, context)
    words["right"] = [bool(is_right[b - 1 : e - 1].all()) for b, e in zip(words["begin"], words["end"], strict=True)]
    found = words.groupby("kind", sort=False)["right"].agg(["size", "mean"]).reset_index()
    return found.set_axis(["kind", "words", "accuracy"], axis=1)


def cloze_chance(source: bytes, context: int) -> dict[str, float]:
    """The share of the commonest word among those that `cloze` asks for, by kind."""
    words = _words(source, context)
    spelt = [source[b:e] for b, e in zip(words["begin"], words["end"], strict=True)]
    of_kind = words.assign(spelt=spelt).groupby("kind", sort=False)["spelt"]
    return {str(kind): float(own.value_counts(normalize=True).iloc[0]) for kind, own in of_kind}


def _words(source: bytes, context: int) -> pd.DataFrame:
    """The words to complete, as columns kind, begin and end (bytes of the source), by kind in their order."""
    n = (len(source) - 1) // context
    labels = kinds(source)[1 : n * context + 1]
    begin = np.flatnonzero(np.diff(labels, prepend=255))
    end = np.append(begin[1:], len(labels))
    asked = (begin // context == (end - 1) // context) & (begin % context >= context // 2)
    rows = [
        (kind, int(b) + 1, int(e) + 1)
        for kind in CLOZE_KINDS
        for b, e in zip(begin[asked], end[asked], strict=True)
        if labels[b] == KINDS.index(kind)
    ]
    return pd.DataFrame(rows, columns=["kind", "begin", "end"])


def recall_by_rank(model: Transformer) -> pd.DataFrame:
    """Every fact of the table, asked once, by how common it is: columns rank (the facts from it to its double), facts,
    accuracy."""
    n = len(facts()[0])
    is_right = right(model, recall_lines(np.arange(n)), TASKS["recall"].answer)
    rank = 1 << np.log2(np.arange(n) + RANKS[0]).astype(int)
    return (
        pd.DataFrame({"rank": rank, "right": is_right})
        .groupby("rank", as_index=False)
        .agg(facts=("right", "size"), accuracy=("right", "mean"))
    )


def score(training: Training) -> dict[str, float]:
    """Shares of right answers: by task; of facts, by the rank they begin with, as "recall rank 8"; of words of held-out
    source, by kind, as "cloze name"."""
    model = training.model
    ranks, by_kind = recall_by_rank(model), cloze(model, load_corpus("python").val[:CLOZE_BYTES].tobytes())
    found = {name: right(model, asked(task), task.answer).mean() for name, task in TASKS.items()}
    found |= {f"recall rank {rank}": share for rank, share in zip(ranks["rank"], ranks["accuracy"], strict=True)}
    found |= {f"cloze {kind}": share for kind, share in zip(by_kind["kind"], by_kind["accuracy"], strict=True)}
    return {name: round(float(share), 5) for name, share in found.items()}


def asked(task: Task) -> Bytes:
    """The lines that models are tested with."""
    return lines(task, LINES, SEED)


def table(records: Iterable[Record]) -> pd.DataFrame:
    """Scores of finished runs, a row each: columns budget, width, sparsity, seed, task, accuracy."""
    rows = [
        (record.run["budget"], record.model["d_model"], record.sparsity, record.seed, task, accuracy)
        for record in records
        if record.status == "finished"
        for task, accuracy in (record.scores or {}).items()
    ]
    return pd.DataFrame(rows, columns=["budget", "width", "sparsity", "seed", "task", "accuracy"])


def summarise(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds with half of their 95 % interval: columns task, budget, sparsity, accuracy, half, seeds."""
    return _over_seeds(scores, "accuracy")


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """How much more a sparse model gets right than the dense one of the same seed, which read the same text in the same
    order: columns task, budget, sparsity, gain, half, seeds."""
    keys = ["task", "budget", "seed"]
    dense = scores.loc[scores["sparsity"] == 0, [*keys, "accuracy"]].rename(columns={"accuracy": "dense"})
    both = scores[scores["sparsity"] > 0].merge(dense, on=keys)
    return _over_seeds(both.assign(gain=both["accuracy"] - both["dense"]), "gain")


def _over_seeds(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    by = ["task", "budget", "sparsity"]
    rows = [(*key, *mean_interval(list(own)), len(own)) for key, own in scores.groupby(by, sort=False)[column]]
    return pd.DataFrame(rows, columns=[*by, column, "half", "seeds"])


# What is compared: weights of accuracies, by task and by the place of the sparsity among those measured.
NONE, NEXT, MOST = 0, -2, -1
CLAIMS: dict[str, dict[tuple[str, int], int]] = {
    "sparsity helps recall": {("recall", MOST): 1, ("recall", NONE): -1},
    "sparsity helps arithmetic": {("arithmetic", MOST): 1, ("arithmetic", NONE): -1},
    "recall rises in the last step": {("recall", MOST): 1, ("recall", NEXT): -1},
    "arithmetic rises in the last step": {("arithmetic", MOST): 1, ("arithmetic", NEXT): -1},
    "recall gains more than arithmetic": {
        ("recall", MOST): 1, ("recall", NONE): -1, ("arithmetic", MOST): -1, ("arithmetic", NONE): 1,
    },
}  # fmt: skip
FLOOR, CEILING = 0.02, 0.98  # above chance, and of all: nearer than that to either, accuracies can't differ


def verdicts(scores: pd.DataFrame) -> pd.DataFrame:
    """`CLAIMS` judged at each budget: columns budget, claim, value, half, seeds, verdict, note.

    ``value`` is the mean over seeds of a difference of accuracies that is positive if the claim holds; ``yes`` or
    ``no`` if its 95 % interval leaves out zero, else ``not decided``. The note tells where the accuracies compared are
    all at chance or all perfect, so that no difference could show. Raises ValueError for fewer than two sparsities.
    """
    rows = []
    for budget, own in scores.groupby("budget"):
        wide = own.pivot_table(index="seed", columns=["task", "sparsity"], values="accuracy")
        stops = sorted(own["sparsity"].unique().tolist())
        if len(stops) < 2:
            raise ValueError(f"budget={budget:g} has scores at sparsity {stops} alone: measure dense models too")
        for claim, weights in CLAIMS.items():
            cells = {(task, stops[place]): weight for (task, place), weight in weights.items()}
            values = sum(weight * wide[cell] for cell, weight in cells.items()).dropna()
            value, half = mean_interval(list(values))
            verdict = "yes" if value - half > 0 else "no" if value + half < 0 else "not decided"
            rows.append((budget, claim, value, half, len(values), verdict, _note(wide[list(cells)].mean())))
    return pd.DataFrame(rows, columns=["budget", "claim", "value", "half", "seeds", "verdict", "note"])


def _note(accuracies: "pd.Series[float]") -> str:
    notes = []
    for task, own in accuracies.groupby(level="task"):
        if (own < TASKS[str(task)].chance + FLOOR).all():
            notes.append(f"{task} is at chance")
        elif (own > CEILING).all():
            notes.append(f"{task} is at its ceiling")
    return "; ".join(notes)
