"""Scores: an answer counts as right exactly if greedy decoding writes it, and verdicts find what was put in."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from sparsity_lab.analysis import task_scores
from sparsity_lab.analysis.task_scores import (
    cloze,
    cloze_chance,
    right,
    score_gains,
    score_table,
    trends,
)
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer
from sparsity_lab.models.generation import generate
from sparsity_lab.runs.repeat import run_all
from sparsity_lab.runs.store import RunStore
from sparsity_lab.training import tasks
from sparsity_lab.training.batches import encode
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.kinds import KINDS, kinds
from sparsity_lab.training.tasks import TASKS, lines
from sparsity_lab.training.trainer import Training, train

SOURCE = b"for x in range(10):\n    print(x, 12)  # twelve\n" * 200


@pytest.fixture(scope="module")
def brackets() -> Transformer:
    """A model that has learnt some of the brackets, in a second or two."""
    text = b"".join(line.tobytes() + b"\n" for line in lines(TASKS["brackets"], 30_000, 0, held_out=False))
    data = np.frombuffer(text, np.uint8)
    corpus = Corpus("brackets", "0", data[:-4_096], data[-4_096:])
    run = RunConfig(budget=4e9, corpus="brackets", device="cpu", learning_rate=3e-2, batch_size=16)
    training = Training(ModelConfig.on_dial(8, 0.75).replace(context=32), run, corpus=corpus)
    while not training.done:
        training.step()
    return training.model


def written(model: Transformer, example: tasks.Example) -> str:
    prompt = encode(f"\n{example.prompt}")
    text = generate(model, prompt[None], len(example.answer), temperature=0)
    return bytes(text[0, len(prompt) :].tolist()).decode("latin-1")


def test_right_is_what_greedy_decoding_writes(brackets: Transformer) -> None:
    task = TASKS["brackets"]
    asked = lines(task, 300, 7)
    found = right(brackets, asked, task.answer)
    assert 0.04 < found.mean() < 0.96, "a test needs both"
    brackets.eval()
    examples = tasks.examples(task, 300, 7)
    assert found.tolist() == [written(brackets, example) == example.answer for example in examples]


def test_right_leaves_the_model_as_it_was(brackets: Transformer) -> None:
    asked = lines(TASKS["brackets"], 260, 1)
    brackets.train()
    found = right(brackets, asked, 4)
    assert brackets.training
    brackets.eval()
    assert np.array_equal(right(brackets, asked, 4), found)
    assert not brackets.training
    one_by_one = [right(brackets, asked[[i]], 4)[0] for i in range(20)]
    assert found[:20].tolist() == one_by_one, "batches change nothing"
    nearly = asked.copy()
    nearly[:, -1] = ord("x")
    assert not right(brackets, nearly, 4).any(), "one wrong byte is a wrong answer"


def test_guessing_by_simulation() -> None:
    """A model whose every logit is random, but for the letters: right as often as chance among letters."""
    torch.manual_seed(0)
    letters = torch.from_numpy(tasks.LETTERS.astype(np.int64))

    class Guesser(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, x_BT: torch.Tensor) -> torch.Tensor:
            logits_BTV = torch.full((*x_BT.shape, 256), -1.0)
            logits_BTV[..., letters] = torch.rand(*x_BT.shape, 26)
            return logits_BTV

    found = right(Guesser(), lines(TASKS["recall"], 20_000, 0), 2)  # type: ignore[arg-type]
    assert found.mean() == pytest.approx(1 / 26**2, abs=0.001)
    assert found.mean() < TASKS["recall"].chance, "who knows which letters are commonest does better"


# ---- Cloze


def plain_cloze(model: Transformer, source: bytes, context: int) -> dict[str, list[bool]]:
    """Word by word, each from the window it stands in."""
    labels, found = kinds(source), {}
    n = (len(source) - 1) // context
    begin = 1
    while begin < n * context + 1:
        end = begin
        while end < n * context + 1 and labels[end] == labels[begin]:
            end += 1
        window = (begin - 1) // context
        inside_one = window == (end - 2) // context
        if inside_one and begin - 1 - window * context >= context // 2:
            said = bytearray()
            for place in range(begin, end):
                read = torch.tensor([list(source[window * context : place])])
                said.append(int(model(read)[0, -1].argmax()))
            found.setdefault(KINDS[labels[begin]], []).append(bytes(said) == source[begin:end])
        begin = end
    return found


def test_cloze_is_what_a_loop_finds(brackets: Transformer) -> None:
    source = b"if (a):\n  return b[0]\nb = (a, [1], {2: 3})\n" * 30
    found = cloze(brackets, source).set_index("kind")
    brackets.eval()
    with torch.no_grad():
        expected = plain_cloze(brackets, source, brackets.config.context)
    for kind in found.index:
        assert found.loc[kind, "words"] == len(expected[kind])
        assert found.loc[kind, "accuracy"] == pytest.approx(np.mean(expected[kind]))
    assert set(found.index) == set(expected) & set(task_scores.CLOZE_KINDS)


def test_chance_of_cloze_is_the_commonest_word(brackets: Transformer) -> None:
    chance = cloze_chance(SOURCE, brackets.config.context)
    assert chance["keyword"] == pytest.approx(0.5, abs=0.1), "for and in"
    assert chance["number"] == pytest.approx(0.5, abs=0.1), "10 and 12"
    assert set(chance) == set(cloze(brackets, SOURCE)["kind"])
    assert "string" not in chance


# ---- Records


def score(training: Training) -> dict[str, float]:
    return {"recall": 0.25, "arithmetic": float(training.run_config.seed)}


def test_scores_are_kept_and_asked_once(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    pairs = [(model, run.replace(budget=2e7, seed=seed)) for seed in (0, 1)]
    assert run_all(pairs, tmp_path)["record"][0].scores is None
    scored = run_all(pairs, tmp_path, score)
    expected = [{"recall": 0.25, "arithmetic": float(seed)} for seed in (0, 1)]
    assert [record.scores for record in scored["record"]] == expected, "trained again, to be asked"
    assert run_all(pairs, tmp_path, score)["record"].tolist() == scored["record"].tolist(), "also the seconds"
    frame = score_table(RunStore(tmp_path / "runs").load())
    assert sorted(zip(frame["seed"], frame["task"], frame["accuracy"], strict=True)) == [
        (0, "arithmetic", 0.0), (0, "recall", 0.25), (1, "arithmetic", 1.0), (1, "recall", 0.25)
    ]  # fmt: skip
    assert set(frame["budget"]) == {2e7}


def test_everything_is_scored(
    brackets: Transformer, monkeypatch: pytest.MonkeyPatch, model: ModelConfig, run: RunConfig
) -> None:
    monkeypatch.setattr(task_scores, "load_corpus", lambda name: SimpleNamespace(val=np.frombuffer(SOURCE, np.uint8)))
    found = task_scores.score_tasks(SimpleNamespace(model=brackets))  # type: ignore[arg-type]
    ranks = {f"recall rank {1 << octave}" for octave in range(3, 13)}
    assert set(TASKS) | ranks <= set(found)
    assert found.keys() - set(TASKS) - ranks <= {f"cloze {kind}" for kind in task_scores.CLOZE_KINDS}
    assert all(0 <= share <= 1 for share in found.values())
    assert found["brackets"] > 0.04
    *_, record = train(model, run.replace(budget=2e7))
    assert set(score_table([replace(record, scores=found)])["task"]) == set(found)
    assert score_table([replace(record, scores=found, status="diverged")]).empty


def test_ranks_hold_the_whole_table(brackets: Transformer) -> None:
    found = task_scores.recall_by_rank(brackets)
    assert found["rank"].tolist() == found["facts"].tolist() == [8 << i for i in range(10)]


# ---- What they say


def made(cells: dict[str, tuple[float, ...]], noise: float, seeds: int = 5) -> pd.DataFrame:
    """Scores at S = 0, 0.75, 0.9375 around these accuracies."""
    random = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        for task, accuracies in cells.items():
            for sparsity, accuracy in zip((0.0, 0.75, 0.9375), accuracies, strict=True):
                rows.append((1e11, 16, sparsity, seed, task, accuracy + random.normal(0, noise)))
    return pd.DataFrame(rows, columns=["budget", "width", "sparsity", "seed", "task", "accuracy"])


def test_gains_are_differences_of_means() -> None:
    scores = made({"recall": (0.3, 0.4, 0.6)}, noise=0.05)
    found = score_gains(scores).set_index("sparsity")
    of = scores.groupby("sparsity")["accuracy"].apply(list)
    for sparsity in (0.75, 0.9375):
        welch = stats.ttest_ind(of[sparsity], of[0.0], equal_var=False).confidence_interval(0.95)
        row = found.loc[sparsity]
        assert (row["gain"] - row["half"], row["gain"] + row["half"]) == pytest.approx(welch)
        assert row["seeds"] == 5


def grid(effect: dict[str, float], sd: float = 0.03, seed: int = 0, flip: float = 0.0) -> pd.DataFrame:
    """Scores of four widths, 1, 4, 16 and 64 experts and three seeds: accuracy rises by 0.1 with each doubling of the
    weights and by ``effect`` with each fourfold number of experts. A share ``flip`` of runs does not learn its task."""
    random, rows = np.random.default_rng(seed), []
    for width in (12, 16, 24, 32):
        for k, sparsity in enumerate((0.0, 0.75, 0.9375, 0.984375)):
            for run in range(3):
                loss = 2 - 0.2 * np.log2(width) - 0.03 * k + 0.02 * random.standard_normal()
                for task, by in effect.items():
                    accuracy = 0.3 + 0.1 * np.log2(width / 12) + by * k + sd * random.standard_normal()
                    if random.random() < flip:
                        accuracy = 0.0
                    rows.append((1e11, width, width * 100, sparsity, run, loss, task, accuracy))
    return pd.DataFrame(rows, columns=[*task_scores.OF_RUN, "task", "accuracy"])


def test_trends_find_the_truth() -> None:
    found = trends(grid({"recall": 0.05, "copying": -0.05, "brackets": 0.0}), "FLOPs").set_index("task")
    assert found["verdict"].to_dict() == {"recall": "rises", "copying": "falls", "brackets": "undecided"}
    assert abs(found.loc["recall", "slope"] - 0.05) < found.loc["recall", "half"] < 0.02
    assert (found["note"] == "").all()


def test_a_trend_is_that_of_a_regression() -> None:
    scores = grid({"recall": 0.02})
    widths = pd.get_dummies(scores["width"]).to_numpy(float)
    x = np.column_stack([np.log(1 / (1 - scores["sparsity"])) / np.log(4), widths])
    slope = np.linalg.lstsq(x, scores["accuracy"], rcond=None)[0][0]
    assert trends(scores, "FLOPs")["slope"][0] == pytest.approx(slope)


@pytest.mark.parametrize("equal", ["FLOPs", "loss"])
@pytest.mark.parametrize("flip", [0.0, 0.4])
def test_trends_of_nothing_are_rare(equal: Literal["FLOPs", "loss"], flip: float) -> None:
    """Also when a run learns a task or does not, at random: of two tasks, any is decided in 5 % of cases at most."""
    alarms = []
    for seed in range(150):
        scores = grid({"recall": 0.0, "copying": 0.0}, seed=seed, flip=flip)
        if equal == "loss":  # what is equal has to be what accuracy depends on
            loss = 2 - 0.2 * np.log2(scores["width"]) + 0.015 * np.log2(1 - scores["sparsity"])
            scores["accuracy"] = (scores["accuracy"] > 0) * (
                scores["accuracy"] - 0.1 * np.log2(scores["width"]) - 0.5 * loss
            )
        alarms.append((trends(scores, equal)["p"] < 0.05).any())
    assert np.mean(alarms) <= 0.09


def test_at_equal_loss_only_what_the_loss_does_not_explain_counts() -> None:
    scores = grid({"recall": 0.0, "copying": 0.0}, sd=0)
    scores["val_loss"] = scores.groupby(["width", "sparsity"])["val_loss"].transform("mean")
    scores["accuracy"] = 3 - scores["val_loss"]
    scores.loc[scores["task"] == "copying", "accuracy"] -= 0.02 * np.log2(1 / (1 - scores["sparsity"]))
    flat, falling = trends(scores, "loss")["slope"]
    assert flat == pytest.approx(0, abs=1e-9)
    assert falling == pytest.approx(-0.04, abs=1e-9)
    assert trends(scores, "FLOPs").set_index("task").loc["recall", "slope"] > 0.02, "the sparse loss is lower"


def test_experts_are_worth_active_weights() -> None:
    scores = grid({"recall": 0.05}, sd=0.005)
    value, low, high = task_scores.worth_in_weights(scores, "recall", 1e11)
    assert low < 2**0.5 < high
    assert high / low < 1.2
    assert value == pytest.approx(2**0.5, rel=0.05)


def test_floors_and_ceilings_are_told() -> None:
    flat = grid({"recall": 0.0, "arithmetic": 0.0}, sd=0)
    flat["accuracy"] = flat["task"].map({"recall": 0.001, "arithmetic": 0.99})
    found = trends(flat, "FLOPs").set_index("task")["note"]
    assert found.to_dict() == {"recall": "recall is at chance", "arithmetic": "arithmetic is at its ceiling"}


def test_one_sparsity_is_no_comparison() -> None:
    scores = grid({"recall": 0.0})
    with pytest.raises(ValueError, match="12 runs are too few, or too alike, to tell 5 effects apart"):
        trends(scores[scores["sparsity"] == 0.75], "FLOPs")
