"""Runs and what they say together: nothing is trained twice, nothing is lost, and the statistics are right."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import home
from sparsity_lab.intervals import mean_interval
from sparsity_lab.runs import repeat as experiment
from sparsity_lab.runs.repeat import gains, run_all, summarise
from sparsity_lab.training.trainer import Training, train

Pairs = list[tuple[ModelConfig, RunConfig]]


@pytest.fixture
def pairs(model: ModelConfig, run: RunConfig) -> Pairs:
    run = run.replace(budget=2e7)
    return [(model.with_sparsity(s), run.replace(seed=seed)) for s in (0.0, 0.75) for seed in (0, 1)]


def no_training(*arguments: Any, **options: Any) -> None:
    pytest.fail("it was trained again")


def test_one_row_a_run(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run_all(pairs)
    assert rows["sparsity"].tolist() == [0, 0, 0.75, 0.75]
    assert rows["seed"].tolist() == [0, 1, 0, 1]
    assert set(rows["status"]) == {"finished"}
    for (model, run), row in zip(pairs, rows.to_dict("records"), strict=True):
        *_, record = train(model, run)
        assert row["val_loss"] == record.val_loss
        assert (row["n_experts"], row["top_k"], row["width"]) == (model.n_experts, model.top_k, model.d_model)
        assert row["budget"] == run.budget
        assert row["tokens"] == record.tokens
        assert (row["params_total"], row["params_active"]) == (record.params_total, record.params_active)
    assert len(list((home() / "runs").glob("*.json"))) == 4

    monkeypatch.setattr("sparsity_lab.training.trainer.Training", no_training)
    again = run_all(pairs)
    pd.testing.assert_frame_equal(again.drop(columns="record"), rows.drop(columns="record"))


def test_another_text_is_another_run(pairs: Pairs, tmp_path: Path, corpus_file: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(corpus_file.read_bytes())
    model, run = pairs[0][0], pairs[0][1].replace(corpus=str(path))
    first = run_all([(model, run)], tmp_path)
    path.write_text("another text\n" * 3_000)
    assert run_all([(model, run)], tmp_path)["val_loss"][0] != first["val_loss"][0]


def test_an_interrupt_loses_nothing(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_all(pairs[:2], tmp_path / "whole")
    monkeypatch.setattr(experiment, "CHECKPOINT_SECONDS", 0.0)
    real, done = Training.step, []

    def step(self: Training) -> Any:
        if len(done) == 15:  # in the second run
            raise KeyboardInterrupt
        done.append(real(self))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", step)
        with pytest.raises(KeyboardInterrupt):
            run_all(pairs[:2], tmp_path / "broken")
    left = 2 * done[0].steps - len(done)
    assert 0 < left < done[0].steps, "the interrupt came in the second run"

    resumed: list[Any] = []
    monkeypatch.setattr(Training, "step", lambda self: resumed.append(real(self)) or resumed[-1])
    rows = run_all(pairs[:2], tmp_path / "broken")
    assert len(resumed) == left, "only what was left"
    assert rows["val_loss"].tolist() == whole["val_loss"].tolist()
    assert {p.suffix for p in (tmp_path / "broken").rglob("*") if p.is_file()} == {".json"}, "no checkpoint is left"


def test_a_diverged_run_is_a_row_without_a_loss(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, x_BT: Any, y_BT: Any) -> Any:
        return self.head.sum() * np.nan, self.head.sum()

    monkeypatch.setattr("sparsity_lab.models.Transformer.loss", broken)
    rows = run_all(pairs[:1])
    assert rows["status"].tolist() == ["diverged"]
    assert rows["val_loss"].isna().all()


# ---- Statistics


def test_students_interval() -> None:
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(2.4841, abs=1e-4)  # 4.3027 · 1/√3
    assert mean_interval([1.0, 2.0, 3.0], 0.5)[1] == pytest.approx(0.8165 / 3**0.5, abs=1e-4)
    assert mean_interval([5.0]) == (5.0, float("inf"))
    assert mean_interval([2.0, 2.0]) == (2.0, 0.0)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(7.0, 2.0, (2_000, 4))
    covered = [abs(mean - 7) <= half for mean, half in map(mean_interval, samples)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


RUNS = pd.DataFrame(
    [
        (0.0, 1e10, 0, 2.0),
        (0.0, 1e10, 1, 2.2),
        (0.9, 1e10, 0, 1.9),
        (0.9, 1e10, 1, 1.9),
        (0.0, 1e11, 0, 1.5),
        (0.0, 1e11, 1, 1.7),
        (0.9, 1e11, 0, 1.6),
        (0.9, 1e11, 1, np.nan),  # diverged
    ],
    columns=["sparsity", "budget", "seed", "val_loss"],
)


def test_summarise() -> None:
    table = summarise(RUNS, ["budget", "sparsity"])
    assert table.columns.tolist() == ["budget", "sparsity", "loss", "half", "seeds"]
    assert table["loss"].tolist() == pytest.approx([2.1, 1.9, 1.6, 1.6])
    assert table["seeds"].tolist() == [2, 2, 2, 1]
    assert table["half"][0] == pytest.approx(mean_interval([2.0, 2.2])[1])
    assert table["half"][3] == np.inf, "one seed says nothing about another"
    assert summarise(RUNS, ["sparsity"])["sparsity"].tolist() == [0, 0.9]


def test_gains_are_paired_by_seed() -> None:
    table = gains(RUNS, ["budget"])
    assert table.columns.tolist() == ["budget", "gain", "half", "seeds"]
    assert table["budget"].tolist() == [1e10, 1e11]
    assert table["gain"].tolist() == pytest.approx([0.2, -0.1])
    assert table["seeds"].tolist() == [2, 1]
    assert table["half"][0] == pytest.approx(mean_interval([0.1, 0.3])[1])
