"""A sweep in a notebook: Start, Stop, how far it is and what it will take, while cells go on being run."""

import html
import threading
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as ipw

from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.sweep import Progress, estimate, missing, sweep
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.timing import Speed, calibrate


class SweepPanel(ipw.VBox):
    """Display it as the last expression of a cell. It trains what ``folder`` lacks of ``pairs`` on ``workers``
    processes (default: one a core), once Start is pressed.

    Stop saves what is under way; Start, also in another kernel, goes on from there. Without a browser `run` does it
    all. ``speed`` spares the second of measuring that an estimate takes.
    """

    def __init__(
        self, pairs: Sequence[Pair], folder: Path | str, *, workers: int | None = None, speed: Speed | None = None
    ):
        self.pairs, self.folder, self.workers = list(pairs), Path(folder), workers
        self.progress: Progress | None = None  # since it was started
        self.error: Exception | None = None  # that ended it
        self._speed = speed
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self.start_button = ipw.Button(
            description="Start", button_style="primary", tooltip="train the runs that are missing, or go on"
        )
        self.stop_button = ipw.Button(description="Stop", tooltip="save what is under way, and end", disabled=True)
        self.bar = ipw.FloatProgress(max=1.0, layout={"width": "320px"}, tooltip="share of the work that is done")
        self.status = ipw.HTML()
        super().__init__([ipw.HBox([self.start_button, self.stop_button, self.bar]), self.status])
        self.add_class("sparsity-lab-sweep")
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self._say("Measuring what this machine can do…")
        self._measuring = threading.Thread(target=self._measure, name="sweep-estimate", daemon=True)
        self._measuring.start()

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Comes back at once. Harmless while it runs."""
        with self._lock:
            if self.busy:
                return
            self._halt.clear()
            self.error = None
            self.start_button.disabled, self.stop_button.disabled = True, False
            self._thread = threading.Thread(target=self._sweep, name="sweep", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Comes back at once; `wait` until what is under way is saved."""
        self._halt.set()
        if self.busy:
            self.stop_button.disabled = True
            self._say("Stopping: what is under way is saved.")

    def wait(self, seconds: float | None = None) -> bool:
        """Until the sweep has ended, or so many seconds; says whether it has."""
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.busy

    def run(self) -> Progress:
        """Starts and waits. Raises RuntimeError with the text that the panel shows if something broke."""
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
            if not todo:
                self._say(f"All {len(self.pairs)} runs are in {self.folder}.")
                return
            self._speed = self._speed or calibrate(load_corpus(todo[0][1].corpus))
            text = estimate(todo, self.folder, self.workers, self._speed).summary()
        except Exception as error:
            self._complain(error)
        else:
            self._say(text)

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
