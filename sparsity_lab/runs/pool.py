"""Worker processes of one thread each, in which everything trains: one pool for a kernel, started at the first need.

    job = pool().submit(function, argument)
    job.result()

A job's function gets a `Line` to its caller before its arguments. It should ask now and then what was `heard`, because
a stop comes that way. Functions, arguments and results travel pickled, so functions are those of modules.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any

TRIES = 4  # of a job whose worker dies under it


class WorkerDied(RuntimeError):
    """Every worker that had this job has died."""


def cores() -> int:
    """Returns how many cores training may use: ``$SPARSITY_LAB_CORES``; or what JupyterHub gives a user
    (``$CPU_LIMIT``); or those that this process may run on, less where a container has a limit."""
    for name in ("SPARSITY_LAB_CORES", "CPU_LIMIT"):
        if text := os.environ.get(name):
            try:
                return max(1, int(float(text)))
            except (ValueError, OverflowError):
                raise ValueError(f"{name}={text!r} must be a number of cores, such as {name}=2") from None
    from dask.system import cpu_count  # reads affinity and the limits of a container

    return int(cpu_count())


class Line:
    """A worker's side of a job."""

    def __init__(self, connection: Connection, number: int):
        self._connection, self._number = connection, number

    def tell(self, news: Any) -> None:
        """Sends something to whoever handed the job out. Raises BrokenPipeError if they are gone."""
        self._connection.send(("news", self._number, news))

    def heard(self, seconds: float = 0.0) -> list[Any]:
        """Returns what was sent to the job since, waiting up to ``seconds`` for the first. Raises EOFError if whoever
        handed it out is gone."""
        found = list[Any]()
        while self._connection.poll(0.0 if found else seconds):
            kind, number, message = self._connection.recv()
            if kind == "say" and number == self._number:  # and not one that came too late for the job before
                found.append(message)
        return found


class Job:
    """A call in a worker, as its caller sees it. ``hear`` gets the job's news, in a thread of the pool."""

    def __init__(self, pool: "Pool", call: bytes, hear: Callable[[Any], None]):
        self.future: Future[Any] = Future()
        self._pool, self._call, self._hear = pool, call, hear
        self._said: list[Any] = []  # also to a worker that takes the job over from one that died
        self._worker: _Worker | None = None
        self._deaths = 0

    def send(self, message: Any) -> None:
        """Sends something to the job's function, now or once it begins. Does nothing if it has ended."""
        with self._pool._lock:
            self._said.append(message)
            if self._worker is not None:
                self._worker.say(message)

    def cancel(self) -> bool:
        """Takes a job out of the queue; returns whether it had not begun."""
        with self._pool._lock:
            waiting = self in self._pool._queue
            if waiting:
                self._pool._queue.remove(self)
                self.future.cancel()
            return waiting

    def result(self, timeout: float | None = None) -> Any:
        """Waits for what the function returns, and raises what it raised. Raises `WorkerDied`, TimeoutError."""
        return self.future.result(timeout)


class Pool:
    """``size`` worker processes (default: `cores`). They start when they are needed, a new one replaces one that dies,
    and they end with this process."""

    def __init__(self, size: int | None = None):
        self.size = size or cores()
        self._lock = threading.RLock()
        self._queue: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._ear, self._bell = multiprocessing.Pipe(duplex=False)  # wakes the thread that listens
        self._closed = False
        threading.Thread(target=self._listen, name="pool", daemon=True).start()

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        hear: Callable[[Any], None] = lambda news: None,
        at_once: bool = False,
    ) -> Job:
        """Hands out ``function(line, *arguments)``. With ``at_once`` it does not wait for a free worker: one more is
        started if none is, for somebody who looks on."""
        job = Job(self, pickle.dumps((function, arguments)), hear)
        with self._lock:
            if self._closed:
                raise RuntimeError("this pool is closed")
            if at_once:
                self._begin(job, self._idle() or self._hire())
            else:
                self._queue.append(job)
                self._hand_out()
        return job

    def close(self) -> None:
        """Ends all workers at once, whatever they do."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.process.kill()
            self._ring()

    # ---- below, everything happens under the lock

    def _idle(self) -> "_Worker | None":
        return next((worker for worker in self._workers if worker.job is None), None)

    def _hire(self) -> "_Worker":
        worker = _Worker()
        self._workers.append(worker)
        self._ring()
        return worker

    def _ring(self) -> None:
        self._bell.send(None)

    def _hand_out(self) -> None:
        while self._queue:
            busy = sum(worker.job is not None for worker in self._workers)
            if busy >= self.size:
                return
            self._begin(self._queue.popleft(), self._idle() or self._hire())

    def _begin(self, job: Job, worker: "_Worker") -> None:
        worker.job, job._worker = job, worker
        worker.call(job)

    def _listen(self) -> None:
        while True:
            with self._lock:
                if self._closed and not self._workers:
                    return
                by_connection = {worker.connection: worker for worker in self._workers}
            for ready in wait([self._ear, *by_connection]):
                assert isinstance(ready, Connection)
                if ready is self._ear:
                    ready.recv()
                else:
                    self._receive(by_connection[ready])

    def _receive(self, worker: "_Worker") -> None:
        try:
            kind, number, content = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        job = worker.job
        if job is None or number != worker.number:
            return
        if kind == "news":
            with suppress(Exception):  # the listener's own; other jobs must go on being heard
                job._hear(content)
            return
        with self._lock:
            worker.job = job._worker = None
            if len(self._workers) > self.size:  # it was one more than there are cores
                self._workers.remove(worker)
                worker.connection.close()
            self._hand_out()
        (job.future.set_result if kind == "done" else job.future.set_exception)(content)

    def _bury(self, worker: "_Worker") -> None:
        with self._lock:
            job, worker.job = worker.job, None
            self._workers.remove(worker)
            worker.connection.close()
            if job is not None:
                job._worker, job._deaths = None, job._deaths + 1
                if job._deaths < TRIES and not self._closed:
                    self._begin(job, self._idle() or self._hire())
                    return
        if job is not None:
            job.future.set_exception(WorkerDied("every worker that had it died; was there too little memory?"))


class _Worker:
    """A process and the connection to it."""

    def __init__(self) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True, name="sparsity-lab")
        with _nothing_to_import():
            self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.number = 0  # of its present job

    def call(self, job: Job) -> None:
        self.number += 1
        self._send(("call", self.number, (job._call, os.getcwd(), _settings())))
        for message in job._said:
            self.say(message)

    def say(self, message: Any) -> None:
        self._send(("say", self.number, message))

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # it has died, which the pool hears as well
            self.connection.send(message)


@cache
def _context() -> Any:
    if sys.platform != "linux":  # the only one on which torch can be forked
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sparsity_lab.runs.forked"])
    return context


@contextmanager
def _nothing_to_import() -> Iterator[None]:
    """Hides the main module, which a new process would import: jobs need nothing from there, and a script without
    ``if __name__ == "__main__"`` would run twice."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("SPARSITY_LAB_")}


def _work(connection: Connection) -> None:
    """Does jobs until whoever hands them out is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the caller sends a stop
    with suppress(EOFError, OSError):
        while True:
            kind, number, content = connection.recv()
            if kind == "call":
                connection.send(_answer(Line(connection, number), number, *content))


def _answer(line: Line, number: int, call: bytes, folder: str, settings: dict[str, str]) -> tuple[str, int, Any]:
    for name in _settings().keys() - settings.keys():
        del os.environ[name]
    os.environ.update(settings)
    try:
        os.chdir(folder)
        function, arguments = pickle.loads(call)
        answer = "done", number, function(line, *arguments)
        pickle.dumps(answer)
        return answer
    except (EOFError, BrokenPipeError):
        raise
    except BaseException as error:
        return "failed", number, _plain(error)


def _plain(error: BaseException) -> BaseException:
    """Returns the error without what can't travel."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@cache
def pool() -> Pool:
    """Returns this process's pool, which the first call makes."""
    return Pool()
