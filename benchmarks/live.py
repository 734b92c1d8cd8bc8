"""What the dashboard costs a training: steps a second with it, over those of a plain script.

The widgets' messages are built and serialised as for a browser, and then dropped: there is none. The browser's side is
measured by `benchmarks.browser`.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comm
from comm.base_comm import BaseComm

from benchmarks.timing import Row, at_least
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
        live = live_rate()
        kilobytes.append((Dropped.sent - sent) / SECONDS / 1e3)
        shares.append(live / (plain + plain_rate()) * 2)
    note = f" ({statistics.median(kilobytes):.0f} kB/s of messages)"
    yield at_least("live: steps/s with the dashboard over a plain script's", statistics.median(shares), 0.9, note)


def plain_rate() -> float:
    training = Training(*_pair())
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        training.step()
        steps += 1
    return steps / (time.perf_counter() - start)


def live_rate() -> float:
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder))
        dial = MagicDial(session=session, calibrate=False, budget=BUDGET, width=32, dense_twin=False)
        dial.train.click()
        while not (session.lanes and session.lanes[0].last):
            time.sleep(0.01)
        first, start = session.lanes[0].last.step, time.perf_counter()
        time.sleep(SECONDS)
        last, seconds = session.lanes[0].last.step, time.perf_counter() - start
        session.clear()
    return (last - first) / seconds


def _pair() -> Any:
    from sparsity_lab.widgets.settings import Settings

    return Settings(budget=BUDGET, width=32, dense_twin=False).pairs[0]
