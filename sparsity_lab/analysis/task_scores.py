"""Which answers of a model are exactly right, and how that depends on sparsity, with seeds and intervals.

Legend: B lines in a batch, T bytes of context, N lines, L bytes of a line.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch

from sparsity_lab.analysis.routing import KINDS, kinds
from sparsity_lab.intervals import contrast_interval, over_seeds, verdict
from sparsity_lab.models import Transformer
from sparsity_lab.record import Record
from sparsity_lab.training.corpus import load_corpus
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
    """Tabulates the scores of finished runs, one per row: columns budget, width, sparsity, seed, task, accuracy."""
    runs = [(record.row(), record.scores or {}) for record in records if record.status == "finished"]
    rows = [row | {"task": task, "accuracy": accuracy} for row, scores in runs for task, accuracy in scores.items()]
    return pd.DataFrame(rows, columns=["budget", "width", "sparsity", "seed", "task", "accuracy"])


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


# Differences of accuracies: weights by task and by the place of the sparsity among those measured.
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


def judge_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Judges `CLAIMS` at each budget: columns budget, claim, value, half, seeds, verdict, note.

    ``value`` is a difference of mean accuracies that is positive if the claim holds; the verdict is that of its 95 %
    interval, and ``seeds`` are those of the cell that has fewest. The note names tasks in which the compared accuracies
    are all at chance or all perfect, so that no difference could show. Raises ValueError for fewer than two sparsities.
    """
    rows = []
    for budget, own in scores.groupby("budget"):
        measured = {cell: group.tolist() for cell, group in own.groupby(["task", "sparsity"])["accuracy"]}
        stops = sorted(own["sparsity"].unique().tolist())
        if len(stops) < 2:
            raise ValueError(f"budget={budget:g} has scores at sparsity {stops} alone: measure dense models too")

        for claim, weights in CLAIMS.items():
            cells = {(task, stops[place]): weight for (task, place), weight in weights.items()}
            samples = [measured[cell] for cell in cells]
            value, half = contrast_interval(samples, list(cells.values()), alike=False)
            decision, seeds = verdict(value - half, value + half), min(map(len, samples))
            means = own.groupby(["task", "sparsity"])["accuracy"].mean().loc[list(cells)]
            rows.append((budget, claim, value, half, seeds, decision, _note(means)))
    return pd.DataFrame(rows, columns=["budget", "claim", "value", "half", "seeds", "verdict", "note"])


def _note(accuracies: "pd.Series[float]") -> str:
    notes = []
    for task, own in accuracies.groupby(level="task"):
        if (own < TASKS[str(task)].chance + FLOOR).all():
            notes.append(f"{task} is at chance")
        elif (own > CEILING).all():
            notes.append(f"{task} is at its ceiling")
    return "; ".join(notes)
