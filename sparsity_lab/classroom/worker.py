"""Runs one submission. `python -m sparsity_lab.classroom.worker` is the grader's side, in a process of its own; what
was handed in runs in a kernel in the sandbox and answers through sockets.

Nothing that the kernel says is believed except the outputs and errors of cells, which are cut to size here.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from sparsity_lab.classroom.sandbox import Sandbox

OUTPUT = 1_000_000  # bytes that one submission may print and draw
MESSAGE = 2_000  # characters of an error and of a line of its traceback
GRADER_MEMORY = 3 << 30  # bytes of address space of this side
STARTING = 60  # seconds a kernel may take to start

# Must fail in every kernel: where it does not, failed tests would pass too.
TRIPWIRE = "assert len('test') == 5"


class Client(NotebookClient):
    """A kernel in the sandbox, reached through Unix sockets because it has no network."""

    left = OUTPUT

    def start_in(self, sandbox: Sandbox, shared: Path) -> None:
        folder = sandbox.folder(shared)
        manager = self.create_kernel_manager()
        manager.transport, manager.ip = "ipc", str(folder / "k")
        manager.connection_file = str(folder / "kernel.json")
        manager.write_connection_file()
        if sandbox.uid is not None:
            os.chown(manager.connection_file, sandbox.uid, sandbox.uid)
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", manager.connection_file]
        assert manager.kernel_spec is not None
        manager.kernel_spec.argv = sandbox.command([*launch, "--HistoryManager.enabled=False"], shared)

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        content = msg["content"]
        if msg["msg_type"] == "error":
            content["evalue"] = content["evalue"][:MESSAGE]
            content["traceback"] = [line[:MESSAGE] for line in content["traceback"][-20:]]
        elif msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
            self.left -= len(json.dumps(content))
            if self.left < 0:
                return None
        return super().process_message(msg, cell, cell_index)

    def note_error(self, cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        """Adds the error that a kernel was told not to show: its reply still says that the cell failed."""
        reply = execute_reply["content"]
        if reply["status"] != "ok" and not any(o.get("ename") == reply.get("ename") for o in cell.outputs):
            cell.outputs.append(_error(str(reply.get("ename"))[:MESSAGE], str(reply.get("evalue"))[:MESSAGE]))


def _tests(cells: Iterable[NotebookNode]) -> Iterator[NotebookNode]:
    """Yields the cells whose points depend on running without an error."""
    for cell in cells:
        about = cell.metadata.get("nbgrader", {})
        if about.get("grade") and not about.get("solution") and cell.cell_type == "code":
            yield cell


def mark_not_run(cells: Iterable[NotebookNode], reason: str) -> None:
    """Gives an error to the tests among ``cells``, which never came to an end."""
    for cell in _tests(cells):
        cell.outputs.append(_error("NotRun", reason))


def _error(name: str, value: str) -> NotebookNode:
    return nbformat.v4.new_output("error", ename=name, evalue=value, traceback=[f"{name}: {value}"])


def run(book: NotebookNode, sandbox: Sandbox, cell_seconds: int, seconds: int) -> str:
    """Executes ``book`` in place. A cell that raises fails alone. Returns what went wrong, empty if nothing did."""
    end, trouble, name, ended = time.monotonic() + seconds, "", "", 0
    late = {"ename": "CellTimeoutError", "evalue": f"took more than {cell_seconds} s", "traceback": []}
    client = Client(
        book, kernel_name="python3", allow_errors=True, store_widget_state=False, shutdown_kernel="immediate",
        startup_timeout=STARTING, timeout=cell_seconds, interrupt_on_timeout=True, error_on_timeout=late,
        iopub_timeout=cell_seconds, raise_on_iopub_timeout=True,  # an interrupted cell has this long to stop
    )  # fmt: skip
    client.on_cell_executed = client.note_error

    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as folder:
        try:
            client.start_in(sandbox, Path(folder))
            with client.setup_kernel():
                for number, cell in enumerate(book.cells):
                    name = cell.metadata.get("nbgrader", {}).get("grade_id", f"cell {number + 1}")
                    if time.monotonic() > end:
                        trouble = f"took more than {seconds} s in all, up to {name}"
                        break
                    client.execute_cell(cell, number)
                    ended = number + 1
                    if cell.cell_type == "code" and any(o.get("ename") == late["ename"] for o in cell.outputs):
                        trouble = trouble or f"{name} took more than {cell_seconds} s"
                else:
                    if not _trips(client, book):
                        trouble = "TAMPERED: a test that must fail passed, so no test counts"
                        for cell in _tests(book.cells):
                            cell.outputs = [_error("Tampered", trouble)]
        except DeadKernelError:
            trouble = f"Python ended in {name}: later cells were not run"
        except CellTimeoutError:
            trouble = f"{name} did not stop after {cell_seconds} s: later cells were not run"
        except (RuntimeError, OSError) as error:
            trouble = f"the kernel did not start: {error}"
        finally:
            sandbox.clean_up()

    for cell in _tests(book.cells):  # nbgrader would take points off for warnings, and give points for results
        cell.outputs = [o for o in cell.outputs if o.output_type == "error"]
    mark_not_run(book.cells[ended:], trouble)
    if client.left < 0:
        trouble = trouble or f"printed more than {OUTPUT:,} bytes: the rest was left out"
    return trouble


def _trips(client: Client, book: NotebookNode) -> bool:
    """Tells whether a failing test still fails in the kernel, whatever the student's code did to it."""
    book.cells.append(nbformat.v4.new_code_cell(TRIPWIRE))
    client.execute_cell(book.cells[-1], len(book.cells) - 1)
    return any(output.output_type == "error" for output in book.cells.pop().outputs)


def run_job() -> None:
    """Reads a job from stdin, writes the executed notebook where it says, and prints what went wrong."""
    job = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (GRADER_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    book = nbformat.read(job["notebook"], as_version=4)
    trouble = run(book, Sandbox(**job["sandbox"]), job["cell_seconds"], job["seconds"])
    nbformat.write(book, job["out"])
    print(json.dumps(trouble))


if __name__ == "__main__":
    run_job()
