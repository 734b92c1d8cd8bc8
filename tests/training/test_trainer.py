"""A budget in, a record out: the same numbers every time, also after a kill; checkpoints; records on disk."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.accounting import flops_per_step, plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.files import StrangeFile
from sparsity_lab.record import Record, Step, decimate, run_id
from sparsity_lab.runs.store import RunStore
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.trainer import Training, learning_rate_at, train


def run_of(model: ModelConfig, run: RunConfig, **options: Any) -> tuple[list[Step], Record]:
    *steps, record = train(model, run, **options)
    assert isinstance(record, Record)
    return steps, record  # type: ignore[return-value]


def test_spends_its_budget_and_learns(model: ModelConfig, run: RunConfig, corpus: Corpus) -> None:
    steps, record = run_of(model, run)
    bought = plan(model, run)
    assert len(steps) == bought.steps == record.steps
    assert steps[-1].flops == record.flops == bought.flops <= run.budget
    assert run.budget - record.flops < flops_per_step(model, run.sequences)
    assert record.tokens == steps[-1].tokens == bought.tokens
    assert record.status == "finished"
    assert record.corpus == {"name": corpus.name, "fingerprint": corpus.fingerprint}
    assert record.val_loss is not None
    assert record.val_loss < 4.5 < steps[0].loss
    assert record.val_bits == pytest.approx(record.val_loss / math.log(2))
    assert record.sparsity == 0.75
    assert record.params_active < record.params_total
    assert Record(**json.loads(record.to_json())) == record
    assert steps[-1].seconds_left == 0


def test_deterministic(model: ModelConfig, run: RunConfig) -> None:
    first, again = run_of(model, run), run_of(model, run)
    assert [s.loss for s in first[0]] == [s.loss for s in again[0]]
    assert first[1].val_loss == again[1].val_loss
    other = run_of(model, run.replace(seed=1))
    assert other[0][0].loss != first[0][0].loss


def test_the_order_of_the_data_may_have_a_seed_of_its_own(model: ModelConfig, run: RunConfig) -> None:
    same, other = (Training(model, run.replace(order_seed=seed)) for seed in (run.seed, run.seed + 1))
    plain = Training(model, run)
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name])
    batches = [training.windows.batch(0, 4)[0] for training in (plain, same, other)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    assert run_id(model, run) != run_id(model, run.replace(order_seed=run.seed + 1))


def test_adamw_is_torchs(model: ModelConfig, run: RunConfig) -> None:
    ours, reference = Training(model, run), Training(model, run)
    reference.optimizer = torch.optim.AdamW(reference.optimizer.param_groups)
    for _ in range(5):
        ours.step()
        reference.step()
    assert list(ours.losses) == list(reference.losses)


def test_backends_train_alike(model: ModelConfig, run: RunConfig) -> None:
    fast, plain = run_of(model, run)[1], run_of(model, run.replace(backend="naive"))[1]
    assert fast.val_loss == pytest.approx(plain.val_loss, abs=0.02)


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.5), decay=st.floats(0, 0.5))
def test_learning_rate(steps: int, warmup: float, decay: float) -> None:
    run = RunConfig(learning_rate=0.1, warmup=warmup, decay=decay)
    rates = [learning_rate_at(step, steps, run) for step in range(steps)]
    assert all(0 < rate <= 0.1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if steps >= 100 and warmup > 0.1 and decay > 0.1:
        assert rates[0] < 0.1 * 0.15
        assert rates[-1] < 0.1 * 0.15


def test_defaults_are_filled_in_once(model: ModelConfig, run: RunConfig) -> None:
    resolved = resolve(model, run)
    assert resolved.learning_rate is not None
    assert resolved.batch_size == run.sequences
    assert resolve(model, resolved) == resolved
    assert run_id(model, run) == run_id(model, resolved)


def test_divergence_is_kept(model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(model, run)
    training.step()
    with torch.no_grad():
        training.model.head.fill_(math.nan)
    training.step()
    assert training.done
    record = training.record(training.evaluate())
    assert record.status == "diverged"
    assert record.val_loss is None
    assert "diverged after 2 steps" in record.summary()
    json.loads(record.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_bad_input(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"budget=1 FLOPs is less than one step .* batch_size=2"):
        Training(model, run.replace(budget=1))
    with pytest.raises(ValueError, match="corpus='/no/such/text'"):
        Training(model, run.replace(corpus="/no/such/text"))
    with pytest.raises(ValueError, match="vocab_size=100 is too small for the corpus: use 256"):
        Training(model.replace(vocab_size=100), run)
    short = tmp_path / "short.txt"
    short.write_text("word " * 1000)
    with pytest.raises(ValueError, match=r"context=.*needs"):
        Training(model.replace(context=8192), RunConfig(budget=1e13, corpus=str(short)))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda' but torch finds no CUDA GPU"):
            Training(model, run.replace(device="cuda"))


def test_stop_while_evaluating(model: ModelConfig, run: RunConfig) -> None:
    training = Training(model, run)
    assert training.evaluate(lambda: True) is None
    assert training.record(None).status == "stopped"
    while not training.done:
        training.step()
    assert training.record(training.evaluate(lambda: True)).status == "stopped", "trained, but not measured"
    assert training.record(training.evaluate()).status == "finished"


@given(n=st.integers(0, 3000))
def test_decimate(n: int) -> None:
    losses = [float(i) for i in range(n)]
    curve = decimate(losses, 10)
    assert len(curve["flops"]) == len(curve["loss"]) <= 512
    if n:
        assert curve["flops"][-1] == n * 10
        width = int(curve["flops"][0] / 10)
        assert curve["loss"][0] == pytest.approx(sum(losses[:width]) / width)
    if n <= 512:
        assert curve["loss"] == losses


# ---- checkpoints


def test_resumes_as_if_unbroken(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    steps, whole = run_of(model, run)
    path = tmp_path / "checkpoints" / "run.safetensors"
    broken = Training(model, run, checkpoint_path=path)
    for _ in range(7):
        broken.step()
    broken.save(path)
    for _ in range(5):
        broken.step()  # lost
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    resumed = Training(model, run, checkpoint_path=path)
    assert resumed.steps_done == 7
    while not resumed.done:
        resumed.step()
    assert resumed.losses == [s.loss for s in steps]
    assert resumed.record(resumed.evaluate()).val_loss == whole.val_loss


def test_kill_9_then_resume(corpus_file: Path, tmp_path: Path) -> None:
    model, run = ModelConfig.on_dial(8, 0.75), RunConfig(budget=2e9, corpus=str(corpus_file), device="cpu")
    _, whole = run_of(model, run)
    checkpoint = tmp_path / "run.safetensors"
    arguments = f"train --sparsity 0.75 --width 8 --budget 2e9 --corpus {corpus_file} --device cpu".split()
    saving = ["--checkpoint", str(checkpoint), "--checkpoint-seconds", "0.05"]
    victim = subprocess.Popen([sys.executable, "-m", "sparsity_lab", *arguments, *saving], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL, "it ended before it was killed: raise the budget"
    steps, resumed = run_of(model, run, checkpoint_path=checkpoint)
    assert 0 < len(steps) < whole.steps, "it resumed from the checkpoint"
    assert resumed.val_loss == whole.val_loss
    assert resumed.curve == whole.curve


def test_a_checkpoint_of_another_run(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    Training(model, run).save(path)
    with pytest.raises(ValueError, match=r"is of another run: its seed is 0, this run's 5"):
        Training(model, run.replace(seed=5), checkpoint_path=path)
    with pytest.raises(ValueError, match=r"its top_k is 1, this run's 2"):
        Training(model.replace(top_k=2), run, checkpoint_path=path)
    assert Training(model, run, checkpoint_path=path).notice == "", "it was not moved"
    named = path.rename(tmp_path / f"{run_id(model, run.replace(seed=5))}.safetensors")
    with pytest.warns(StrangeFile, match="its seed is 0, this run's 5. It is kept as .*, and the run starts anew"):
        Training(model, run.replace(seed=5), checkpoint_path=named)


# ---- records on disk


@pytest.fixture
def record(model: ModelConfig, run: RunConfig) -> Record:
    training = Training(model, run.replace(budget=plan(model, run.replace(budget=2e7)).flops))
    while not training.done:
        training.step()
    return training.record(training.evaluate())


def test_store(record: Record, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    assert store.load() == []
    path = store.save(record)
    store.save(record)
    assert [p.name for p in store.folder.iterdir()] == [path.name] == [f"{record.id}.json"]
    assert store.load() == [record]
    model, run = ModelConfig.from_dict(record.model), RunConfig.from_dict(record.run)
    assert store.finished(model, run, record.corpus["fingerprint"]) == record
    assert store.finished(model, run, "another text") is None
    assert store.finished(model, run.replace(seed=9), record.corpus["fingerprint"]) is None
    (store.folder / "torn.json").write_text(record.to_json()[:50])
    (store.folder / "foreign.json").write_text('{"name": "package"}')
    with pytest.warns(UserWarning, match="not a run record"):
        assert store.load() == [record]


def test_a_stopped_run_is_not_a_finished_one(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    training = Training(model, run)
    training.step()
    store = RunStore(tmp_path)
    store.save(training.record(None))
    assert store.load()[0].status == "stopped"
    assert store.finished(model, run, training.corpus.fingerprint) is None


def test_every_field_makes_another_run(model: ModelConfig, run: RunConfig) -> None:
    ids = {run_id(model, run), run_id(model.replace(d_expert=17), run), run_id(model, run.replace(seed=1))}
    assert len(ids) == 3


def test_weights_that_break_in_the_last_step(model: ModelConfig, run: RunConfig) -> None:
    """The last loss is a number, yet there is nothing to measure: diverged, not finished."""
    training = Training(model, run)
    while not training.done:
        training.step()
    with torch.no_grad():
        training.model.final_norm.fill_(math.inf)
    record = training.record(training.evaluate())
    assert record.status == "diverged"
    assert record.val_loss is None
