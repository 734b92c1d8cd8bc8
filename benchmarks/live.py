"""What the dashboard costs a training: steps per second with it, over those of a plain script. And what it gains by
training its two lanes at the same time.

The widgets' messages are built and serialised as for a browser, and then dropped: there is none. The browser's side is
measured by `benchmarks.browser`.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import comm
import numpy as np
from comm.base_comm import BaseComm

from benchmarks.timing import Row, at_least
from sparsity_lab.runs.pool import cores
from sparsity_lab.training.trainer import Training
from sparsity_lab.widgets.dashboard import MagicDial
from sparsity_lab.widgets.session import Session

SECONDS = 8.0  # of training, a turn
TURNS = 3
BUDGET = 1e13


class Dropped(BaseComm):
    """Serialises what it is given, as a kernel does, and counts it."""

    sent = 0

    def publish_msg(
        self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **keys: Any
    ) -> None:
        Dropped.sent += len(json.dumps(data, default=str)) + sum(len(bytes(b)) for b in buffers or [])


def rows() -> Iterator[Row]:
    comm.create_comm = Dropped
    shares, kilobytes = [], []
    for _ in range(TURNS):
        plain = plain_rate()
        sent = Dropped.sent
        (live,), _ = watched(1, dense_twin=False)
        kilobytes.append((Dropped.sent - sent) / SECONDS / 1e3)
        shares.append(live / (plain + plain_rate()) * 2)
    note = f" ({statistics.median(kilobytes):.0f} kB/s of messages)"
    yield at_least("live: steps/s with the dashboard over a plain script's", statistics.median(shares), 0.9, note)

    gains = []
    for _ in range(TURNS):
        (in_turns, seconds), (together, _) = watched(1), watched(2)
        gains.append(np.dot(together, seconds) / np.dot(in_turns, seconds))
    what = "live: both lanes' steps/s, a step counting as the seconds it takes, over one thread's that takes turns"
    yield at_least(what, statistics.median(gains), 1.6, f" ({cores()} cores here)")


def plain_rate() -> float:
    training = Training(*_pair())
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        training.step()
        steps += 1
    return steps / (time.perf_counter() - start)


def watched(n_cores: int, dense_twin: bool = True) -> tuple[list[float], list[float]]:
    """Steps per second of each lane of a dashboard, and the seconds that a step of it takes without pauses."""
    settings = {"SPARSITY_LAB_CORES": str(n_cores), "SPARSITY_LAB_COMPILE": "0"}
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, settings):
        session = Session(Path(folder))
        dial = MagicDial(session=session, calibrate=False, budget=BUDGET, width=32, dense_twin=dense_twin)
        dial.buttons.train.click()
        while not (session.lanes and all(lane.last for lane in session.lanes)):
            time.sleep(0.01)
        first, start = _steps(session), time.perf_counter()
        time.sleep(SECONDS)
        last, seconds = _steps(session), time.perf_counter() - start
        of_a_step = [lane.last.seconds / lane.last.step for lane in session.lanes if lane.last is not None]
        session.clear()
    return [(after - before) / seconds for before, after in zip(first, last, strict=True)], of_a_step


def _steps(session: Session) -> list[int]:
    return [lane.last.step for lane in session.lanes if lane.last is not None]


def _pair() -> Any:
    from sparsity_lab.widgets.settings import Settings

    return Settings(budget=BUDGET, width=32, dense_twin=False).pairs[0]
