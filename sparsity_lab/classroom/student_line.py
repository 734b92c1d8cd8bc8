"""The grader's side of the socket to a student's Python, and the student's functions as the tests see them.

A call sends arguments into the sandbox and gets data back. Arguments are pickled, since the inner side may know them;
answers are never unpickled. Gradients flow through a call, and functions of a test can be called back.
"""

import base64
import io
import json
import pickle
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from sparsity_lab.classroom.answer_values import LARGEST, from_data, to_data
from sparsity_lab.classroom.sandbox import Sandbox

STARTING = 60  # seconds that Python may take to start
LATE = 3  # seconds that a cell may take to stop
Tried = tuple[str, tuple[Any, ...], dict[str, Any], Any]  # a call: function, arguments, and what came of it


class Gone(Exception):
    """The student's Python has ended, or answers no more."""


class Wrong(Exception):
    """A student's function raised an error, or gave something that is no answer."""


class StudentLine:
    """The socket to the student's Python: one question, one answer, with a time limit."""

    def __init__(self, sandbox: Sandbox, folder: Path):
        ours, theirs = socket.socketpair()
        command = sandbox.command([sys.executable, "-m", "sparsity_lab.classroom.student"], folder)
        self.process = subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL
        )
        theirs.close()
        self.socket, self.buffer, self.number, self.waited = ours, b"", 0, 0.0  # seconds
        self.functions: list[Callable[..., Any]] = []

    def ask(self, do: str, seconds: float, **details: Any) -> dict[str, Any]:
        """Asks, and answers what is asked in return. Raises Gone, and Wrong with the student's error."""
        self.number += 1
        question = {"do": do, "number": self.number, "seconds": seconds, **details}
        start = time.monotonic()
        end = start + seconds + LATE + (0 if self.number > 1 else STARTING)
        self._send(question, end)
        while "ask" in (answer := self._read(end)):
            self._wait_until(end)
            try:
                value = to_data(self.functions[answer["ask"]](*from_data(answer["arguments"])))
            except Exception as error:
                self._send({"error": f"{type(error).__name__}: {error}"}, end)
            else:
                self._send({"value": value}, end)
        self.waited += time.monotonic() - start
        told = answer.get("error")
        if do != "run" and isinstance(told, list) and len(told) == 3:
            raise Wrong(": ".join(str(part) for part in told[:2]))
        return answer

    def _wait_until(self, end: float) -> None:
        """Sets the time that the next step may take. Raises Gone if it is over, however busy the other side is."""
        if (left := end - time.monotonic()) <= 0:
            raise Gone("did not stop")
        self.socket.settimeout(left)

    def _send(self, message: dict[str, Any], end: float) -> None:
        try:
            self._wait_until(end)
            self.socket.sendall(base64.b64encode(pickle.dumps(message)) + b"\n")
        except OSError:
            raise Gone("Python ended") from None

    def _read(self, end: float) -> dict[str, Any]:
        while b"\n" not in self.buffer[-(1 << 16) :] and b"\n" not in self.buffer:
            try:
                self._wait_until(end)
                part = self.socket.recv(1 << 16)
            except TimeoutError:
                raise Gone("did not stop") from None
            except OSError:
                raise Gone("Python ended") from None
            if not part:
                raise Gone("Python ended")
            if len(self.buffer) > LARGEST:
                raise Gone("sent too much")
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError, MemoryError):
            raise Gone("sent something that is no answer") from None
        if not isinstance(answer, dict):
            raise Gone("sent something that is no answer")
        return answer

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()


class Answer:
    """A student's function, as the tests see it."""

    def __init__(self, name: str, line: StudentLine, left: Callable[[], float], tried: deque[Tried]):
        self.__name__, self._line, self._left, self._tried = name, line, left, tried

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.__name__, args, kwargs
        try:
            value = self._called(args, kwargs)
        except Wrong as error:
            self._tried.append((*call, f"raised {error}"))
            raise
        self._tried.append((*call, value))
        return value

    def flops(self, *args: Any, **kwargs: Any) -> int:
        """Returns the FLOPs of a call, as the student's Python counts them."""
        arguments, _ = self._arguments(args, kwargs)
        answer = self._line.ask(
            "call", self._left(), name=self.__name__, arguments=arguments, flops=True
        )  # fmt: skip
        return int(answer.get("value") or 0)

    def _arguments(self, args: Any, kwargs: Any) -> tuple[str, list[Any]]:
        stream, watched = io.BytesIO(), list[Any]()
        writer = _Writer(stream, self._line, watched)
        writer.dump((args, kwargs))
        return base64.b64encode(stream.getvalue()).decode(), watched

    def _called(self, args: Any, kwargs: Any) -> Any:
        arguments, watched = self._arguments(args, kwargs)
        line, left = self._line, self._left
        answer = line.ask("call", left(), name=self.__name__, arguments=arguments, flops=False)
        number, moving = line.number, list[Any]()

        def note(tensor: Any, moves: bool) -> Any:
            if moves:
                moving.append(tensor)
            return tensor

        try:
            value = from_data(answer.get("value"), note)
            if not (watched and moving):
                return value
            found = iter(_through(line, left, number, moving, watched))
            return from_data(answer.get("value"), lambda tensor, moves: next(found) if moves else tensor)
        except ValueError as error:
            raise Wrong(str(error)) from None


class _Writer(pickle.Pickler):
    """Writes arguments for the student's side. Functions and tensors with a gradient stay here."""

    def __init__(self, stream: io.BytesIO, line: StudentLine, watched: list[Any]):
        super().__init__(stream)
        self.line, self.watched = line, watched

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Answer):
            return "answer", value.__name__
        if isinstance(value, FunctionType) and value.__module__ == "__main__":  # a test's own
            self.line.functions.append(value)
            return "function", len(self.line.functions) - 1
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor) and value.requires_grad:
            self.watched.append(value)
            return "watched", value.detach()
        return None


def _through(line: StudentLine, left: Callable[[], float], number: int, moving: list[Any], watched: list[Any]) -> Any:
    """Returns the results of a call so that gradients flow back through the student's function."""
    import torch

    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            return tuple(result.clone() for result in moving)

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            given = base64.b64encode(pickle.dumps([gradient.detach() for gradient in gradients])).decode()
            found = from_data(line.ask("gradients", left(), number=number, given=given).get("value"))
            return tuple(found)

    return Through.apply(*watched)  # type: ignore[no-untyped-call]
