"""The magic dial: sliders, buttons and a live loss curve around the kernel's one training session.

No mathematics here: numbers come from `accounting` and `speed`, figures from `charts`, training from `session`.
"""

import html
import threading
from typing import Any

import ipywidgets as ipw
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.figures import training
from sparsity_lab.record import run_label
from sparsity_lab.runs import measured as shipped
from sparsity_lab.training.timing import Speed
from sparsity_lab.training.trainer import decimate
from sparsity_lab.units import duration
from sparsity_lab.widgets.accessibility import Aid
from sparsity_lab.widgets.controls import LABEL, Dials
from sparsity_lab.widgets.html import expected_label, measured_label, samples, table
from sparsity_lab.widgets.live_figure import GHOSTS, Line, LiveFigure
from sparsity_lab.widgets.session import Lane, Session, current
from sparsity_lab.widgets.settings import Settings


class MagicDial(ipw.VBox):
    """The dashboard. Display it as the last expression of a cell.

    Every argument is where a dial starts (`Settings`). Without a browser `run` trains what the dials show and `figure`
    is the static twin of the live plot.
    """

    def __init__(self, *, session: Session | None = None, calibrate: bool = True, **settings: Any):
        self._session = session or current()
        self._lock = threading.RLock()
        self._speed: Speed | None = None
        self._shown: list[str] = []  # what the table of runs shows, sent again only when it changes
        start = Settings(**settings)
        _ = start.pairs
        self.dials = Dials(start, self._dial_moved, self._say_problem)
        self._build_buttons()
        self._build_outputs()
        super().__init__(
            [
                ipw.HBox([self.dials, self._facts], layout={"flex_flow": "row wrap", "align_items": "flex-start"}),
                self._buttons,
                self._problem,
                ipw.HBox([self._progress, self._status], layout={"align_items": "center"}),
                self._figure.widget,
                self._summary,
                self._texts,
                self._runs,
                self._code,
                Aid(),
            ]
        )
        self.add_class("sparsity-lab-dial")
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
        """Where the dials stand now."""
        return self.dials.settings

    def run(self) -> pd.DataFrame:
        """Trains what the dials show unless that has just been done, waits for it, and gives `curves`."""
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
        """What the plot shows, one row a point: label, role (of `figures.style.ROLES`), flops, loss."""
        parts = [
            pd.DataFrame({"label": label, "role": role, "flops": flops, "loss": loss})
            for label, role, flops, loss in [*self._ghosts(), *self._measured(), *self._live()]
        ]
        columns = ["label", "role", "flops", "loss"]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)

    def results(self) -> pd.DataFrame:
        """The runs in front, one row each: experts, weights, tokens, FLOPs, held-out loss in nats a byte, seconds."""
        rows = [
            {
                "run": run_label(lane.model, lane.run),
                "weights": lane.record.params_total,
                "at work on a token": lane.record.params_active,
                "tokens": lane.record.tokens,
                "FLOPs": lane.record.flops,
                "held-out loss": lane.record.val_loss,
                "seconds": lane.record.seconds,
                "status": lane.record.status,
            }
            for lane in self._session.lanes
            if lane.record is not None
        ]
        return pd.DataFrame(rows).set_index("run") if rows else pd.DataFrame()

    def verdict(self) -> str:
        """The comparison with the dense twin in a sentence; empty if there is none."""
        losses = [
            lane.record.val_loss for lane in self._session.lanes if lane.record and lane.record.val_loss is not None
        ]
        if len(losses) != 2:
            return ""
        return (
            f"On held-out text the model on the dial ends {abs(losses[0] - losses[1]):.3f} nats a byte "
            f"{'lower' if losses[0] < losses[1] else 'higher'} than its dense twin "
            f"({losses[0]:.3f} against {losses[1]:.3f}). One seed: not yet a finding."
        )

    def figure(self) -> go.Figure:
        """The live plot as it stands, as a figure that stays in the saved notebook."""
        return training.loss_figure(self.curves())

    # ---- building

    def _build_buttons(self) -> None:
        self.train = ipw.Button(description="Train", button_style="primary", tooltip="train what the dials show")
        self.pause = ipw.Button(description="Pause", tooltip="pause, or go on")
        self.step = ipw.Button(description="Step", tooltip="one training step, then pause")
        self.stop = ipw.Button(description="Stop", tooltip="end the run and keep it for comparison")
        self.clear = ipw.Button(description="Clear", tooltip="forget all runs")
        self.show_code = ipw.ToggleButton(description="Show code", tooltip="the Python that does the same")
        for button in (self.train, self.pause, self.step, self.stop, self.clear, self.show_code):
            button.layout.width = "96px"
            button.add_class(f"sparsity-lab-{button.description.lower().replace(' ', '-')}")
        self.train.on_click(self._pressed_train)
        self.pause.on_click(self._pressed_pause)
        self.step.on_click(self._pressed_step)
        self.stop.on_click(self._pressed_stop)
        self.clear.on_click(self._pressed_clear)
        self.show_code.observe(self._dial_moved, "value")
        self._buttons = ipw.HBox(
            [self.train, self.pause, self.step, self.stop, self.clear, self.show_code],
            layout={"flex_flow": "row wrap"},
        )

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
        """Every derived number, at once, also while training."""
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
        columns = [("on the dial", settings.model)]
        if settings.model != settings.twin:
            columns.append(("dense twin", settings.twin))
        rows: dict[str, list[str]] = {
            name: []
            for name in (
                "experts that work",
                "total weights",
                "active weights",
                "tokens",
                "steps",
                "time here",
                "nearby run (dotted)",
                "expected loss",
            )
        }
        for _, model in columns:
            params = count_parameters(model)
            bought = plan(model, settings.run)
            seconds = self._session.speed.seconds(model, settings.run) if self._session.speed else None
            cells = (
                f"{model.top_k} of {model.n_experts}",
                f"{params.total:,}",
                f"{params.active:,}",
                f"{bought.tokens:,}",
                f"{bought.steps:,}",
                "measuring…" if seconds is None else duration(seconds),
                measured_label(shipped.nearest(model, settings.run)),
                expected_label(shipped.expected(model, settings.run)),
            )
            for name, cell in zip(rows, cells, strict=True):
                rows[name].append(cell)
        return table(["", *(title for title, _ in columns)], [[name, *cells] for name, cells in rows.items()])

    def _settings_pasted(self, _change: Any) -> None:
        with self._lock:
            if self.share.value == self.settings.to_json():
                return
            try:
                wanted = Settings.from_json(self.share.value)
            except (ValueError, TypeError) as error:
                self._say_problem(error)
                return
            self.dials.set(wanted)

    def _offer(self, model: ModelConfig, run: RunConfig) -> None:
        """Puts the dials where a dead kernel's run stood, so that Train goes on with it."""
        for hold in ("active", "total"):
            settings = Settings(
                sparsity=model.sparsity,
                budget=run.budget,
                width=model.d_model,
                hold=hold,
                seed=run.seed,
                corpus=run.corpus,
                backend=run.backend,
            )
            if settings.model == model and resolve(model, settings.run) == run:
                self.dials.set(settings)
                self._session.message = (
                    "A run was cut off; the dials stand where it stood. Press Train to go on with it."
                )

    def _say_problem(self, error: Exception) -> None:
        self._problem.value = f'<div role="alert"><b>Can\'t do that:</b> {html.escape(str(error))}</div>'

    # ---- buttons

    def _pressed_train(self, _button: Any) -> None:
        self._start(paused=False)

    def _pressed_step(self, _button: Any) -> None:
        if self._session.trains:
            self._session.step()
        else:
            self._start(paused=True)

    def _start(self, paused: bool) -> None:
        try:
            self._session.start(self.settings.pairs, paused)
            self._problem.value = ""
        except ValueError as error:
            self._say_problem(error)
        self._refresh()

    def _pressed_pause(self, _button: Any) -> None:
        if self._session.state == "paused":
            self._session.proceed()
        else:
            self._session.pause()
        self._refresh()

    def _pressed_stop(self, _button: Any) -> None:
        self._session.stop()

    def _pressed_clear(self, _button: Any) -> None:
        self._session.clear()
        self._refresh()

    # ---- what the session reports, up to ten times a second, from its thread

    def _refresh(self) -> None:
        with self._lock:
            session = self._session
            lanes = session.lanes
            share = sum(lane.share for lane in lanes) / len(lanes) if lanes else 0.0
            left = sum(lane.last.seconds_left for lane in lanes if lane.last and lane.record is None)
            running = session.state in ("running", "paused") and session.busy
            going = f" {share:.0%}, {duration(left)} left." if running and lanes and lanes[0].last else ""
            self._progress.value = share
            self._status.value = f'<div role="status">{html.escape(session.message + going)}</div>'
            self.pause.description = "Go on" if session.state == "paused" else "Pause"
            self._draw()
            self._summary.value = self._summary_text(lanes)
            if session.speed is not self._speed:
                self._speed = session.speed
                self._dial_moved()
            self._texts.value = samples(lanes[0].text_before, lanes[0].text_after) if lanes else ""

    def _draw(self) -> None:
        lanes = self._session.lanes
        load = [stats.load for stats in lanes[0].routing] if lanes else []
        self._figure.show(self._ghosts(), self._live(), load)
        shown = [record.label + record.status for record in self._session.records]
        if shown != self._shown:
            self._shown = shown
            self._runs.value = self._runs_table()

    def _live(self) -> list[Line]:
        """Label, role, FLOPs and loss of the runs in front."""
        lines = []
        for lane in self._session.lanes:
            role = "this" if lane is self._session.lanes[0] else "dense"
            if lane.record is not None:
                curve = lane.record.curve
            elif lane.training is not None and lane.last is not None:
                curve = decimate(lane.training.losses, lane.last.flops // lane.last.step)
            else:
                continue
            lines.append((run_label(lane.model, lane.run), role, curve["flops"], curve["loss"]))
        return lines

    def _ghosts(self) -> list[Line]:
        front = {run_label(lane.model, lane.run) for lane in self._session.lanes}
        lines = []
        for record in self._session.records:
            label = record.label
            if label not in front and record.run["corpus"] == self.settings.corpus:
                lines.append((label, "ghost", record.curve["flops"], record.curve["loss"]))
        return lines[-GHOSTS:]

    def _measured(self) -> list[Line]:
        """The runs that ship with the suite and are nearest to where the dials stand."""
        settings, lines = self.settings, []
        for role, (model, run) in zip(("measured", "measured dense"), settings.pairs, strict=False):
            record = shipped.nearest(model, run)
            if record is not None:
                label = f"measured: {record.label}"
                lines.append((label, role, record.curve["flops"], record.curve["loss"]))
        return lines[::-1]

    def _summary_text(self, lanes: list[Lane]) -> str:
        """The plot in words, for those who can't see it."""
        sentences = []
        for label, _, flops, loss in self._live():
            x, y = training.smooth(flops, loss)
            if len(y):
                sentences.append(f"{label}: training loss {y[-1]:.3f} after {x[-1]:.3g} FLOPs.")
        sentences += [self.verdict(), *self._as_expected()]
        for stats in lanes[0].routing if lanes else []:
            sentences.append(f"Busiest expert: {stats.max_load:.1f} times its even share; {stats.dead} without work.")
        return f'<div role="note">{html.escape(" ".join(sentences))}</div>'

    def _as_expected(self) -> list[str]:
        """Whether the law that ships was right about the runs in front."""
        sentences = []
        for lane in self._session.lanes:
            told = shipped.expected(lane.model, lane.run)
            if told is not None and lane.record is not None and lane.record.val_loss is not None:
                inside = told.low <= lane.record.val_loss <= told.high
                sentences.append(
                    f"Expected of {run_label(lane.model, lane.run)}: {expected_label(told)}; "
                    f"it ended {'inside' if inside else 'outside'}."
                )
        return sentences

    def _runs_table(self) -> str:
        rows = [
            [
                record.label,
                f"{record.params_total:,}",
                f"{record.params_active:,}",
                "–" if record.val_loss is None else f"{record.val_loss:.3f}",
                record.status,
            ]
            for record in self._session.records[-8:]
        ]
        if not rows:
            return ""
        return "<b>Runs so far</b>" + table(["run", "total", "active", "held-out loss", "status"], rows)


def _text(css_class: str, **layout: str) -> ipw.HTML:
    widget = ipw.HTML(layout=layout)
    widget.add_class(css_class)
    return widget
