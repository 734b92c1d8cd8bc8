"""Times that can be compared on a machine that has other work to do.

What is compared takes turns in blocks of calls, and a ratio is that of two neighbouring blocks: whatever slows the
machine down for a while slows down both. Time is the thread's CPU time where one thread does the work. A GPU works on
after a call has returned, so there a block is timed as a whole, from an event before it to one behind it.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from sparsity_lab.models.routes import processor

BLOCK = 15  # timed calls in a turn
UNTIMED = 2  # before them, so that caches are warm with what is timed
BUSY = 0.5  # load average a core from which timings suffer


@dataclass(frozen=True)
class Row:
    """A line of the table. ``reached`` is None for a number that has no bar."""

    what: str
    bar: str
    measured: str
    reached: bool | None


def at_most(what: str, measured: float, bar: float, note: str = "") -> Row:
    return Row(what, f"≤ {bar:.2f}", f"{measured:.2f}{note}", measured <= bar)


def at_least(what: str, measured: float, bar: float, note: str = "") -> Row:
    return Row(what, f"≥ {bar:.2f}", f"{measured:.2f}{note}", measured >= bar)


Times = dict[str, list[float]]  # of each function: the median of each of its blocks, seconds a call


def take_turns(
    functions: Mapping[str, Callable[[], object]],
    seconds: float,
    block: int = BLOCK,
    clock: Callable[[], float] = time.thread_time,
    device: str = "cpu",
) -> Times:
    """Times ``functions`` in turn for about ``seconds`` in all, at least five blocks each."""
    time_block = _on_gpu if device == "cuda" else lambda function, calls: _on_cpu(function, calls, clock)
    times: Times = {name: [] for name in functions}
    order = list(functions)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name in order:
            function = functions[name]
            for _ in range(UNTIMED):
                function()
            times[name].append(time_block(function, block))
        order.reverse()
    return times


def _on_cpu(function: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    seconds = []
    for _ in range(calls):
        start = clock()
        function()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def _on_gpu(function: Callable[[], object], calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def ratio(times: Times, above: str, below: str) -> float:
    """Time of one over time of the other, the median over the turns."""
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def machine() -> str:
    """A line on the machine, and a warning when it is busy."""
    cores = os.cpu_count() or 1
    line = f"Machine: {processor()}, {cores} core{'s'[: cores > 1]}"
    if not hasattr(os, "getloadavg"):
        return line
    load = os.getloadavg()[0]
    line += f", load average {load:.1f}"
    if load > BUSY * cores:
        line += "\nWarning: the machine is busy with other work; the numbers are less steady than they could be."
    return line
