"""What a lane tells while it trains: who reads a certain line, from before the first step to the end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsity_lab.accounting import plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.record import Record
from sparsity_lab.runs import lanes as lanes_module
from sparsity_lab.runs.lanes import LINE, Lane, checkpoint_path, train_lanes
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.training.kinds import KINDS
from sparsity_lab.training.reading import read
from sparsity_lab.training.trainer import Training


class Told:
    """A worker's side of a job that nobody disturbs, and what is told on it."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []

    def tell(self, news: Any) -> None:
        self.lanes.append(news[2])

    def heard(self, seconds: float = 0.0) -> list[Any]:
        return []


@pytest.fixture
def wide(model: ModelConfig) -> ModelConfig:
    return model.replace(context=128)


def trained(
    model: ModelConfig, run: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch, said: str = "go"
) -> Told:
    monkeypatch.setattr(lanes_module, "SECONDS_BETWEEN_REPORTS", 0.0)
    told = Told()
    train_lanes(told, [Lane(model, resolve(model, run))], [said], RunStore(folder / "runs"), folder / "checkpoints")
    return told


def begun(lane: Lane, folder: Path) -> lanes_module._Run:
    """A run that is this process's to train."""
    work = lanes_module._Run(Told(), 0, lane, RunStore(folder / "runs"), folder)
    assert work.begun(lanes_module._Orders(Told(), ["go"]))
    return work


def test_a_lane_tells_who_reads(wide: ModelConfig, run: RunConfig, tmp_path: Path, monkeypatch: Any) -> None:
    said = trained(wide, run, tmp_path, monkeypatch).lanes
    first, last = said[0], said[-1]
    assert first.last is None
    assert first.reads == read(Training(wide, run).model, LINE.encode()), "of the untrained model"
    assert np.shape(first.reads) == (2, len(LINE), 1)
    assert len({str(lane.reads) for lane in said}) > 3, "it changes while the model learns"
    assert all(not lane.favourites for lane in said if lane.record is None and lane.message == "Training.")
    assert last.record is not None
    assert np.shape(last.favourites) == (2, wide.n_experts)
    assert {kind for layer in last.favourites for kind in layer} <= {*KINDS, ""}

    whole = Training(wide, run)
    while not whole.done:
        whole.step()
    assert last.reads == read(whole.model, LINE.encode()), "at the end, of the trained model"
    assert last.record.val_loss == whole.evaluate(), "and looking changed nothing"


def test_a_dense_lane_has_nothing_to_tell(wide: ModelConfig, run: RunConfig, tmp_path: Path, monkeypatch: Any) -> None:
    for lane in trained(wide.with_sparsity(0), run, tmp_path, monkeypatch).lanes:
        assert lane.reads == lane.favourites == []


def test_a_context_shorter_than_the_line(model: ModelConfig, run: RunConfig, tmp_path: Path, monkeypatch: Any) -> None:
    last = trained(model, run, tmp_path, monkeypatch).lanes[-1]
    assert model.context < len(LINE)
    assert np.shape(last.reads) == (2, model.context, 1)
    assert last.record is not None


def test_the_first_checkpoint_comes_soon(wide: ModelConfig, run: RunConfig, tmp_path: Path, monkeypatch: Any) -> None:
    """After a second, so that even a run that was hardly begun can be resumed."""
    clock = [0.0]
    monkeypatch.setattr(lanes_module.time, "monotonic", lambda: clock[0])
    lane = Lane(wide, resolve(wide, run))
    path = checkpoint_path(tmp_path, lane)
    work = begun(lane, tmp_path)
    monkeypatch.setattr(work.training, "save", lambda path: path.write_text("saved"))
    clock[0] = 0.9
    work.step(show=False)
    assert not path.exists()
    clock[0] = 1.1
    work.step(show=False)
    assert path.exists()


def test_a_run_is_resumed_from_its_first_checkpoint(wide: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    lane = Lane(wide, resolve(wide, run))
    work = begun(lane, tmp_path)
    work._save_at = 0.0
    work.step(show=False)
    work.step(show=False)
    work.lock.give_back()
    again = begun(Lane(wide, resolve(wide, run)), tmp_path)
    assert again.training.losses == work.training.losses[:1]
    assert torch.isfinite(torch.tensor(again.training.losses)).all()


def record_of(lane: Lane, **changes: Any) -> Record:
    from dataclasses import replace

    return replace(failed_record((lane.model, lane.run), ""), **changes)


@pytest.mark.parametrize(
    ("status", "share", "wanted"),
    [
        ("finished", 1.0, 1.0),
        ("finished", 0.999, 1.0),
        ("diverged", 0.1, 1.0),
        ("stopped", 0.25, 0.25),
        ("stopped", 0, 0),
    ],
)
def test_share(model: ModelConfig, run: RunConfig, status: str, share: float, wanted: float) -> None:
    lane = Lane(model, resolve(model, run))
    assert lane.share == 0.0
    lane.record = record_of(lane, status=status, flops=share * run.budget)
    assert lane.share == pytest.approx(wanted)


def test_share_while_training(wide: ModelConfig, run: RunConfig, tmp_path: Path, monkeypatch: Any) -> None:
    shares = [lane.share for lane in trained(wide, run, tmp_path, monkeypatch).lanes]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert 1 / plan(wide, run).steps in [pytest.approx(share) for share in shares]
