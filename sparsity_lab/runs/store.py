"""The store of runs: one JSON file per record, named after what was run, written atomically. And tables of records."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import StrangeFile, home, read_bytes, write_text
from sparsity_lab.record import COLUMNS, Record, run_id

if TYPE_CHECKING:
    import pandas as pd


class RunStore:
    """A folder of records. Those in the folders ``older`` are found too, but nothing is written there."""

    def __init__(self, folder: Path | str, older: Sequence[Path | str] = ()):
        self.folder, self.older = Path(folder), [Path(each) for each in older]

    def path(self, model: ModelConfig, run: RunConfig) -> Path:
        return self.folder / f"{run_id(model, run)}.json"

    def save(self, record: Record) -> Path:
        """Keeps a record in place of an earlier one of the same run. A record that has ended stays if the new one has
        not, and its scores stay if the new one has none. Returns the record's path."""
        path = self.path(record.model_config, record.run_config)
        kept = self.finished(record.model_config, record.run_config, record.corpus["fingerprint"])
        if kept is not None and not record.ended:
            return path
        if kept is not None and record.scores is None:
            record = replace(record, scores=kept.scores)
        write_text(path, record.to_json())
        return path

    def finished(self, model: ModelConfig, run: RunConfig, fingerprint: str) -> Record | None:
        """Returns the run of these configs on the corpus with this fingerprint, if it is here and has ended."""
        for record in self._copies(run_id(model, run)):
            if record.ended and record.corpus["fingerprint"] == fingerprint:
                return record
        return None

    def read(self, name: str) -> Record | None:
        """Returns the record of the run with this `run_id`, if it is here."""
        return next(self._copies(name), None)

    def _copies(self, name: str) -> Iterator[Record]:
        return filter(None, (_read(folder / f"{name}.json") for folder in (self.folder, *self.older)))

    def load(self) -> list[Record]:
        """Returns all records, oldest first, one per run. A file that is torn or foreign is skipped with a warning."""
        paths = {path.name: path for folder in (*self.older, self.folder) for path in folder.glob("*.json")}
        ordered = sorted(paths.values(), key=lambda path: (_written(path), path.name))
        return [record for path in ordered if (record := _read(path)) is not None]


def user_store(folder: Path | None = None) -> RunStore:
    """Returns the one store of a user, in ``folder`` (default: `home`), for every run of the dashboard, a cell, a sweep
    or the command line. Dashboards used to keep theirs in ``live``, which is still read."""
    folder = folder or home()
    return RunStore(folder / "runs", older=[folder / "live"])


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just deleted it, or it is a link to itself
        return 0.0


def to_frame(records: Iterable[Record]) -> "pd.DataFrame":
    """Returns records as a table, one row each, in their order. Columns: id, status, val_loss (nats per byte, NaN if
    there is none), sparsity, flops, seed, params_total, params_active, tokens, steps, seconds, width, n_layers,
    n_experts, top_k, n_shared_experts, d_expert, budget, batch_size, learning_rate, fingerprint, compiled, cpu_seconds
    (NaN in records of earlier versions)."""
    return _frame(record.row() for record in records)


def load_frame(folder: Path | str) -> "pd.DataFrame":
    """Returns the records in a folder, thousands per second, as `to_frame` does, in the order of the file names.

    A file that holds no record of this version is skipped with a warning. So is a run on another text than most of the
    folder's runs, because losses on different texts can't be compared.
    """
    found = {path: record for path in sorted(Path(folder).glob("*.json")) if (record := _read(path)) is not None}
    texts = Counter(
        text for record in found.values() if (text := record.corpus["fingerprint"])
    )  # failed runs have none
    most = texts.most_common(1)[0][0] if texts else ""

    rows = []
    for path, record in found.items():
        if (text := record.corpus["fingerprint"]) in ("", most):
            rows.append(record.row(path.stem))
        else:
            told = f"its text {record.corpus['name']!r} ({text[:8]}) is not that of most runs here ({most[:8]})"
            warnings.warn(f"skipped {path}: {told}", StrangeFile, stacklevel=2)
    return _frame(rows)


def _frame(rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd  # here, because a process that trains has no tables

    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype({"val_loss": float, "cpu_seconds": float})


def _read(path: Path) -> Record | None:
    """Returns the record in a file; None if the file is absent or, with a warning, holds no record of the run that its
    name says."""
    try:
        return Record.from_json(read_bytes(path), path.stem)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = shorten(str(error), 200, placeholder=" …")
        warnings.warn(f"skipped {path}: not a run record of this version ({why})", StrangeFile, stacklevel=3)
        return None
