"""Runs and what they say together: nothing is trained twice, nothing is lost, and the statistics are right."""

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from filelock import FileLock
from scipy import stats

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import home
from sparsity_lab.intervals import mean_interval
from sparsity_lab.record import run_id
from sparsity_lab.runs import repeat
from sparsity_lab.runs.crew import Crew
from sparsity_lab.runs.pool import Pool
from sparsity_lab.runs.repeat import gains, run_all, summarise
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.sweep import sweep
from sparsity_lab.training.trainer import Training, train
from tests.sweeps import SPEED, PoolHere, Trainings, until

Pairs = list[tuple[ModelConfig, RunConfig]]


@pytest.fixture
def pairs(model: ModelConfig, run: RunConfig) -> Pairs:
    run = run.replace(budget=2e7)
    return [(model.with_sparsity(s), run.replace(seed=seed)) for s in (0.0, 0.75) for seed in (0, 1)]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainings]:
    """From here on, runs are trained in a thread of this process, two at most, and watched."""
    pool = PoolHere(2)
    monkeypatch.setattr(repeat, "pool", lambda: pool)
    yield Trainings(monkeypatch)
    pool.shutdown()


def test_one_row_a_run(pairs: Pairs) -> None:
    """In the order that was asked for, and as if trained alone."""
    rows = run_all([*pairs, pairs[1]])
    assert rows["record"][4] is rows["record"][1]
    rows = rows[:4]
    assert rows["sparsity"].tolist() == [0, 0, 0.75, 0.75]
    assert rows["seed"].tolist() == [0, 1, 0, 1]
    assert set(rows["status"]) == {"finished"}
    for (model, run), row in zip(pairs, rows.to_dict("records"), strict=True):
        *_, record = train(model, run)
        assert (row["val_loss"], row["record"].curve) == (record.val_loss, record.curve)
        assert (row["n_experts"], row["top_k"], row["width"]) == (model.n_experts, model.top_k, model.d_model)
        assert row["budget"] == run.budget
        assert row["tokens"] == record.tokens
        assert (row["params_total"], row["params_active"]) == (record.params_total, record.params_active)
    assert len(list((home() / "runs").glob("*.json"))) == 4

    again = run_all(pairs)
    assert again["record"].tolist() == rows["record"].tolist(), "also the seconds: it was not trained again"
    pd.testing.assert_frame_equal(again.drop(columns="record"), rows.drop(columns="record"))


def test_a_picture_grows_with_the_runs(
    pairs: Pairs, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(pairs[:1], tmp_path)
    shown: list[tuple[bool, str, list[int]]] = []
    shell = SimpleNamespace(display_pub=SimpleNamespace(publish=lambda *what, **how: shown.append(_told(*what, **how))))
    monkeypatch.setattr(repeat, "get_ipython", lambda: shell)
    monkeypatch.setattr(pio.renderers, "default", "plotly_mimetype")  # as in Jupyter
    runs = run_all(pairs, tmp_path, draw=lambda runs: go.Figure(go.Scatter(y=runs["seed"].tolist())))
    again, places, seeds = zip(*(each for each in shown if each[2] != GAP), strict=True)
    assert seeds[0] == [0], "what the store holds, before any training"
    assert len(seeds) > 1
    assert again == (False, *[True] * (len(seeds) - 1))
    assert len(set(places)) == 1, "in the place of the first"
    for before, after in itertools.pairwise(seeds):
        assert len(before) < len(after)
    assert seeds[-1] == runs["seed"].tolist()


GAP = [-1]


def _told(bundle: dict[str, Any], transient: dict[str, str], update: bool) -> tuple[bool, str, list[int]]:
    figure = bundle.get("application/vnd.plotly.v1+json")
    return update, transient["display_id"], GAP if figure is None else list(figure["data"][0]["y"])


def test_another_text_is_another_run(pairs: Pairs, tmp_path: Path, corpus_file: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(corpus_file.read_bytes())
    model, run = pairs[0][0], pairs[0][1].replace(corpus=str(path))
    first = run_all([(model, run)], tmp_path)
    path.write_text("another text\n" * 3_000)
    assert run_all([(model, run)], tmp_path)["val_loss"][0] != first["val_loss"][0]


def test_the_same_numbers_in_a_cell_in_a_sweep_and_alone(pairs: Pairs, tmp_path: Path) -> None:
    sweep(pairs, tmp_path / "sweep", workers=2, speed=SPEED, report=lambda progress: None)
    cell = {record.id: record for record in run_all(pairs, tmp_path / "cell")["record"]}
    for pair in pairs:
        *_, alone = train(*pair)
        swept = RunStore(tmp_path / "sweep").read(alone.id)
        assert swept is not None
        assert alone.val_loss == swept.val_loss == cell[alone.id].val_loss
        assert alone.curve == swept.curve == cell[alone.id].curve


def test_longest_first_on_all_cores(pairs: Pairs, trainings: Trainings) -> None:
    together = threading.Barrier(2)
    trainings.at_step = lambda training: together.wait(60) if training.steps_done == 0 else None
    model, run = pairs[0]
    budgets = [1e7, 3e7, 2e7, 4e7]
    run_all([(model, run.replace(budget=budget, seed=seed)) for seed, budget in enumerate(budgets)])
    assert {seed for seed, _ in trainings.begun[:2]} == {1, 3}, "two of them at once"
    assert {seed for seed, _ in trainings.begun[2:]} == {0, 2}


def test_an_interrupt_loses_nothing(
    pairs: Pairs, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs under way are saved, those that wait do not begin, and the next call resumes."""
    whole = run_all(pairs, tmp_path / "whole")
    trainings.begun.clear()
    saved = threading.Event()

    def interrupt(training: Training) -> None:
        if training.steps_done == 5 and training.run_config.seed == 1 and not saved.is_set():
            saved.set()
            signal.raise_signal(signal.SIGINT)  # to the main thread
            until(lambda: stopped)

    stopped: list[Crew] = []
    stop = Crew.stop
    monkeypatch.setattr(Crew, "stop", lambda crew: (stop(crew), stopped.append(crew)))
    trainings.at_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_all(pairs, tmp_path / "broken")
    begun = len(trainings.begun)
    left = len(list((tmp_path / "broken").glob("**/*.safetensors")))
    assert 1 <= left <= 2

    rows = run_all(pairs, tmp_path / "broken")
    assert (1, 6) in trainings.begun[begun:], "only what was left"
    assert rows["val_loss"].tolist() == whole["val_loss"].tolist()
    assert {p.suffix for p in (tmp_path / "broken").rglob("*") if p.is_file()} == {".json"}, "no checkpoint is left"


def test_a_run_that_fails_ends_it_and_the_others_are_kept(pairs: Pairs, tmp_path: Path, trainings: Trainings) -> None:
    bad = pairs[0][0].replace(vocab_size=64), pairs[0][1].replace(budget=1e7)
    with pytest.raises(ValueError, match="vocab_size=64 is too small"):
        run_all([pairs[0], bad], tmp_path)
    rows = run_all(pairs[:1], tmp_path)
    assert rows["status"].tolist() == ["finished"]
    begun = [steps for _, steps in trainings.begun]
    assert begun == [0] or begun[1] > 0, "as it was, or resumed"


def test_a_worker_that_dies_is_replaced_and_its_run_resumes(pairs: Pairs, tmp_path: Path) -> None:
    """In real processes: the score of a run kills its own, once."""
    flag = tmp_path / "killed"

    def deadly(training: Training) -> dict[str, float]:
        if not flag.exists():
            training.save(tmp_path / "runs" / "checkpoints" / f"{run_id(*pairs[0])}.safetensors")
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"steps": float(training.steps_done), "seconds": training.seconds}

    (record,) = run_all(pairs[:1], tmp_path, score=deadly)["record"]
    *_, alone = train(*pairs[0])
    assert (record.status, record.val_loss, record.curve) == ("finished", alone.val_loss, alone.curve)
    assert record.scores["steps"] == alone.steps
    assert flag.exists()


def test_an_interrupt_of_real_processes(
    model: ModelConfig, run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within a step, also where a run would take minutes."""
    pairs = [(model, run.replace(budget=1e11, seed=seed)) for seed in range(5)]
    folder = tmp_path / "runs" / "checkpoints"

    def interrupt() -> None:
        until(lambda: list(folder.glob("*.lock")))
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with closing(Pool(2)) as two:
        monkeypatch.setattr(repeat, "pool", lambda: two)
        with pytest.raises(KeyboardInterrupt):
            run_all(pairs, tmp_path)
    left = {path.stem for path in folder.glob("*.lock")}
    assert 1 <= len(left) < 5, "those in the queue have not begun"
    for name in left:  # nobody trains them any more
        with FileLock(folder / f"{name}.lock", timeout=0):
            pass
    assert list((tmp_path / "runs").glob("*.json")) == []


def test_a_diverged_run_is_a_row_without_a_loss(
    pairs: Pairs, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_gains_are_differences_of_means() -> None:
    table = gains(RUNS, ["budget"])
    assert table.columns.tolist() == ["budget", "gain", "half", "seeds"]
    assert table["budget"].tolist() == [1e10, 1e11]
    assert table["gain"].tolist() == pytest.approx([0.2, 0.0])
    assert table["seeds"].tolist() == [2, 1]
    expected = stats.ttest_ind([2.0, 2.2], [1.9, 1.9]).confidence_interval(0.95)
    assert (table["gain"] - table["half"])[0] == pytest.approx(expected.low)
