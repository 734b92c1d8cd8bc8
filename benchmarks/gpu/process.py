"""A step runs in a process of its own, so that whatever happens in it costs one row of the report."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.place import ROOT, environment

TAIL = 30  # lines of the log that are kept


@dataclass
class Outcome:
    """What a step has shown."""

    name: str
    status: str  # done, failed, stopped (at its limit) or not reached
    verdict: str
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def short(self) -> int:
        """The number of rows that have not reached their bar."""
        return sum(row.get("reached") is False for row in self.rows)


def run(name: str, command: list[str], seconds: float) -> Outcome:
    """Runs a command for at most ``seconds``, then kills it with its children.

    Lines of its stdout that are JSON objects are rows, or the verdict; what was printed before a kill counts. All else
    that it printed is the log.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        files: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, **files)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also if this process is told to stop, and for children that outlive the command
            _kill_group(process)
        taken = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        printed, errors = out.read().splitlines(), err.read().splitlines()

    objects = list(map(_object, printed))
    rows = [each for each in objects if each and "what" in each]
    verdicts = [each["verdict"] for each in objects if each and isinstance(each.get("verdict"), str)]
    log = [line for line, each in zip(printed, objects, strict=True) if each is None] + errors
    last = next((line.strip() for line in reversed(log) if line.strip()), "it printed nothing")
    if code is None:
        status, verdict = "stopped", "; ".join([f"stopped at its limit of {seconds:.0f} s", *verdicts[-1:]])
    elif code:
        status, verdict = "failed", last if code > 0 else f"ended by {signal.Signals(-code).name}; last line: {last}"
    else:
        status, verdict = "done", verdicts[-1] if verdicts else f"no verdict; last line: {last}"
    return Outcome(name, status, verdict, round(taken, 1), rows, log[-TAIL:])


def step_command(name: str, device: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu.step", name, device]


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # macOS says the second of a group of dead ones
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
