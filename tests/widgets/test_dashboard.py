"""The dashboard without a browser: what a learner reads after moving, pasting and pressing."""

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig
from sparsity_lab.laws.fitting import PredictedLoss
from sparsity_lab.record import Record, run_id, run_label
from sparsity_lab.runs import measured as shipped
from sparsity_lab.runs.repeat import run_all
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.training.timing import Speed
from sparsity_lab.training.trainer import Training
from sparsity_lab.widgets import session as session_module
from sparsity_lab.widgets.dashboard import MagicDial
from sparsity_lab.widgets.html import html_table
from sparsity_lab.widgets.session import Session
from sparsity_lab.widgets.settings import Settings
from tests.pools import ThreadPool
from tests.sweeps import until


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path / "lab")
    yield session
    session.clear()


@pytest.fixture
def start(session: Session, corpus_file: Path) -> dict[str, Any]:
    """Where the dials of these tests start: some ten steps of a narrow model."""
    return {"session": session, "calibrate": False, "width": 8, "budget": 1e8, "corpus": str(corpus_file)}


@pytest.fixture
def dial(start: dict[str, Any]) -> MagicDial:
    return MagicDial(**start)


def walk(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def text(dial: MagicDial, name: str) -> str:
    """What stands in a part of the dashboard, without its markup."""
    (part,) = [w for w in walk(dial) if isinstance(w, ipw.HTML) and f"sparsity-lab-{name}" in w._dom_classes]
    return html.unescape(re.sub(r"<[^>]*>", " ", part.value)).strip()


def plot(dial: MagicDial) -> go.FigureWidget:
    (figure,) = [w for w in walk(dial) if isinstance(w, go.FigureWidget)]
    return figure


def test_starts_light(tmp_path: Path, corpus_file: Path) -> None:
    """Without torch, scipy and a grammar of web addresses: seconds in which nothing is seen. Also while it trains, and
    where an earlier kernel left a run."""
    code = f"""
import sys
from sparsity_lab.widgets.dashboard import MagicDial
dial = MagicDial(width=8, budget=1e8, corpus={str(corpus_file)!r}, calibrate=False)
assert len(dial.run()), dial
heavy = ("torch", "dask", "scipy", "rfc3987_syntax.syntax_helpers")
assert not (found := [name for name in heavy if name in sys.modules]), found"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"SPARSITY_LAB_HOME": str(tmp_path)})


def test_the_room_is_entered_light() -> None:
    """All that notebooks take from it comes without what other rooms need."""
    code = """
import sys
from sparsity_lab.widgets import Explorer, MagicDial, SweepPanel, choice
heavy = ("torch", "scipy", "dask", "distributed", "nbgrader", "nbconvert", "networkx")
assert not (found := [name for name in heavy if name in sys.modules]), found"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_measured_runs_are_there_while_one_drags(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any training the plot shows the runs that ship and are nearest; without any, nothing."""
    curve = {"flops": np.linspace(1e9, 1e11, 50).tolist(), "loss": np.linspace(5, 2, 50).tolist()}
    calls = []

    def nearest(model: ModelConfig, run: Any) -> Record | None:
        calls.append(model)
        if run.budget < 1e11:
            return None
        record = failed_record((model, run), "")
        return replace(record, status="finished", val_loss=2.0 + model.sparsity, curve=curve)

    monkeypatch.setattr(shipped, "nearest", nearest)
    dial = MagicDial(session=session, calibrate=False, width=16, budget=1e11, sparsity=0.75)
    traces = {trace.name: trace for trace in plot(dial).data if trace.name and trace.visible is not False}
    sparse, dense = (
        f"measured: {run_label(model, dial.settings.run)}" for model in (dial.settings.model, dial.settings.twin)
    )
    assert len(traces[sparse].x) == len(traces[dense].x) == 50
    assert "2.750" in text(dial, "facts")
    assert plot(dial).layout.yaxis.range[0] <= 2 < plot(dial).layout.yaxis.range[1]
    assert set(dial.curves()["role"]) == {"measured", "measured dense"}
    dial.dials.sparsity.value = 0.9375
    assert "2.938" in text(dial, "facts")
    assert (
        sum(trace.visible is not False and bool(trace.name) and "0.938" in trace.name for trace in plot(dial).data) == 1
    )
    dial.dials.sparsity.value = 0.0
    assert [t.name for t in plot(dial).data if t.name and "measured" in t.name and t.visible is not False] == [dense]
    dial.dials.budget.value = 1e10
    assert dial.curves().empty
    assert not [t for t in plot(dial).data if t.name and "measured" in t.name and t.visible is not False]


def test_the_law_is_asked_before_and_judged_after(dial: MagicDial, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {0.75: PredictedLoss(2.0, 1.9, 2.1), 0.0: PredictedLoss(1.0, 0.0, 99.0)}
    monkeypatch.setattr(shipped, "expected", lambda model, run: told[model.sparsity])
    dial.dials.sparsity.value = 0.75
    assert "2.00 (1.90 to 2.10)" in text(dial, "facts")
    assert "1.00 (0.00 to 99.00)" in text(dial, "facts")
    assert "Expected of" not in text(dial, "summary")
    dial.run()
    dial._refresh()
    model, twin = (run_label(config, dial.settings.run) for config in (dial.settings.model, dial.settings.twin))
    assert f"Expected of {model}: 2.00 (1.90 to 2.10); it ended outside." in text(dial, "summary")
    assert f"Expected of {twin}: 1.00 (0.00 to 99.00); it ended inside." in text(dial, "summary")


# ---- Dials


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0 must be at least 0 and below 1"),
        ({"width": 30}, "d_model=30 must be a positive multiple of 4"),
        ({"budget": -1}, "budget=-1 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"hold": "both"}, "hold='both' is not known"),
    ],
)
def test_an_impossible_start(start: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MagicDial(**start | settings)


def test_starts_where_it_is_told(start: dict[str, Any], corpus_file: Path) -> None:
    options = {"sparsity": 0.75, "hold": "total", "seed": 7, "dense_twin": False}
    dial = MagicDial(**start | options)
    assert dial.settings == Settings(width=8, budget=1e8, corpus=str(corpus_file), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("hold", ["active", "total"])
def test_the_label_is_the_model_wherever_the_dials_stand(dial: MagicDial, hold: str) -> None:
    dial.dials.hold.value = hold
    for width in (8, 12, 16, 24, 96):
        dial.dials.width.value = width
        for label, value in dial.dials.sparsity.options:
            dial.dials.sparsity.value = value
            model = dial.settings.model
            assert label == f"{model.sparsity:.4g} ({model.top_k} of {model.n_experts})"
            assert value == model.sparsity
    stops = [value for _, value in dial.dials.sparsity.options]
    assert stops == sorted(stops)


def test_the_width_may_change_below_a_stop_that_it_lacks(dial: MagicDial) -> None:
    """48·8 hidden units can be cut into 128 experts, 48·12 can't."""
    dial.dials.hold.value = "total"
    dial.dials.sparsity.value = 127 / 128
    dial.dials.width.value = 12
    model = dial.settings.model
    assert dial.dials.sparsity.value == model.sparsity
    assert f"of {model.n_experts})" in dial.dials.sparsity.label


def test_numbers_beside_the_dials(dial: MagicDial) -> None:
    for hold, sparsity, width, budget in (
        ("active", 0.9375, 16, 1e10),
        ("total", 0.75, 24, 3e10),
        ("active", 0, 8, 1e11),
    ):
        dial.dials.hold.value, dial.dials.width.value, dial.dials.budget.value = hold, width, budget
        dial.dials.sparsity.value = sparsity
        facts = text(dial, "facts")
        models = [dial.settings.model] + ([dial.settings.twin] if sparsity else [])
        for model in models:
            bought = plan(model, dial.settings.run)
            for number in (count_parameters(model).total, count_parameters(model).active, bought.tokens, bought.steps):
                assert f"{number:,}" in facts
            assert f"{model.top_k} of {model.n_experts}" in facts
        assert ("dense twin" in facts) == (sparsity > 0)


def test_time_is_told_once_it_is_known(dial: MagicDial, session: Session) -> None:
    assert "measuring" in text(dial, "facts")
    session.speed = Speed(np.array([0.05, 0, 0, 0, 0, 0]))  # 50 ms a step
    session.listener()
    assert "measuring" not in text(dial, "facts")
    dial.dials.budget.value = 1e11
    steps = plan(dial.settings.model, dial.settings.run).steps
    minutes, seconds = divmod(round(0.05 * steps), 60)
    assert f"{minutes} min {seconds:02d} s" in text(dial, "facts")


# ---- Settings to share


def test_a_pasted_string_moves_every_dial(dial: MagicDial, start: dict[str, Any], session: Session) -> None:
    other = MagicDial(**start | {"sparsity": 0.875, "width": 20, "budget": 2.5e9, "hold": "total", "seed": 3})
    dial.share.value = other.share.value
    assert dial.settings == other.settings
    assert text(dial, "facts") == text(other, "facts")
    assert text(dial, "problem") == ""


@pytest.mark.parametrize(
    "pasted",
    [
        "{",
        '{"budget": 1e400}',
        '{"sparsity": NaN}',
        '{"width": 20.5}',
        '{"width": 100000000}',
        '{"seed": 1' + "0" * 400 + "}",
        '{"dense_twin": null}',
        '{"hold": {}}',
        '{"corpus": ["python"]}',
        '{"corpus": "<b>", "hold": "<script>"}',
    ],
)
def test_bad_settings_change_nothing(dial: MagicDial, pasted: str) -> None:
    before, facts = dial.settings, text(dial, "facts")
    dial.share.value = pasted
    assert dial.settings == before
    assert text(dial, "facts") == facts
    assert "Can't do that:" in text(dial, "problem")
    dial.dials.seed.value = 5
    assert text(dial, "problem") == "", "the next good move clears it"
    assert Settings.from_json(dial.share.value).seed == 5


def test_nothing_pasted_becomes_markup(dial: MagicDial) -> None:
    dial.share.value = '{"hold": "<script>alert(1)</script>"}'
    assert all("<script" not in w.value for w in walk(dial) if isinstance(w, ipw.HTML))


# ---- Code


def test_the_code_on_show_gives_the_dashboards_numbers(dial: MagicDial, capsys: pytest.CaptureFixture[str]) -> None:
    dial.run()
    assert text(dial, "code") == ""
    dial.show_code.value = True
    exec(text(dial, "code"), {})
    shown = capsys.readouterr().out.splitlines()
    records = [lane.record for lane in dial._session.lanes]
    assert shown == [record.summary() for record in records if record is not None]
    assert len(shown) == 2
    dial.dials.sparsity.value = 0.5
    assert "0.5" in text(dial, "code"), "the code follows the dials"
    dial.show_code.value = False
    assert text(dial, "code") == ""


# ---- Training


def test_run_fills_every_part(dial: MagicDial, session: Session) -> None:
    curves = dial.run()
    assert set(curves["role"]) == {"this", "dense"}
    assert dial.results()["status"].tolist() == ["finished", "finished"]
    for lane in session.lanes:
        assert lane.record is not None
        label = run_label(lane.model, lane.run)
        assert label in text(dial, "runs")
        assert f"{lane.record.val_loss:.3f}" in text(dial, "runs")
        assert f"{label}: training loss" in text(dial, "summary")
        assert lane.record.summary() in text(dial, "status")
        part = curves[curves["label"] == label]
        assert part["flops"].max() == lane.record.flops
        assert part["loss"].tolist() == lane.record.curve["loss"]
    assert "Busiest expert" in text(dial, "summary")
    assert "def " in text(dial, "texts")
    (progress,) = [w for w in walk(dial) if isinstance(w, ipw.FloatProgress)]
    assert progress.value == 1.0
    (load,) = [trace for trace in plot(dial).data if trace.type == "heatmap"]
    np.testing.assert_allclose(np.mean(load.z, axis=1), 1, rtol=1e-5)
    assert np.shape(load.z) == (2, 16)


def test_the_verdict_is_about_these_two(dial: MagicDial) -> None:
    assert dial.verdict() == ""
    dial.run()
    on_dial, twin = dial.results()["held-out loss"]
    assert f"{abs(on_dial - twin):.3f} nats per byte {'lower' if on_dial < twin else 'higher'}" in dial.verdict()
    assert "One seed" in dial.verdict()


@pytest.fixture
def kept(dial: MagicDial, start: dict[str, Any]) -> MagicDial:
    """A dashboard of a later kernel that shows what `dial` has trained."""
    dial.run()
    later = MagicDial(**start | {"session": Session(dial._session.folder)})
    later.train.click()
    assert later._session.wait(30)
    return later


def axes(dial: MagicDial) -> set[bool | None]:
    layout = plot(dial).layout
    return {layout.xaxis2.visible, layout.yaxis2.visible}


def test_a_kept_run_is_shown_without_empty_boxes(dial: MagicDial, kept: MagicDial) -> None:
    assert all(lane.kept for lane in kept._session.lanes)
    assert text(kept, "status").startswith("You already have this result, so nothing was trained")
    assert "Press Train again" in text(kept, "status")
    assert text(kept, "texts") == ""
    assert "Busiest expert" not in text(kept, "summary")
    assert (axes(kept), axes(dial)) == ({False}, {True})
    pd.testing.assert_frame_equal(kept.results(), dial.results())
    assert kept.verdict() == dial.verdict()
    assert text(kept, "runs") == text(dial, "runs")
    assert dial.curves().equals(kept.curves())


def test_a_second_press_trains_a_kept_run_anew(kept: MagicDial) -> None:
    kept.train.click()
    session = kept._session
    assert session.wait(60)
    assert [lane.kept for lane in session.lanes] == [False, True], "the twin is left as it is"
    assert "You already have" not in text(kept, "status")
    assert "def " in text(kept, "texts")
    assert axes(kept) == {True}
    assert len(session.records) == 2


def test_every_button_is_harmless_beside_a_kept_run(dial: MagicDial, kept: MagicDial) -> None:
    session, before = kept._session, dial.results()
    for button in (kept.pause, kept.stop, kept.pause):
        button.click()
        assert (session.state, kept.pause.description) == ("idle", "Pause")
    kept.step.click()  # like Train: anew, but only a step
    until(lambda: session.message == "Paused.")
    kept.stop.click()
    assert session.wait(30)
    assert kept.results()["status"].tolist() == ["stopped", "finished"]
    later = MagicDial(**{"session": Session(session.folder), "calibrate": False} | vars(kept.settings))
    later.run()
    pd.testing.assert_frame_equal(later.results(), before)  # the finished record has stayed


def test_a_run_trained_in_a_cell_is_shown_and_listed(dial: MagicDial, start: dict[str, Any]) -> None:
    """Also after Clear, which hides runs and loses none."""
    dial.dials.dense_twin.value = False
    (pair,) = dial.settings.pairs
    trained = run_all([pair], dial._session.folder)["record"][0]
    for _ in range(2):
        assert text(dial, "runs") == ""
        dial.run()
        assert [lane.record for lane in dial._session.lanes] == [trained]
        assert trained.label in text(dial, "runs")
        dial.clear.click()


def test_a_checkpoint_of_a_run_that_was_finished_elsewhere(dial: MagicDial, start: dict[str, Any]) -> None:
    """It is not offered, and gone once the run is shown."""
    (model, run), *_ = dial.settings.pairs
    training = Training(model, run)
    training.step()
    path = dial._session.folder / "checkpoints" / f"{run_id(model, run)}.safetensors"
    training.save(path)
    assert dial._session.interrupted() is not None
    run_all([(model, run)], dial._session.folder)
    assert dial._session.interrupted() is None
    dial.run()
    assert not path.exists()


def test_progress_counts_a_kept_twin_as_done(dial: MagicDial, session: Session) -> None:
    dial.dials.sparsity.value = 0.0
    dial.run()
    dial.share.value = Settings(sparsity=0.75, width=8, budget=1e8, corpus=dial.settings.corpus).to_json()
    dial.step.click()
    until(lambda: "Paused." in text(dial, "status"))
    assert re.search(r"5\d%, \d+ s left", text(dial, "status"))
    dial.pause.click()
    assert session.wait(60)


def test_earlier_runs_stay_as_ghosts(dial: MagicDial) -> None:
    dial.dials.dense_twin.value = False
    for seed in range(8):
        dial.dials.seed.value = seed
        curves = dial.run()
    assert list(dict.fromkeys(curves["role"])) == ["ghost", "this"]
    ghosts = curves[curves["role"] == "ghost"]["label"].unique()
    assert 1 < len(ghosts) <= 7, "not ever more"
    assert "seed 6" in ghosts[-1]
    drawn = {t.name: t for t in plot(dial).data if t.type == "scatter" and t.x is not None and len(t.x)}
    static = {trace.name: trace for trace in dial.figure().data}
    assert drawn.keys() == static.keys()
    for name, trace in static.items():
        np.testing.assert_array_equal(trace.x, drawn[name].x)
        np.testing.assert_array_equal(trace.y, drawn[name].y)


def test_without_a_run_the_figure_is_empty(dial: MagicDial) -> None:
    assert len(dial.curves()) == 0
    assert len(dial.figure().data) == 0
    assert dial.results().empty


def test_a_corpus_that_is_not_there(start: dict[str, Any]) -> None:
    dial = MagicDial(**start | {"corpus": "/no/such/text"})
    with pytest.raises(RuntimeError, match="corpus='/no/such/text' does not exist"):
        dial.run()
    assert "corpus='/no/such/text' does not exist" in text(dial, "status")
    dial.share.value = Settings(width=8, budget=1e8, corpus=start["corpus"]).to_json()
    assert len(dial.run()), "and then it works"


def test_a_diverged_run_is_shown_as_such(dial: MagicDial, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, x_BT: Any, y_BT: Any) -> Any:
        return self.head.sum() * np.nan, self.head.sum()

    monkeypatch.setattr("sparsity_lab.models.Transformer.loss", broken)
    monkeypatch.setattr(session_module, "pool", ThreadPool)
    monkeypatch.setenv("SPARSITY_LAB_CORES", "1")
    dial.run()
    assert dial.results()["status"].tolist() == ["diverged", "diverged"]
    assert "diverged after 1 steps" in text(dial, "status")
    assert "diverged" in text(dial, "runs")
    assert "nan" not in text(dial, "runs") + text(dial, "summary")
    assert dial.verdict() == ""


def test_an_interrupt_of_the_cell_stops_the_run(dial: MagicDial, session: Session, monkeypatch: Any) -> None:
    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    dial.share.value = Settings(width=8, budget=1e12, corpus=dial.settings.corpus).to_json()
    with monkeypatch.context() as patch:
        patch.setattr(session, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dial.run()
    assert session.wait(30)
    assert session.state == "idle"


def test_buttons_in_any_order(dial: MagicDial, session: Session) -> None:
    """Nobody presses them in the order that was thought of."""
    dial.dials.budget.options = [*dial.dials.budget.options, ("long", 1e12)]
    dial.dials.budget.value = 1e12
    buttons = {"t": dial.train, "p": dial.pause, "s": dial.step, "x": dial.stop, "c": dial.clear}
    for name in "pxscstptsppxxtxcpstxptc":
        buttons[name].click()
    assert session.wait(30)
    assert not session.busy
    assert session.records == []
    assert dial.pause.description == "Pause"
    assert text(dial, "problem") == ""


def test_moving_dials_while_training_leaves_the_run_alone(dial: MagicDial, session: Session) -> None:
    dial.dials.budget.options = [*dial.dials.budget.options, ("long", 1e12)]
    dial.dials.budget.value = 1e12
    dial.train.click()
    thread, lane = session._thread, session.lanes[0]
    for stop in (0.5, 0.0, 0.875):
        dial.dials.sparsity.value = stop
        assert str(count_parameters(dial.settings.model).total // 1000) in text(dial, "facts")
    dial.dials.width.value = 32
    assert session._thread is thread
    assert session.lanes[0] is lane
    assert lane.model == ModelConfig.on_dial(8, 0.9375)
    dial.stop.click()
    assert session.wait(30)


# ---- Markup


def test_tables_escape_what_they_show() -> None:
    assert "<td" in html_table(["a"], [["b"]])
    assert "&lt;b&gt;" in html_table(["<b>"], [["<b>"]])
    assert "<b>" not in html_table(["<b>"], [["<b>"]])


def test_labels_tell_runs_apart(corpus_file: Path) -> None:
    labels = set()
    settings = [
        Settings(sparsity=s, width=w, n_layers=n, budget=b, hold=h, seed=seed)  # type: ignore[arg-type]
        for s in (0.0, 0.5, 0.875)
        for w in (8, 16)
        for n in (1, 2)
        for b in (1e10, 3e11)
        for h in ("active", "total")
        for seed in (0, 1)
    ]
    for setting in settings:
        labels.add(run_label(setting.model, setting.run))
    assert len(labels) == len(settings)


def test_a_dead_kernels_run_with_its_twin_held_total(session: Session, start: dict[str, Any]) -> None:
    settings = Settings(sparsity=0.5, budget=2e9, width=8, n_layers=1, hold="total", seed=4, corpus=start["corpus"])
    for model, run in settings.pairs:
        training = Training(model, run)
        training.step()
        training.save(session.folder / "checkpoints" / f"{run_id(model, run)}.safetensors")
    dial = MagicDial(**start)
    assert dial.settings == settings
