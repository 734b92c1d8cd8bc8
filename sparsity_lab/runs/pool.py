"""Worker processes of one thread each, in which everything trains: one pool for a kernel, started at the first need.

    job = pool().submit(function, argument)
    job.result()

A job's function gets a `Line` to its caller before its arguments. It should ask now and then what was `heard`, because
a stop comes that way. Functions and arguments may come from a notebook, results and news are of modules' classes.
"""

import atexit
import ctypes
import gc
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import cloudpickle

from sparsity_lab.files import StrangeFile

CONTAINER = Path("/sys/fs/cgroup/cpu.max")  # Linux: microseconds of processor time per so many of the clock
TRIES = 4  # of a job whose worker dies under it
SPARE = 2  # workers beyond the number of cores that stay once they were needed at once: the lanes of a dashboard


def memory() -> float:
    """Returns the bytes of this machine's memory; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf


class WorkerDied(RuntimeError):
    """Every worker that had this job has died."""

    def __init__(self, text: str = "every worker that had it died; was there too little memory?"):
        super().__init__(text)


def cores() -> int:
    """Returns how many cores training may use: ``$SPARSITY_LAB_CORES``; or what JupyterHub gives a user
    (``$CPU_LIMIT``); or those that this process may run on, less where a container has a limit."""
    for name in ("SPARSITY_LAB_CORES", "CPU_LIMIT"):
        if text := os.environ.get(name):
            try:
                return max(1, int(float(text)))
            except (ValueError, OverflowError):
                raise ValueError(f"{name}={text!r} must be a number of cores, such as {name}=2") from None
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # where there is no such file, or no limit
        limit, period = CONTAINER.read_text().split()
        allowed = min(allowed, math.ceil(int(limit) / int(period)))
    return allowed


class Line:
    """A worker's side of a job."""

    def __init__(self, connection: Connection, number: int):
        self._connection, self._number = connection, number

    def tell(self, news: Any) -> None:
        """Sends something to whoever handed the job out. Raises BrokenPipeError if they are gone."""
        self._connection.send(("news", self._number, pickle.dumps(news)))

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

    def __init__(self, pool: "Pool", call: "_Call", hear: Callable[[Any], None], at_once: bool):
        self.future: Future[Any] = Future()
        self._pool, self._call, self._hear, self._at_once = pool, call, hear, at_once
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
            waiting = self in self._pool._queue and self.future.cancel()
            if waiting:
                self._pool._queue.remove(self)
                self.future.set_running_or_notify_cancel()  # or nobody who waits for it is woken
            return waiting

    def result(self, timeout: float | None = None) -> Any:
        """Waits for what the function returns, and raises what it raised. Raises `WorkerDied`, TimeoutError."""
        return self.future.result(timeout)


class Pool:
    """``size`` worker processes (default: `cores`), and up to `SPARE` more. They start when they are needed, a new one
    replaces one that dies, and they end with this process. With ``gpus``, there is one for each, which sees no other
    GPU: their names, as ``$CUDA_VISIBLE_DEVICES`` takes them, some perhaps several times."""

    def __init__(self, size: int | None = None, gpus: Sequence[str] = ()):
        self.size = size or len(gpus) or cores()
        self._gpus = gpus
        self._lock = threading.RLock()
        self._queue: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._ear, self._bell = multiprocessing.Pipe(duplex=False)  # wakes the thread that listens
        self._rung = self._closed = False
        atexit.register(self.close)  # before multiprocessing waits for its processes
        threading.Thread(target=self._work, name="pool", daemon=True).start()

    def submit(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        hear: Callable[[Any], None] = lambda news: None,
        at_once: bool = False,
    ) -> Job:
        """Hands out ``function(line, *arguments)``, to be called in this folder and with these settings, and returns
        at once. With ``at_once`` the job does not wait for a free worker: one more is started if none is, for somebody
        who looks on."""
        call = cloudpickle.dumps((function, arguments)), os.getcwd(), list(sys.path), _settings()
        job = Job(self, call, hear, at_once)
        with self._lock:
            if self._closed:
                raise RuntimeError("this pool is closed")
            (self._queue.appendleft if at_once else self._queue.append)(job)
            self._ring()
        return job

    def close(self) -> None:
        """Ends all workers at once, whatever they do."""
        atexit.unregister(self.close)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for job in list(self._queue):
                if not job.cancel():  # a worker died under it
                    job.future.set_exception(WorkerDied())
            self._queue.clear()
            for worker in self._workers:
                worker.process.kill()
            self._ring()

    def _ring(self) -> None:
        if not self._rung:  # a pipe that is full would block
            self._rung = True
            self._bell.send(None)

    # ---- the pool's thread, in which all processes start, because a start takes 20 ms and the first one a second

    def _work(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # Ctrl-C reaches all processes of a terminal, also while they start
            resource_tracker.ensure_running()  # because its start would unblock the signal
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with suppress(Exception):
            self._hire()  # so that the first job finds a worker
        while not self._closed or self._workers:
            self._hand_out()
            by_connection = {worker.connection: worker for worker in self._workers}
            for ready in wait([self._ear, *by_connection]):
                if ready is self._ear:
                    with self._lock:
                        self._ear.recv()
                        self._rung = False
                else:
                    self._receive(by_connection[cast(Connection, ready)])

    def _hand_out(self) -> None:
        while (job := self._next()) is not None:
            try:
                worker = next((worker for worker in self._workers if worker.job is None), None) or self._hire()
            except Exception as error:  # no process can be had
                self._lose(job, error)
                continue
            with self._lock:
                worker.job, job._worker = job, worker
                worker.call(job)

    def _hire(self) -> "_Worker":
        busy = [worker.gpu for worker in self._workers]
        worker = _Worker(min(self._gpus, key=lambda gpu: busy.count(gpu) / self._gpus.count(gpu), default=None))
        with self._lock:
            self._workers.append(worker)
            if self._closed:
                worker.process.kill()
        return worker

    def _next(self) -> Job | None:
        """Takes the job out of the queue that may begin now."""
        with self._lock:
            free = sum(worker.job is not None for worker in self._workers) < self.size
            while self._queue and (free or self._queue[0]._at_once):
                job = self._queue.popleft()
                if job._deaths or job.future.set_running_or_notify_cancel():
                    return job
            return None

    def _receive(self, worker: "_Worker") -> None:
        try:
            kind, number, packed = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        job = worker.job
        if job is None or number != worker.number:
            return
        if kind == "news":
            with suppress(Exception):  # the listener's own; other jobs must go on being heard
                job._hear(pickle.loads(packed))
            return
        if kind == "warning":
            with suppress(Warning):  # where warnings are errors, it has nobody to stop here
                warnings.warn(packed, StrangeFile, stacklevel=2)
            return
        with self._lock:
            worker.job = job._worker = None
            if len(self._workers) > self.size + SPARE:
                self._workers.remove(worker)
                worker.connection.close()
        try:
            content = pickle.loads(packed)
        except Exception as error:
            kind, content = "failed", error
        (job.future.set_result if kind == "done" else job.future.set_exception)(content)

    def _bury(self, worker: "_Worker") -> None:
        with self._lock:
            job, worker.job = worker.job, None
            self._workers.remove(worker)
            worker.connection.close()
            if job is not None:
                job._worker = None
        if job is not None:
            self._lose(job)

    def _lose(self, job: Job, cause: Exception | None = None) -> None:
        """Lets a job whose worker died be tried again, or gives it up."""
        job._deaths += 1
        with self._lock:
            again = job._deaths < TRIES and not self._closed
            if again:
                self._queue.appendleft(job)
        if not again:
            error = WorkerDied()
            error.__cause__ = cause
            job.future.set_exception(error)


_Call = tuple[bytes, str, list[str], dict[str, str]]  # the function and its arguments; folder, path and settings


class _Worker:
    """A process and the connection to it."""

    def __init__(self, gpu: str | None = None) -> None:
        context = _context()
        self.gpu = gpu
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, gpu), daemon=True, name="sparsity-lab")
        with theirs, _nothing_to_import():
            self.process.start()
        self.job: Job | None = None
        self.number = 0  # of its present job

    def call(self, job: Job) -> None:
        self.number += 1
        self._send(("call", self.number, job._call))
        for message in job._said:
            self.say(message)

    def say(self, message: Any) -> None:
        self._send(("say", self.number, message))

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # it has died, which the pool hears as well
            self.connection.send(message)


_method = "forkserver" if sys.platform == "linux" else "spawn"  # torch can be forked on Linux alone


def _context() -> Any:
    context = multiprocessing.get_context(_method)
    if _method == "forkserver":
        context.set_forkserver_preload(["sparsity_lab.runs.forked"])
    return context


@contextmanager
def _nothing_to_import() -> Iterator[None]:
    """Hides a main module that a new process would import: jobs need nothing from there, and a script without
    ``if __name__ == "__main__"`` would run twice."""
    main = sys.modules["__main__"]
    if hasattr(main, "__file__"):  # and not a notebook
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("SPARSITY_LAB_")}


def _serve(connection: Connection, gpu: str | None) -> None:
    """Does jobs until whoever hands them out is gone."""
    if gpu is not None:  # CUDA reads it when it is first used, and nothing that this process is a copy of has used it
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal or a cluster sends to all processes
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            kind, number, content = connection.recv()
            if kind == "call":
                connection.send(_answer(Line(connection, number), number, *content))
                _give_back()


def _give_back() -> None:
    """Returns to the system what a job has freed, on Linux, where freed memory would stay with the process."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than GNU's
            ctypes.CDLL(None).malloc_trim(0)


def _answer(line: Line, number: int, call: bytes, folder: str, path: list[str], settings: dict[str, str]) -> Any:
    for name in _settings().keys() - settings.keys():
        del os.environ[name]
    os.environ.update(settings)
    sys.path[:] = path
    warnings.showwarning = partial(_pass_on, line)
    try:
        os.chdir(folder)
        function, arguments = pickle.loads(call)
        return "done", number, pickle.dumps(function(line, *arguments))
    except (EOFError, BrokenPipeError):
        raise
    except BaseException as error:
        return "failed", number, pack(error)


def _pass_on(line: Line, message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Shows a warning: one about a file to the user, wherever they are, any other in this process."""
    if issubclass(category, StrangeFile):
        line._connection.send(("warning", line._number, str(message)))
    else:
        warnings._showwarning_orig(message, category, *where)  # type: ignore[attr-defined]


def pack(error: BaseException) -> bytes:
    """Pickles an error, with its traceback as a note. One that can't travel becomes a RuntimeError."""
    note = f"In a worker:\n{''.join(traceback.format_exception(error)).rstrip()}"
    try:
        if not isinstance(error, Exception):
            raise TypeError("it would end the caller")
        packed = pickle.dumps(error)
        pickle.loads(packed)
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(note)
    return pickle.dumps(error)


@cache
def pool() -> Pool:
    """Returns this process's pool, which the first call makes. Its first worker is ready a second later."""
    return Pool()


def _forget() -> None:
    """Leaves workers, and what they are forked from, to the process of which this one is a fork."""
    global _method
    _method = "spawn"
    if pool.cache_info().currsize:
        atexit.unregister(pool().close)
        for worker in pool()._workers:
            worker.connection.close()
        pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
