"""Estimates of time: positive, growing with the work, and never in the way of a training."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsity_lab.accounting import flops_per_step, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training import timing, trainer
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.timing import Speed, calibrate, matmul_rate
from sparsity_lab.widgets import session as session_module
from sparsity_lab.widgets.dashboard import MagicDial
from sparsity_lab.widgets.session import Session
from tests.pools import ThreadLine, ThreadPool


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path / "lab")
    yield session
    session.clear()


def test_estimates_are_positive_and_grow_with_the_work(corpus: Corpus) -> None:
    speed = calibrate(corpus)
    assert speed.device == "cpu"
    for width in (8, 32, 128):
        for sparsity in (0.0, 0.75, 0.984375):
            model = ModelConfig.on_dial(width, sparsity)
            run = RunConfig(batch_size=4)
            seconds = [speed.seconds(model, run.replace(budget=budget)) for budget in (1e10, 1e11, 1e12)]
            assert 0 < seconds[0] < seconds[1] < seconds[2]
            steps = plan(model, run.replace(budget=1e12)).steps
            assert seconds[2] == pytest.approx(steps * speed.step_seconds(model, 4))
            assert 0 < speed.step_seconds(model, 4) <= speed.step_seconds(model, 16)
    with pytest.raises(ValueError, match="less than one step"):
        speed.seconds(ModelConfig(), RunConfig(budget=10))


class OnGpu:
    """A training on a GPU: a step is told in no time, and computed until its loss is read."""

    device = torch.device("cuda")
    clock = 0.0

    def __init__(self, model: ModelConfig, run: RunConfig, corpus: Corpus) -> None:
        self.flops, self.left = flops_per_step(model, run.sequences), 0.0

    def step(self) -> None:
        OnGpu.clock += 1e-4
        self.left += 2e-3 + self.flops / 1e13

    def read_losses(self) -> None:
        OnGpu.clock, self.left = OnGpu.clock + self.left, 0.0


def test_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    """What is measured there is how long its steps take, not how long they take to launch."""
    monkeypatch.setattr(trainer, "Training", OnGpu)
    monkeypatch.setattr(trainer, "choose_device", lambda name: OnGpu.device)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: OnGpu.clock)
    speed = calibrate(corpus)
    assert speed.device == "cuda"
    for width in (16, 128, 384):  # also beyond what was measured
        model = ModelConfig.of_width(width)
        wanted = 2.1e-3 + flops_per_step(model, 64) / 1e13
        assert speed.step_seconds(model, 64) == pytest.approx(wanted, rel=0.1)


def test_rate_of_products() -> None:
    assert matmul_rate(0.01, 32) > 0


class Slow:
    """A calibration that lasts until it is let go."""

    def __init__(self, speed: Speed) -> None:
        self.speed, self.go = speed, threading.Event()

    def __call__(self, line: ThreadLine, corpus: str) -> Speed:
        assert self.go.wait(30)
        return self.speed


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow(Speed(np.ones(6)))
    monkeypatch.setattr(session_module, "measure_speed", slow)
    monkeypatch.setattr(session_module, "pool", ThreadPool)
    monkeypatch.setenv("SPARSITY_LAB_CORES", "1")
    yield slow
    slow.go.set()


def test_a_calibration_tells_when_it_is_through(session: Session, slow: Slow, corpus_file: Path) -> None:
    told: list[Any] = []
    session.listeners.append(lambda: told.append(session.speed))
    session.calibrate(str(corpus_file))
    session.calibrate(str(corpus_file))
    assert [thread.name for thread in threading.enumerate()].count("calibration") == 1
    assert session.speed is None
    slow.go.set()
    assert session.wait(30)
    assert session.speed is slow.speed
    assert told[-1] is slow.speed
    assert session.state == "idle"


def test_a_run_again_during_a_calibration(session: Session, slow: Slow, model: ModelConfig, run: RunConfig) -> None:
    """The same run was trained before, then a new dashboard calibrates: Train must train, not take the calibration for
    the training."""
    session.start([(model, run)])
    assert session.wait(60)
    session.calibrate(run.corpus)
    first = session.lanes[0]
    threading.Timer(0.1, slow.go.set).start()
    session.start([(model, run)])
    assert session.wait(60)
    assert session.lanes[0] is not first
    assert session.lanes[0].record is not None
    assert session.state == "idle"


def test_step_during_a_calibration(session: Session, slow: Slow, corpus_file: Path) -> None:
    """As above, at the dashboard: Step must begin the run anew, not step a run that is over."""
    dial = MagicDial(session=session, calibrate=False, width=8, budget=1e8, corpus=str(corpus_file))
    dial.run()
    first = session.lanes[0]
    session.calibrate(str(corpus_file))
    threading.Timer(0.1, slow.go.set).start()
    dial.buttons.step.click()
    assert session.lanes[0] is not first
    assert session.state == "paused"


def test_a_calibration_waits_for_no_training(session: Session, slow: Slow, model: ModelConfig, run: RunConfig) -> None:
    session.start([(model, run)])
    session.calibrate(run.corpus)
    assert [thread.name for thread in threading.enumerate()].count("calibration") == 0
    assert session.wait(60)
    assert session.records


def test_a_calibration_that_fails_says_so(session: Session) -> None:
    session.calibrate("/no/such/text")
    assert session.wait(30)
    assert session.state == "failed"
    assert "corpus='/no/such/text' does not exist" in session.message
