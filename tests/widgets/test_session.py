"""The one trainer: start, pause, step, stop, and what survives; the dashboard around it, without a browser."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.files import home
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.runs.pool import pool
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.timing import calibrate, matmul_rate
from sparsity_lab.training.trainer import Training, train
from sparsity_lab.units import duration
from sparsity_lab.widgets import session as session_module
from sparsity_lab.widgets.dashboard import MagicDial
from sparsity_lab.widgets.session import Session, current
from sparsity_lab.widgets.settings import Settings
from tests.sweeps import until

LONG = 1e10  # FLOPs: seconds, to be stopped


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path / "lab")
    yield session
    session.stop()
    assert session.wait(30)


def trainers() -> int:
    return [thread.name for thread in threading.enumerate()].count("training")


def at_work() -> list[int]:
    """The processes that train lanes, or look for what spares it."""
    jobs = [worker for worker in pool()._workers if worker.job is not None and worker.job._at_once]
    return [worker.process.pid for worker in jobs]


def test_a_run_from_start_to_record(session: Session, model: ModelConfig, run: RunConfig) -> None:
    reports: list[float] = []
    session.listeners.append(lambda: reports.append(time.monotonic()))
    dense = model.with_sparsity(0)
    session.start([(model, run), (dense, run)])
    assert session.wait(60)
    assert session.state == "idle"
    assert [lane.record.status for lane in session.lanes if lane.record] == ["finished", "finished"]
    assert [record.sparsity for record in session.records] == [0.75, 0.0]
    assert len(reports) <= 10 + 15 * (reports[-1] - reports[0])
    assert session.has_finished([(model, run), (dense, run)])
    lane = session.lanes[0]
    assert lane.text_before.startswith("def ")
    assert lane.text_after.startswith("def ")
    assert lane.text_after != lane.text_before
    assert len(lane.routing) == model.n_layers
    *_, alone = train(model, run)
    assert lane.record is not None
    assert lane.record.val_loss == alone.val_loss, "training beside another changes nothing"  # type: ignore[union-attr]
    assert Session(session.folder).records == session.records, "a new kernel finds them"
    # the twin is not trained twice
    session.start([(model.replace(top_k=2), run), (dense, run)])
    assert session.wait(60)
    assert session.lanes[1].kept
    assert session.lanes[1].record is not None


def test_pause_step_proceed_stop(session: Session, model: ModelConfig, run: RunConfig) -> None:
    run = run.replace(budget=LONG)
    session.start([(model, run)])
    until(lambda: session.lanes[0].last)
    session.pause()
    until(lambda: session.message == "Paused.")
    at = session.lanes[0].last
    time.sleep(0.2)
    assert session.lanes[0].last is at
    session.step()
    until(lambda: session.lanes[0].last is not at)
    time.sleep(0.2)
    assert at is not None
    assert session.lanes[0].last is not None
    assert session.lanes[0].last.step == at.step + 1
    session.proceed()
    until(lambda: session.lanes[0].last.step > at.step + 5)  # type: ignore[union-attr]
    session.stop()
    assert session.wait(30)
    record = session.lanes[0].record
    assert record is not None
    assert record.status == "stopped"
    assert record.val_loss is not None, "a stopped run can be compared"
    assert record.curve["loss"]
    assert session.records == [record]


def test_stop_before_start_and_while_paused(session: Session, model: ModelConfig, run: RunConfig) -> None:
    session.stop()
    session.pause()
    session.proceed()
    assert session.state == "idle"
    session.start([(model, run.replace(budget=LONG))], paused=True)
    until(lambda: session.message == "Paused.")
    session.stop()
    assert session.wait(30)


def test_never_a_second_trainer(session: Session, model: ModelConfig, run: RunConfig) -> None:
    long = run.replace(budget=LONG)
    for _ in range(3):
        session.start([(model, long)])
    thread = session._thread
    until(lambda: session.lanes[0].last)
    session.start([(model, long)])
    assert session._thread is thread, "the same again goes on"
    for seed in range(3):
        session.start([(model, long.replace(seed=seed + 1))])
        until(lambda: session.lanes[0].last)
        assert trainers() == len(at_work()) == 1, "it has waited for the one before"
    assert {record.seed for record in session.records} <= {0, 1, 2}
    session.clear()
    assert trainers() == len(at_work()) == 0
    assert session.records == []
    assert Session(session.folder).records == []


def test_mistakes(session: Session, model: ModelConfig, run: RunConfig) -> None:
    session.start([(model, run)])
    with pytest.raises(ValueError, match="less than one step"):
        session.start([(model, run.replace(budget=10))])
    assert session.wait(60)
    assert session.records, "what was running is not lost"
    session.start([(model, run.replace(corpus="/no/such/folder"))])
    assert session.wait(30)
    assert session.state == "failed"
    assert "corpus='/no/such/folder'" in session.message
    session.start([(model, run)])
    assert session.wait(60)
    assert session.state == "idle"


def test_a_dead_kernels_run_goes_on(session: Session, model: ModelConfig, run: RunConfig) -> None:
    assert session.interrupted() is None
    path = session.folder / "checkpoints" / f"{run_id(model, run)}.safetensors"
    dead = Training(model, run)
    for _ in range(5):
        dead.step()
    dead.save(path)
    assert session.interrupted() == (model, resolve(model, run))
    session.start([(model, run)])
    assert session.wait(60)
    assert session.lanes[0].losses[:5] == dead.losses
    assert len(session.lanes[0].losses) == plan(model, run).steps
    assert not path.exists()
    assert session.interrupted() is None


@pytest.mark.parametrize("cores", [1, 2])
def test_two_lanes_on_so_many_cores(
    cores: int, session: Session, model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSITY_LAB_CORES", str(cores))
    long = run.replace(budget=LONG)
    session.start([(model, long), (model.with_sparsity(0), long)])
    until(lambda: all(lane.last for lane in session.lanes))
    assert len(at_work()) == cores
    session.pause()
    until(lambda: [lane.message for lane in session.lanes] == ["Paused."] * 2)
    shares = [lane.share for lane in session.lanes]
    if cores == 1:
        assert shares[0] == pytest.approx(shares[1], abs=0.01), "they take turns"
    before = [len(lane.losses) for lane in session.lanes]
    session.step()
    until(lambda: [len(lane.losses) for lane in session.lanes] == [steps + 1 for steps in before])
    session.stop()
    assert session.wait(30)
    assert [record.status for record in session.records] == ["stopped"] * 2


def test_a_run_resumes_if_its_worker_dies(
    session: Session, model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, int]] = []
    hear = Lane.hear

    def listen(lane: Lane, first: int, told: Lane) -> None:
        heard.append((first, len(told.losses)))
        hear(lane, first, told)

    monkeypatch.setattr(Lane, "hear", listen)
    saved = Training(model, run)
    for _ in range(5):
        saved.step()
    saved.save(session.folder / "checkpoints" / f"{run_id(model, run)}.safetensors")
    session.start([(model, run)], paused=True)
    until(lambda: session.message == "Paused.")
    (lane,), begun = session.lanes, (0, 5)
    assert heard.count(begun) == 1
    written = lane.text_before

    os.kill(at_work()[0], signal.SIGKILL)
    session.proceed()
    assert session.wait(60)
    assert heard.count(begun) == 2, "from the checkpoint, and the curve is told again"
    assert session.state == "idle"
    *_, alone = train(model, run)
    assert isinstance(alone, Record)
    assert lane.record is not None
    assert (lane.record.val_loss, lane.record.curve) == (alone.val_loss, alone.curve)
    assert len(lane.losses) == plan(model, run).steps
    assert lane.text_before == written


def test_workers_that_die_again_and_again(session: Session, model: ModelConfig, run: RunConfig) -> None:
    session.start([(model, run)], paused=True)
    while session.busy:
        for process in at_work():
            os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    assert session.state == "failed"
    assert "was there too little memory?" in session.message
    session.start([(model, run)])
    assert session.wait(60)
    assert session.state == "idle"


def test_if_one_lane_fails_the_other_is_kept(session: Session, model: ModelConfig, run: RunConfig) -> None:
    long = run.replace(budget=LONG)
    session.start([(model, long), (model.replace(vocab_size=100), long)])
    assert session.wait(60)
    assert session.state == "failed"
    assert session.message.startswith("ValueError: vocab_size=100")
    assert session.lanes[1].record is None
    assert session.records == [lane.record for lane in session.lanes if lane.last]


def test_one_session_a_kernel() -> None:
    assert current() is current()


# ---- at once, also while it gets ready


def blocked(line: Any, *arguments: Any) -> None:
    """A job that takes long and hears nothing, as the preparation of a large text does."""
    import time

    from sparsity_lab.files import home

    while not (home() / "go").exists():
        time.sleep(0.01)


@pytest.fixture
def not_ready(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(session_module, "prepare", blocked)
    yield
    home().mkdir(parents=True, exist_ok=True)
    (home() / "go").touch()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_buttons_answer_while_it_gets_ready(
    session: Session, model: ModelConfig, run: RunConfig, not_ready: None
) -> None:
    session.start([(model, run)])
    until(at_work)
    session.pause()
    session.step()
    session.proceed()
    assert session.message == "Getting ready."
    session.stop()
    assert session.message == "Stopping."
    assert session.wait(30), "although its worker is still busy"
    assert (session.state, session.message) == ("idle", "Stopped.")
    assert at_work()


def test_another_run_and_clear_do_not_wait_for_one_that_gets_ready(
    session: Session, model: ModelConfig, run: RunConfig, not_ready: None
) -> None:
    session.start([(model, run)])
    until(at_work)
    session.start([(model, run.replace(seed=1))])
    session.pause()
    assert session.state == "paused", "the pause is for the new run"
    session.clear()
    assert (session.state, session.lanes) == ("idle", [])


def test_what_ends_late_says_nothing_about_the_next(session: Session, model: ModelConfig, run: RunConfig) -> None:
    """A run ends with its present step, and another one is there by then."""
    long = run.replace(budget=LONG)
    first = session.start([(model, long)])
    until(lambda: first[0].last)
    second = session.start([(model, long.replace(seed=1))], paused=True)
    assert session.lanes is second
    until(lambda: session.message == "Paused.")
    assert session.state == "paused"
    assert first[0].record is not None
    assert [record.seed for record in session.records] == [0]


# ---- two kernels


def test_two_kernels_with_the_same_run(session: Session, model: ModelConfig, run: RunConfig) -> None:
    pair = model, run.replace(budget=LONG)
    first = session.start([pair])
    until(lambda: list(session.folder.glob("checkpoints/*.safetensors")))
    session.pause()
    until(lambda: session.message == "Paused.")

    other = Session(session.folder)
    assert other.interrupted() is None, "it is not cut off"
    (lane,) = other.start([pair])
    until(lambda: "has been training this run since" in other.message)
    assert f"(process {os.getpid()})" in other.message
    assert lane.last is None
    other.clear()
    assert list(session.folder.glob("checkpoints/*.safetensors")), "it is the first one's"
    (lane,) = other.start([pair])
    until(lambda: "has been training this run since" in other.message)
    session.stop()
    assert session.wait(30)
    until(lambda: lane.last)
    other.stop()
    assert other.wait(30)
    assert first[0].record is not None
    assert lane.record is not None
    assert list(session.folder.glob("checkpoints/*")) == []


# ---- a full disk


def test_a_result_that_has_no_room_stays_in_memory_until_it_has(
    session: Session, model: ModelConfig, run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "SECONDS_TO_SAVE_AGAIN", 0.1)
    session.folder.mkdir()
    for name in ("runs", "checkpoints"):
        (session.folder / name).symlink_to("nowhere")  # so that no folder can be made
    session.start([(model, run)])
    assert session.wait(60)
    assert session.state == "idle"
    (record,) = session.records
    assert record.status == "finished"
    assert f"Not saved yet: {session.folder / 'runs'} can't be written (" in session.message
    assert session.store.load() == []

    session.start([(model.with_sparsity(0), run)])
    assert session.wait(60)
    session.start([(model, run)])
    assert session.wait(60)
    assert session.lanes[0].kept, "in memory"
    (session.folder / "runs").unlink()
    until(lambda: session.message.startswith("Saved now"))
    assert sorted(record.sparsity for record in session.store.load()) == [0.0, 0.75]
    assert {record.id for record in Session(session.folder).records} == {record.id for record in session.records}


# ---- the dashboard


@pytest.fixture
def dial(session: Session, corpus_file: Path) -> MagicDial:
    return MagicDial(session=session, calibrate=False, width=8, budget=1e9, corpus=str(corpus_file))


def test_dials_snap_and_numbers_follow(dial: MagicDial) -> None:
    labels = [label for label, _ in dial.dials.sparsity.options]
    assert labels[0] == "S = 0: dense, nothing sleeps"
    assert "S = 0.9375: 15 of 16 experts sleep" in labels
    assert all(0 <= value < 1 for _, value in dial.dials.sparsity.options)
    for value in (0.0, 0.75):
        dial.dials.sparsity.value = value
        params = count_parameters(dial.settings.model)
        assert f"{params.total:,}" in dial._facts.value
        assert f"{params.active:,}" in dial._facts.value
        assert f"{plan(dial.settings.model, dial.settings.run).tokens:,}" in dial._facts.value
    dial.dials.sparsity.value = 0.9375
    dial.dials.hold.value = "total"
    assert dial.settings.model.d_expert * dial.settings.model.n_experts == 48 * 8
    assert dial.dials.sparsity.value == 0.9375, "the dial stays where it was"
    odd = MagicDial(session=dial._session, calibrate=False, sparsity=0.9, budget=7e9, width=20)
    assert odd.settings.model.n_experts == 10
    assert odd.settings.budget == 7e9


def test_buttons(dial: MagicDial, session: Session) -> None:
    dial.buttons.stop.click()
    dial.dials.dense_twin.value = False
    dial.dials.budget.options = [*dial.dials.budget.options, ("long", LONG)]
    dial.dials.budget.value = LONG
    for _ in range(3):
        dial.buttons.train.click()
    assert trainers() == 1
    until(lambda: session.lanes[0].last)
    dial.buttons.pause.click()
    assert dial.buttons.pause.description == "Resume"
    until(lambda: "Paused." in dial._status.value)
    dial.buttons.step.click()
    dial.buttons.pause.click()
    until(lambda: "left" in dial._left.value)
    dial.buttons.stop.click()
    assert session.wait(30)
    assert "stopped" in dial._status.value
    assert "stopped" in dial.runs.table.value
    dial.buttons.clear.click()
    assert "Cleared" in dial._status.value
    assert "stopped" not in dial.runs.table.value


def test_a_budget_too_small_is_said_beside_the_dial(dial: MagicDial) -> None:
    dial.dials.set(Settings(budget=1e9, width=128, sparsity=0.5))
    assert "less than one step" not in dial.dials.problem
    dial.dials.budget.options = [("tiny", 1000.0), *dial.dials.budget.options]
    dial.dials.budget.value = 1000.0
    assert "less than one step" in dial.dials.problem
    dial.buttons.train.click()
    assert "less than one step" in dial.dials.problem
    assert trainers() == 0


def test_static_twin_and_code(dial: MagicDial, session: Session) -> None:
    curves = dial.run()
    thread = session._thread
    assert dial.run().equals(curves)
    assert session._thread is thread, "done is done"
    dial._refresh()
    assert dial._figure is not None
    static = dial.figure().data
    live = [trace for trace in dial._figure.widget.data if trace.x is not None and len(trace.x)]
    assert len(static) == len(live)
    for one, other in zip(static, live, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)
        assert len(one.x) <= 400
    names = [lane.record.label for lane in session.lanes if lane.record is not None]
    assert len(set(names) & {trace.name for trace in static}) == 2
    assert "wins by" in dial.verdict()
    assert "ModelConfig.on_dial" in dial._listing.value
    ran: dict[str, Any] = {}
    exec(dial.settings.code(), ran)
    assert ran["record"].val_loss == dial.results()["held-out loss"].iloc[1], "the dense twin is trained last"


def test_runs_of_an_earlier_page_are_shown(session: Session, model: ModelConfig, run: RunConfig) -> None:
    """A page that is opened anew finds what trains, if no other dashboard shows it."""
    lanes = session.start([(model, run)])
    first, second = (MagicDial(session=session, calibrate=False, width=8) for _ in range(2))
    assert session.wait(60)
    assert first.buttons.lanes is lanes
    assert second.buttons.lanes == []
    assert "finished" in first._status.value
    assert "finished" not in second.runs.table.value


def test_offers_a_dead_kernels_run(session: Session, corpus_file: Path) -> None:
    settings = Settings(sparsity=0.75, budget=2e9, width=12, corpus=str(corpus_file))
    training = Training(settings.model, settings.run)
    training.step()
    training.save(session.folder / "checkpoints" / f"{run_id(settings.model, settings.run)}.safetensors")
    dial = MagicDial(session=session, calibrate=False, corpus=str(corpus_file))
    assert dial.settings == settings
    assert "cut off" in dial._status.value


def test_settings_json_is_one_line() -> None:
    assert json.loads(Settings().to_json())["sparsity"] == 0.9375
    assert "\n" not in Settings().to_json()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59, "59 s"), (60, "1 min 00 s"), (125, "2 min 05 s"), (12_000, "3 h 20 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- speed


def test_estimates(corpus_file: Path) -> None:
    assert matmul_rate(0.01, 64) > 0
    speed = calibrate(load_corpus(str(corpus_file)))
    model = ModelConfig.on_dial(16, 0.9375)
    times = [speed.seconds(model, RunConfig(budget=budget, batch_size=4)) for budget in (1e10, 1e11, 1e12)]
    assert 0 < times[0] < times[1] < times[2]
    assert times[2] == pytest.approx(100 * times[0], rel=0.2)
    with pytest.raises(ValueError, match="less than one step"):
        speed.seconds(model, RunConfig(budget=10))


def test_the_map_of_experts_is_of_a_batch_not_of_the_text_it_wrote(
    session: Session, model: ModelConfig, run: RunConfig
) -> None:
    session.start([(model, run)])
    assert session.wait(60)
    (lane,) = session.lanes
    assert lane.text_after
    for load in lane.routing:
        assert sum(share > 0 for share in load) > 1, "a single token would load a single expert"
