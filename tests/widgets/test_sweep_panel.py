"""The panel around a sweep, without a browser: what its buttons do and what it says."""

import html
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.store import load_frame
from sparsity_lab.runs.sweep import Progress, estimate, sweep
from sparsity_lab.widgets import sweep_panel
from sparsity_lab.widgets.sweep_panel import SweepPanel
from tests.sweeps import SPEED, Trainings, cluster_here, pairs_of, until


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainings]:
    """The panel's workers are threads of this process."""
    with cluster_here() as cluster:
        monkeypatch.setattr(sweep_panel, "sweep", partial(sweep, scheduler=cluster.scheduler_address))
        yield Trainings(monkeypatch)


def said(panel: SweepPanel) -> str:
    assert re.search('role="(status|alert)"', panel.status.value)
    return html.unescape(re.sub(r"<[^>]*>", "", panel.status.value))


def sweep_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("sweep")


@pytest.fixture
def run(run: RunConfig) -> RunConfig:
    return run.replace(budget=2e7)


def test_headless(
    model: ModelConfig, run: RunConfig, tmp_path: Path, trainings: Trainings, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = pairs_of(model, run, 2)
    panel = SweepPanel(pairs, tmp_path, workers=1, speed=SPEED)
    until(lambda: "runs to train" in said(panel))
    assert said(panel) == estimate(pairs, tmp_path, 1, SPEED).summary()
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (False, True)
    assert panel.run() == Progress(2, 2, 0, 1.0, 0.0)
    assert said(panel) == "2 of 2 runs done."
    assert panel.bar.value == 1.0
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (False, True)
    assert len(load_frame(tmp_path)) == 2
    again = SweepPanel(pairs, tmp_path, speed=SPEED)
    until(lambda: said(again) == "All 2 runs are trained already.")
    assert again.run().done == 2
    assert len(trainings.begun) == 2
    out, err = capfd.readouterr()
    assert out + err == "", "nothing prints from a thread"


def test_start_twice_stop_and_go_on(model: ModelConfig, run: RunConfig, tmp_path: Path, trainings: Trainings) -> None:
    panel = SweepPanel(pairs_of(model, run, 2), tmp_path, speed=SPEED)
    panel.stop()  # before there is anything to stop
    assert panel.wait(), "nothing to wait for"
    held = threading.Event()
    trainings.at_step = lambda training: until(lambda: held.is_set() or training.steps_done < 3)
    panel.start_button.click()
    panel.start_button.click()
    panel.start()
    assert panel.busy
    assert sweep_threads() == 1
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (True, False)
    until(lambda: trainings.begun and 0 < panel.bar.value < 1)
    assert not panel.wait(0.01)
    panel.stop_button.click()
    assert said(panel) == "Stopping: saving the runs under way…"
    held.set()
    assert panel.wait(60)
    assert said(panel).startswith("Stopped. ")
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (False, True)
    assert panel.run() == Progress(2, 2, 0, 1.0, 0.0)
    assert sorted({seed for seed, _ in trainings.begun}) == [0, 1]


def test_what_breaks_is_said(
    model: ModelConfig, run: RunConfig, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = SweepPanel(pairs_of(model, run.replace(corpus="no/such <text>"), 1), tmp_path, speed=SPEED)
    until(lambda: "Measuring" not in said(panel))
    assert said(panel).startswith("corpus='no/such <text>' does not exist")
    assert 'role="alert"' in panel.status.value
    with pytest.raises(RuntimeError, match="does not exist"):
        panel.run()
    panel.pairs = pairs_of(model, run, 1)
    assert panel.run().done == 1
    assert said(panel) == "1 of 1 runs done."


def test_an_interrupted_cell_stops_the_sweep(
    model: ModelConfig, run: RunConfig, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = SweepPanel(pairs_of(model, run, 1), tmp_path, speed=SPEED)
    wait, waits = panel.wait, []

    def interrupted(seconds: float | None = None) -> bool:
        waits.append(seconds)
        if len(waits) == 1:
            raise KeyboardInterrupt
        return wait(seconds)

    monkeypatch.setattr(panel, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        panel.run()
    assert not panel.busy
    assert panel.progress is not None
    assert said(panel) == f"Stopped. {panel.progress.summary()}"
