"""The buttons of a dashboard and what they do: train what the dials show, pause it, end it, hide it."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets as ipw

from sparsity_lab.accounting import training_memory
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.runs.pool import memory
from sparsity_lab.training.corpus import check_corpus
from sparsity_lab.training.timing import Speed
from sparsity_lab.units import size
from sparsity_lab.widgets import place
from sparsity_lab.widgets.controls import Dials
from sparsity_lab.widgets.session import Session
from sparsity_lab.widgets.settings import Settings

USUAL = 1e11  # FLOPs per second of a processor, until its speed is known
SETTLED = 0.4  # seconds after which a slider has told its last move
LONGEST = 7 * 24 * 3600  # seconds of training that a dashboard starts


class Buttons:
    """Train, Pause, Step and Stop in a ``row``; Clear, Reset and Copy link among the ``tools``.

    ``start`` is where Reset moves the dials, and ``lanes`` are the runs that this dashboard trains or has trained last.
    ``started`` is called when a training begins, ``pressed`` after every press, and `moved` when the dials have moved.
    """

    def __init__(
        self, session: Session, dials: Dials, *, started: Callable[[], None], pressed: Callable[[], None]
    ):  # fmt: skip
        self._session, self._dials, self._started, self._after = session, dials, started, pressed
        self._moved_at = 0.0  # by the monotonic clock
        self.start = dials.settings
        self.lanes: list[Lane] = []

        self.train = ipw.Button(description="Train", button_style="primary", tooltip="train what the dials show")
        self.pause = ipw.Button(description="Pause", tooltip="pause, or resume")
        self.step = ipw.Button(description="Step", tooltip="make one training step, then pause")
        self.stop = ipw.Button(description="Stop", tooltip="end the run and keep it for comparison")
        self.clear = ipw.Button(description="Clear", tooltip="hide all runs; the saved results stay on disk")
        self.reset = ipw.Button(description="Reset", tooltip="move the dials back to where they began")
        tooltip = "copy the address of this page with these settings; a text of your own is not in it"
        self.copy = ipw.Button(description="Copy link", tooltip=tooltip)

        actions: list[tuple[ipw.Button, Callable[[], None]]] = [(self.train, self._train), (self.step, self._step)]
        actions += [(self.pause, self._pause_or_resume), (self.stop, session.stop)]
        actions += [(self.clear, self._clear_or_undo), (self.reset, self._reset), (self.copy, lambda: None)]
        for button, action in actions:
            button.add_class(f"sparsity-lab-{button.description.lower().replace(' ', '-')}")
            button.on_click(partial(self._pressed, action))
        self.row = ipw.HBox([self.train, self.pause, self.step, self.stop])
        self.row.add_class("sl-buttons")
        self.tools = ipw.HBox([self.clear, self.reset, self.copy], layout={"flex_flow": "row wrap"})

    @property
    def is_mine(self) -> bool:
        """Whether the session's present training was started here."""
        return self.lanes is self._session.lanes

    def moved(self) -> None:
        """Notes that the dials have just moved."""
        self._moved_at = time.monotonic()

    def refresh(self) -> None:
        """Shows what can be pressed now."""
        session = self._session
        self.pause.description = "Resume" if session.state == "paused" and self.is_mine else "Pause"
        self.pause.disabled = self.stop.disabled = not (self.is_mine and session.trains)
        self.clear.description = "Undo clear" if session.can_undo and not session.trains else "Clear"

    def offer(self, model: ModelConfig, run: RunConfig) -> None:
        """Moves the dials to a dead kernel's run, so that Train resumes it."""
        settings = Settings.of(model, run)
        if settings is not None:
            self._dials.set(settings)
            self._session.message = "A run was cut off, and the dials show it again. Press Train to resume it."

    def _pressed(self, action: Callable[[], None], _button: Any) -> None:
        try:
            action()
        except ValueError as error:
            self._dials.refuse(error)
        self._after()

    def _train(self, paused: bool = False) -> None:
        """Trains what the dials show. A browser holds a slider's last move back while the kernel answers the one before
        it, and lets a press overtake it: then there is a moment to wait for."""
        if place.kernel() is not None and time.monotonic() - self._moved_at < SETTLED:
            threading.Timer(SETTLED, self._pressed, (partial(self._begin, paused), None)).start()
        else:
            self._begin(paused)

    def _begin(self, paused: bool = False) -> None:
        settings = self._dials.settings
        check_trainable(settings, self._session.speed)
        self.lanes = self._session.start(settings.pairs, paused)  # not with a lock: it waits for a last report
        self._dials.accept()
        self._started()

    def _step(self) -> None:
        if self._session.trains and self.is_mine:
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
            self.lanes = self.lanes or self._session.lanes
        else:
            self._session.clear()
            self.lanes = []

    def _reset(self) -> None:
        self._dials.set(self.start)


def check_trainable(settings: Settings, speed: Speed | None) -> None:
    """Raises ValueError for what can't be trained here, before anything that runs is ended."""
    try:
        check_corpus(settings.corpus)
    except OSError as error:
        raise ValueError(f"corpus={settings.corpus!r} can't be read: {error}") from None

    seconds = settings.budget / USUAL if speed is None else max(speed.seconds(*pair) for pair in settings.pairs)
    if seconds > LONGEST:
        days = f"about {seconds / 86_400:,.0f} days"
        raise ValueError(f"budget={settings.budget:.3g} would take {days} here: choose a smaller one")
    needed = max(training_memory(model, 0).total for model, _ in settings.pairs)
    if needed > memory() / 2:
        raise ValueError(
            f"width={settings.width} needs {size(needed)}, over half of the memory here: choose a smaller one"
        )
