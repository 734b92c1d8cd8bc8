"""The magic dial: controls on the left; on the right the experts at work, the race, and who has won.

No mathematics here: numbers come from `accounting` and `runs`, figures from `figures`, training from `session`.
"""

import html
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import ipywidgets as ipw
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.accounting import count_parameters, plan, training_memory
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.figures.here import gains_map
from sparsity_lab.figures.race import race, race_parts
from sparsity_lab.figures.routing import readers
from sparsity_lab.runs import measured as shipped
from sparsity_lab.runs.lanes import LINE, Lane
from sparsity_lab.runs.pool import memory
from sparsity_lab.runs.store import to_frame
from sparsity_lab.training.corpus import check_corpus
from sparsity_lab.training.timing import Speed
from sparsity_lab.units import duration, power, size
from sparsity_lab.widgets import place
from sparsity_lab.widgets.accessibility import Aid, answer_at_once
from sparsity_lab.widgets.controls import LABEL, Dials
from sparsity_lab.widgets.expert_grid import ExpertGrid
from sparsity_lab.widgets.html import describe, expected_label, html_table, samples, who_won, winner
from sparsity_lab.widgets.live_figure import LiveFigure
from sparsity_lab.widgets.predict import Predict
from sparsity_lab.widgets.race_now import RaceNow
from sparsity_lab.widgets.runs_table import RunsTable
from sparsity_lab.widgets.session import Session, current
from sparsity_lab.widgets.settings import Settings

VIEWS = ("race", "writing", "runs", "code")
USUAL = 1e11  # FLOPs per second of a processor, until its speed is known
SETTLED = 0.4  # seconds after which a slider has told its last move
LONGEST = 7 * 24 * 3600  # seconds of training that a dashboard starts
HIDDEN = "Measured and expected losses are hidden until you have made your guess."
NOT_MEASURED = "The measured gains are of models that hold the active part, so they say nothing about this race."
COLUMNS = {  # of `to_frame` → of `MagicDial.results`
    "params_total": "total parameters", "params_active": "active parameters", "tokens": "tokens", "flops": "FLOPs",
    "val_loss": "held-out loss", "seconds": "seconds", "status": "status",
}  # fmt: skip


_places: dict[tuple[int, str], place.Place] = {}  # by session and notebook cell


class MagicDial(ipw.VBox):
    """The dashboard. Display it as the last expression of a cell.

    The arguments are the `Settings` with which the dials start. Until ``guess`` (a `Predict`) is given, measured and
    expected losses stay hidden. Without a browser, `run` trains what the dials show and `figure` is the static twin of
    the live plot.
    """

    def __init__(
        self, *, session: Session | None = None, calibrate: bool = True, guess: Predict | None = None,
        **settings: Any,
    ):  # fmt: skip
        self._session = session or current()
        self._guess = guess
        self._lock = threading.RLock()
        self._speed: Speed | None = None  # when the numbers beside the dials were computed
        self._moved_at = 0.0  # and that was then, by the monotonic clock
        self._asked = False  # and whether a guess was awaited then
        self._mine: list[Lane] = []  # what this dashboard trains or has trained last
        self._start_settings = start = Settings(**settings)
        _ = start.pairs  # raises ValueError for an impossible start

        self.dials = Dials(start, self._dial_moved)
        self._build_buttons()
        self._build_outputs()
        left = _box("sl-controls", self.dials.front, self._buttons, self._progress, self._news, self._facts)
        left.children += (self._map, self._fold)
        right = _box("sl-picture", self.grid, self._view, *self._views.values(), self._verdict, self._summary)
        self._aid = Aid()
        super().__init__([_box("sl-main", left, right), self._aid])
        self.add_class("sparsity-lab-dial")
        ipw.jsdlink((self.dials.sparsity, "index"), (self.grid, "stop"))  # in the browser: no kernel between
        answer_at_once(self)

        self._take_over()
        self._session.listeners.append(self._refresh)
        self._aid.observe(self._link_opened, "opened")
        if guess is not None:
            guess.observe(self._dial_moved, "given")
        cut_off = self._session.interrupted()
        if cut_off is not None:
            self._offer(*cut_off)
        self._dial_moved()
        self._refresh()
        if calibrate:
            self._session.calibrate(start.corpus)

    # ---- what a learner or a headless run calls

    @property
    def settings(self) -> Settings:
        """The settings that the dials show now."""
        return self.dials.settings

    def run(self) -> pd.DataFrame:
        """Trains what the dials show, unless the store has it, waits for the end, and returns `curves`."""
        pairs, session = self.settings.pairs, self._session
        self._mine = session.lanes if session.has_finished(pairs) else session.start(pairs)
        try:
            self._session.wait()
        except KeyboardInterrupt:
            self._session.stop()
            raise
        self._refresh()
        if self._session.state == "failed":
            raise RuntimeError(self._session.message)
        return self.curves()

    def curves(self) -> pd.DataFrame:
        """Returns what the plot shows, one row per point: label, role (of `figures.style.ROLES`), flops, loss."""
        columns = ["label", "role", "flops", "loss"]
        parts = [pd.DataFrame(dict(zip(columns, line, strict=True))) for line in self._race().lines()]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def results(self) -> pd.DataFrame:
        """Returns the runs in front, one row each, with the columns in `COLUMNS`; losses are in nats per byte."""
        records = [lane.record for lane in self._mine if lane.record is not None]
        index = pd.Index([record.label for record in records], name="run")
        return to_frame(records).set_axis(index)[list(COLUMNS)].rename(columns=COLUMNS)

    def verdict(self) -> str:
        """Returns who has won, and how far to trust it; empty if there are no two results."""
        return " ".join(filter(None, who_won(self._mine)))

    def figure(self) -> go.Figure:
        """Returns the live plot as it stands, as a figure that stays in the saved notebook."""
        return _without_empty(race(**self._race().arguments()))

    def experts(self) -> go.Figure:
        """Returns who read which character of the line that the experts play, as a figure: of the run in front, or
        what was recorded of a model with as many experts and layers."""
        return readers(LINE, *self._reads())

    def experts_in_words(self) -> str:
        """Returns how many experts the line of `experts` needed, layer by layer."""
        reads, _, n_experts = self._reads()
        used = [len({expert for chosen in layer for expert in chosen}) for layer in reads]
        parts = [f"layer {i + 1}: {n} of {n_experts} experts read at least one" for i, n in enumerate(used)]
        return f"Of the line's {len(LINE)} characters, {'; '.join(parts)}." if parts else "One network read it all."

    def _reads(self) -> tuple[Any, Any, int]:
        model = self.settings.model
        lane = self._mine[0] if self._mine else None
        if lane is not None and lane.reads:
            return lane.reads, lane.favourites, lane.model.n_experts
        found = shipped.routes()["layers"].get(str(model.n_layers), {}).get(str(model.n_experts), {})
        return found.get("trained", []), found.get("favourites", []), model.n_experts

    def winner(self) -> str:
        """Returns "sparse", "dense" or "too close to call"; empty if there are no two results."""
        return winner(self._mine)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Returns the widget, which JupyterLab prefers, beside the plot for those who can't show it. The plot lacks the
        earlier runs of whoever makes the page, and is left out if there is nothing else to draw."""
        shown = self._race().arguments()
        shown["lines"] = [line for line in shown["lines"] if line[1] != "ghost"]
        twin = (
            {"application/vnd.plotly.v1+json": json.loads(_without_empty(race(**shown)).to_json())}
            if shown["lines"]
            else {}
        )
        return super()._repr_mimebundle_(**options) | twin

    # ---- building

    def _build_buttons(self) -> None:
        self.train = ipw.Button(description="Train", button_style="primary", tooltip="train what the dials show")
        self.pause = ipw.Button(description="Pause", tooltip="pause, or resume")
        self.step = ipw.Button(description="Step", tooltip="make one training step, then pause")
        self.stop = ipw.Button(description="Stop", tooltip="end the run and keep it for comparison")
        self.clear = ipw.Button(description="Clear", tooltip="hide all runs; the saved results stay on disk")
        self.reset = ipw.Button(description="Reset", tooltip="move the dials back to where they began")
        self.copy = ipw.Button(description="Copy link", tooltip="copy the address of this page with these settings")

        actions: list[tuple[ipw.Button, Callable[[], None]]] = [(self.train, self._train), (self.step, self._step)]
        actions += [(self.pause, self._pause_or_resume), (self.stop, self._session.stop)]
        actions += [(self.clear, self._clear_or_undo), (self.reset, self._reset), (self.copy, lambda: None)]
        for button, action in actions:
            button.add_class(f"sparsity-lab-{button.description.lower().replace(' ', '-')}")
            button.on_click(partial(self._pressed, action))
        self._buttons = ipw.HBox([self.train, self.pause, self.step, self.stop])
        self._buttons.add_class("sl-buttons")

    def _build_outputs(self) -> None:
        self.grid = ExpertGrid()
        self.grid.add_class("sparsity-lab-grid")
        self._facts, self._map = _text("sparsity-lab-facts"), _text("sparsity-lab-map")
        self._progress = ipw.FloatProgress(max=1.0, layout={"width": "100%", "height": "12px"})
        self._status, self._left = _text("sparsity-lab-status"), _text("sparsity-lab-left")
        self._news = ipw.VBox([self._status, self._left])
        self._news.add_class("sparsity-lab-news")
        self._verdict, self._summary = _text("sparsity-lab-verdict"), _text("sparsity-lab-summary")
        self._texts, self._listing = _text("sparsity-lab-texts"), _text("sparsity-lab-code")
        self.runs = RunsTable(self._session)
        self.share = ipw.Text(description="settings", continuous_update=False, style=LABEL, layout={"width": "98%"})
        self.share.add_class("sparsity-lab-settings")
        self.share.observe(self._settings_pasted, "value")

        self._figure: LiveFigure | None = None
        self._plot = ipw.VBox()
        parts = {"race": self._plot, "writing": self._texts, "runs": self.runs, "code": self._listing}
        self._views = {name: _box(f"sl-view sl-{name}", part) for name, part in parts.items()}
        self._view = ipw.ToggleButtons(options=VIEWS, style={"button_width": "76px"})
        self._view.add_class("sparsity-lab-view")
        self._view.observe(self._view_chosen, "value")
        self._view_chosen()

        tools = ipw.HBox([self.clear, self.reset, self.copy], layout={"flex_flow": "row wrap"})
        self._fold = ipw.Accordion([ipw.VBox([*self.dials.more, tools, self.share])], titles=["More"])
        self._fold.selected_index = None
        self._fold.add_class("sparsity-lab-more")

    def _take_over(self) -> None:
        """A cell that is run again goes on with what its dashboard showed before; the old one is on no page now. A
        session's runs that no other dashboard shows, say of an earlier page, are shown too."""
        cell, execution = place.cell()
        session, key = id(self._session), cell or str(id(self))
        old, gone = _places.setdefault((session, key), place.Place()).take(self, execution)
        for dial in filter(None, [old, *gone]):
            dial._leave()
        if old is not None:
            self._mine = old._mine
        elif not any(
            dial is not self and dial._mine is self._session.lanes
            for (its, _), at in _places.items()
            if its == session
            for dial in (*at.now, *at.before)
        ):
            self._mine = self._session.lanes

    def _leave(self) -> None:
        """Does nothing more: it is on no page."""
        with suppress(ValueError):
            self._session.listeners.remove(self._refresh)
        if self._guess is not None:
            self._guess.unobserve(self._dial_moved, "given")

    # ---- dials

    def _dial_moved(self, change: Any = True) -> None:
        """Computes every derived number anew, also while training; None: although no dial has moved."""
        with self._lock:
            settings, self._speed, self._asked = self.settings, self._session.speed, self._asks
            self._moved_at = time.monotonic()
            if self._speed is not None:
                self.dials.reach(self._speed)
            try:
                self._facts.value = self._facts_table(settings)
                if change is not None:
                    self.dials.accept()
            except ValueError as error:
                self.dials.refuse(error)
            with self.share.hold_trait_notifications():
                self.share.value = self._aid.settings = settings.to_json()
            self._map.value = self._map_text(settings)
            self.grid.show_dial(self.dials.models)
            self._show_race()
            self._show_runs()
            self._listing.value = f"<pre>{html.escape(settings.code())}</pre>"

    def _facts_table(self, settings: Settings) -> str:
        models = {"on the dial": settings.model, "dense twin": settings.twin}
        if settings.model == settings.twin:
            del models["dense twin"]
        facts = [self._facts_of(model, settings.run) for model in models.values()]
        return html_table(["", *models], [[name, *(each[name] for each in facts)] for name in facts[0]])

    def _facts_of(self, model: ModelConfig, run: RunConfig) -> dict[str, str]:
        params, bought = count_parameters(model), plan(model, run)
        speed = self._session.speed
        facts = {
            "active experts": f"{model.top_k} of {model.n_experts}",
            "total parameters": f"{params.total:,}",
            "active parameters": f"{params.active:,}",
            "tokens read": f"{bought.tokens:,}",
            "time here": "measuring…" if speed is None else duration(speed.seconds(model, run)),
        }
        if not self._asks:
            facts["expected loss"] = expected_label(shipped.expected(model, run))
        return facts

    @property
    def _asks(self) -> bool:
        """Whether the notebook waits for a guess, so that nothing may give the answer away: until this race is over."""
        return self._guess is not None and not self._guess.given and not self.winner()

    def _map_text(self, settings: Settings) -> str:
        if self._asks:
            return f'<div class="sl-note">{HIDDEN}</div>'
        if settings.corpus != shipped.CORPUS:
            return ""
        if settings.hold == "total":
            return f'<div class="sl-note">{NOT_MEASURED}</div>'
        return gains_map(shipped.gain_table(), settings.model.sparsity, settings.budget)

    def _settings_pasted(self, _change: Any) -> None:
        with self._lock:
            try:
                if self.share.value != self.settings.to_json():
                    self.dials.set(Settings.from_json(self.share.value))
            except (ValueError, TypeError) as error:
                self.dials.refuse(error)

    def _link_opened(self, change: Any) -> None:
        """Moves the dials to the settings in the address of the page."""
        self.share.value = change.new

    def _offer(self, model: ModelConfig, run: RunConfig) -> None:
        """Moves the dials to a dead kernel's run, so that Train resumes it."""
        for hold in ("active", "total"):
            same = {name: getattr(run, name) for name in ("budget", "seed", "corpus", "backend")}
            same |= {"width": model.d_model, "n_layers": model.n_layers}
            settings = Settings(sparsity=model.sparsity, hold=hold, **same)
            if settings.model == model and resolve(model, settings.run) == run:
                self.dials.set(settings)
                self._session.message = "A run was cut off, and the dials show it again. Press Train to resume it."
                return  # one of 16 experts is the same model, whatever is held

    def _view_chosen(self, _change: Any = None) -> None:
        for name, view in self._views.items():
            view.layout.display = "" if name == self._view.value else "none"
        if self._view.value == "runs":
            self.runs.show_figure()

    # ---- buttons

    def _pressed(self, action: Callable[[], None], _button: Any) -> None:
        try:
            action()
        except ValueError as error:
            self.dials.refuse(error)
        self._refresh()

    def _train(self, paused: bool = False) -> None:
        """Trains what the dials show. A browser holds a slider's last move back while the kernel answers the one before
        it, and lets a press overtake it: then there is a moment to wait for."""
        if place.kernel() is not None and time.monotonic() - self._moved_at < SETTLED:
            threading.Timer(SETTLED, self._pressed, (partial(self._start, paused), None)).start()
        else:
            self._start(paused)

    def _start(self, paused: bool = False) -> None:
        settings = self.settings
        self._check(settings)
        self._mine = self._session.start(settings.pairs, paused)  # not with the lock: it waits for a last report
        self.dials.accept()
        self._view.value = "race"
        self.grid.started += 1

    def _check(self, settings: Settings) -> None:
        """Raises ValueError for what can't be trained here, before anything that runs is ended."""
        try:
            check_corpus(settings.corpus)
        except OSError as error:
            raise ValueError(f"corpus={settings.corpus!r} can't be read: {error}") from None

        speed = self._session.speed
        seconds = settings.budget / USUAL if speed is None else max(speed.seconds(*pair) for pair in settings.pairs)
        if seconds > LONGEST:
            days = f"about {seconds / 86_400:,.0f} days"
            raise ValueError(f"budget={settings.budget:.3g} would take {days} here: choose a smaller one")
        needed = max(training_memory(model, 0).total for model, _ in settings.pairs)
        if needed > memory() / 2:
            raise ValueError(
                f"width={settings.width} needs {size(needed)}, over half of the memory here: choose a smaller one"
            )

    def _step(self) -> None:
        if self._session.trains and self._is_mine:
            self._session.step()
        else:
            self._train(paused=True)

    def _pause_or_resume(self) -> None:
        if self._session.state == "paused":
            self._session.proceed()
        else:
            self._session.pause()

    def _clear_or_undo(self) -> None:
        if self.clear.description == "Undo clear":
            self._session.undo_clear()
            self._mine = self._mine or self._session.lanes
        else:
            self._session.clear()
            self._mine = []

    def _reset(self) -> None:
        self.dials.set(self._start_settings)

    # ---- what the session reports, up to ten times a second, from its thread

    @property
    def _is_mine(self) -> bool:
        """Whether the session's present training was started here."""
        return self._mine is self._session.lanes

    def _refresh(self) -> None:
        with self._lock:
            session, lanes = self._session, self._mine
            self._progress.value = sum(lane.share for lane in lanes) / len(lanes) if lanes else 0.0
            # Only what changes seldom is read out: not the time left, which has a place of its own.
            self._status.value = f'<div role="status">{html.escape(self._message())}</div>'
            self._left.value = html.escape(self._time_left())
            self.pause.description = "Resume" if session.state == "paused" and self._is_mine else "Pause"
            self.pause.disabled = self.stop.disabled = not (self._is_mine and session.trains)
            self.clear.description = "Undo clear" if session.can_undo and not session.trains else "Clear"
            self.grid.show_lane(lanes[0] if lanes else None)
            self._show_race()
            headline, caveat = map(html.escape, who_won(lanes))
            of = f"{html.escape(self._of_what())} " if headline and self._race().moved else ""
            self._verdict.value = f'<div role="status">{of}<b>{headline}</b> {caveat}</div>' if headline else ""
            self._summary.value = f'<div role="note" class="sl-hidden">{html.escape(describe(lanes))}</div>'
            self._texts.value = samples(lanes) or "Train, and both models write a text here, before and after."
            self._show_runs()
            if session.speed is not self._speed or self._asks != self._asked:
                self._dial_moved(None)

    def _message(self) -> str:
        if not self._is_mine and self._session.trains:
            return "Another dial of this notebook is training. Train here ends that run."
        ended = [lane.record.summary() for lane in self._mine if lane.record is not None]
        return self._session.message if self._is_mine or not ended else " ".join(ended)

    def _time_left(self) -> str:
        """Returns the share of the training that is done and the time it will take; empty if none is under way."""
        steps = [lane.last for lane in self._mine if lane.last is not None and lane.record is None]
        if not steps or self._session.state not in ("running", "paused") or not self._session.busy:
            return ""
        together = max if self._session.parallel else sum
        return f"{self._progress.value:.0%}, {duration(together(step.seconds_left for step in steps))} left."

    # ---- the race

    def _of_what(self) -> str:
        """Returns which runs are in front, for when the dials show others."""
        lane = self._mine[0]
        return f"S = {lane.model.sparsity:.4g} at {power(lane.run.budget)} FLOPs:"

    def _race(self) -> RaceNow:
        session = self._session
        trains = self._is_mine and session.trains
        return RaceNow(self.settings, self._mine, session.records, trains=trains, asks=self._asks)

    def _show_race(self) -> None:
        race_now = self._race().arguments()
        if self._figure is None:
            self._figure = LiveFigure(race(**race_now), race_parts(**race_now))
            self._plot.children = [self._figure.widget]
        else:
            self._figure.show(race_parts(**race_now))

    def _show_runs(self) -> None:
        self.runs.show(None if self._asks else self.settings.budget)


def _without_empty(figure: go.Figure) -> go.Figure:
    """Takes away the traces that only a live figure needs, to fill them later."""
    figure.data = [trace for trace in figure.data if trace.x is not None and len(trace.x)]
    return figure


def _box(css_class: str, *children: Any) -> ipw.VBox:
    box = ipw.VBox(children)
    for name in css_class.split():
        box.add_class(name)
    return box


def _text(css_class: str) -> ipw.HTML:
    widget = ipw.HTML()
    widget.add_class(css_class)
    return widget
