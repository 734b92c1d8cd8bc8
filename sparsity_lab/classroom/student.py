"""The inner side of the sandbox: runs a student's cells, and calls the functions that they define.

`python -m sparsity_lab.classroom.student` reads questions from its standard input, one JSON object per line, and
answers on the same socket. The student's code may change everything in this process; all that leaves it is data.
"""

import base64
import io
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sparsity_lab.classroom.answer_values import PRINTED, from_data, to_data, to_line

GRAPHS = 100  # results whose gradients may still be asked for


class Tape(io.TextIOBase):
    """What a cell prints, up to `PRINTED` characters."""

    def __init__(self) -> None:
        self.text, self.left = "", PRINTED

    def write(self, text: str) -> int:
        self.text += text[: max(0, self.left)]
        self.left -= len(text)
        return len(text)

    def isatty(self) -> bool:
        return False


def told(error: BaseException) -> list[str]:
    """Returns an error's name, its message, and the lines of the student's cells that led to it."""
    lines = [
        f"line {frame.lineno}: {frame.line}" for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(("<ipython", "/tmp/ipykernel", "Cell"))
    ]  # fmt: skip
    return [type(error).__name__, str(error)[:2_000], "\n".join(lines[-5:])[:2_000]]


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError after ``seconds``, and again every second, in case the code goes on."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds:g} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Room:
    """Answers questions about the names that a student's cells define."""

    def __init__(self, ask: Callable[[dict[str, Any]], dict[str, Any]]):
        from IPython.core.interactiveshell import InteractiveShell

        quiet: Any = InteractiveShell.instance(colors="nocolor")
        quiet.history_manager.enabled = False
        quiet.showtraceback = quiet.showsyntaxerror = lambda *_, **__: None  # errors are told below
        self.shell = quiet
        self.ask = ask
        self.graphs: dict[int, tuple[list[Any], list[Any]]] = {}

    def run(self, question: dict[str, Any]) -> dict[str, Any]:
        """Runs a cell; returns what it printed, and its error."""
        tape, before = Tape(), (sys.stdout, sys.stderr)
        sys.stdout = sys.stderr = tape
        error: BaseException | None
        try:
            with limit(question["seconds"]):
                result = self.shell.run_cell(question["code"])
            error = result.error_before_exec or result.error_in_exec
        except BaseException as other:  # an interrupt that came late
            error = other
        finally:
            sys.stdout, sys.stderr = before
        text = tape.text + ("…\n" if tape.left < 0 else "")
        return {"out": text, "error": told(error) if error is not None else None}

    def get(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"value": to_data(self.shell.user_ns[question["name"]])}

    def call(self, question: dict[str, Any]) -> dict[str, Any]:
        """Calls a function with arguments from the grader; returns its result, and its FLOPs if they were asked for."""
        watched: list[Any] = []
        args, kwargs = _Arguments(question["arguments"], self, watched).load()
        function = self.shell.user_ns[question["name"]]
        with limit(question["seconds"]):
            if not question["flops"]:
                result = function(*args, **kwargs)
            else:
                from torch.utils.flop_counter import FlopCounterMode

                with FlopCounterMode(display=False) as counter:
                    function(*args, **kwargs)
                return {"value": int(counter.get_total_flops())}

            data = to_data(result)
        if watched:
            moving: list[Any] = []
            _tensors(result, moving)
            self.graphs[question["number"]] = (watched, moving)
            self.graphs.pop(question["number"] - GRAPHS, None)
        return {"value": data}

    def gradients(self, question: dict[str, Any]) -> dict[str, Any]:
        """Returns what reaches the watched arguments of a call when these gradients reach its results."""
        import torch

        watched, moving = self.graphs[question["number"]]
        given = pickle.loads(base64.b64decode(question["given"]))
        found = torch.autograd.grad(moving, watched, given, retain_graph=True, allow_unused=True)
        return {
            "value": to_data([torch.zeros_like(w) if f is None else f for w, f in zip(watched, found, strict=True)])
        }


class _Arguments(pickle.Unpickler):
    """Arguments as the grader wrote them, with the student's functions, the grader's, and tensors to watch."""

    def __init__(self, text: str, room: Room, watched: list[Any]):
        super().__init__(io.BytesIO(base64.b64decode(text)))
        self.room, self.watched = room, watched

    def persistent_load(self, what: Any) -> Any:
        kind, value = what
        if kind == "answer":
            return self.room.shell.user_ns[value]
        if kind == "watched":
            self.watched.append(value.clone().requires_grad_())
            return self.watched[-1]

        def grader(*args: Any) -> Any:
            answer = self.room.ask({"ask": value, "arguments": to_data(list(args))})
            if "error" in answer:
                raise ValueError(answer["error"])
            return from_data(answer["value"])

        return grader


def _tensors(value: Any, found: list[Any]) -> None:
    """Collects the tensors with a gradient in a result, in the order of `to_data`."""
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple)):
        for part in value:
            _tensors(part, found)
    elif getattr(value, "requires_grad", False) is True:
        found.append(value)


def answer_questions() -> None:
    """Answers until the grader closes the socket."""
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    lines = channel.makefile("rb")

    def ask(message: dict[str, Any]) -> dict[str, Any]:
        channel.sendall(to_line(message))
        return pickle.loads(base64.b64decode(lines.readline()))

    room = Room(ask)
    for line in lines:
        question = pickle.loads(base64.b64decode(line))
        try:
            answer = to_line(getattr(room, question["do"])(question))
        except KeyError as error:
            answer = to_line({"error": ["NameError", f"name {error} is not defined", ""]})
        except BaseException as error:  # whatever the student's code raises
            answer = to_line({"error": told(error)})
        channel.sendall(answer)


if __name__ == "__main__":
    os.environ["PLOTLY_RENDERER"] = "json"  # none that opens a browser
    answer_questions()
