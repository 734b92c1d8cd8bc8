"""The magic dial: sliders, buttons and a live loss curve around the kernel's one training session.

No mathematics here: numbers come from `accounting` and `runs`, figures from `figures`, training from `session`.
"""

import html
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as ipw
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.figures import training
from sparsity_lab.record import Record, decimate, run_label
from sparsity_lab.runs import measured as shipped
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.runs.store import to_frame
from sparsity_lab.training.timing import Speed
from sparsity_lab.units import duration
from sparsity_lab.widgets.accessibility import Aid, answer_at_once
from sparsity_lab.widgets.controls import LABEL, Dials
from sparsity_lab.widgets.html import expected_label, html_table, measured_label, samples
from sparsity_lab.widgets.live_figure import GHOSTS, Line, LiveFigure
from sparsity_lab.widgets.session import Session, current
from sparsity_lab.widgets.settings import Settings

SHOWN_RUNS = 8
COLUMNS = {  # of `to_frame` → of `MagicDial.results`
    "params_total": "total parameters", "params_active": "active parameters", "tokens": "tokens", "flops": "FLOPs",
    "val_loss": "held-out loss", "seconds": "seconds", "status": "status",
}  # fmt: skip


class MagicDial(ipw.VBox):
    """The dashboard. Display it as the last expression of a cell.

    The arguments are the `Settings` with which the dials start. Without a browser, `run` trains what the dials show and
    `figure` is the static twin of the live plot.
    """

    def __init__(self, *, session: Session | None = None, calibrate: bool = True, **settings: Any):
        self._session = session or current()
        self._lock = threading.RLock()
        self._speed: Speed | None = None
        self._shown: list[Record] = []  # in the table of runs, which is sent again only when they change
        start = Settings(**settings)
        _ = start.pairs  # raises ValueError for an impossible start

        self.dials = Dials(start, self._dial_moved, self._say_problem)
        self._build_buttons()
        self._build_outputs()
        top = ipw.HBox([self.dials, self._facts], layout={"flex_flow": "row wrap", "align_items": "flex-start"})
        progress = ipw.HBox([self._progress, self._status], layout={"align_items": "center"})
        outputs = [self._figure.widget, self._summary, self._texts, self._runs, self._code]
        super().__init__([top, self._buttons, self._problem, progress, *outputs, Aid()])
        self.add_class("sparsity-lab-dial")
        answer_at_once(self)

        self._session.listener = self._refresh
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
        pairs = self.settings.pairs
        if not self._session.has_finished(pairs):
            self._session.start(pairs)
        try:
            self._session.wait()
        except KeyboardInterrupt:
            self._session.stop()
            raise
        if self._session.state == "failed":
            raise RuntimeError(self._session.message)
        return self.curves()

    def curves(self) -> pd.DataFrame:
        """Returns what the plot shows, one row per point: label, role (of `figures.style.ROLES`), flops, loss."""
        columns = ["label", "role", "flops", "loss"]
        lines = [*self._ghosts(), *self._measured(), *self._live()]
        parts = [pd.DataFrame(dict(zip(columns, line, strict=True))) for line in lines]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def results(self) -> pd.DataFrame:
        """Returns the runs in front, one row each, with the columns in `COLUMNS`; losses are in nats per byte."""
        return _results([lane.record for lane in self._session.lanes if lane.record is not None])

    def verdict(self) -> str:
        """Returns the comparison with the dense twin in a sentence; empty if there is none."""
        losses = [lane.record.val_loss for lane in self._session.lanes if lane.record is not None]
        if len(losses) != 2 or losses[0] is None or losses[1] is None:
            return ""
        return (
            f"On held-out text the model on the dial ends {abs(losses[0] - losses[1]):.3f} nats per byte "
            f"{'lower' if losses[0] < losses[1] else 'higher'} than its dense twin "
            f"({losses[0]:.3f} against {losses[1]:.3f}). One seed: not yet a finding."
        )

    def figure(self) -> go.Figure:
        """Returns the live plot as it stands, as a figure that stays in the saved notebook."""
        return training.loss_figure(self.curves())

    # ---- building

    def _build_buttons(self) -> None:
        self.train = ipw.Button(description="Train", button_style="primary", tooltip="train what the dials show")
        self.pause = ipw.Button(description="Pause", tooltip="pause, or resume")
        self.step = ipw.Button(description="Step", tooltip="make one training step, then pause")
        self.stop = ipw.Button(description="Stop", tooltip="end the run and keep it for comparison")
        self.clear = ipw.Button(description="Clear", tooltip="hide all runs; the saved results stay on disk")
        self.show_code = ipw.ToggleButton(description="Show code", tooltip="the Python that does the same")

        buttons = [self.train, self.pause, self.step, self.stop, self.clear, self.show_code]
        for button in buttons:
            button.layout.width = "96px"
            button.add_class(f"sparsity-lab-{button.description.lower().replace(' ', '-')}")
        actions = (self._start, self._pause_or_resume, self._step, self._session.stop, self._session.clear)
        for button, action in zip(buttons[:-1], actions, strict=True):
            button.on_click(partial(self._pressed, action))
        self.show_code.observe(self._dial_moved, "value")
        self._buttons = ipw.HBox(buttons, layout={"flex_flow": "row wrap"})

    def _build_outputs(self) -> None:
        self._facts = _text("sparsity-lab-facts", min_width="330px")
        self._problem = _text("sparsity-lab-problem")
        self._progress = ipw.FloatProgress(max=1.0, layout={"width": "220px"})
        self._status = _text("sparsity-lab-status", min_height="58px")
        self._summary = _text("sparsity-lab-summary", min_height="118px")
        self._texts = _text("sparsity-lab-texts")
        self._runs = _text("sparsity-lab-runs")
        self.share = ipw.Text(description="settings", continuous_update=False, style=LABEL, layout={"width": "98%"})
        self.share.add_class("sparsity-lab-settings")
        self.share.observe(self._settings_pasted, "value")
        self._listing = _text("sparsity-lab-code")
        self._code = ipw.VBox([self._listing, self.share])
        self._figure = LiveFigure()

    # ---- dials

    def _dial_moved(self, _change: Any = None) -> None:
        """Computes every derived number anew, also while training."""
        with self._lock:
            settings = self.settings
            try:
                self._facts.value = self._facts_table(settings)
                self._problem.value = ""
            except ValueError as error:
                self._say_problem(error)
            with self.share.hold_trait_notifications():
                self.share.value = settings.to_json()
            self._figure.show_measured(self._measured())
            self._listing.value = f"<pre>{html.escape(settings.code())}</pre>" if self.show_code.value else ""

    def _facts_table(self, settings: Settings) -> str:
        models = {"on the dial": settings.model, "dense twin": settings.twin}
        if settings.model == settings.twin:
            del models["dense twin"]
        facts = [self._facts_of(model, settings.run) for model in models.values()]
        return html_table(["", *models], [[name, *(each[name] for each in facts)] for name in facts[0]])

    def _facts_of(self, model: ModelConfig, run: RunConfig) -> dict[str, str]:
        params, bought = count_parameters(model), plan(model, run)
        speed = self._session.speed
        return {
            "active experts": f"{model.top_k} of {model.n_experts}",
            "total parameters": f"{params.total:,}",
            "active parameters": f"{params.active:,}",
            "tokens": f"{bought.tokens:,}",
            "steps": f"{bought.steps:,}",
            "time here": "measuring…" if speed is None else duration(speed.seconds(model, run)),
            "similar run (dotted)": measured_label(shipped.nearest(model, run)),
            "expected loss": expected_label(shipped.expected(model, run)),
        }

    def _settings_pasted(self, _change: Any) -> None:
        with self._lock:
            try:
                if self.share.value != self.settings.to_json():
                    self.dials.set(Settings.from_json(self.share.value))
            except (ValueError, TypeError) as error:
                self._say_problem(error)

    def _offer(self, model: ModelConfig, run: RunConfig) -> None:
        """Moves the dials to a dead kernel's run, so that Train resumes it."""
        for hold in ("active", "total"):
            same = {name: getattr(run, name) for name in ("budget", "seed", "corpus", "backend")}
            same |= {"width": model.d_model, "n_layers": model.n_layers}
            settings = Settings(sparsity=model.sparsity, hold=hold, **same)
            if settings.model == model and resolve(model, settings.run) == run:
                self.dials.set(settings)
                self._session.message = "A run was cut off, and the dials show it again. Press Train to resume it."

    def _say_problem(self, error: Exception) -> None:
        self._problem.value = f'<div role="alert"><b>Can\'t do that:</b> {html.escape(str(error))}</div>'

    # ---- buttons

    def _pressed(self, action: Callable[[], None], _button: Any) -> None:
        try:
            action()
        except ValueError as error:
            self._say_problem(error)
        self._refresh()

    def _start(self, paused: bool = False) -> None:
        self._session.start(self.settings.pairs, paused)
        self._problem.value = ""

    def _step(self) -> None:
        if self._session.trains:
            self._session.step()
        else:
            self._start(paused=True)

    def _pause_or_resume(self) -> None:
        if self._session.state == "paused":
            self._session.proceed()
        else:
            self._session.pause()

    # ---- what the session reports, up to ten times a second, from its thread

    def _refresh(self) -> None:
        with self._lock:
            session, lanes = self._session, self._session.lanes
            self._progress.value = sum(lane.share for lane in lanes) / len(lanes) if lanes else 0.0
            self._status.value = f'<div role="status">{html.escape(session.message + self._time_left())}</div>'
            self.pause.description = "Resume" if session.state == "paused" else "Pause"
            self._figure.show(self._ghosts(), self._live(), lanes[0].routing if lanes else [])
            self._summary.value = self._summary_text(lanes)
            self._texts.value = samples(lanes[0].text_before, lanes[0].text_after) if lanes else ""
            if session.records[-SHOWN_RUNS:] != self._shown:
                self._shown = session.records[-SHOWN_RUNS:]
                self._runs.value = self._runs_table(self._shown)
            if session.speed is not self._speed:
                self._speed = session.speed
                self._dial_moved()

    def _time_left(self) -> str:
        """Returns the share of the training that is done and the time it will take; empty if none is under way."""
        steps = [lane.last for lane in self._session.lanes if lane.last is not None and lane.record is None]
        if not steps or self._session.state not in ("running", "paused") or not self._session.busy:
            return ""
        together = max if self._session.parallel else sum
        return f" {self._progress.value:.0%}, {duration(together(step.seconds_left for step in steps))} left."

    def _live(self) -> list[Line]:
        """Returns the lines of the runs in front."""
        lines = []
        for lane in self._session.lanes:
            role = "this" if lane is self._session.lanes[0] else "dense"
            if lane.record is not None:
                curve = lane.record.curve
            elif lane.last is not None:
                curve = decimate(lane.losses, lane.last.flops // lane.last.step)
            else:
                continue
            lines.append((run_label(lane.model, lane.run), role, curve["flops"], curve["loss"]))
        return lines

    def _ghosts(self) -> list[Line]:
        """Returns the lines of earlier runs on this corpus, the latest last."""
        front, lines = {run_label(lane.model, lane.run) for lane in self._session.lanes}, []
        for record in reversed(self._session.records):  # perhaps thousands, and labels take time
            if record.run["corpus"] == self.settings.corpus and (label := record.label) not in front:
                lines.append((label, "ghost", record.curve["flops"], record.curve["loss"]))
            if len(lines) == GHOSTS:
                break
        return lines[::-1]

    def _measured(self) -> list[Line]:
        """Returns the lines of the runs that ship with the suite and are nearest to what the dials show."""
        lines = []
        for role, pair in zip(("measured", "measured dense"), self.settings.pairs, strict=False):
            if (record := shipped.nearest(*pair)) is not None:
                lines.append((f"measured: {record.label}", role, record.curve["flops"], record.curve["loss"]))
        return lines[::-1]

    def _summary_text(self, lanes: list[Lane]) -> str:
        """Returns the plot in words, for those who can't see it."""
        sentences = []
        for label, _, flops, loss in self._live():
            x, y = training.smooth(flops, loss)
            if len(y):
                sentences.append(f"{label}: training loss {y[-1]:.3f} after {x[-1]:.3g} FLOPs.")
        sentences.append(self.verdict())

        for lane in lanes:
            law = shipped.expected(lane.model, lane.run)
            if law is not None and lane.record is not None and lane.record.val_loss is not None:
                ended = "inside" if law.low <= lane.record.val_loss <= law.high else "outside"
                sentences.append(f"Expected of {lane.record.label}: {expected_label(law)}; it ended {ended}.")
        for load in lanes[0].routing if lanes else []:
            busiest, never = max(load) * len(load), load.count(0)
            sentences.append(f"Busiest expert: {busiest:.1f} times its even share; {never} never chosen.")
        return f'<div role="note">{html.escape(" ".join(sentences))}</div>'

    def _runs_table(self, records: list[Record]) -> str:
        frame, header = _results(records), ["run", "total parameters", "active parameters", "held-out loss", "status"]
        frame[header[1:3]] = frame[header[1:3]].map("{:,}".format)
        frame["held-out loss"] = [measured_label(record) for record in records]
        rows = frame.reset_index()[header].to_numpy().tolist()
        return "<b>Runs so far</b>" + html_table(header, rows) if rows else ""


def _results(records: list[Record]) -> pd.DataFrame:
    index = pd.Index([record.label for record in records], name="run")
    return to_frame(records).set_axis(index)[list(COLUMNS)].rename(columns=COLUMNS)


def _text(css_class: str, **layout: str) -> ipw.HTML:
    widget = ipw.HTML(layout=layout)
    widget.add_class(css_class)
    return widget
