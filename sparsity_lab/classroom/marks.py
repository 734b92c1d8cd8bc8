"""Marks as tables: a long one with everything, and one in the form that Canvas or Moodle takes."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from sparsity_lab.classroom.collect import Person, plain

COLUMNS = [
    "student", "assignment", "points", "max", "auto", "auto_max", "written", "written_max", "late_days", "final",
    "parts", "status",
]  # fmt: skip


@dataclass(frozen=True)
class Deadline:
    """When an assignment is due, what a late day costs, in points, and the days that single students have on top."""

    due: datetime
    points_per_day: float
    extensions: dict[str, float]

    def days_late(self, student: str, handed_in: float) -> int:
        """Returns the days, each begun one whole, after a student's deadline; ``handed_in`` in seconds since 1970."""
        days = (handed_in - self.due.timestamp()) / 86_400 - self.extensions.get(student, 0)
        return max(0, math.ceil(days))


def read_deadlines(path: Path) -> dict[str, Deadline]:
    """Reads deadlines by assignment from TOML. Raises ValueError that names what is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {
            name: Deadline(table["due"], float(table.get("points_per_day", 0)), dict(table.get("extensions", {})))
            for name, table in tables.items() if table["due"].timestamp()
        }  # fmt: skip
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        form = "[ps2_counting] with due = 2030-05-01T23:59:00, and if you like points_per_day = 2"
        form += "; [ps2_counting.extensions] holds NAME = DAYS"
        raise ValueError(f"deadlines={str(path)!r}: {error}; write {form}") from None


def write_marks(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes marks as CSV: one row per student and assignment."""
    safe = [{key: _cell(value) for key, value in row.items()} for row in rows]
    pd.DataFrame(safe, columns=COLUMNS).to_csv(path, index=False, float_format="%g", lineterminator="\r\n")


def _cell(value: Any) -> Any:
    """Returns a value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def write_lms(folder: Path, rows: Sequence[dict[str, Any]], roster: Sequence[Person]) -> Path | None:
    """Writes the roster's own table, everyone on it, with a column of points per assignment, which Canvas imports, or
    with the column Grade filled, which Moodle imports. Returns its path; None without a roster."""
    if not roster:
        return None
    names = sorted({row["assignment"] for row in rows})
    final = {(row["student"], row["assignment"]): row["final"] for row in rows}
    first = roster[0].row
    grade = next((column for column in first if plain(column) == "grade"), None)
    if grade and any(plain(column) == "maximumgrade" for column in first):  # one worksheet per assignment
        for name in names:
            table = [person.row | {grade: f"{final.get((person.key, name), 0):g}"} for person in roster]
            pd.DataFrame(table).to_csv(path := folder / f"moodle_{name}.csv", index=False, encoding="utf-8")
        return path
    canvas = ("student", "id", "sisuserid", "sisloginid", "section")
    keep = [column for column in first if plain(column) in canvas] or list(first)
    points = [{name: final.get((person.key, name), 0) for name in names} for person in roster]
    table = [{c: person.row[c] for c in keep} | own for person, own in zip(roster, points, strict=True)]
    path = folder / "canvas.csv"
    pd.DataFrame(table).to_csv(path, index=False, float_format="%g", encoding="utf-8")
    return path
