"""Runs that train on a cluster of Dask, and what becomes of them.

Cluster and this process may lose each other at any moment. What was under way is then handed out again: runs are locked
while they are trained, and resume from their checkpoints.
"""

import pickle
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from distributed import Client, Future, get_worker, wait
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import run_id
from sparsity_lab.runs.crew import Ended
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.pool import WorkerDied, pack
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.worker import train_run

SECONDS_WITHOUT_SCHEDULER = 600.0  # how long a sweep waits for its scheduler to come back
LOST = (CancelledError, ClosedClientError, OSError)  # what a client's calls raise once its scheduler is lost


class Cluster:
    """Trains ``pairs`` with the workers of a ``scheduler``, as `Crew` does in the pool."""

    def __init__(
        self, scheduler: str, pairs: Sequence[Pair], folder: Path, hear: Callable[[str, float], None], curve_points: int
    ):
        self._scheduler, self._queue, self._folder = scheduler, list(pairs), folder
        self._hear, self._curve_points = hear, curve_points
        self._topic = f"sparsity-lab-{uuid.uuid4().hex}"
        self._stop_file = folder / f".stop-{uuid.uuid4().hex}"
        self._client: Client | None = None
        self._under_way: dict[Future[bytes], Pair] = {}
        self.threads, self._stopped = 1, False
        self._answered = time.monotonic()  # when the scheduler was there last

    @property
    def working(self) -> bool:
        return bool(self._under_way or (self._queue and not self._stopped))

    def ended(self, seconds: float) -> list[tuple[Pair, Ended]]:
        """Returns the runs that have ended, waiting up to ``seconds`` for the first, or some more for the scheduler.
        Raises TimeoutError if that does not answer for `SECONDS_WITHOUT_SCHEDULER`."""
        if self._client is None:
            self._connect()
            return []
        try:
            self._hand_out(self._client)
            return self._collect(self._client, seconds)
        except LOST:
            self._leave()
            return []

    def stop(self) -> None:
        """Lets runs under way save a checkpoint and end, and begins no more. They still have to be waited for."""
        self._stopped = True
        self._stop_file.touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()
        self._stop_file.unlink(missing_ok=True)

    def _connect(self) -> None:
        try:
            client = Client(self._scheduler, timeout=5, set_as_default=False)
            client.subscribe_topic(self._topic, lambda event: self._hear(*event[1]))
            self._client = client
        except OSError:
            if time.monotonic() - self._answered > SECONDS_WITHOUT_SCHEDULER:
                raise TimeoutError(f"scheduler={self._scheduler!r} does not answer: is it running?") from None

    def _leave(self) -> None:
        client, self._client = self._client, None
        self._under_way.clear()
        self._answered = time.monotonic()
        if client is not None:
            with suppress(*LOST):
                client.close(timeout=5)

    def _hand_out(self, client: Client) -> None:
        """Hands out as many runs as there are threads, or one that waits for the first worker."""
        found = client.scheduler_info(n_workers=-1)["workers"].values()
        self.threads = max(1, sum(int(worker["nthreads"]) for worker in found))
        if self._stopped:
            if not found:  # no worker is there to stop
                self._under_way.clear()
            return

        waiting = [pair for pair in self._queue if pair not in self._under_way.values()]
        for pair in waiting[: max(0, self.threads - len(self._under_way))]:
            arguments = *pair, RunStore(self._folder), self._stop_file, self._topic, self._curve_points
            key = f"{self._topic}-{run_id(*pair)}"
            self._under_way[client.submit(train_in_worker, *arguments, key=key, pure=False)] = pair

    def _collect(self, client: Client, seconds: float) -> list[tuple[Pair, Ended]]:
        """Raises one of `LOST` if the scheduler is gone."""
        with client.as_current(), suppress(TimeoutError):
            wait(list(self._under_way), timeout=seconds, return_when="FIRST_COMPLETED")
        if client.status != "running":
            raise CancelledError

        found = {future: _ended(future) for future in self._under_way if future.done()}
        pairs = [self._under_way.pop(future) for future in found]
        self._queue = [pair for pair in self._queue if pair not in pairs]
        return list(zip(pairs, found.values(), strict=True))


def _ended(future: Future[bytes]) -> Ended:
    error = future.exception(timeout=30)
    if isinstance(error, KilledWorker):
        return WorkerDied()
    if error is not None:
        return error
    packed = future.result(timeout=30)
    try:
        return pickle.loads(packed)
    except Exception as foreign:
        return foreign


def train_in_worker(
    model: ModelConfig, run: RunConfig, store: RunStore, stop_file: Path, topic: str, curve_points: int
) -> bytes:
    """Does in a worker of Dask what `train_run` does, until the ``stop_file`` is there. Returns its result or its error
    as `pack` makes it: one that Dask can't pickle would leave its client waiting forever."""
    try:
        tell = partial(_tell, topic, run_id(model, run))
        return pickle.dumps(train_run(model, run, store, tell, stop_file.exists, curve_points=curve_points))
    except Exception as error:
        return pack(error)


def _tell(topic: str, name: str, share: float) -> None:
    get_worker().log_event(topic, (name, share))
