"""What a learner guessed before a result was shown: kept in one file per user, and scored."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from sparsity_lab.files import home, read_bytes, write_text
from sparsity_lab.intervals import CONFIDENCE
from sparsity_lab.units import scientific

SWITCH = "SPARSITY_LAB_GUESSES"  # 0 in the environment: guesses are neither read nor kept
SURE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # what a learner can answer to "how sure?"
COIN = 0.25  # the Brier score of somebody who is always 50 % sure
COLUMNS = ["question", "guess", "unit", "how sure", "result", "low end", "high end", "hit", "counted", "time", "kind",
           "key"]  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # at the start of a cell, a spreadsheet may run what follows
Answer = str | float  # one of a question's choices, or a number


@dataclass(frozen=True)
class Guess:
    """One guess. ``unit`` is None where the guess is one of several choices; ``result``, ``low``, ``high`` (the ends of
    the result's interval) and ``hit`` are None until the result is shown."""

    key: str
    question: str
    guess: Answer
    unit: str | None
    confidence: float  # the stated probability of a hit
    time: str  # ISO 8601
    default: bool = False  # assumed without a browser: never kept
    seen: bool = False  # made after the result was shown: kept, but not counted
    result: Answer | None = None
    low: float | None = None
    high: float | None = None
    hit: bool | None = None

    def __post_init__(self) -> None:
        for name in ("key", "question", "time"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} must be text")
        kind = str if self.unit is None else float
        for name in ("guess", "result"):
            value = getattr(self, name)
            if not (isinstance(value, kind) or (name == "result" and value is None)):
                raise ValueError(f"{name}={value!r} must be {'text' if kind is str else 'a float'}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name}={value} must be finite")
        if not (isinstance(self.confidence, float) and 0 <= self.confidence <= 1):
            raise ValueError(f"confidence={self.confidence!r} must lie between 0 and 1")
        for name, wanted in (("unit", str), ("low", float), ("high", float), ("hit", bool)):
            value = getattr(self, name)
            if not (value is None or isinstance(value, wanted)):
                raise ValueError(f"{name}={value!r} must be None or of type {wanted.__name__}")
        for name in ("default", "seen"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The inverse of `dataclasses.asdict`. Raises ValueError for anything else."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not values.keys() <= names:
            raise ValueError(f"{values!r} is not a guess: it may have {', '.join(sorted(names))}")
        try:
            return cls(**values)
        except TypeError as error:  # a field is missing
            raise ValueError(str(error)) from None


_unsaved: dict[str, Guess] = {}  # what the disk did not take


def guesses_file() -> Path:
    """Returns the file that holds a user's guesses."""
    return home() / "guesses.json"


def load_guesses() -> dict[str, Guess]:
    """Returns the user's guesses by key, none where `SWITCH` is 0. Entries that are damaged or of another version are
    left out."""
    if os.environ.get(SWITCH) == "0":
        return {}
    try:
        entries = json.loads(read_bytes(guesses_file()))
    except (OSError, ValueError, RecursionError):
        entries = []
    found = {}
    for entry in entries if isinstance(entries, list) else []:
        try:
            guess = Guess.from_dict(entry)
        except ValueError:
            continue
        found[guess.key] = guess
    return found | _unsaved


def keep_guess(guess: Guess) -> None:
    """Keeps a guess, in place of an earlier one with its key. A default is not kept; where `SWITCH` is 0, nothing
    is. If the disk is full or can't be written, the guess lives as long as the kernel."""
    if guess.default or os.environ.get(SWITCH) == "0":
        return
    guesses = load_guesses() | {guess.key: guess}
    try:
        write_text(
            guesses_file(), json.dumps([asdict(each) for each in guesses.values()], indent=1, ensure_ascii=False)
        )
    except OSError:
        _unsaved[guess.key] = guess
    else:
        _unsaved.clear()


def guess_table(guesses: Iterable[Guess]) -> pd.DataFrame:
    """Returns guesses as a table. ``counted`` are those whose result is known and was not when they were made."""
    rows = [
        {
            "question": guess.question,
            "guess": guess.guess,
            "unit": guess.unit or "",
            "how sure": guess.confidence,
            "result": guess.result,
            "low end": guess.low,
            "high end": guess.high,
            "hit": guess.hit,
            "counted": guess.hit is not None and not guess.seen,
            "time": guess.time,
            "kind": "choice" if guess.unit is None else "number",
            "key": guess.key,
        }
        for guess in guesses
        if not guess.default
    ]
    types: Any = {"how sure": float, "low end": float, "high end": float, "hit": "boolean", "counted": bool}
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


def for_reading(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the table of `guess_table` as people read it: units beside numbers, intervals in one column."""
    rows = []
    for row in frame.astype(object).to_dict("records"):
        known = not pd.isna(row["hit"])
        hit = "not shown yet" if not known else "yes" if row["hit"] else "no"
        found = {
            "question": row["question"],
            "guess": answer_text(row["guess"], row["unit"]),
            "how sure": percent(row["how sure"]),
            "result": answer_text(row["result"], row["unit"]) if known else "",
            "95 % interval": interval_text(row["low end"], row["high end"], row["unit"]) if known else "",
            "hit": hit + ", not counted" * (known and not row["counted"]),
        }
        rows.append(({"student": row["student"]} if "student" in row else {}) | found)
    columns = ["question", "guess", "how sure", "result", "95 % interval", "hit"]
    return pd.DataFrame(rows, columns=["student"] * ("student" in frame) + columns)


def shown(value: float) -> str:
    """A number of a guess or a result, to four digits."""
    rounded = float(f"{value:.4g}")
    return f"{rounded:,.6g}" if 1e-4 <= abs(rounded) < 1e6 or rounded == 0 else scientific(rounded)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def answer_text(answer: Answer, unit: str | None) -> str:
    """A guess or a result with its unit."""
    return answer if isinstance(answer, str) else f"{shown(answer)} {unit or ''}".strip()


def interval_text(low: float, high: float, unit: str | None) -> str:
    """An interval, which may have no end on either side; nothing for NaN."""
    if math.isnan(low) or math.isnan(high):
        return ""
    if math.isinf(low) or math.isinf(high):
        known = [("above", low), ("below", high)]
        words = [f"{word} {answer_text(end, unit)}" for word, end in known if math.isfinite(end)]
        return words[0] if words else "unknown: too few runs"
    return f"{shown(low)} to {answer_text(high, unit)}"


def brier(frame: pd.DataFrame) -> float:
    """Returns the mean of (confidence − hit)² over the guesses that count, NaN if there are none; less is better.

    It is a proper score: it is best on average to state the probability that one believes. After Brier 1950,
    "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78, 1–3.
    """
    counted = frame[frame["counted"]]
    return float(((counted["how sure"] - counted["hit"].astype(float)) ** 2).mean())


def calibration(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each stated confidence: how many guesses count, the share that were hits, and the ends of its
    95 % interval (Wilson 1927, Journal of the American Statistical Association 22, 209–212), as if no two guesses
    had to do with each other."""
    from scipy.stats import binomtest

    counted = frame[frame["counted"]]
    stated = np.asarray(SURE)
    nearest = stated[np.abs(counted["how sure"].to_numpy()[:, None] - stated).argmin(axis=1)]
    rows = []
    for sure, hits in counted["hit"].astype(int).groupby(nearest):
        interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(CONFIDENCE, "wilson")
        rows.append((sure, len(hits), int(hits.sum()), float(hits.mean()), interval.low, interval.high))
    return pd.DataFrame(rows, columns=["how sure", "guesses", "hits", "share of hits", "low end", "high end"])


def class_summary(table: pd.DataFrame) -> str:
    """Says how many guessed at one question, how many were right, and how sure. ``table``: rows of one key."""
    counted = table[table["counted"]]
    people = f"{len(table)} {'people' if len(table) != 1 else 'person'} guessed"
    if counted.empty:
        return f"{people}; the result is not known yet."
    last = counted.sort_values("time").iloc[-1]
    right = f"{int(counted['hit'].sum())} of the {len(counted)} guesses that count are hits"
    sure = f"they were {percent(counted['how sure'].mean())} sure on average"
    return f"{people}. The result is {answer_text(last['result'], last['unit'])}: {right}, and {sure}."


def guesses_csv(frame: pd.DataFrame) -> str:
    """Returns a table of guesses as the text of a CSV file. A text that a spreadsheet would take for a formula gets an
    apostrophe in front."""

    def cell(value: Any) -> Any:
        if isinstance(value, str):
            return f"'{value}" if value.startswith(FORMULA) else value
        if pd.isna(value):
            return ""
        return ("no", "yes")[bool(value)] if isinstance(value, (bool, np.bool_)) else value

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(frame.columns)
    writer.writerows([cell(value) for value in row] for row in frame.astype(object).itertuples(index=False))
    return text.getvalue()


def read_guesses(path: Path) -> pd.DataFrame:
    """Reads the CSV file of one student, also as a spreadsheet has saved it. Raises ValueError if it is something else,
    and names a row that is not a guess."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path.name} can't be read: {error}") from None
    if not text.strip():
        raise ValueError(f"{path.name} is empty")
    first = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ",")
    if set(reader.fieldnames or ()) != set(COLUMNS):
        raise ValueError(f"{path.name} is no table of one student's guesses: its columns must be {', '.join(COLUMNS)}")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None

    guesses = []
    for number, row in enumerate(rows, 2):
        try:
            guesses.append(_from_row(row))
        except ValueError as error:
            raise ValueError(f"{path.name}, row {number}: {error}") from None
    return guess_table(guesses)


def _from_row(row: dict[str, Any]) -> Guess:
    if None in row or None in row.values():
        raise ValueError("it has more or fewer cells than the first row")
    text = {
        name: value[1:] if value[:1] == "'" and value[1:].startswith(FORMULA) else value for name, value in row.items()
    }
    number = text["kind"] == "number"
    known = {"yes": True, "no": False, "": None}

    def answer(name: str) -> Answer | None:
        return _decimal(text[name]) if number else text[name] or None

    try:
        hit, counted = known[text["hit"].lower()], known[text["counted"].lower()]
    except KeyError as error:
        raise ValueError(f"{error} must be yes, no or nothing") from None
    made = answer("guess")
    if not text["key"] or made is None:
        raise ValueError("key and guess must not be empty")
    return Guess(
        text["key"],
        text["question"],
        made,
        text["unit"] if number else None,
        _decimal(text["how sure"]),  # type: ignore[arg-type]  # None is refused
        text["time"],
        seen=hit is not None and not counted,
        result=answer("result"),
        low=_decimal(text["low end"]),
        high=_decimal(text["high end"]),
        hit=hit,
    )


def _decimal(text: str) -> float | None:
    """Reads a number, also with the decimal comma of some countries' spreadsheets."""
    return float(text.replace(",", ".")) if text else None


def class_table(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Joins the CSV files of a class, one per student, into one table; the column ``student`` is the file's name.

    Returns:
        The table, and a sentence for each file that was left out.
    """
    tables, problems = [], []
    for path in sorted(folder.glob("*.csv")):
        try:
            table = read_guesses(path)
        except ValueError as error:
            problems.append(str(error))
        else:
            tables.append(table.assign(student=path.stem))
    names = ["student", *COLUMNS]
    return (pd.concat(tables, ignore_index=True) if tables else guess_table([]).assign(student=""))[names], problems
