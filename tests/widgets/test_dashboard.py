"""The dashboard without a browser: what a learner reads after moving, pasting and pressing."""

import datetime
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
from sparsity_lab.figures.race import GHOSTS
from sparsity_lab.figures.style import ROLES
from sparsity_lab.files import home
from sparsity_lab.laws.fitting import PredictedLoss
from sparsity_lab.record import Record, run_id, run_label
from sparsity_lab.runs import measured as shipped
from sparsity_lab.runs.repeat import run_all
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.training.timing import Speed
from sparsity_lab.training.trainer import Training
from sparsity_lab.units import duration
from sparsity_lab.widgets import place
from sparsity_lab.widgets import session as session_module
from sparsity_lab.widgets.controls import BEYOND, LONG
from sparsity_lab.widgets.dashboard import MagicDial
from sparsity_lab.widgets.html import html_table
from sparsity_lab.widgets.predict import Predict
from sparsity_lab.widgets.session import Session
from sparsity_lab.widgets.settings import WIDTHS, Settings
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


def problem(dial: MagicDial) -> str:
    """What the dashboard refuses, without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", " ", dial.dials.problem)).strip()


def plot(dial: MagicDial) -> go.FigureWidget:
    (figure,) = [w for w in walk(dial._plot) if isinstance(w, go.FigureWidget)]
    return figure


def lines_of(figure: Any) -> dict[str, Any]:
    """The lines of losses in the race, by name, without the empty ones."""
    return {t.name: t for t in figure.data if t.name and t.x is not None and len(t.x) and t.xaxis != "x2"}


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
    drawn = lines_of(plot(dial))
    sparse, dense = (
        f"measured: {run_label(model, dial.settings.run)}" for model in (dial.settings.model, dial.settings.twin)
    )
    assert len(drawn[sparse].x) == len(drawn[dense].x) == 50
    window = plot(dial).layout.yaxis2.range
    assert window[0] <= 2 < window[1]
    assert set(dial.curves()["role"]) == {"measured", "measured dense"}
    dial.dials.sparsity.value = 0.9375
    assert [name for name in lines_of(plot(dial)) if "0.938" in name] == [sparse.replace("0.75", "0.938")]
    dial.dials.sparsity.value = 0.0
    assert list(lines_of(plot(dial))) == [dense]
    dial.dials.budget.value = 1e10
    assert dial.curves().empty
    assert lines_of(plot(dial)) == {}


def test_the_law_is_asked_before_and_drawn_behind_the_race(
    dial: MagicDial, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interval beside the dials, as a band along the budgets, and at the budget as an end until there is one."""
    told = {0.75: PredictedLoss(2.0, 1.9, 2.1), 0.0: PredictedLoss(1.0, 0.5, 1.5)}
    monkeypatch.setattr(shipped, "expected", lambda model, run: told[model.sparsity])
    dial.dials.sparsity.value = 0.75
    assert "1.90–2.10" in text(dial, "facts")
    assert "0.50–1.50" in text(dial, "facts")

    def hollow() -> list[float]:
        marks = [trace for trace in plot(dial).data if trace.mode == "markers" and "open" in trace.marker.symbol]
        return [float(y) for trace in marks for y in trace.y]

    def bands() -> list[list[float]]:
        return [list(map(float, trace.y)) for trace in plot(dial).data if trace.fill == "toself" and len(trace.y)]

    assert sorted(hollow()) == [1.0, 2.0]
    assert bands() == [[1.5] * 5 + [0.5] * 5, [2.1] * 5 + [1.9] * 5]
    dial.run()
    dial._refresh()
    assert hollow() == []
    assert len(bands()) == 2
    dial.dials.sparsity.value = 0.75  # the same model: its ends stay
    assert hollow() == []
    told[0.5] = PredictedLoss(3.0, 2.5, 3.5)
    dial.dials.sparsity.value = 0.5  # another question
    assert sorted(hollow()) == [1.0, 3.0]


def test_a_law_that_is_asked_about_less_than_a_step_says_nothing(session: Session) -> None:
    dial = MagicDial(session=session, calibrate=False, budget=1e3)
    assert "less than one step" in problem(dial)
    assert MagicDial(session=session, calibrate=False, budget=1e8).dials.problem == "", "only a quarter of it is"


# ---- Dials


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0 must be at least 0 and below 1"),
        ({"width": 30}, "width=30 must be a positive multiple of 4"),
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
            sleeping = f"{model.n_experts - 1} of {model.n_experts} experts sleep"
            assert label == (f"S = {value:.4g}: {sleeping}" if value else "S = 0: dense, nothing sleeps")
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
    assert f"of {model.n_experts} experts" in dial.dials.sparsity.label


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
            for number in (count_parameters(model).total, count_parameters(model).active, bought.tokens):
                assert f"{number:,}" in facts
            assert f"{model.top_k} of {model.n_experts}" in facts
        assert ("dense twin" in facts) == (sparsity > 0)


def test_time_is_told_once_it_is_known(dial: MagicDial, session: Session) -> None:
    assert "measuring" in text(dial, "facts")
    session.speed = Speed(np.array([0.05, 0, 0, 0, 0, 0]))  # 50 ms a step
    session._tell()
    assert "measuring" not in text(dial, "facts")
    dial.dials.budget.value = 1e11
    steps = plan(dial.settings.model, dial.settings.run).steps
    minutes, seconds = divmod(round(0.05 * steps), 60)
    assert f"{minutes} min {seconds:02d} s" in text(dial, "facts")


@pytest.mark.parametrize(
    ("speed", "last"),
    [
        (Speed(np.array([1e-4, 0, 0, 0, 1e-7, 0])), 1e13),  # a fast processor
        (Speed(np.array([0.5, 0, 0, 0, 0.1, 0]), "cuda"), 1e13),  # a GPU that is slower than a laptop
        (Speed(np.array([0.01, 0, 0, 0, 1e-5, 0]), "cuda"), 2e15),
        (Speed(np.array([0.0, 0, 0, 0, 1e-8, 0]), "cuda"), 1e16),
    ],
)
def test_the_budgets_go_as_far_as_a_gpu_pays_for(dial: MagicDial, session: Session, speed: Speed, last: float) -> None:
    """Runs at the last stop take minutes there, and those beyond would not. Nothing else moves."""
    dial.dials.budget.value = 1e12
    before, settings = list(dial.dials.budget.options), dial.settings
    session.speed = speed
    session._tell()
    values = [value for _, value in dial.dials.budget.options]
    assert values[-1] == last
    assert values == sorted(set(values))
    assert dial.dials.budget.options[: len(before)] == tuple(before)
    assert dial.settings == settings
    if last > 1e13:
        dial.dials.budget.value = last
        model, run = ModelConfig.on_dial(WIDTHS[-1], 0.9375), dial.settings.run
        assert speed.seconds(model, run) <= LONG
        assert duration(speed.seconds(dial.settings.model, dial.settings.run)) in text(dial, "facts")
        if last < BEYOND[-1]:
            assert speed.seconds(model, run.replace(budget=BEYOND[BEYOND.index(last) + 1])) > LONG


def test_a_dashboard_that_opens_later_has_them_at_once(session: Session, start: dict[str, Any]) -> None:
    session.speed = Speed(np.array([0.0, 0, 0, 0, 1e-8, 0]), "cuda")
    assert MagicDial(**start).dials.budget.options[-1][1] == 1e16


# ---- Links, which test_link.py has more of

FULL = "s=.75&b=3e10&w=12&d=3&hold=total&seed=5&text=tasks&twin=0&backend=naive"
HOSTILE = [
    "hello", "w=99999", "b=1e400&s=NaN", "w=20.5&d=0x2", "seed=1" + "0" * 400, "hold=<script>alert(1)</script>",
    "text=/etc/passwd", "__proto__=1&<img src=x onerror=alert(1)>=2", "s=.5&" * 500, "lesson=" + "<b>" * 101,
]  # fmt: skip


def test_a_pasted_link_moves_every_dial(dial: MagicDial, start: dict[str, Any]) -> None:
    other = MagicDial(**start | {"sparsity": 0.875, "width": 20, "budget": 2.5e10, "hold": "total", "seed": 3})
    dial.share.value = f"http://localhost:8866/?token=1a&{other.share.value}"
    assert dial.settings == other.settings
    assert dial.share.value == other.share.value, "what Copy link copies"
    assert text(dial, "facts") == text(other, "facts")
    assert problem(dial) == text(dial, "lesson") == ""
    dial.buttons.reset.click()
    assert dial.settings == other.settings, "back to where the link began"


def test_a_link_says_the_same_in_python_and_in_a_page(dial: MagicDial, session: Session) -> None:
    wanted = Settings(
        sparsity=0.75, budget=3e10, width=12, n_layers=3, hold="total", seed=5, corpus="tasks", dense_twin=False,
        backend="naive",
    )  # fmt: skip
    dial._aid.opened = f"?{FULL}"
    made = MagicDial.from_link(dial._aid.link, session=session, calibrate=False)
    assert dial.settings == made.settings == wanted
    assert dial.link() == made.link() == dial._aid.link == dial.share.value
    assert MagicDial(session=session, calibrate=False, **vars(wanted)).link() == dial.link()


def test_a_link_leaves_the_rest_where_the_dials_began(dial: MagicDial) -> None:
    before = dial.settings
    dial.dials.width.value = 64
    dial.share.value = "s=.5"
    assert dial.settings == before.replace(sparsity=0.5)


def test_a_text_of_ones_own_is_in_no_link(dial: MagicDial, corpus_file: Path) -> None:
    assert dial.settings.corpus == str(corpus_file)
    assert "text=" not in dial.share.value
    dial.dials.corpus.value = "tasks"
    assert "&text=tasks&" in dial.share.value


@pytest.mark.parametrize("way", ["pasted", "opened", "python"])
@pytest.mark.parametrize("link", HOSTILE)
def test_a_hostile_link_does_nothing_but_a_line(dial: MagicDial, start: dict[str, Any], way: str, link: str) -> None:
    before = dial.settings
    if way == "pasted":
        dial.share.value = link
    elif way == "opened":
        dial._aid.opened = f"?token=1a&{link}"
    else:
        dial = MagicDial.from_link(link, **start)
    assert dial.settings == before
    assert text(dial, "lesson").startswith("The link")
    assert dial._lesson.value.count("<div") == 1
    assert all("<script" not in w.value and "<img" not in w.value for w in walk(dial) if isinstance(w, ipw.HTML))
    assert dial.share.value == dial.link()
    assert problem(dial) == ""


def test_an_address_without_a_link_says_nothing(dial: MagicDial) -> None:
    dial.dials.seed.value = 5
    dial._aid.opened = "?token=secret&reset"
    assert dial.settings.seed == 5
    assert text(dial, "lesson") == ""


def test_a_lesson_asks_hides_and_fixes(dial: MagicDial) -> None:
    lesson = dial.link("Which <b>wins</b>?", hide=["width", "sparsity", "hold"], fix=["budget", "corpus"])
    assert lesson.endswith("&lesson=Which%20%3Cb%3Ewins%3C%2Fb%3E%3F&hide=s,w,hold&fix=b,text")
    dial.share.value = lesson
    assert "Which &lt;b&gt;wins&lt;/b&gt;?" in dial._lesson.value
    dials = dial.dials
    hidden = [w for w in walk(dial) if getattr(w.layout, "display", None) == "none" and "sl-view" not in w._dom_classes]
    assert set(hidden) == {dials.width, dials.sparsity, dials._ticks, dials._parts["hold"][0]}
    fixed = [w for w in walk(dial) if getattr(w, "disabled", False) and not isinstance(w, ipw.Button)]
    assert set(fixed) == {dials.budget, dials.corpus, dials.upload}
    assert [w for w in walk(dial) if "sl-fixed" in w._dom_classes] == [dials.budget, dials.corpus]
    assert dial.share.value == lesson, "and who copies the link gives the lesson on"

    dial.share.value = "s=.5"
    assert text(dial, "lesson") == ""
    assert not [w for w in walk(dial) if "sl-fixed" in w._dom_classes or getattr(w, "disabled", False) is True][2:]
    assert dials.width.layout.display is None


@pytest.mark.parametrize(
    ("lesson", "message"),
    [
        ({"lesson": "x" * 301}, "lesson='xxx.*' is too long"),
        ({"lesson": "專" * 300}, "lesson='專.*' is too long"),
        ({"hide": ["layers"]}, "control='layers' is not known: use one of sparsity, budget"),
        ({"fix": "width"}, "control='w' is not known"),
    ],
)
def test_a_lesson_that_no_link_can_hold(dial: MagicDial, lesson: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dial.link(**lesson)


# ---- Code


def test_the_code_on_show_gives_the_dashboards_numbers(dial: MagicDial, capsys: pytest.CaptureFixture[str]) -> None:
    dial.run()
    exec(text(dial, "code"), {})
    shown = capsys.readouterr().out.splitlines()
    records = [lane.record for lane in dial._session.lanes]
    assert shown == [record.summary() for record in records if record is not None]
    assert len(shown) == 2
    dial.dials.sparsity.value = 0.5
    assert "0.5" in text(dial, "code"), "the code follows the dials"


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
        assert f"{label}: held-out loss {lane.record.val_loss:.3f}" in text(dial, "summary")
        assert lane.record.summary() in text(dial, "status")
        part = curves[curves["label"] == label]
        assert part["flops"].max() == lane.record.flops
        assert part["loss"].tolist() == lane.record.curve["loss"]
    assert "Busiest expert" in text(dial, "summary")
    assert "def " in text(dial, "texts")
    (progress,) = [w for w in walk(dial) if isinstance(w, ipw.FloatProgress)]
    assert progress.value == 1.0
    assert dial.grid.live["reads"] == session.lanes[0].reads
    assert np.shape(dial.grid.live["reads"]) == (2, len(dial.grid.line), 1)


def test_the_verdict_is_about_these_two(dial: MagicDial) -> None:
    assert dial.verdict() == dial.winner() == text(dial, "verdict") == ""
    dial.run()
    dial._refresh()
    on_dial, twin = dial.results()["held-out loss"]
    ahead = "sparse" if on_dial < twin else "dense"
    assert dial.winner() == ahead
    assert f"{ahead.title()} wins by {abs(on_dial - twin):.3f} nats per byte." in dial.verdict()
    assert "One seed" in dial.verdict()
    assert text(dial, "verdict").split() == dial.verdict().split()


@pytest.fixture
def kept(dial: MagicDial, start: dict[str, Any]) -> MagicDial:
    """A dashboard of a later kernel that shows what `dial` has trained."""
    dial.run()
    later = MagicDial(**start | {"session": Session(dial._session.folder)})
    later.buttons.train.click()
    assert later._session.wait(30)
    return later


def test_a_kept_run_is_shown_without_empty_boxes(dial: MagicDial, kept: MagicDial) -> None:
    assert all(lane.kept for lane in kept._session.lanes)
    assert text(kept, "status").startswith("You already have this result, so nothing was trained")
    assert "Press Train again" in text(kept, "status")
    assert "def " not in text(kept, "texts")
    assert "Busiest expert" not in text(kept, "summary")
    assert kept.grid.live == {}, "what was recorded is played"
    assert dial.grid.live
    pd.testing.assert_frame_equal(kept.results(), dial.results())
    assert kept.verdict() == dial.verdict()
    assert text(kept, "runs") == text(dial, "runs")
    assert dial.curves().equals(kept.curves())


def test_a_second_press_trains_a_kept_run_anew(kept: MagicDial) -> None:
    kept.buttons.train.click()
    session = kept._session
    assert session.wait(60)
    assert [lane.kept for lane in session.lanes] == [False, True], "the twin is left as it is"
    assert "You already have" not in text(kept, "status")
    assert "def " in text(kept, "texts")
    assert kept.grid.live["reads"]
    assert len(session.records) == 2


def test_every_button_is_harmless_beside_a_kept_run(dial: MagicDial, kept: MagicDial) -> None:
    session, before = kept._session, dial.results()
    for button in (kept.buttons.pause, kept.buttons.stop, kept.buttons.pause):
        assert button.disabled
        button.click()  # as a browser that has not heard of it yet
        assert (session.state, kept.buttons.pause.description) == ("idle", "Pause")
    kept.buttons.step.click()  # like Train: anew, but only a step
    until(lambda: session.message == "Paused.")
    kept.buttons.stop.click()
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
        assert text(dial, "runs") == "No runs yet: press Train."
        dial.run()
        assert [lane.record for lane in dial._session.lanes] == [trained]
        assert trained.label in text(dial, "runs")
        dial.buttons.clear.click()


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
    dial.dials.set(Settings(sparsity=0.75, width=8, budget=1e8, corpus=dial.settings.corpus))
    dial.buttons.step.click()
    until(lambda: "Paused." in text(dial, "status"))
    assert re.search(r"5\d%, \d+ s left", text(dial, "left"))
    dial.buttons.pause.click()
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
    dial._refresh()
    drawn, static = lines_of(plot(dial)), lines_of(dial.figure())
    assert drawn.keys() == static.keys()
    for name, trace in static.items():
        np.testing.assert_array_equal(trace.x, drawn[name].x)
        np.testing.assert_array_equal(trace.y, drawn[name].y)


def test_without_a_run_the_figure_is_empty(dial: MagicDial) -> None:
    assert len(dial.curves()) == 0
    assert lines_of(dial.figure()) == {}
    assert dial.results().empty


def test_a_corpus_that_is_not_there(start: dict[str, Any]) -> None:
    dial = MagicDial(**start | {"corpus": "/no/such/text"})
    with pytest.raises(RuntimeError, match="corpus='/no/such/text' does not exist"):
        dial.run()
    assert "corpus='/no/such/text' does not exist" in text(dial, "status")
    dial.dials.set(Settings(width=8, budget=1e8, corpus=start["corpus"]))
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
    assert dial.winner() == ""
    assert dial.verdict().startswith("No winner: a run diverged.")


def test_an_interrupt_of_the_cell_stops_the_run(dial: MagicDial, session: Session, monkeypatch: Any) -> None:
    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    dial.dials.set(Settings(width=8, budget=1e12, corpus=dial.settings.corpus))
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
    on = dial.buttons
    buttons = {"t": on.train, "p": on.pause, "s": on.step, "x": on.stop, "c": on.clear}
    for name in "pxscstptsppxxtxcpstxptc":
        buttons[name].click()
    assert session.wait(30)
    assert not session.busy
    assert session.records == []
    assert dial.buttons.pause.description == "Pause"
    assert problem(dial) == ""


def test_moving_dials_while_training_leaves_the_run_alone(dial: MagicDial, session: Session) -> None:
    dial.dials.budget.options = [*dial.dials.budget.options, ("long", 1e12)]
    dial.dials.budget.value = 1e12
    dial.buttons.train.click()
    thread, lane = session._thread, session.lanes[0]
    for stop in (0.5, 0.0, 0.875):
        dial.dials.sparsity.value = stop
        assert str(count_parameters(dial.settings.model).total // 1000) in text(dial, "facts")
    dial.dials.width.value = 32
    assert session._thread is thread
    assert session.lanes[0] is lane
    assert lane.model == ModelConfig.on_dial(8, 0.9375)
    dial.buttons.stop.click()
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


@pytest.mark.parametrize(("hold", "sparsity"), [("total", 0.5), ("active", 0.5), ("active", 0.9375)])
def test_a_dead_kernels_run_with_its_twin(session: Session, start: dict[str, Any], hold: str, sparsity: float) -> None:
    """One of 16 experts is the same model, whatever is held."""
    settings = Settings(sparsity=sparsity, budget=2e9, width=8, n_layers=1, hold=hold, seed=4, corpus=start["corpus"])  # type: ignore[arg-type]
    for model, run in settings.pairs:
        training = Training(model, run)
        training.step()
        training.save(session.folder / "checkpoints" / f"{run_id(model, run)}.safetensors")
    dial = MagicDial(**start)
    assert dial.settings == settings


# ---- Guess first


@pytest.fixture
def guess() -> Predict:
    return Predict("who", "Who wins?", choices=["sparse", "dense", "too close to call"], default="sparse")


def given_away(dial: MagicDial) -> set[str]:
    """What a dashboard tells of runs that were measured or are expected."""
    found = {name for name in ("expected loss",) if name in text(dial, "facts")}
    found |= {"map"} if "<svg" in dial._map.value else set()
    found |= {"lines"} if set(dial.curves()["role"]) & {"measured", "measured dense"} else set()
    found |= {"bands"} if any(t.fill == "toself" and len(t.y) for t in plot(dial).data) else set()
    dial._view.value = "runs"
    dots, _ = next(w for w in walk(dial.runs) if isinstance(w, go.FigureWidget)).data
    found |= {"dots"} if len(dots.x) else set()
    return found | ({"ends"} if any(re.search(r"\d", note.text) for note in plot(dial).layout.annotations) else set())


ALL = {"expected loss", "map", "lines", "bands", "dots", "ends"}


def test_nothing_is_given_away_before_the_guess(session: Session, guess: Predict) -> None:
    assert given_away(MagicDial(session=session, calibrate=False, width=16)) == ALL, "without a question"
    dial = MagicDial(session=session, calibrate=False, width=16, guess=guess)
    assert given_away(dial) == set()
    assert "hidden until you have made your guess" in text(dial, "map")
    dial.dials.sparsity.value = 0.5
    dial._refresh()
    assert given_away(dial) == set()
    guess.answer.value = "dense"
    assert guess.given
    assert given_away(dial) == ALL
    assert "hidden" not in text(dial, "map")
    later = MagicDial(session=session, calibrate=False, width=16, guess=guess)
    assert given_away(later) == ALL


def test_the_end_of_the_race_shows_all_without_a_guess(
    start: dict[str, Any], guess: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "expected", lambda model, run: PredictedLoss(2.0, 1.9, 2.1))
    dial = MagicDial(**start, guess=guess)
    assert "expected loss" not in text(dial, "facts")
    dial.run()
    dial._refresh()
    assert not guess.given
    assert "expected loss" in text(dial, "facts")
    assert "1.90–2.10" in text(dial, "facts")


# ---- Several dashboards on one session


def test_two_dials_train_one_after_the_other_and_keep_what_is_theirs(
    dial: MagicDial, start: dict[str, Any], session: Session
) -> None:
    other = MagicDial(**start | {"sparsity": 0.5, "seed": 1})
    dial.buttons.train.click()
    assert session.wait(60)
    first, words = dial.results(), (text(dial, "status"), text(dial, "verdict"), text(dial, "summary"))
    assert "wins" in words[1]
    assert text(other, "verdict") == text(other, "summary") == ""
    assert other.results().empty
    assert other._progress.value == 0.0

    other.dials.budget.options = [*other.dials.budget.options, ("long", 1e10)]
    other.dials.budget.value = 1e10
    other.buttons.train.click()
    until(lambda: other.buttons.lanes[0].last)
    session._tell()
    assert "Another dial of this notebook is training" in text(dial, "status")
    assert dial.buttons.stop.disabled
    assert dial.buttons.pause.disabled
    assert not other.buttons.stop.disabled
    assert not other.buttons.pause.disabled
    assert dial.verdict().split() == words[1].split()
    other.buttons.stop.click()
    assert session.wait(60)
    assert (text(dial, "status"), text(dial, "verdict"), text(dial, "summary")) == words
    pd.testing.assert_frame_equal(dial.results(), first)
    assert [lane.run.seed for lane in other.buttons.lanes] == [1, 1]
    assert "stopped" in text(other, "status")
    for each in (dial, other):
        assert "seed 0" in text(each, "runs"), "the table of runs is of all"
        assert "seed 1" in text(each, "runs")


def test_train_ends_what_another_dial_trains(dial: MagicDial, start: dict[str, Any], session: Session) -> None:
    long = MagicDial(**start | {"budget": 1e11, "seed": 2})
    long.buttons.train.click()
    until(lambda: long.buttons.lanes[0].last)
    dial.buttons.train.click()
    assert session.wait(60)
    assert dial.results()["status"].tolist() == ["finished", "finished"]
    assert all(lane.record is None or lane.record.status == "stopped" for lane in long.buttons.lanes)
    assert long.winner() == ""


def test_what_another_dial_has_trained_is_shown_and_not_trained_again(
    dial: MagicDial, start: dict[str, Any], session: Session
) -> None:
    dial.run()
    thread, other = session._thread, MagicDial(**start)
    other.run()
    assert session._thread is thread
    pd.testing.assert_frame_equal(other.results(), dial.results())


def test_a_cell_that_is_run_again_takes_over(
    start: dict[str, Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "cell", lambda: ("cell 1", "first"))
    first = MagicDial(**start)
    first.buttons.train.click()
    monkeypatch.setattr(place, "cell", lambda: ("cell 2", "second"))
    beside = MagicDial(**start | {"seed": 9})
    assert beside.buttons.lanes == []
    monkeypatch.setattr(place, "cell", lambda: ("cell 1", "third"))
    again = MagicDial(**start)
    assert again.buttons.lanes is first.buttons.lanes, "the training goes on in it"
    assert first._refresh not in session.listeners
    assert [beside._refresh, again._refresh] == session.listeners
    assert session.wait(60)
    assert again.winner() == first.winner() != ""
    assert "wins" in text(again, "verdict")
    assert text(first, "verdict") == "", "nobody looks at it"
    monkeypatch.setattr(place, "cell", lambda: ("cell 1", "fourth"))
    once_more, second = MagicDial(**start), MagicDial(**start | {"seed": 8})
    assert second.buttons.lanes == [], "a cell may make two"
    assert text(once_more, "verdict") == text(again, "verdict"), "also after the end"
    elsewhere = MagicDial(**start | {"session": Session(session.folder / "other")})
    assert elsewhere.buttons.lanes is not once_more.buttons.lanes, "another kernel's cell of this name is another cell"


# ---- Clear, undo, reset, stop


def test_clear_and_undo(dial: MagicDial, session: Session) -> None:
    dial.run()
    dial._refresh()
    before = (dial.results(), text(dial, "runs"), text(dial, "verdict"), dial.curves())
    assert dial.buttons.clear.description == "Clear"
    dial.buttons.clear.click()
    assert dial.buttons.clear.description == "Undo clear"
    assert "Cleared. No result is lost" in text(dial, "status")
    assert dial.results().empty
    assert dial.curves().empty
    assert text(dial, "verdict") == text(dial, "summary") == ""
    assert text(dial, "runs") == "No runs yet: press Train."
    assert dial.grid.live == {}
    assert dial._progress.value == 0.0
    assert Session(session.folder).records == []
    dial.buttons.clear.click()
    assert dial.buttons.clear.description == "Clear"
    assert "Your runs are shown again." in text(dial, "status")
    after = (dial.results(), text(dial, "runs"), text(dial, "verdict"), dial.curves())
    pd.testing.assert_frame_equal(after[0], before[0])
    pd.testing.assert_frame_equal(after[3], before[3])
    assert after[1:3] == before[1:3]
    assert len(Session(session.folder).records) == 2


def test_undo_is_offered_until_something_is_trained(dial: MagicDial, session: Session) -> None:
    dial.dials.dense_twin.value = False
    dial.run()
    dial.buttons.clear.click()
    assert dial.buttons.clear.description == "Undo clear"
    dial.dials.seed.value = 1
    dial.run()
    assert dial.buttons.clear.description == "Clear", "so that the new run can be cleared too"
    assert [record.seed for record in session.records] == [1]


def test_an_undone_clear_resumes_the_run_that_it_ended(dial: MagicDial, session: Session) -> None:
    dial.dials.dense_twin.value = False
    (model, run), *_ = dial.settings.pairs
    training = Training(model, run)
    training.step()
    path = session.folder / "checkpoints" / f"{run_id(model, run)}.safetensors"
    training.save(path)
    session.records = [replace(failed_record((model, run), ""), status="stopped")]
    dial.buttons.clear.click()
    assert session.interrupted() is None
    dial.buttons.clear.click()
    assert session.interrupted() is not None
    dial.run()
    assert session.lanes[0].losses[:1] == training.losses


def test_a_model_larger_than_the_memory_is_refused(dial: MagicDial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsity_lab.widgets.buttons.memory", lambda: 1e3)
    dial.buttons.train.click()
    assert "width=8 needs" in dial.dials.problem
    assert not dial._session.lanes


def test_a_run_stays_in_the_picture_when_the_dial_moves_on(dial: MagicDial) -> None:
    """Among more earlier runs than there are grey lines."""
    dial.dials.dense_twin.value = False
    for seed in range(GHOSTS + 1):
        dial.dials.seed.value = seed
        dial.run()
    latest = dial.buttons.lanes[0].record
    assert latest is not None
    dial.dials.sparsity.value = 0.5
    lines = [trace for trace in plot(dial).data if trace.name == latest.label]
    assert [len(trace.x) > 0 for trace in lines] == [True, True], "whole, and enlarged"
    assert {trace.line.color for trace in lines} == {ROLES["ghost"].colour}


def test_reset_moves_the_dials_back(dial: MagicDial) -> None:
    before = dial.settings
    dial.dials.set(Settings(sparsity=0.5, width=16, n_layers=1, hold="total", seed=3, budget=2e8))
    dial.dials.corpus.value = "tasks"
    assert dial.settings != before
    dial.buttons.reset.click()
    assert dial.settings == before


@pytest.mark.parametrize("begun", [False, True])
def test_a_stopped_race_has_no_winner(dial: MagicDial, session: Session, begun: bool) -> None:
    dial.dials.budget.options = [*dial.dials.budget.options, ("long", 1e12)]
    dial.dials.budget.value = 1e12
    if begun:
        dial.buttons.train.click()
        until(lambda: all(lane.last for lane in session.lanes))
    else:
        dial.buttons.step.click()
        until(lambda: [lane.message for lane in session.lanes] == ["Paused."] * 2)
        assert "no winner" not in text(dial, "verdict").lower()
    dial.buttons.stop.click()
    assert session.wait(60)
    assert dial.results()["status"].tolist() == ["stopped", "stopped"]
    assert dial.winner() == ""
    assert text(dial, "verdict").startswith("No winner: the race was stopped.")
    assert re.search(r"used [0-4]?\d% of the budget", text(dial, "verdict"))
    assert 0 <= dial._progress.value < 0.5
    assert dial.buttons.stop.disabled
    assert dial.buttons.pause.disabled


# ---- The text to read


def test_a_text_that_is_not_there_is_refused_beside_its_control(dial: MagicDial) -> None:
    before = dial.settings
    for wrong in ("/no/such/text", "phyton"):
        dial.dials.corpus.value = wrong
        assert dial.settings == before, "the old one stays"
        assert wrong in dial.dials._problems["corpus"].value
        assert 'role="alert"' in dial.dials._problems["corpus"].value
    dial.dials.corpus.value = "standard-library"
    assert dial.dials.problem == ""
    assert dial.settings.corpus == "standard-library"


def uploaded(name: str, content: bytes) -> tuple[dict[str, Any], ...]:
    """As ipywidgets 8 gives it."""
    now = datetime.datetime.now(datetime.UTC)
    file = {"name": name, "type": "text/plain", "size": len(content), "content": memoryview(content)}
    return ({**file, "last_modified": now},)


@pytest.mark.parametrize("name", ["mine.txt", "../../outside/mine.txt", "C:\\texts\\mine.txt", "/etc/mine.txt"])
def test_an_uploaded_text_is_kept_and_trained_on(dial: MagicDial, corpus_file: Path, name: str) -> None:
    dial.dials.upload.value = uploaded(name, corpus_file.read_bytes())
    kept = home() / "texts" / "mine.txt"
    assert dial.settings.corpus == str(kept)
    assert kept.read_bytes() == corpus_file.read_bytes()
    assert [path.name for path in home().rglob("mine.txt")] == ["mine.txt"]
    assert dial.dials.problem == ""
    if name == "mine.txt":
        dial.run()
        assert [lane.run.corpus for lane in dial.buttons.lanes] == [str(kept)] * 2
        assert dial.results()["status"].tolist() == ["finished"] * 2


@pytest.mark.parametrize("name", ["..", ".", "", "/"])
def test_an_upload_without_a_proper_name_stays_in_its_folder(dial: MagicDial, name: str) -> None:
    before = dial.settings.corpus
    dial.dials.upload.value = uploaded(name, b"some text\n" * 1_000)
    kept = Path(dial.settings.corpus)
    if dial.settings.corpus == before:
        assert "can&#x27;t be kept" in dial.dials.problem
    else:
        assert kept.parent == home() / "texts"


# ---- What can't be had


def test_an_absurd_budget_is_refused(dial: MagicDial, session: Session) -> None:
    session.speed = Speed(np.array([0.05, 0, 0, 0, 0, 0]))
    session._tell()
    dial.dials.set(Settings(budget=1e20, width=8, corpus=dial.settings.corpus))
    assert dial.settings.budget == 1e20
    dial.buttons.train.click()
    assert "days here: choose a smaller one" in dial.dials._problems["budget"].value
    assert not session.busy
    assert session.lanes == []
    assert dial.results().empty
    dial.buttons.step.click()
    assert session.lanes == []
    dial.dials.budget.value = 1e10
    assert dial.dials.problem == ""


def test_what_is_not_installed_is_refused_in_a_link_too(dial: MagicDial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsity_lab.widgets.controls.pool", ThreadPool)
    missing = "backend='megablocks' is missing"
    monkeypatch.setattr("sparsity_lab.widgets.controls.why_no_megablocks", lambda line: missing)
    dial.share.value = "backend=megablocks&w=16"
    assert problem(dial) == missing
    assert dial.settings.backend == "grouped"
    assert dial.settings.width == 16


@pytest.mark.parametrize("name", ["width", "budget", "seed", "n_layers", "sparsity", "corpus"])
def test_a_refusal_stands_beside_its_control(dial: MagicDial, name: str) -> None:
    dial.dials.refuse(ValueError(f"{name}=7 can't be had"))
    assert [at for at, beside in dial.dials._problems.items() if beside.value] == [name]


# ---- Without a browser


def test_its_output_holds_the_widget_and_the_plot(dial: MagicDial) -> None:
    assert "application/vnd.plotly.v1+json" not in dial._repr_mimebundle_(), "there is nothing to draw"
    dial.run()
    bundle = dial._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == dial.model_id
    figure = go.Figure(bundle["application/vnd.plotly.v1+json"])
    assert len(figure.data) == len(dial.figure().data)


def test_experts_are_of_the_run_in_front_or_recorded(dial: MagicDial) -> None:
    def reads(figure: go.Figure) -> set[tuple[int, int]]:
        first = [trace for trace in figure.data if trace.yaxis in (None, "y")]
        return {(int(x), int(y) - 1) for trace in first for x, y in zip(trace.x, trace.y, strict=True)}

    recorded = shipped.routes()["layers"]["2"]["16"]["trained"][0]
    assert reads(dial.experts()) == {(place, expert) for place, (expert,) in enumerate(recorded)}
    dial.run()
    live = dial.buttons.lanes[0].reads[0]
    assert reads(dial.experts()) == {(place, expert) for place, (expert,) in enumerate(live)}
    dense = MagicDial(session=Session(dial._session.folder / "b"), calibrate=False, sparsity=0.0)
    assert reads(dense.experts()) == set()
