"""Verdicts on the story's sentences follow what is put into the runs."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.analysis import story, task_scores
from sparsity_lab.laws import fair

SPARSITIES = (0.0, 0.75, 0.9375, 0.984375, 0.99609375)


def told(further: float = 0.02, growth: float = 0.02, of_dense: float = -0.05, noise: float = 0.002) -> pd.DataFrame:
    """Runs at three budgets. Each fourfold number of experts lowers the loss by ``of_dense`` (or raises it) up to 16
    experts and by ``further`` beyond; the change grows by ``growth`` of itself per tenfold budget."""
    random, rows = np.random.default_rng(0), []
    for place, budget in enumerate((1e11, 1e12, 1e13)):
        for s in SPARSITIES:
            experts = round(1 / (1 - s))
            fourfold = np.log(experts) / np.log(4)
            change = of_dense * min(fourfold, 2) - further * max(fourfold - 2, 0)
            for n_layers in (1, 2):
                for width in (8, 12, 16, 24, 32):
                    active = 60.0 * n_layers * width**2 * (1 + place)
                    best = np.log(60 * 2 * 16**2 * (1 + place)) - 0.2 * fourfold
                    floor = 1 + 0.9 * 0.7**place + change * (1 + growth * place) + 0.02 * (n_layers == 1)
                    # A model of a given size is sparser the better, up to a point: its routers cost weights too.
                    loss = floor + 0.05 * (np.log(active) - best) ** 2
                    for seed in (0, 1):
                        rows.append(
                            (
                                budget,
                                s,
                                width,
                                n_layers,
                                active,
                                active * experts,
                                seed,
                                loss + noise * random.standard_normal(),
                            )
                        )
    columns = ["budget", "sparsity", "width", "n_layers", "params_active", "params_total", "seed", "val_loss"]
    frame = pd.DataFrame(rows, columns=columns).assign(top_k=1, status="finished")
    return frame.assign(tokens=frame["budget"] / frame["params_active"], flops=frame["budget"])


def scored(by: float) -> pd.DataFrame:
    """Recall that rises by 0.1 with each doubling of the active weights and by ``by`` with each fourfold of experts."""
    random, rows = np.random.default_rng(0), []
    for width in (12, 16, 24, 32):
        for k, s in enumerate(SPARSITIES[:4]):
            for seed in range(3):
                accuracy = 0.2 + 0.1 * np.log2(width / 12) + by * k + 0.002 * random.standard_normal()
                rows.append((1e12, width, width * 100, s, seed, 1.5, "recall", accuracy))
    return pd.DataFrame(rows, columns=[*task_scores.OF_RUN, "task", "accuracy"])


def removed(**rises: tuple[float, ...]) -> pd.DataFrame:
    random, rows = np.random.default_rng(0), []
    for seed in range(6):
        base = 1.9 + 0.02 * random.standard_normal()
        rows.append(("nothing", 0.0, seed, base))
        rows.append(("text", 0.0, seed, 1.9 + 0.001 * random.standard_normal()))
        for part, own in rises.items():
            start = base if part != "text" else 1.9
            for i, rise in enumerate(own, start=1):
                rows.append((part, 0.2 * i, seed, start + rise + 0.001 * random.standard_normal()))
    return pd.DataFrame(rows, columns=["part", "share", "seed", "loss"])


def verdicts(runs: pd.DataFrame, by: float = 0.05, **rises: tuple[float, ...]) -> dict[int, str]:
    evidence = story.gather(runs, scored(by), removed(**rises or {"weights": (0.0, 0.5), "text": (0.0, 0.5)}))
    findings = story.judge(evidence)
    assert [f.number for f in findings] == list(range(1, 12))
    assert all(f.sentence.endswith(".") and f.evidence.endswith(".") for f in findings)
    return {f.number: f.verdict for f in findings}


def test_a_story_that_is_true() -> None:
    found = verdicts(told(growth=0.5))
    assert {found[n] for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 11)} == {"holds"}


def test_a_story_that_is_false() -> None:
    found = verdicts(told(further=-0.02, growth=-0.3), by=-0.05, weights=(0.2, 0.5), text=(0.0, 0.5))
    assert {found[n] for n in (3, 4, 8, 11)} == {"does not hold"}
    assert {found[n] for n in (1, 2, 5, 6, 7, 10)} == {"holds"}, "what was true before"
    worse = verdicts(told(of_dense=0.05))
    assert {worse[n] for n in (2, 6)} == {"does not hold"}


def test_noise_leaves_it_open_and_says_how_many_runs_it_takes() -> None:
    findings = story.judge(story.gather(told(noise=0.3), scored(0.05), removed(weights=(0.0,), text=(0.0,))))
    steps = findings[1]
    assert steps.verdict == "undecided"
    assert "S = 0.75 to 0.9375 at" in steps.needed
    assert "as large as the measured ones: S = 0" in story.as_table(findings)


def test_the_table_has_a_row_and_a_link_for_each() -> None:
    findings = story.judge(story.gather(told(), scored(0.05), removed(weights=(0.0,), text=(0.0,))))
    lines = story.as_table(findings).splitlines()
    assert len(lines) == 2 + 11
    for line, f in zip(lines[2:], findings, strict=True):
        assert line.startswith(f"| {f.number} | {f.sentence} | **{story.SIGNS[f.verdict]}** |")
        assert f"({f.notebook}.ipynb)" in line
        assert line.count("|") == 6


def test_the_number_of_a_sentence_is_that_of_its_table() -> None:
    evidence = story.gather(told(), scored(0.05), removed(weights=(0.0,), text=(0.0,)))
    assert story.effect(evidence, 2, 1e12) == pytest.approx(0.05, abs=0.02), "a step from 4 experts to 16"
    assert story.effect(evidence, 4, 1e11) == pytest.approx(2 * 0.02, abs=0.02), "two steps, from 16 to 256"
    gains = fair.fair_gains(evidence.shapes, story.DIAL).set_index("budget")["gain"]
    assert story.effect(evidence, 6, 1e13) == gains[1e13]
    assert np.isnan(story.effect(evidence, 6, 1e9))
    with pytest.raises(ValueError, match="sentence=3"):
        story.effect(evidence, 3, 1e12)


def test_yardsticks_begin_at_one() -> None:
    runs = told()
    table = story.yardsticks(fair.best_shapes(runs))
    gains = fair.fair_gains(fair.best_shapes(runs), story.DIAL)
    assert (table.groupby("line")["value"].first() == 1).all()
    nats = table[table["line"] == "nats"]
    assert nats["value"].tolist() == pytest.approx((gains["gain"] / gains["gain"][0]).tolist())
    assert (nats["high"] - nats["value"]).tolist() == pytest.approx((gains["half"] / gains["gain"][0]).tolist())


@pytest.mark.parametrize(("rise", "verdict"), [(0.0, "can"), (0.06, "cannot"), (story.MARGIN, "undecided")])
def test_what_can_be_removed(rise: float, verdict: str) -> None:
    found = story.removals(removed(weights=(rise,), text=(rise,))).set_index("part")
    assert found["verdict"].to_dict() == {"weights": verdict, "text": verdict}
    assert found.loc["weights", "rise"] == pytest.approx(rise, abs=0.002)
    assert found.loc["weights", "half"] < 0.002, "the scatter of the models is not that of the rise"


def test_shipped_runs_decide_most_sentences() -> None:
    from sparsity_lab.files import DATA
    from sparsity_lab.runs import measured

    scores: Any = task_scores.score_table(measured.task_records())
    evidence = story.gather(measured.runs(None), scores, pd.read_csv(DATA / "removal.csv"))
    findings = story.judge(evidence)
    assert sum(f.verdict != "undecided" for f in findings) >= 9
    assert all(f.needed for f in findings if f.verdict == "undecided" and f.number in (2, 4))
