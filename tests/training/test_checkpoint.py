"""A run on disk: whole or not there, and said clearly when it is something else."""

import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import MOST_ASIDE, StrangeFile
from sparsity_lab.training import checkpoint
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import Training


@pytest.fixture
def training(model: ModelConfig, run: RunConfig) -> Training:
    """Two steps into a run."""
    training = Training(model, run)
    training.step()
    training.step()
    return training


@pytest.fixture
def path(training: Training, tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "run.safetensors"
    training.save(path)
    return path


def test_peek_reads_the_state_alone(path: Path, training: Training) -> None:
    state = checkpoint.peek(path)
    assert state is not None
    assert state["step"] == 2
    assert state["losses"] == training.losses
    assert ModelConfig.from_dict(state["model"]) == training.model_config
    assert RunConfig.from_dict(state["run"]) == training.run_config
    assert state["corpus"] == training.corpus.fingerprint


def test_weights_and_moments_come_back(path: Path, training: Training, model: ModelConfig, run: RunConfig) -> None:
    again = Training(model, run, checkpoint_path=path)
    assert (again.steps_done, again.losses, again.seconds) == (2, training.losses, training.seconds)
    for mine, other in zip(training.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, other)
        a, b = training.optimizer.state[mine], again.optimizer.state[other]
        assert a.keys() == b.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_that_has_not_begun(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    Training(model, run).save(tmp_path / "new.safetensors")
    resumed = Training(model, run, checkpoint_path=tmp_path / "new.safetensors")
    assert resumed.steps_done == 0
    assert resumed.step().loss == Training(model, run).step().loss


def test_a_diverged_run_stays_diverged(training: Training, model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    with torch.no_grad():
        training.model.embedding.fill_(math.inf)
    training.step()
    training.save(tmp_path / "run.safetensors")
    resumed = Training(model, run, checkpoint_path=tmp_path / "run.safetensors")
    assert resumed.done
    assert resumed.record(resumed.evaluate()).status == "diverged"


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.5, 0.999])
def test_torn_files(path: Path, model: ModelConfig, run: RunConfig, kept: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert checkpoint.peek(path) is None
    with pytest.raises(ValueError, match=f"^{path} is not a Sparsity Lab checkpoint"):
        Training(model, run).resume(path)


FOREIGN = [
    None,
    {"author": "someone"},
    {"state": "not JSON"},
    {"state": "[]"},
    {"state": "5"},
    {"state": "{}"},
    {"state": '{"version": 0}'},
    {"state": '{"version": 99}'},
]


@pytest.mark.parametrize("metadata", FOREIGN)
def test_other_peoples_files(metadata: Any, model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
    assert checkpoint.peek(path) is None
    with pytest.raises(ValueError, match=str(path)):
        Training(model, run).resume(path)


def test_no_file_and_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello, I am a text\n" * 10)
    for name in ("text.safetensors", "nothing.safetensors", ""):
        assert checkpoint.peek(tmp_path / name) is None


def test_a_weight_is_missing(path: Path, model: ModelConfig, run: RunConfig) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != "model.head"}  # noqa: SIM118
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"is not a Sparsity Lab checkpoint .*it has .* weights and its model"):
        Training(model, run).resume(path)


def test_of_another_text(path: Path, model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("another text\n" * 2_000)
    other = load_corpus(str(tmp_path / "other.txt"))
    with pytest.raises(ValueError, match=f"{path} is of another run: it has read .*{other.fingerprint[:8]}"):
        Training(model, run, corpus=other).resume(path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("d_expert", 20, "its d_expert is 16, this run's 20"),
        ("learning_rate", 0.5, r"its learning_rate is 0\.\d+, this run's 0.5"),
        ("budget", 2e8, r"its budget is 100000000.0, this run's 200000000.0"),
        ("backend", "naive", "its backend is 'grouped', this run's 'naive'"),
    ],
)
def test_the_difference_is_named(
    path: Path, model: ModelConfig, run: RunConfig, name: str, value: Any, message: str
) -> None:
    if hasattr(model, name):
        model = model.replace(**{name: value})
    else:
        run = run.replace(**{name: value})
    with pytest.raises(ValueError, match=message):
        Training(model, run).resume(path)


def test_a_failed_save_leaves_the_last_one(path: Path, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError("the disk is full")

    training.step()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="full"):
            training.save(path)
    assert path.read_bytes() == before
    training.save(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing but the checkpoint"


def test_a_reader_never_sees_half_a_file(path: Path, training: Training) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            training.save(path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            state = checkpoint.peek(path)
            assert state is not None
            json.dumps(state)
    finally:
        stop.set()
        writer.join()


def test_saves_itself_as_often_as_told(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    always = Training(model, run, checkpoint_path=path, checkpoint_seconds=0)
    for step in (1, 2, 3):
        always.step()
        state = checkpoint.peek(path)
        assert state is not None
        assert state["step"] == step
    seldom = Training(model, run, checkpoint_path=tmp_path / "seldom.safetensors", checkpoint_seconds=1e6)
    seldom.step()
    assert not (tmp_path / "seldom.safetensors").exists()


# ---- What does not fit is set aside


def states(path: Path) -> dict[str, dict[str, Any]]:
    """Metadata of checkpoints that this version must not trust, by what is wrong with them."""
    state = checkpoint.peek(path)
    assert state is not None
    model, run = state["model"], state["run"]
    return {
        "a field of another version": state | {"renamed": 1},
        "a field is missing": {name: value for name, value in state.items() if name != "losses"},
        "a model of another version": state | {"model": model | {"renamed": 1}},
        "a model that can't be": state | {"model": model | {"d_model": 10**9}},
        "another model": state | {"model": model | {"d_model": 4}},
        "a huge model": state | {"model": model | {"n_layers": 512, "d_model": 8192, "d_expert": 65536}},
        "a budget of words": state | {"run": run | {"budget": "much"}},
        "past the end": state | {"step": 10**6},
        "a step before the first": state | {"step": -1},
        "half a step": state | {"step": 0.5},
        "a loss of words": state | {"losses": ["low", "lower"]},
        "a loss below 0": state | {"losses": [-1.0, 2.0]},
        "a loss beyond numbers": state | {"losses": [10**400, 2.0]},
        "a last loss beyond numbers": state | {"losses": [2.0, 10**400]},
        "losses are text": state | {"losses": "low"},
        "nested deeply": state | {"losses": json.loads("[" * 500 + "]" * 500)},
        "a text of numbers": state | {"corpus": 7},
        "routes of another version": state | {"routes": {"linear": ["abacus"]}},
        "prunes what it lacks": state | {"pruned": ["layers.9.none"]},
    }


def rewrite(path: Path, state: dict[str, Any], **tensors: torch.Tensor) -> None:
    with safe_open(path, "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(kept | tensors, path, metadata={"state": json.dumps(state)})


def test_a_checkpoint_that_does_not_fit_is_set_aside(path: Path, model: ModelConfig, run: RunConfig) -> None:
    """Whatever it is, the run starts anew, as if it had not been there."""
    good, wanted = path.read_bytes(), Training(model, run).step().loss
    for what, state in states(path).items():
        path.write_bytes(good)
        rewrite(path, state)
        with pytest.warns(StrangeFile, match="is kept as .*, and the run starts anew"):
            training = Training(model, run, checkpoint_path=path)
        assert (training.steps_done, training.step().loss) == (0, wanted), what
        assert str(path) in training.notice, what
        assert not path.exists(), what
    assert len(list(path.parent.iterdir())) == MOST_ASIDE, "older ones go"
    assert checkpoint.peek(path) is None


def test_nothing_of_a_bad_checkpoint_is_taken_over(path: Path, model: ModelConfig, run: RunConfig) -> None:
    """Not even the tensors that lie before the one that is wrong."""
    state = checkpoint.peek(path)
    assert state is not None
    good = path.read_bytes()
    for name, wrong in (
        ("optimizer.exp_avg_sq.head", torch.zeros(3)),
        ("optimizer.step.head", torch.zeros(3)),
        ("optimizer.exp_avg.head", torch.zeros(256, 8, dtype=torch.int64)),
        ("model.head", torch.zeros(8, 256)),
        ("model.head", torch.zeros(256, 8, dtype=torch.float16)),
    ):
        path.write_bytes(good)
        rewrite(path, state, **{name: wrong})
        training = Training(model, run)
        before = {name: weight.detach().clone() for name, weight in training.model.named_parameters()}
        with pytest.raises(ValueError, match=f"is not a Sparsity Lab checkpoint .*{name} is torch"):
            training.resume(path)
        assert all(torch.equal(weight, before[name]) for name, weight in training.model.named_parameters())
        assert not training.optimizer.state


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, Path.touch, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_set_aside_unopened(make: Any, model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    make(path)
    assert checkpoint.peek(path) is None
    with pytest.warns(StrangeFile, match="starts anew"):
        training = Training(model, run, checkpoint_path=path, checkpoint_seconds=0)
    training.step()
    state = checkpoint.peek(path)
    assert state is not None
    assert state["step"] == 1
    [aside] = [each for each in tmp_path.iterdir() if each.suffix == ".aside"]
    assert aside.name.startswith("run.safetensors.")


def test_what_a_user_named_by_mistake_stays(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a checkpoint")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match=f"^{path} is not a .*: delete it or name another file"):
            Training(model, run, checkpoint_path=path)
        assert path.exists()


def test_a_checkpoint_of_an_older_version_still_fits(path: Path, model: ModelConfig, run: RunConfig) -> None:
    """It lacks the fields that came later, whose defaults do what was done before."""
    state = checkpoint.peek(path)
    assert state is not None
    older = {name: value for name, value in state.items() if name not in ("cpu_seconds", "routes", "compiled")}
    older["run"] = {name: value for name, value in state["run"].items() if name != "order_seed"}
    rewrite(path, older)
    assert Training(model, run, checkpoint_path=path).steps_done == 2
