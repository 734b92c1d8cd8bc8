"""The magic dial: controls on the left; on the right the experts at work, the race, and who has won.

No mathematics here: numbers come from `accounting` and `runs`, figures from `figures`, training from `session`.
"""

import html
import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import ipywidgets as ipw
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.race import race, race_parts
from sparsity_lab.figures.routing import readers
from sparsity_lab.runs import measured as shipped
from sparsity_lab.runs.lanes import LINE
from sparsity_lab.runs.store import to_frame
from sparsity_lab.training.timing import Speed
from sparsity_lab.units import duration, power
from sparsity_lab.widgets import place
from sparsity_lab.widgets.accessibility import Aid, answer_at_once
from sparsity_lab.widgets.buttons import Buttons
from sparsity_lab.widgets.controls import LABEL, Dials
from sparsity_lab.widgets.expert_grid import ExpertGrid
from sparsity_lab.widgets.facts import facts_table, map_text
from sparsity_lab.widgets.html import describe, lesson_text, samples, who_won, winner
from sparsity_lab.widgets.link import Link, link_of, read_link, write_link
from sparsity_lab.widgets.live_figure import LiveFigure
from sparsity_lab.widgets.predict import Predict
from sparsity_lab.widgets.race_now import RaceNow
from sparsity_lab.widgets.runs_table import RunsTable
from sparsity_lab.widgets.session import Session, current
from sparsity_lab.widgets.settings import Settings

VIEWS = ("race", "writing", "runs", "code")
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
        self._asked = False  # and whether a guess was awaited then
        self._start, self._link = Settings(**settings), Link()
        _ = self._start.pairs  # raises ValueError for an impossible start

        self.dials = Dials(self._start, self._dial_moved)
        self.buttons = Buttons(self._session, self.dials, started=self._started, pressed=self._refresh)
        self._build_outputs()
        left = _box("sl-controls", self.dials.front, self.buttons.row, self._progress, self._news, self._facts)
        left.children += (self._map, self._fold)
        right = _box("sl-picture", self.grid, self._view, *self._views.values(), self._verdict, self._summary)
        self._aid = Aid()
        super().__init__([self._lesson, _box("sl-main", left, right), self._aid])
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
            self.buttons.offer(*cut_off)
        self._dial_moved()
        self._refresh()
        if calibrate:
            self._session.calibrate(self._start.corpus)

    # ---- what a learner or a headless run calls

    @classmethod
    def from_link(cls, text: str, **options: Any) -> Self:
        """Returns a dashboard that shows what a link says: the address of a page, or what follows its ``#`` or ``?``.
        ``options`` are further arguments of the dashboard."""
        dial = cls(**options)
        dial.open_link(text)
        return dial

    def open_link(self, text: str) -> None:
        """Moves the dials to what a link says, and those that it leaves out to where they began; shows its lesson. What
        is wrong with it is left out, with a note above the dials."""
        link = read_link(text, self.dials.largest)
        with self._lock:
            self._lesson.value = lesson_text(link)
            if link == Link(notes=link.notes):
                self._show_link()
                return
            self._link = link
            self.buttons.start = self._start.replace(**link.values)
            self.dials.teach(link.hide, link.fix)
            self.dials.set(self.buttons.start)

    def link(self, lesson: str = "", *, hide: Sequence[str] = (), fix: Sequence[str] = ()) -> str:
        """Returns the link to what the dials show, to be put behind the ``?`` of an address (of a static page, ``#``).

        A lesson asks a question (``lesson``, at most 300 characters), hides the controls of some fields of `Settings`,
        and shows others that can't be moved (``fix``): ``dial.link("Which wins?", hide=["width"], fix=["budget"])``.
        A text of your own is left out. Raises ValueError for unknown fields and for a question that is too long.
        """
        return write_link(link_of(self.settings, lesson=lesson, hide=hide, fix=fix))

    @property
    def settings(self) -> Settings:
        """The settings that the dials show now."""
        return self.dials.settings

    def run(self) -> pd.DataFrame:
        """Trains what the dials show, unless the store has it, waits for the end, and returns `curves`."""
        pairs, session = self.settings.pairs, self._session
        self.buttons.lanes = session.lanes if session.has_finished(pairs) else session.start(pairs)
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
        records = [lane.record for lane in self.buttons.lanes if lane.record is not None]
        index = pd.Index([record.label for record in records], name="run")
        return to_frame(records).set_axis(index)[list(COLUMNS)].rename(columns=COLUMNS)

    def verdict(self) -> str:
        """Returns who has won, and how far to trust it; empty if there are no two results."""
        return " ".join(filter(None, who_won(self.buttons.lanes)))

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
        lane = self.buttons.lanes[0] if self.buttons.lanes else None
        if lane is not None and lane.reads:
            return lane.reads, lane.favourites, lane.model.n_experts
        found = shipped.routes()["layers"].get(str(model.n_layers), {}).get(str(model.n_experts), {})
        return found.get("trained", []), found.get("favourites", []), model.n_experts

    def winner(self) -> str:
        """Returns "sparse", "dense" or "too close to call"; empty if there are no two results."""
        return winner(self.buttons.lanes)

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

    def _build_outputs(self) -> None:
        self.grid = ExpertGrid()
        self.grid.add_class("sparsity-lab-grid")
        self._lesson = _text("sparsity-lab-lesson")
        self._facts, self._map = _text("sparsity-lab-facts"), _text("sparsity-lab-map")
        self._progress = ipw.FloatProgress(max=1.0, layout={"width": "100%", "height": "12px"})
        self._status, self._left = _text("sparsity-lab-status"), _text("sparsity-lab-left")
        self._news = ipw.VBox([self._status, self._left])
        self._news.add_class("sparsity-lab-news")
        self._verdict, self._summary = _text("sparsity-lab-verdict"), _text("sparsity-lab-summary")
        self._texts, self._listing = _text("sparsity-lab-texts"), _text("sparsity-lab-code")
        self.runs = RunsTable(self._session)
        tooltip = "these settings as a link; paste one here to open it"
        self.share = ipw.Text(
            description="link", tooltip=tooltip, continuous_update=False, style=LABEL, layout={"width": "98%"}
        )
        self.share.add_class("sparsity-lab-link")
        self.share.observe(self._pasted, "value")

        self._figure: LiveFigure | None = None
        self._plot = ipw.VBox()
        parts = {"race": self._plot, "writing": self._texts, "runs": self.runs, "code": self._listing}
        self._views = {name: _box(f"sl-view sl-{name}", part) for name, part in parts.items()}
        self._view = ipw.ToggleButtons(options=VIEWS, style={"button_width": "76px"})
        self._view.add_class("sparsity-lab-view")
        self._view.observe(self._view_chosen, "value")
        self._view_chosen()

        self._fold = ipw.Accordion([ipw.VBox([*self.dials.more, self.buttons.tools, self.share])], titles=["More"])
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
            self.buttons.lanes = old.buttons.lanes
        elif not any(
            dial is not self and dial.buttons.lanes is self._session.lanes
            for (its, _), at in _places.items()
            if its == session
            for dial in (*at.now, *at.before)
        ):
            self.buttons.lanes = self._session.lanes

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
            self.buttons.moved()
            if self._speed is not None:
                self.dials.reach(self._speed)
            try:
                self._facts.value = facts_table(settings, self._speed, self._asked)
                if change is not None:
                    self.dials.accept()
            except ValueError as error:
                self.dials.refuse(error)
            self._show_link()
            self._map.value = map_text(settings, self._asked)
            self.grid.show_dial(self.dials.models)
            self._show_race()
            self._show_runs()
            self._listing.value = f"<pre>{html.escape(settings.code())}</pre>"

    @property
    def _asks(self) -> bool:
        """Whether the notebook waits for a guess, so that nothing may give the answer away: until this race is over."""
        return self._guess is not None and not self._guess.given and not self.winner()

    # ---- links

    def _show_link(self) -> None:
        lesson = {name: getattr(self._link, name) for name in ("lesson", "hide", "fix")}
        self._aid.link = write_link(link_of(self.settings, **lesson))
        self.share.value = self._aid.link

    def _pasted(self, _change: Any) -> None:
        if self.share.value != self._aid.link:
            self.open_link(self.share.value)

    def _link_opened(self, change: Any) -> None:
        """Takes what follows the ? in the address of the page; it may hold no link."""
        if read_link(change.new) != Link():
            self.open_link(change.new)

    def _view_chosen(self, _change: Any = None) -> None:
        for name, view in self._views.items():
            view.layout.display = "" if name == self._view.value else "none"
        if self._view.value == "runs":
            self.runs.show_figure()

    def _started(self) -> None:
        self._view.value = "race"
        self.grid.started += 1

    # ---- what the session reports, up to ten times a second, from its thread

    def _refresh(self) -> None:
        with self._lock:
            lanes = self.buttons.lanes
            self._progress.value = sum(lane.share for lane in lanes) / len(lanes) if lanes else 0.0
            # Only what changes seldom is read out: not the time left, which has a place of its own.
            self._status.value = f'<div role="status">{html.escape(self._message())}</div>'
            self._left.value = html.escape(self._time_left())
            self.buttons.refresh()
            self.grid.show_lane(lanes[0] if lanes else None)
            self._show_race()
            headline, caveat = map(html.escape, who_won(lanes))
            of = f"{html.escape(self._of_what())} " if headline and self._race().moved else ""
            self._verdict.value = f'<div role="status">{of}<b>{headline}</b> {caveat}</div>' if headline else ""
            self._summary.value = f'<div role="note" class="sl-hidden">{html.escape(describe(lanes))}</div>'
            self._texts.value = samples(lanes) or "Train, and both models write a text here, before and after."
            self._show_runs()
            if self._session.speed is not self._speed or self._asks != self._asked:
                self._dial_moved(None)

    def _message(self) -> str:
        if not self.buttons.is_mine and self._session.trains:
            return "Another dial of this notebook is training. Train here ends that run."
        ended = [lane.record.summary() for lane in self.buttons.lanes if lane.record is not None]
        return self._session.message if self.buttons.is_mine or not ended else " ".join(ended)

    def _time_left(self) -> str:
        """Returns the share of the training that is done and the time it will take; empty if none is under way."""
        steps = [lane.last for lane in self.buttons.lanes if lane.last is not None and lane.record is None]
        if not steps or self._session.state not in ("running", "paused") or not self._session.busy:
            return ""
        together = max if self._session.parallel else sum
        return f"{self._progress.value:.0%}, {duration(together(step.seconds_left for step in steps))} left."

    # ---- the race

    def _of_what(self) -> str:
        """Returns which runs are in front, for when the dials show others."""
        lane = self.buttons.lanes[0]
        return f"S = {lane.model.sparsity:.4g} at {power(lane.run.budget)} FLOPs:"

    def _race(self) -> RaceNow:
        session = self._session
        trains = self.buttons.is_mine and session.trains
        return RaceNow(self.settings, self.buttons.lanes, session.records, trains=trains, asks=self._asks)

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
