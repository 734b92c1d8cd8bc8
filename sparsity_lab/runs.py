"""Run records on disk: one JSON file a run, named by what was run, written atomically."""

import hashlib
import json
import os
import warnings
from pathlib import Path

import platformdirs

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training import Record, resolve


def home() -> Path:
    """Where runs are kept: ``$SPARSITY_LAB_HOME``, or the system's folder for a user's data."""
    return Path(os.environ.get("SPARSITY_LAB_HOME") or platformdirs.user_data_dir("sparsity-lab"))


def run_id(model: ModelConfig, run: RunConfig) -> str:
    """Sixteen hex digits that name a run: a hash of its two configs, defaults filled in."""
    text = json.dumps([model.to_dict(), resolve(model, run).to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(record.to_json())
        os.replace(temporary, path)
        return path

    def find(self, model: ModelConfig, run: RunConfig, fingerprint: str) -> Record | None:
        """The finished run of these configs on the corpus with this fingerprint, if it is here."""
        record = _read(self.path(model, run))
        if record is None or record.status == "stopped" or record.corpus["fingerprint"] != fingerprint:
            return None
        return record

    def load(self) -> list[Record]:
        """All records, oldest first; a file that is torn or foreign is skipped with a warning."""
        paths = sorted(self.folder.glob("*.json"), key=lambda p: (p.stat().st_mtime_ns, p.name))
        return [record for path in paths if (record := _read(path)) is not None]

    def clear(self) -> None:
        """Deletes the records, and nothing else, in the folder."""
        for path in self.folder.glob("*.json"):
            path.unlink(missing_ok=True)


def _read(path: Path) -> Record | None:
    try:
        record = Record(**json.loads(path.read_text()))
        record_id(record)  # raises ValueError for configs of another version
        return record
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        warnings.warn(f"skipped {path}: not a run record of this version ({error})", stacklevel=3)
        return None
