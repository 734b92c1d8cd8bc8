"""Run records on disk: one JSON file a run, named by what was run, written atomically."""

import hashlib
import json
import os
import warnings
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.trainer import Record, resolve

UNFINISHED = ("stopped", "failed")  # the status of runs that are worth another try


def home() -> Path:
    """Where runs are kept: ``$SPARSITY_LAB_HOME``, or the system's folder for a user's data."""
    return Path(os.environ.get("SPARSITY_LAB_HOME") or platformdirs.user_data_dir("sparsity-lab"))


def run_id(model: ModelConfig, run: RunConfig) -> str:
    """Sixteen hex digits that name a run: a hash of what its two configs, the lab's choices made, say beyond the
    defaults. So a field that a later version adds, its default doing what was done before, renames no run."""
    text = json.dumps([_beyond_defaults(model), _beyond_defaults(resolve(model, run))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _beyond_defaults(config: ModelConfig | RunConfig) -> dict[str, Any]:
    values = {field.name: (getattr(config, field.name), field.default) for field in fields(config)}
    return {name: value for name, (value, default) in values.items() if value != default}


def record_id(record: Record) -> str:
    """`run_id` of the run that left this record."""
    return run_id(ModelConfig.from_dict(record.model), RunConfig.from_dict(record.run))


class RunStore:
    """A folder of records."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def path(self, model: ModelConfig, run: RunConfig) -> Path:
        return self.folder / f"{run_id(model, run)}.json"

    def save(self, record: Record) -> Path:
        """Atomic; a run of the same configs is replaced."""
        path = self.path(ModelConfig.from_dict(record.model), RunConfig.from_dict(record.run))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, record.to_json())
        return path

    def find(self, model: ModelConfig, run: RunConfig, fingerprint: str) -> Record | None:
        """The finished run of these configs on the corpus with this fingerprint, if it is here."""
        record = _read(self.path(model, run))
        if record is None or record.status in UNFINISHED or record.corpus["fingerprint"] != fingerprint:
            return None
        return record

    def read(self, name: str) -> Record | None:
        """The record of the run with this `run_id`, if it is here."""
        return _read(self.folder / f"{name}.json")

    def load(self) -> list[Record]:
        """All records, oldest first; a file that is torn or foreign is skipped with a warning."""
        paths = sorted(self.folder.glob("*.json"), key=lambda path: (_time(path), path.name))
        return [record for path in paths if (record := _read(path)) is not None]

    def merge(self, other: "RunStore") -> int:
        """Takes over what ``other`` holds and this store lacks or has unfinished; says how many records. Merging twice
        changes nothing."""
        taken = 0
        for record in other.load():
            mine = self.read(record_id(record))
            if mine is None or (mine.status in UNFINISHED and record.status not in UNFINISHED):
                self.save(record)
                taken += 1
        return taken

    def clear(self) -> None:
        """Deletes the records, and nothing else, in the folder."""
        for path in self.folder.glob("*.json"):
            path.unlink(missing_ok=True)


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # another process has just deleted it
        return 0


def load_frame(folder: Path | str) -> pd.DataFrame:
    """The records in a folder, one row each: everything of `Record` that is one number or word, and of its configs the
    shape. Columns: id, status, val_loss (nats a byte, NaN if there is none), sparsity, n_experts, top_k,
    n_shared_experts, width, d_expert, budget, flops, seed, params_total, params_active, tokens, steps, seconds,
    batch_size, learning_rate, fingerprint.

    Rows come in the order of the file names. A file that is torn, foreign or of another version is skipped with a
    warning. Thousands a second: it builds no configs.
    """
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        values = _values(path)
        if values is not None:
            rows.append(_row(path.stem, values))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"val_loss": float})


OF_RECORD = ("status", "val_loss", "sparsity", "flops", "seed", "params_total", "params_active", "tokens", "steps",
             "seconds")  # fmt: skip
OF_MODEL = {"width": "d_model"} | {name: name for name in ("n_experts", "top_k", "n_shared_experts", "d_expert")}
OF_RUN = ("budget", "batch_size", "learning_rate")
COLUMNS = ("id", *OF_RECORD, *OF_MODEL, *OF_RUN, "fingerprint")


def _row(name: str, values: dict[str, Any]) -> dict[str, Any]:
    row = {"id": name} | {key: values[key] for key in OF_RECORD}
    row |= {column: values["model"][key] for column, key in OF_MODEL.items()}
    row |= {key: values["run"][key] for key in OF_RUN}
    return row | {"fingerprint": values["corpus"]["fingerprint"]}


def write_atomically(path: Path, text: str) -> None:
    """A reader, a kill or a crash of the machine at any moment finds the old file or the new one."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # an interrupt too
        temporary.unlink(missing_ok=True)
        raise


KNOWN = {part: {f.name for f in fields(kind)} for part, kind in (("model", ModelConfig), ("run", RunConfig))}
OPTIONAL = {f.name for f in fields(Record) if f.default is not MISSING}
NEEDED = {f.name for f in fields(Record)} - OPTIONAL
WORDS = ("id", "status", "fingerprint")


def _values(path: Path) -> dict[str, Any] | None:
    """What a record's file says; None if it isn't there, or, with a warning, if it is no record of this version."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict) or values.keys() - OPTIONAL != NEEDED:
            raise ValueError("its fields are not a record's")
        for part, known in KNOWN.items():
            if not values[part].keys() <= known:
                raise ValueError(f"{part} has fields that are not known here")
        for name, value in _row("", values).items():
            if not isinstance(value, str if name in WORDS else (int, float)) and (name, value) != ("val_loss", None):
                raise ValueError(f"{name}={value!r}")
        return values
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        warnings.warn(f"skipped {path}: not a run record of this version ({error})", stacklevel=4)
        return None


def _read(path: Path) -> Record | None:
    values = _values(path)
    if values is None:
        return None
    try:
        record = Record(**values)
        record_id(record)  # raises ValueError for configs of another version
        return record
    except (ValueError, TypeError) as error:
        warnings.warn(f"skipped {path}: not a run record of this version ({error})", stacklevel=3)
        return None
