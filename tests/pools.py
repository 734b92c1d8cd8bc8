"""A pool whose workers are threads of this process, for tests that disturb what trains."""

import pickle
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any


class ThreadLine:
    """A worker's side of a job."""

    def __init__(self, hear: Callable[[Any], None], said: "queue.Queue[Any]"):
        self._hear, self._said = hear, said

    def tell(self, news: Any) -> None:
        self._hear(pickle.loads(pickle.dumps(news)))

    def heard(self, seconds: float = 0.0) -> list[Any]:
        found = []
        with suppress(queue.Empty):
            found.append(self._said.get(timeout=seconds) if seconds else self._said.get_nowait())
            while True:
                found.append(self._said.get_nowait())
        return found


class ThreadJob:
    def __init__(self, call: Callable[..., Any], hear: Callable[[Any], None]):
        self.future: Future[Any] = Future()
        self._call, self._said = call, queue.Queue[Any]()
        self._line = ThreadLine(hear, self._said)
        threading.Thread(target=self._work, name="worker", daemon=True).start()

    def send(self, message: Any) -> None:
        self._said.put(message)

    def result(self, timeout: float | None = None) -> Any:
        return self.future.result(timeout)

    def _work(self) -> None:
        try:
            self.future.set_result(self._call(self._line))
        except BaseException as error:
            self.future.set_exception(error)


class ThreadPool:
    """Like `Pool`, as far as a dashboard uses it. Give it one core: threads share the random numbers of weights."""

    def submit(
        self, function: Any, *arguments: Any, hear: Callable[[Any], None] = lambda news: None, at_once: bool = False
    ) -> ThreadJob:
        copies = pickle.loads(pickle.dumps(arguments))
        return ThreadJob(lambda line: function(line, *copies), hear)
