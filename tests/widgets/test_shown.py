"""What dashboards show, of several kernels that share a folder, and what Clear sets aside."""

import os
import time
from pathlib import Path

import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import run_id
from sparsity_lab.runs.lock import RunLock
from sparsity_lab.runs.store import user_store
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.training.trainer import Training
from sparsity_lab.widgets.session import Session
from sparsity_lab.widgets.shown import SECONDS_SET_ASIDE, Shown, change_shown, read_shown

Pair = tuple[ModelConfig, RunConfig]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lab"


def shown_in(folder: Path, *pairs: Pair) -> None:
    """Has the dashboards of a folder show these runs."""
    for pair in pairs:
        record = failed_record(pair, "")
        user_store(folder).save(record)
        change_shown(folder / "dashboard.json", show=[record.id])


def left(folder: Path, pair: Pair, suffix: str = ".safetensors") -> Path:
    """The checkpoint of a run that a dead kernel left."""
    training = Training(*pair)
    training.step()
    path = folder / "checkpoints" / f"{run_id(*pair)}.safetensors"
    training.save(path)
    return path.rename(path.with_suffix(suffix))


def seeds(session: Session) -> list[int]:
    return [record.seed for record in session.records]


def pairs(model: ModelConfig, run: RunConfig) -> list[Pair]:
    return [(model, run.replace(seed=seed)) for seed in range(3)]


def test_kernels_change_one_list_together(tmp_path: Path) -> None:
    path = tmp_path / "new" / "dashboard.json"
    change_shown(path, show=["a", "b"], names={"a": "mine"})
    change_shown(path, show=["c", "a"], names={"c": "other"})
    assert read_shown(path) == Shown(["b", "c", "a"], {"a": "mine", "c": "other"})
    change_shown(path, hide={"b"}, names={"a": ""}, cleared=["b"])
    assert read_shown(path) == Shown(["c", "a"], {"c": "other"}, ["b"])
    change_shown(path, show=[str(number) for number in range(200)])
    found = read_shown(path)
    assert found is not None
    assert found.runs == [str(number) for number in range(100, 200)]


@pytest.mark.parametrize("make", ["mkfifo", "mkdir"])
def test_a_pipe_or_a_folder_in_the_place_of_the_list(make: str, folder: Path) -> None:
    folder.mkdir()
    getattr(os, make)(folder / "dashboard.json")
    session = Session(folder)
    session.rename("a", "mine")
    assert session.records == []


def test_clear_leaves_what_another_kernel_shows(folder: Path, model: ModelConfig, run: RunConfig) -> None:
    old, other, _ = pairs(model, run)
    shown_in(folder, old)
    session = Session(folder)
    shown_in(folder, other)
    assert seeds(session) == [0]
    session.clear()
    assert seeds(Session(folder)) == [1], "made by another kernel since this one was started"
    session.undo_clear()
    assert sorted(seeds(Session(folder))) == [0, 1]
    session.rename(run_id(*old), "mine")
    assert Session(folder).names == {run_id(*old): "mine"}


def test_clear_sets_only_what_was_offered_aside(folder: Path, model: ModelConfig, run: RunConfig) -> None:
    offered, live, later = pairs(model, run)
    lock = RunLock(left(folder, live))
    assert lock.take(), "as the kernel that trains it does"
    path = left(folder, offered)
    session = Session(folder)
    found = session.interrupted()
    assert found is not None
    assert found[1].seed == 0, "a live run was not cut off"
    left(folder, later)
    session.clear()
    names = sorted(path.name for path in folder.glob("checkpoints/*") if path.suffix in (".safetensors", ".cleared"))
    assert names == sorted([f"{run_id(*offered)}.cleared", *(f"{run_id(*pair)}.safetensors" for pair in (live, later))])
    session.undo_clear()
    assert path.exists()
    lock.give_back()


def test_an_undo_takes_the_place_of_no_newer_checkpoint(folder: Path, model: ModelConfig, run: RunConfig) -> None:
    pair = model, run
    left(folder, pair)
    session = Session(folder)
    session.interrupted()
    session.clear()
    newer = left(folder, pair)
    newer.write_text("newer")
    session.undo_clear()
    assert newer.read_text() == "newer"


def test_a_clear_can_be_undone_after_a_restart(folder: Path, model: ModelConfig, run: RunConfig) -> None:
    shown, cut_off, _ = pairs(model, run)
    shown_in(folder, shown)
    left(folder, cut_off)
    session = Session(folder)
    session.interrupted()
    session.clear()

    later = Session(folder)
    assert (seeds(later), later.interrupted(), later.can_undo) == ([], None, True)
    later.undo_clear()
    assert (seeds(later), later.can_undo) == ([0], False)
    assert later.interrupted() is not None
    last = Session(folder)
    assert (seeds(last), last.can_undo) == ([0], False)


def test_what_was_set_aside_goes_once_something_is_trained(folder: Path, model: ModelConfig, run: RunConfig) -> None:
    cut_off, trained, _ = pairs(model, run)
    left(folder, cut_off)
    session = Session(folder)
    session.interrupted()
    session.clear()
    session.start([trained])
    assert session.wait(60)
    assert list(folder.glob("checkpoints/*")) == []
    assert not Session(folder).can_undo


def test_what_nobody_can_show_again_goes_after_a_week(folder: Path, model: ModelConfig, run: RunConfig) -> None:
    old, new, kept = (left(folder, pair, ".cleared") for pair in pairs(model, run))
    change_shown(folder / "dashboard.json", cleared=[kept.stem])
    for path in (old, kept):
        os.utime(path, (0, time.time() - SECONDS_SET_ASIDE - 60))
    assert Session(folder).can_undo
    assert [path.exists() for path in (old, new, kept)] == [False, True, True]


def test_a_checkpoint_of_another_version_is_not_offered(
    folder: Path, model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(folder, (model, run))
    state = {"model": model.to_dict() | {"flux": 3}, "run": run.to_dict()}
    monkeypatch.setattr("sparsity_lab.training.checkpoint.peek", lambda path: state)
    assert Session(folder).interrupted() is None
