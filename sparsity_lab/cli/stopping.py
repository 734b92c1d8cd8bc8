"""Ctrl-C, and the SIGTERM of a cluster whose time is up: the first one asks a verb to stop, the second one ends it."""

import os
import signal
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Tells, within a ``with``, whether to stop. Where ``again`` is False, later signals change nothing: `torchrun`
    passes on those that its processes have had already."""

    def __init__(self, again: bool = True):
        self._again = again
        self.signal = 0

    def __call__(self) -> bool:
        return self.signal > 0

    @property
    def status(self) -> int:
        """The exit status of a program that a signal has ended, as a shell has it: 130 or 143."""
        return 128 + (self.signal or signal.SIGTERM)  # which another process of `torchrun` has heard

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal and self._again:
            os._exit(128 + number)
        self.signal = self.signal or number
