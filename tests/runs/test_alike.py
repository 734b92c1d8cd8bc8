"""Runs that are compared are computed alike: all compiled, or none."""

from pathlib import Path

import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.repeat import gains, run_all
from sparsity_lab.runs.store import to_frame, user_store
from sparsity_lab.runs.worker import to_compile
from sparsity_lab.training import compiled
from sparsity_lab.training.trainer import train


def chosen(pairs: list[Pair], before: dict[str, bool]) -> set[str]:
    return to_compile(None, pairs, before)  # type: ignore[arg-type]


@pytest.fixture
def pairs(model: ModelConfig, run: RunConfig) -> list[Pair]:
    """Dense and sparse, at two budgets."""
    return [(model.with_sparsity(s), run.replace(budget=budget)) for budget in (1e11, 1e13) for s in (0.0, 0.75)]


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> list[ModelConfig]:
    """The models whose code is there."""
    ready: list[ModelConfig] = []
    monkeypatch.setenv("SPARSITY_LAB_CORES", "2")
    monkeypatch.setattr(compiled, "has_compiler", lambda: True)
    monkeypatch.setattr(compiled, "is_ready", lambda model, run: model in ready)
    return ready


def test_all_of_a_budget_or_none(pairs: list[Pair], ready: list[ModelConfig]) -> None:
    long = {run_id(*pair) for pair in pairs[2:]}
    assert chosen(pairs, {}) == long
    ready.append(pairs[2][0])
    assert to_compile(None, pairs, {}, wait=False) == set()  # type: ignore[arg-type]
    ready.append(pairs[3][0])
    assert to_compile(None, pairs, {}, wait=False) == long  # type: ignore[arg-type]


def test_nothing_is_compiled_with_one_core(
    pairs: list[Pair], ready: list[ModelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready += [model for model, _ in pairs]
    monkeypatch.setenv("SPARSITY_LAB_CORES", "1")
    assert chosen(pairs, {}) == set()


def test_runs_that_are_all_there_are_never_trained_again(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_LAB_CORES", "1")
    assert chosen(pairs[2:], {run_id(*pair): True for pair in pairs[2:]}) == {run_id(*pair) for pair in pairs[2:]}


def test_what_is_there_decides(pairs: list[Pair], ready: list[ModelConfig]) -> None:
    pairs = pairs[2:]
    names = [run_id(*pair) for pair in pairs]
    ready += [model for model, _ in pairs]
    assert chosen(pairs, {names[0]: True}) == set(names)
    assert chosen(pairs, {names[0]: False}) == set()
    assert chosen(pairs, {names[0]: False, names[1]: True}) == set(), "no agreement: none"
    hashed = [(model.replace(router="hash"), run) for model, run in pairs]
    assert chosen(hashed, {run_id(*hashed[0]): True}) == set(), "there can't be code"


def test_a_comparison_of_both_is_refused(model: ModelConfig, run: RunConfig) -> None:
    pairs = [(model.with_sparsity(s), run.replace(budget=2e7, seed=seed)) for s in (0.0, 0.75) for seed in (0, 1)]
    runs = run_all(pairs)
    assert gains(runs, ["budget"])["seeds"].tolist() == [2]
    runs.loc[0, "compiled"] = True
    with pytest.raises(ValueError, match="compiled"):
        gains(runs, ["budget"])


def test_a_run_that_was_computed_otherwise_is_trained_again(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    pairs = [(model.with_sparsity(s), run.replace(budget=2e7)) for s in (0.0, 0.75)]
    first = run_all(pairs, tmp_path)
    store = user_store(tmp_path)
    store.save(Record(**(vars(first["record"][1]) | {"compiled": True, "val_loss": 9.0})))
    assert to_frame(store.load())["compiled"].tolist().count(True) == 1
    again = run_all(pairs, tmp_path)
    assert not again["compiled"].any()
    assert again["val_loss"].tolist() == first["val_loss"].tolist()
    assert not to_frame(store.load())["compiled"].any()
    *_, record = train(*pairs[1])
    assert again["val_loss"][1] == record.val_loss, "as where one run is trained alone"
