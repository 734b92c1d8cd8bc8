"""The runs that dashboards show, with learners' names for them, in a list that all kernels of a folder share."""

import json
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import write_text
from sparsity_lab.record import Record, run_id
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.runs.lock import RunLock
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.training import checkpoint

MOST_SHOWN = 100
LONGEST_NAME = 40
SECONDS_SET_ASIDE = 7 * 24 * 3600  # after which a hidden checkpoint goes that no kernel can show again
SECONDS_FOR_OTHERS = 2.0  # that another kernel may take to change the list


@dataclass
class Shown:
    """Runs by their ids, in the order in which they came."""

    runs: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # that a learner gave to runs
    cleared: list[str] = field(default_factory=list)  # that were hidden last and can be shown again


def read_shown(path: Path) -> Shown | None:
    """Reads a list; None if there is none, or a torn one. Older dashboards wrote the ids alone."""
    try:
        found = json.loads(path.read_text() if path.is_file() else "")  # a pipe would be waited for
        found = found if isinstance(found, dict) else {"runs": found}
        runs, cleared = ([str(run) for run in found.get(key, [])] for key in ("runs", "cleared"))
        names = {str(run): str(name)[:LONGEST_NAME] for run, name in found.get("names", {}).items()}
        return Shown(runs[-MOST_SHOWN:], names, cleared)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return None


def change_shown(
    path: Path,
    show: Sequence[str] = (),
    hide: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    cleared: Sequence[str] | None = None,
) -> None:
    """Changes a list, and leaves what other kernels have put there. A name that is empty goes; ``cleared`` takes the
    place of what was there. On a full or read-only disk, the next kernel shows what this one did."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError), FileLock(path.with_suffix(".lock"), timeout=SECONDS_FOR_OTHERS):
        old = read_shown(path) or Shown()
        runs = [run for run in old.runs if run not in hide and run not in show]
        named = {run: name for run, name in (old.names | dict(names or {})).items() if name}
        new = Shown([*runs, *show], named, old.cleared if cleared is None else list(cleared))
        if new != old:
            write_text(path, json.dumps(asdict(new)))


@dataclass
class Cleared:
    """What was hidden last."""

    ids: set[str]
    records: list[Record]
    lanes: list[Lane] = field(default_factory=list)


class ShownRuns:
    """The runs of a ``folder`` that a kernel's dashboards show: at first those that earlier kernels have shown. The
    store holds many more, because a cell or a sweep may have trained hundreds."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = user_store(folder)
        self._checkpoints, self._list = folder / "checkpoints", folder / "dashboard.json"
        self._lock = threading.RLock()  # held for a moment only
        self._offered = set[str]()  # runs that `interrupted` found

        found = read_shown(self._list)
        if found is None:
            found = Shown([record.id for older in self.store.older for record in RunStore(older).load()])
            if found.runs:
                change_shown(self._list, show=found.runs)
        self.names = found.names  # that a learner gave to runs, by the runs' ids
        self.records = self._records(found.runs)
        undo = bool(found.cleared) and not self.records
        self._cleared = Cleared({*found.cleared}, self._records(found.cleared)) if undo else None
        for path in self._checkpoints.glob("*.cleared"):
            with suppress(OSError):
                if path.stem not in found.cleared and time.time() - path.stat().st_mtime > SECONDS_SET_ASIDE:
                    path.unlink()

    def _records(self, ids: list[str]) -> list[Record]:
        return list(filter(None, map(self.store.read, ids)))

    @property
    def can_undo(self) -> bool:
        """Whether there is something hidden that can be shown again."""
        return self._cleared is not None

    def rename(self, run: str, name: str) -> None:
        """Gives the run with this id a name of the learner's; an empty one takes it away."""
        name = name.strip()[:LONGEST_NAME]
        with self._lock:
            self.names = {key: value for key, value in (self.names | {run: name}).items() if value}
            change_shown(self._list, names={run: name})

    def interrupted(self) -> tuple[ModelConfig, RunConfig] | None:
        """Returns the run that a dead kernel left unfinished (the sparsest, not its twin) and that nobody has finished
        since; training it resumes it from its last checkpoint."""
        left = []
        for path in self._checkpoints.glob("*.safetensors"):
            state = checkpoint.peek(path)
            if state is None or not RunLock(path).is_free():
                continue
            with suppress(ValueError, TypeError, LookupError):  # of another version
                model, run = ModelConfig.from_dict(state["model"]), RunConfig.from_dict(state["run"])
                record = self.store.read(run_id(model, run))
                if record is None or not record.ended:
                    left.append((model, run))
        self._offered |= {run_id(*pair) for pair in left}
        return max(left, key=lambda pair: pair[0].sparsity, default=None)

    def _hide(self, lanes: list[Lane]) -> None:
        """Hides all that is shown here, and what `interrupted` has found."""
        ids = {record.id for record in self.records} | {run_id(lane.model, lane.run) for lane in lanes} | self._offered
        if ids:
            self._forget_hidden()
            self._cleared = Cleared(ids, self.records, lanes)
            self._move_checkpoints(ids, ".safetensors", ".cleared")
            change_shown(self._list, hide=ids, cleared=sorted(ids))
        self.records, self._offered = [], set()

    def _show_hidden(self) -> None:
        if self._cleared is not None:
            self._move_checkpoints(self._cleared.ids, ".cleared", ".safetensors")
            now = {record.id for record in self.records}
            self.records = [*(record for record in self._cleared.records if record.id not in now), *self.records]
            self._cleared = None
            change_shown(self._list, show=[record.id for record in self.records], cleared=[])

    def _forget_hidden(self) -> None:
        """Makes the last hiding final."""
        if self._cleared is not None:
            for name in self._cleared.ids:
                with suppress(OSError):
                    (self._checkpoints / f"{name}.cleared").unlink(missing_ok=True)
            self._cleared = None
            change_shown(self._list, cleared=[])

    def _move_checkpoints(self, ids: set[str], old: str, new: str) -> None:
        """Renames the checkpoints of runs, but not of one that another kernel trains, and in the place of none that it
        has left."""
        for path in (self._checkpoints / f"{name}{old}" for name in ids):
            with suppress(OSError):
                taken = new == ".safetensors" and path.with_suffix(new).exists()
                if path.exists() and not taken and RunLock(path).is_free():
                    path.replace(path.with_suffix(new))
