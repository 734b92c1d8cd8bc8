"""A sweep in a notebook: Start, Stop, progress and the time left, while other cells can be run."""

import html
import threading
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as ipw

from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.lanes import measure_speed
from sparsity_lab.runs.pool import pool
from sparsity_lab.runs.sweep import Progress, estimate, missing, sweep
from sparsity_lab.training.timing import Speed
from sparsity_lab.widgets.accessibility import answer_at_once


class SweepPanel(ipw.VBox):
    """The panel of a sweep. Display it as the last expression of a cell. Once Start is pressed, it trains those of
    ``pairs`` that have no record yet on ``workers`` processes (default: one per core) and keeps records in ``folder``.

    Stop saves the runs under way; Start, also in another kernel, resumes them. Without a browser, call `run`. With a
    ``speed`` the estimate takes no second of measuring.
    """

    def __init__(
        self, pairs: Sequence[Pair], folder: Path | str, *, workers: int | None = None, speed: Speed | None = None
    ):
        self.pairs, self.folder, self.workers = list(pairs), Path(folder), workers
        self.progress: Progress | None = None  # since Start
        self.error: Exception | None = None  # that ended the sweep
        self._speed = speed
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None

        tooltip = "train the runs that are missing, or resume"
        self.start_button = ipw.Button(description="Start", button_style="primary", tooltip=tooltip)
        self.stop_button = ipw.Button(description="Stop", tooltip="save the runs under way and end", disabled=True)
        self.bar = ipw.FloatProgress(max=1.0, layout={"width": "320px"}, tooltip="share of the work that is done")
        self.status = ipw.HTML()
        super().__init__([ipw.HBox([self.start_button, self.stop_button, self.bar]), self.status])
        self.add_class("sparsity-lab-sweep")
        answer_at_once(self)
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())

        self._say("Measuring the speed of this machine…")
        self._measuring = threading.Thread(target=self._measure, name="sweep-estimate", daemon=True)
        self._measuring.start()

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Starts the sweep and returns at once. Does nothing while it runs."""
        with self._lock:
            if self.busy:
                return
            self._halt.clear()
            self.error = None
            self.start_button.disabled, self.stop_button.disabled = True, False
            self._thread = threading.Thread(target=self._sweep, name="sweep", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Asks the sweep to stop and returns at once; `wait` until the runs under way are saved."""
        self._halt.set()
        if self.busy:
            self.stop_button.disabled = True
            self._say("Stopping: saving the runs under way…")

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until the sweep has ended, or for ``seconds``; returns whether it has."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def run(self) -> Progress:
        """Starts the sweep and waits for it. Raises RuntimeError with the text that the panel shows if it broke."""
        self.start()
        try:
            self.wait()
        except KeyboardInterrupt:
            self.stop()
            self.wait()
            raise
        if self.error is not None:
            raise RuntimeError(str(self.error)) from self.error
        assert self.progress is not None
        return self.progress

    # ---- in threads, which never print

    def _measure(self) -> None:
        try:
            todo = missing(self.pairs, self.folder)
            if todo:
                self._speed = self._speed or pool().submit(measure_speed, todo[0][1].corpus, at_once=True).result()
                self._say(estimate(todo, self.folder, self.workers, self._speed).summary())
            else:
                self._say(f"All {len(self.pairs)} runs are trained already.")
        except Exception as error:
            self._complain(error)

    def _sweep(self) -> None:
        try:
            self._measuring.join()
            stop = self._halt.is_set
            self.progress = sweep(
                self.pairs, self.folder, workers=self.workers, report=self._report, stop=stop, speed=self._speed
            )
            unfinished = self.progress.done + self.progress.failed < self.progress.total
            self._say(("Stopped. " if unfinished else "") + self.progress.summary())
        except Exception as error:
            self.error = error
            self._complain(error)
        finally:
            self.start_button.disabled, self.stop_button.disabled = False, True

    def _report(self, progress: Progress) -> None:
        self.progress = progress
        self.bar.value = progress.share
        if not self._halt.is_set():
            self._say(progress.summary())

    def _say(self, text: str) -> None:
        self.status.value = f'<div role="status">{html.escape(text)}</div>'

    def _complain(self, error: Exception) -> None:
        self.status.value = f'<b role="alert">{html.escape(str(error) or type(error).__name__)}</b>'
