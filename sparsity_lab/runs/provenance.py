"""A file beside a folder's records that notes where they come from."""

import json
import os
import platform
from collections import Counter
from pathlib import Path

from sparsity_lab.files import write_text
from sparsity_lab.runs.store import RunStore

FILE = "provenance.toml"


def write_provenance(folder: Path, command: str) -> None:
    """Sums up in TOML what the records in ``folder`` tell about themselves, and the command that makes them."""
    records = RunStore(folder).load()
    count = Counter(record.status for record in records)
    values: dict[str, object] = {
        "command": command,
        "runs": len(records),
        **{f"runs_{status}": n for status, n in sorted(count.items())},
        "flops": float(sum(record.flops for record in records)),
        "core_hours": round(sum(record.cpu_seconds or record.seconds for record in records) / 3600, 2),
        "corpora": sorted(
            {
                f"{record.corpus['name']} {record.corpus['fingerprint']}"
                for record in records
                if record.status != "failed"
            }
        ),
        "versions": sorted({f"{name} {version}" for record in records for name, version in record.versions.items()}),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }

    # Numbers, texts and lists of texts look the same in TOML as in JSON.
    lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())
    write_text(folder / FILE, "".join(lines))
