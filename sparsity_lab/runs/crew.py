"""Runs that train in the pool, and what becomes of them."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from typing import Self

from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.pool import Job, Pool
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.worker import CURVE_POINTS, Score, train_in_pool

SECONDS_TO_STOP = 10.0  # that `with` waits for its runs: a step and a checkpoint take less, a score may take more

Ended = Record | Exception | None  # None if it was stopped


class Crew:
    """Trains ``pairs`` in a pool, the first ones first, those whose `run_id` is in ``compiled`` by compiled code;
    ``hear`` gets a run's name and the share of it that is done, in another thread. At the end of a ``with``, whatever
    ended it, runs under way save a checkpoint and end."""

    def __init__(
        self,
        pool: Pool,
        pairs: Sequence[Pair],
        store: RunStore,
        hear: Callable[[str, float], None],
        score: Score | None = None,
        curve_points: int = CURVE_POINTS,
        compiled: Collection[str] = (),
    ):
        self.threads = pool.size
        self._pool, self._waiting, self._hear = pool, deque(pairs), hear
        self._rest, self._compiled = (store, score, curve_points), compiled
        self._jobs: dict[Job, Pair] = {}
        self._stopped = False

    @property
    def working(self) -> bool:
        return bool(self._waiting or self._jobs)

    def ended(self, seconds: float) -> list[tuple[Pair, Ended]]:
        """Returns the runs that have ended, waiting up to ``seconds`` for the first."""
        while self._waiting and len(self._jobs) < 2 * self._pool.size:  # and not all, because others have runs too
            pair = self._waiting.popleft()
            name = run_id(*pair)
            arguments = *pair, *self._rest, name in self._compiled
            self._jobs[self._pool.submit(train_in_pool, *arguments, hear=partial(self._hear, name))] = pair

        wait([job.future for job in self._jobs], seconds, FIRST_COMPLETED)
        done = [job for job in self._jobs if job.future.done()]
        return [(self._jobs.pop(job), _ended(job)) for job in done]

    def stop(self) -> None:
        """Lets runs under way save a checkpoint and end, and begins no more. They still have to be waited for."""
        self._stopped = True
        self._waiting.clear()
        self._jobs = {job: pair for job, pair in self._jobs.items() if not job.cancel()}
        for job in self._jobs:
            job.send("stop")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._stopped:  # or somebody has waited enough
            self.stop()
            wait([job.future for job in self._jobs], SECONDS_TO_STOP)


def _ended(job: Job) -> Ended:
    error = job.future.exception()
    return job.result() if error is None else error if isinstance(error, Exception) else RuntimeError(repr(error))
