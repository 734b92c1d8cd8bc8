"""A class on one machine: kernels that all open notebook 01 at once and train on its dashboard.

Each has a home and a share of one core of its own, as a student has; the prepared text is shared, as on a server.
Nothing looks at what the kernels send: the browsers are the students' own machines.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from benchmarks.timing import Row
from sparsity_lab.files import cache_dir

STUDENTS = 20
TRAINING = 60.0  # seconds
LOOKS = 6  # at the memory, meanwhile
MEMORY = 700  # MB a student
FAIR = 0.5  # steps of the slowest over those of the fastest
PATIENCE = 600  # seconds for a reply
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_the_magic_dial.ipynb"
BUDGET = "budgets = [1e13, 1e13]"  # more than anybody finishes here
STEPS = "sum(lane.last.step for lane in dial._session.lanes if lane.last)"


def rows() -> Iterator[Row]:
    one, many = lesson(1), lesson(STUDENTS)
    what = f"classroom: {STUDENTS} kernels train on notebook 01's dashboard: "
    most, median = max(many.megabytes), statistics.median(many.megabytes)
    memory = f"MB of the largest, kernel and workers ({'PSS' if psutil.LINUX else 'USS'})"
    yield Row(what + memory, f"≤ {MEMORY}", f"{most:.0f} (median {median:.0f})", most <= MEMORY)
    share = min(many.steps) / max(many.steps)
    yield Row(what + "steps of the slowest over the fastest", f"≥ {FAIR}", f"{share:.2f}", share >= FAIR)
    together = sum(many.steps) / sum(one.steps)
    yield Row(what + f"steps of all over those of one alone, on {os.cpu_count()} cores", "", f"{together:.2f}", None)
    yield Row(what + "seconds until all see it", "", f"{many.ready:.0f} (one alone: {one.ready:.0f})", None)


@dataclass(frozen=True)
class Lesson:
    ready: float  # seconds until the last dashboard was there
    megabytes: list[float]  # of each kernel and its workers, at their most
    steps: list[int]  # of each kernel


def lesson(students: int) -> Lesson:
    cells = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    end = next(i for i, source in enumerate(cells) if "MagicDial(" in source) + 1
    opened = "\n".join([cells[0], BUDGET, *cells[1:end]])
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        start = time.monotonic()
        kernels = [stack.enter_context(kernel(Path(folder) / str(number))) for number in range(students)]
        ask(kernels, opened)
        ready = time.monotonic() - start
        ask(kernels, "dial.buttons.train.click()")
        processes = [psutil.Process(int(text)) for text in ask(kernels, "import os", "os.getpid()")]
        looks = []
        for _ in range(LOOKS):
            time.sleep(TRAINING / LOOKS)
            looks.append([megabytes(process) for process in processes])
        steps = [int(text) for text in ask(kernels, "", STEPS)]
        return Lesson(ready, [max(each) for each in zip(*looks, strict=True)], steps)


def megabytes(process: psutil.Process) -> float:
    """Memory of a process and those it has started. What several processes share counts in parts, or nowhere."""
    found = [each.memory_full_info() for each in (process, *process.children(recursive=True))]
    return sum(getattr(each, "pss", each.uss) for each in found) / 1e6


@contextmanager
def kernel(home: Path) -> Iterator[BlockingKernelClient]:
    """A kernel of a student whose runs are kept in ``home``; ended at the end."""
    manager = KernelManager()
    environment = os.environ | {"SPARSITY_LAB_HOME": str(home), "SPARSITY_LAB_CACHE": str(cache_dir())}
    environment |= {"SPARSITY_LAB_CORES": "1", "SPARSITY_LAB_COMPILE": "0"}  # as docs/teaching.md says
    manager.start_kernel(env=environment)
    client = manager.blocking_client()
    client.start_channels(iopub=False, stdin=False, hb=False)
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def ask(kernels: list[BlockingKernelClient], code: str, expression: str = "None") -> list[str]:
    """Has all run ``code`` at once; gives what ``expression`` is then, as text."""
    for client in kernels:
        client.execute(code, user_expressions={"answer": expression})
    answers = []
    for client in kernels:
        content = client.get_shell_msg(timeout=PATIENCE)["content"]
        if content["status"] != "ok":
            raise RuntimeError("\n".join(content["traceback"]))
        answers.append(content["user_expressions"]["answer"]["data"]["text/plain"])
    return answers
