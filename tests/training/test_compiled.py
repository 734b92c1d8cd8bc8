"""Compiled steps: the same run within a stated tolerance, whole or not at all, and never in the way."""

import json
import os
from pathlib import Path

import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import cache_dir
from sparsity_lab.training import checkpoint, compiled
from sparsity_lab.training.trainer import Training

# Rounding differs, and training spreads it out: losses of the first ten steps agree to 1e-5, held-out ones to this.
TOLERANCE = 0.02


@pytest.fixture
def model(model: ModelConfig) -> ModelConfig:
    """One layer, because making code takes seconds a layer."""
    return model.replace(n_layers=1)


@pytest.fixture(scope="module")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the tests of this file share, because making the code takes seconds."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def shared(compiled_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSITY_LAB_COMPILE")
    if not compiled.has_compiler():
        pytest.skip("no C++ compiler here")
    monkeypatch.setenv("SPARSITY_LAB_CACHE", str(compiled_code))
    monkeypatch.setattr(compiled, "WORTH_IT", 0)


@pytest.mark.usefixtures("shared")
def test_the_same_run_within_the_tolerance(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    assert compiled.should_compile(model, run)
    assert compiled.is_untried(model, run)
    assert compiled.available(model, run)
    assert not compiled.is_untried(model, run)
    assert list((cache_dir() / "compiled").glob("inductor-*")), (
        "the code is in our folder, whatever torch was asked before"
    )

    losses, held_out = [], []
    for choice in (False, True, True):
        training = Training(model, run, compiled=choice)
        losses.append([training.step().loss for _ in range(20)])
        while not training.done:
            training.step()
        held_out.append(training.evaluate())
        assert training.record(held_out[-1]).compiled == choice
    assert losses[1][:10] == pytest.approx(losses[0][:10], abs=1e-5)
    assert held_out[1] == pytest.approx(held_out[0], abs=TOLERANCE)
    assert (losses[1], held_out[1]) == (losses[2], held_out[2]), "again, to the last bit"

    broken = Training(model, run, checkpoint_path=tmp_path / "run.safetensors", compiled=True)
    for _ in range(10):
        broken.step()
    broken.save(tmp_path / "run.safetensors")
    resumed = Training(model, run, checkpoint_path=tmp_path / "run.safetensors", compiled=False)
    assert resumed.compiled, "it goes on as it began"
    while not resumed.done:
        resumed.step()
    assert resumed.evaluate() == held_out[1]


@pytest.mark.usefixtures("shared")
def test_a_compiler_that_fails_stops_no_run(
    model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    model, run = model.replace(d_expert=20), run.replace(batch_size=4)  # of which there is no code yet
    training = Training(model, run, compiled=True)
    assert not training.compiled
    training.step()
    notes = [json.loads(path.read_text()) for path in (cache_dir() / "compiled").glob("*.json")]
    (failed,) = [note for note in notes if not note["works"]]
    assert failed["error"]
    assert not compiled.is_untried(model, run)
    assert not compiled.should_compile(model, run)


def test_which_runs_are_compiled(model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "has_compiler", lambda: True)
    long = run.replace(budget=1e13)
    assert compiled.should_compile(model, long)
    assert not compiled.should_compile(model, run.replace(budget=2e11))
    for change in ({"backend": "naive"}, {"dtype": "bfloat16"}):
        assert not compiled.should_compile(model, long.replace(**change))
    for router in ("hash", "random", "expert_choice"):
        assert not compiled.should_compile(model.replace(router=router), long)


@pytest.mark.parametrize("name", ["SPARSITY_LAB_COMPILE", "PATH"])
def test_without_a_compiler(name: str, model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("SPARSITY_LAB_COMPILE")
    monkeypatch.setenv(name, {"SPARSITY_LAB_COMPILE": "0", "PATH": os.devnull}[name])
    long = run.replace(budget=1e13)
    assert not compiled.has_compiler()
    assert not compiled.should_compile(model, long)
    assert not Training(model, run, compiled=True).compiled


def test_routes_are_kept_with_a_run(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    training = Training(model, run)
    assert training.routes is not None
    assert training.record(None).routes == training.routes.to_dict()
    other = type(training.routes)(linear=("onednn",) * 4)
    training.routes = other
    training.save(path)
    state = checkpoint.peek(path)
    assert state is not None
    assert state["routes"]["linear"] == ["onednn"] * 4
    assert Training(model, run, checkpoint_path=path).routes == other
    assert Training(model, run).routes != other
