"""The right to train a run, which one process has at a time, and a note on who has it, for the others to show."""

import json
import os
import socket
import time
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path

from filelock import FileLock, Timeout

from sparsity_lab.files import write_text

LONGEST_NAME = 80


class RunLock:
    """A lock beside a run's ``checkpoint``. The system frees it when its process dies, whatever files are left.

    Where no lock file can be made, in a read-only folder say, it is always free, because nothing can be kept there.
    """

    def __init__(self, checkpoint: Path):
        self._lock = FileLock(checkpoint.with_suffix(".lock"), thread_local=False)
        self._note = checkpoint.with_suffix(".owner")

    def take(self) -> bool:
        """Returns whether the run is now this process's to train; notes who that is."""
        try:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            write_text(self._note, json.dumps(_here()))
        except Timeout:
            return False
        except OSError:
            pass
        return True

    def give_back(self) -> None:
        """Frees the run, if it was taken, and removes both files."""
        if self._lock.is_locked:
            for path in (self._note, Path(self._lock.lock_file)):  # before it is free, and so nobody else's
                with suppress(OSError):  # Windows keeps a file that is open
                    path.unlink(missing_ok=True)
            self._lock.release()

    def is_free(self) -> bool:
        """Tells whether nobody trains the run."""
        free = not Path(self._lock.lock_file).exists() or self.take()
        self.give_back()
        return free

    def owner(self) -> str:
        """Returns who trains the run, as "01_the_magic_dial.ipynb (process 1234) has been training this run since
        14:05"."""
        try:
            found = json.loads(self._note.read_text() if self._note.is_file() else "")  # a pipe would be waited for
            since = time.localtime(found["since"])
            today = since[:3] == time.localtime()[:3]
            where = "" if found["machine"] == socket.gethostname() else f" on {found['machine']}"
            who = f"{found['notebook'] or 'Another program'}"[:LONGEST_NAME] + f" (process {found['process']}{where})"
            return f"{who} has been training this run since {time.strftime('%H:%M' if today else '%d %b %H:%M', since)}"
        except (OSError, ValueError, TypeError, LookupError, OverflowError, RecursionError):  # no note, or a torn one
            return "Another program is training this run"


def _here() -> dict[str, object]:
    """Describes the process for which this one works. Jupyter tells a kernel the path of its notebook."""
    parent = parent_process()
    notebook = Path(os.environ.get("JPY_SESSION_NAME", "")).name
    process = os.getpid() if parent is None else parent.pid
    return {"notebook": notebook, "process": process, "machine": socket.gethostname(), "since": time.time()}
