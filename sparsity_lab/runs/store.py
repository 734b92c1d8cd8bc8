"""The store of runs: one JSON file per record, named after what was run, written atomically. And tables of records."""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import home, write_text
from sparsity_lab.record import COLUMNS, UNFINISHED, Record, row, run_id

if TYPE_CHECKING:
    import pandas as pd


class RunStore:
    """A folder of records. Those in the folders ``older`` are found too, but nothing is written there."""

    def __init__(self, folder: Path | str, older: Sequence[Path | str] = ()):
        self.folder, self.older = Path(folder), [Path(each) for each in older]

    def path(self, model: ModelConfig, run: RunConfig) -> Path:
        return self.folder / f"{run_id(model, run)}.json"

    def save(self, record: Record) -> Path:
        """Keeps a record in place of an earlier one of the same run. A finished record stays if the new one is not
        finished, and its scores stay if the new one has none. Returns the record's path."""
        path = self.path(record.model_config, record.run_config)
        kept = self.finished(record.model_config, record.run_config, record.corpus["fingerprint"])
        if kept is not None and record.status in UNFINISHED:
            return path
        if kept is not None and record.scores is None:
            record = replace(record, scores=kept.scores)
        write_text(path, record.to_json())
        return path

    def finished(self, model: ModelConfig, run: RunConfig, fingerprint: str) -> Record | None:
        """Returns the finished run of these configs on the corpus with this fingerprint, if it is here."""
        for record in self._copies(run_id(model, run)):
            if record.status not in UNFINISHED and record.corpus["fingerprint"] == fingerprint:
                return record
        return None

    def read(self, name: str) -> Record | None:
        """Returns the record of the run with this `run_id`, if it is here."""
        return next(self._copies(name), None)

    def _copies(self, name: str) -> Iterator[Record]:
        return filter(None, (_read(folder / f"{name}.json", _record) for folder in (self.folder, *self.older)))

    def load(self) -> list[Record]:
        """Returns all records, oldest first, one per run. A file that is torn or foreign is skipped with a warning."""
        paths = {path.name: path for folder in (*self.older, self.folder) for path in folder.glob("*.json")}
        ordered = sorted(paths.values(), key=lambda path: (_written(path), path.name))
        return [record for path in ordered if (record := _read(path, _record)) is not None]


def user_store(folder: Path | None = None) -> RunStore:
    """Returns the one store of a user, in ``folder`` (default: `home`), for every run of the dashboard, a cell, a sweep
    or the command line. Dashboards used to keep theirs in ``live``, which is still read."""
    folder = folder or home()
    return RunStore(folder / "runs", older=[folder / "live"])


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has just deleted it
        return 0.0


def to_frame(records: Iterable[Record]) -> "pd.DataFrame":
    """Returns records as a table, one row each, in their order. Columns: id, status, val_loss (nats per byte, NaN if
    there is none), sparsity, flops, seed, params_total, params_active, tokens, steps, seconds, width, n_layers,
    n_experts, top_k, n_shared_experts, d_expert, budget, batch_size, learning_rate, fingerprint, compiled, cpu_seconds
    (NaN in records of earlier versions)."""
    return _frame(record.row() for record in records)


def load_frame(folder: Path | str) -> "pd.DataFrame":
    """Returns the records in a folder as `to_frame` does, in the order of the file names.

    A file that is torn, foreign or of another version is skipped with a warning. It reads thousands of records per
    second because it builds no configs.
    """
    rows = (_read(path, partial(row, name=path.stem)) for path in sorted(Path(folder).glob("*.json")))
    return _frame(filter(None, rows))


def _frame(rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd  # here, because a process that trains has no tables

    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype({"val_loss": float, "cpu_seconds": float})


KNOWN = {part: {f.name for f in fields(kind)} for part, kind in (("model", ModelConfig), ("run", RunConfig))}
OPTIONAL = {f.name for f in fields(Record) if f.default is not MISSING}
NEEDED = {f.name for f in fields(Record)} - OPTIONAL
WORDS = ("id", "status", "fingerprint")
Made = TypeVar("Made")


def _read(path: Path, make: Callable[[dict[str, Any]], Made]) -> Made | None:
    """Returns what ``make`` makes of the fields in a record's file; None if the file is absent or, with a warning, no
    record of this version."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict) or values.keys() - OPTIONAL != NEEDED:
            raise ValueError("its fields are not a record's")
        for part, known in KNOWN.items():
            if not values[part].keys() <= known:
                raise ValueError(f"{part} has fields that are not known here")
        for name, value in row(values, path.stem).items():
            absent = value is None and name in ("val_loss", "cpu_seconds")
            if not absent and not isinstance(value, str if name in WORDS else (int, float)):
                raise ValueError(f"{name}={value!r}")
        return make(values)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"skipped {path}: not a run record of this version ({error})", stacklevel=3)
        return None


def _record(values: dict[str, Any]) -> Record:
    record = Record(**values)
    _ = record.id  # raises ValueError for configs of another version
    return record
