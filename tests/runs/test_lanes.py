"""What a lane tells while it trains: who reads a certain line, from before the first step to the end."""

import errno
import os
from collections.abc import Callable
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
from sparsity_lab.runs.lock import RunLock
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.kinds import KINDS
from sparsity_lab.training.reading import read
from sparsity_lab.training.trainer import Training


class Told:
    """A worker's side of a job that nobody disturbs, but what is done ``at`` a message; and what is told on it."""

    def __init__(self, at: Callable[[Lane], list[str] | None] = lambda lane: None) -> None:
        self.lanes: list[Lane] = []
        self._at, self._words = at, list[str]()

    def tell(self, news: Any) -> None:
        self.lanes.append(news[2])
        self._words += self._at(news[2]) or []

    def heard(self, seconds: float = 0.0) -> list[Any]:
        words, self._words = self._words, []
        return words


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


# ---- Another kernel, a full disk, and a kernel that is gone


def lanes_of(told: Told, folder: Path, *lanes: Lane, said: str = "go") -> list[Lane]:
    train_lanes(told, lanes, [said], RunStore(folder / "runs"), folder / "checkpoints")  # type: ignore[arg-type]
    return list(lanes)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "SECONDS_BETWEEN_TRIES", 0.0)
    monkeypatch.setattr(lanes_module, "SECONDS_BETWEEN_REPORTS", 0.0)


def test_a_run_that_another_process_trains_is_waited_for(
    model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None
) -> None:
    lane = Lane(model, resolve(model, run), anew=True)
    other = RunLock(checkpoint_path(tmp_path / "checkpoints", lane))
    assert other.take()
    whole = Training(model, run)
    while not whole.done:
        whole.step()
    record = whole.record(whole.evaluate())

    def end(lane: Lane) -> None:
        if len(told.lanes) == 3:
            RunStore(tmp_path / "runs").save(record)
            other.give_back()

    told = Told(end)
    lanes_of(told, tmp_path, lane)
    assert f"(process {os.getpid()}) has been training this run since" in told.lanes[0].message
    assert told.lanes[0].last is None
    assert lane.kept, "also by who wanted it anew: it is new"
    assert lane.record is not None
    assert lane.record.val_loss == record.val_loss
    assert other.is_free()


def test_a_run_is_taken_over_where_another_process_has_left_it(
    model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None
) -> None:
    lane = Lane(model, resolve(model, run))
    path = checkpoint_path(tmp_path / "checkpoints", lane)
    other = RunLock(path)
    assert other.take()
    begun_there = Training(model, run)
    for _ in range(5):
        begun_there.step()

    def die(lane: Lane) -> None:
        if len(told.lanes) == 3:
            begun_there.save(path)
            other.give_back()

    told = Told(die)
    lanes_of(told, tmp_path, lane)
    assert not lane.kept
    assert lane.record is not None
    first = next(lane for lane in told.lanes if lane.losses)
    assert first.losses[:5] == begun_there.losses
    assert lane.record.status == "finished"


@pytest.mark.parametrize("word", ["stop", "hurry"])
def test_who_waits_can_stop(word: str, model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None) -> None:
    lane = Lane(model, resolve(model, run))
    other = RunLock(checkpoint_path(tmp_path / "checkpoints", lane))
    assert other.take()
    lanes_of(Told(lambda lane: [word]), tmp_path, lane)
    assert lane.record is None
    assert not RunLock(checkpoint_path(tmp_path / "checkpoints", lane)).is_free(), "and leaves it to the other"
    other.give_back()


def test_of_two_lanes_in_one_worker_one_does_not_wait_with_the_other(
    model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None
) -> None:
    waits, trains = (Lane(each, resolve(each, run)) for each in (model, model.with_sparsity(0)))
    other = RunLock(checkpoint_path(tmp_path / "checkpoints", waits))
    assert other.take()
    lanes_of(Told(lambda lane: ["stop"] if lane.record is not None else None), tmp_path, waits, trains)
    assert trains.record is not None
    assert trains.record.status == "finished"
    assert waits.record is None
    other.give_back()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_can_not_be_written_ends_no_training(
    number: int, model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "SECONDS_TO_THE_FIRST", 0.0)
    monkeypatch.setattr(lanes_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    lane = Lane(model, resolve(model, run))
    path = checkpoint_path(tmp_path / "checkpoints", lane)

    load_corpus(run.corpus)

    def refused(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("sparsity_lab.files.os.replace", refused)
        told = Told()
        lanes_of(told, tmp_path, lane)
    assert lane.record is not None
    assert lane.record.status == "finished"
    assert lane.record.val_loss == trained(model, run, tmp_path / "other", monkeypatch).lanes[-1].record.val_loss  # type: ignore[union-attr]
    why = f"{path.parent} can't be written ({os.strerror(number)}; "
    assert why in told.lanes[-2].message
    assert "It trains without checkpoints" in told.lanes[-2].message
    assert str(tmp_path / "runs") in lane.unsaved
    assert not list(tmp_path.rglob("*.*-*")), "nothing half-written is left"


def test_with_room_again_a_checkpoint_is_saved(
    model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_module, "SECONDS_TO_THE_FIRST", 0.0)
    monkeypatch.setattr(lanes_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    lane, replace = Lane(model, resolve(model, run)), os.replace

    def full(source: Any, target: Any) -> None:
        if len(told.lanes) < 4 and str(target).endswith(".safetensors"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr("sparsity_lab.files.os.replace", full)
    told = Told()
    lanes_of(told, tmp_path, lane)
    troubles = [bool(lane.trouble) for lane in told.lanes]
    assert troubles[2:6] == [True, True, False, False]
    assert not lane.unsaved
    assert checkpoint_path(tmp_path / "checkpoints", lane).exists()


def test_a_kernel_that_is_gone_leaves_a_checkpoint(
    model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None
) -> None:
    lane = Lane(model, resolve(model, run))

    def gone(lane: Lane) -> None:
        if lane.last and lane.last.step == 7:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        lanes_of(Told(gone), tmp_path, lane)
    path = checkpoint_path(tmp_path / "checkpoints", lane)
    assert Training(model, run, checkpoint_path=path).steps_done == 7
    assert RunLock(path).is_free()


@pytest.mark.parametrize("words", [[], ["stop"]])
def test_a_run_stopped_before_it_is_measured_is_measured_the_next_time(
    words: list[str], model: ModelConfig, run: RunConfig, tmp_path: Path, at_once: None
) -> None:
    lane, store = Lane(model, resolve(model, run)), RunStore(tmp_path / "runs")
    measuring = "Measuring the loss on held-out text."
    told = Told(lambda lane: ["hurry"] if lane.message == measuring else None)
    lanes_of(told, tmp_path, lane)
    path = checkpoint_path(tmp_path / "checkpoints", lane)
    assert lane.record is None
    assert store.load() == []
    assert Training(model, run, checkpoint_path=path).done
    assert RunLock(path).is_free()

    again, whole = Lane(model, resolve(model, run)), Training(model, run)
    told = Told()
    told._words = words
    lanes_of(told, tmp_path, again)
    while not whole.done:
        whole.step()
    assert again.record is not None
    assert (again.record.status, again.record.val_loss) == ("finished", whole.evaluate())
    assert store.load() == [again.record]
