"""Finds what was handed in: folders, a download from Canvas or Moodle, a zip file of either, and a list of students."""

import os
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

CANVAS = re.compile(r"(?P<who>[^_]+)(?P<late>_LATE)?_(?P<number>\d+)_\d+_(?P<file>.+)")
MOODLE = re.compile(r"(?P<who>.+)_(?P<number>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<file>.*)")
AGAIN = re.compile(r"([ _-]*\(\d+\)|[ _-]+copy\d*|[ _-]+\d+|~)$", re.IGNORECASE)  # ps2 (1), ps2-Copy1, ps2-2
KEYS = (  # columns that name a student, the best first
    "sisloginid", "loginid", "login", "username", "sisuserid", "idnumber", "student", "id", "emailaddress", "email",
    "identifier", "fullname", "name",
)  # fmt: skip
DEEPEST = 8  # folders in folders
LARGEST_FILE = 50_000_000  # bytes of a notebook with its outputs
MOST_FILES, MOST_BYTES = 20_000, 4_000_000_000  # of a zip file


@dataclass(frozen=True)
class Person:
    """A student. ``names`` are what the student may be called: in a folder, a file's name, or the notebook."""

    key: str
    names: tuple[str, ...]
    row: dict[str, str] = field(default_factory=dict, hash=False, compare=False)  # of the roster


@dataclass(frozen=True)
class Submission:
    student: str
    assignment: str
    path: Path | None
    names: tuple[str, ...]
    strict: bool = True  # the student's name is that of a folder
    note: str = ""
    trouble: str = ""


def plain(text: str) -> str:
    """Returns the letters and digits of a name, for comparing."""
    letters = unicodedata.normalize("NFKC", text.encode(errors="replace").decode()).casefold()
    return "".join(letter for letter in letters if letter.isalnum())


def key_of(name: str) -> str:
    """Returns a name as the name of a folder."""
    text = unicodedata.normalize("NFC", name.encode(errors="replace").decode()).strip()
    return re.sub(r"[^\w.@-]+", "_", text).strip("._")[:80] or "student"


# ---- the roster


def read_roster(path: Path) -> list[Person]:
    """Reads the students of a course from a CSV: Canvas's or Moodle's own, or any with a column such as ``student``,
    ``id``, ``login`` or ``email``. Raises ValueError for a table without one."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    columns = {plain(name): name for name in table.columns}
    found = [columns[key] for key in KEYS if key in columns]
    if not found:
        raise ValueError(f"roster={str(path)!r} has no column student, id, login or email: {', '.join(table.columns)}")

    people: list[Person] = []
    for row in table.to_dict("records"):
        if plain(row.get("Student", "")) in ("pointspossible", "studenttest"):  # Canvas's own lines
            continue
        key = next((key_of(row[name]) for name in found if row[name].strip()), "")
        if not key:
            continue
        values = [value.strip() for value in row.values() if value.strip()]
        first, last = (row.get(columns.get(name, ""), "") for name in ("firstname", "lastname"))
        last = last or row.get(columns.get("surname", ""), "")
        values += [f"{first} {last}", f"{last} {first}"] if first and last else []
        values += [" ".join(reversed(name.split(", "))) for name in values if name.count(", ") == 1]
        people.append(Person(key, (key, *dict.fromkeys(values)), {str(k): str(v) for k, v in row.items()}))
    return people


# ---- files


def unpack(path: Path, target: Path) -> Path:
    """Unpacks the notebooks of a zip file, and of zip files in it, into ``target``, with their times."""
    left, files = MOST_BYTES, 0
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                kind = Path(info.filename).suffix.lower()
                files, left = files + 1, left - info.file_size
                if files > MOST_FILES or left < 0:
                    raise ValueError(f"{path.name} holds more than {MOST_FILES:,} files or {MOST_BYTES:,} bytes")
                if info.is_dir() or kind not in (".ipynb", ".zip") or info.file_size > 100_000_000:
                    continue
                parts = [part[:150] for part in Path(info.filename).parts if part not in ("..", "/", "")]
                place = target.joinpath(*parts[-DEEPEST:])
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(archive.read(info))
                moment = datetime(*info.date_time).timestamp()
                os.utime(place, (moment, moment))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path.name} is no zip file that can be read: {error}") from None
    return target


def _files(folder: Path, unpacked: Path, depth: int = 0) -> Iterator[tuple[tuple[str, ...], Path, str]]:
    """Yields the notebooks below a folder: the folders above each, its path, and why it can't be read. Folders without
    one are yielded too, because a student may stand behind them."""
    if depth > DEEPEST:
        return
    found = False
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        entries = []
    for path in entries:
        name = path.name.encode(errors="replace").decode()
        if name.startswith(".") or name == "__MACOSX":
            continue
        if path.is_symlink():
            found = True
            yield (name,), path, f"{name} is a link, which is not followed"
        elif path.is_dir():
            found = True
            for parts, inner, trouble in _files(path, unpacked, depth + 1):
                yield (name, *parts), inner, trouble
        elif not path.is_file() or not os.access(path, os.R_OK):  # a device or a pipe would never end
            found = True
            yield (name,), path, f"{name} can't be read"
        elif name.lower().endswith(".zip"):
            found = True
            target = unpacked / f"{len(list(unpacked.glob('*')))}" if unpacked.exists() else unpacked / "0"
            try:
                unpack(path, target)
            except (ValueError, OSError) as error:
                yield (name,), path, str(error)
                continue
            inside = [parts for parts in _files(target, unpacked, depth + 1) if parts[1].suffix]
            for parts, inner, trouble in inside:
                yield (f"{name[:-4]}.ipynb" if len(inside) == 1 else parts[-1],), inner, trouble
        elif name.lower().endswith(".ipynb"):
            found = True
            yield (name,), path, ""
    if not found and depth:
        yield (), folder, "no notebook was handed in"


def _assignment(parts: Sequence[str], path: Path, assignments: Sequence[str]) -> str | None:
    """Returns the assignment that a file answers, by its folders, its name, or what is in it."""
    by_name = {plain(name): name for name in assignments}
    for part in reversed(parts[:-1]):
        if plain(part) in by_name:
            return by_name[plain(part)]
    stem = Path(parts[-1]).stem if parts else ""
    while AGAIN.search(stem):
        stem = AGAIN.sub("", stem)
    for name in assignments:
        if plain(name) in plain(stem) or re.search(rf"(^|[^a-z0-9]){name.split('_')[0]}([^a-z0-9]|$)", stem.lower()):
            return name
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        return None
    data = path.read_bytes()
    return next((name for name in assignments if f'dice(STUDENT, \\"{name.split("_")[0]}\\")'.encode() in data), None)


def submissions(
    source: Path, assignments: Sequence[str], unpacked: Path, roster: Sequence[Person] = ()
) -> list[Submission]:
    """Returns one submission for each student and each assignment that anybody handed in, whether it is there or not.

    ``source`` is a folder or a zip file: STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, a flat download from Canvas, or one
    from Moodle. Raises ValueError if there is no known assignment.
    """
    if source.is_file():
        source = unpack(source, unpacked / "download")
    named = {plain(name): person for person in roster for name in person.names if plain(name)}
    people: dict[str, Person] = {person.key: person for person in roster}
    given: dict[tuple[str, str], list[tuple[Path, str, str]]] = defaultdict(list)  # path, file name, trouble
    strict: set[str] = set()

    def person(*names: str) -> Person:
        for name in names:
            if plain(name) in named:
                return named[plain(name)]
        key, name = key_of(names[0]), names[0]
        number = 2
        while key in people and name not in people[key].names:  # two names that look alike as folders
            key, number = f"{key_of(names[0])}-{number}", number + 1
        return people.setdefault(key, Person(key, tuple(names)))

    files = list(_files(source, unpacked / "inner"))
    for parts, path, trouble in files:
        if not parts:
            continue
        marks = (pattern.fullmatch(part) for part in reversed(parts) for pattern in (CANVAS, MOODLE))
        mark = next(filter(None, marks), None)
        if len(parts) > 1 and plain(parts[0]) in map(plain, assignments):  # the assignment's folder above the students'
            parts = (parts[1], parts[0], *(parts[2:] or parts[1:]))
            parts = (Path(parts[0]).stem, *parts[1:])
        folder = next((i for i, part in enumerate(parts) if plain(part) in map(plain, assignments) and i), None)
        if folder is not None and (folder < len(parts) - 1 or trouble):
            who = person(parts[folder - 1])
            strict.add(who.key)
        elif mark is not None:
            who = person(mark["who"], mark["number"], f"participant {mark['number']}")
            parts = (*parts[:-1], mark["file"] or parts[-1]) if mark.re is CANVAS or "." in mark["file"] else parts
        elif len(parts) > 1 or trouble:
            who = person(parts[0])
            strict.add(who.key)
        else:
            who = person(re.sub(r"[ _-]*ps\d.*", "", Path(parts[0]).stem, flags=re.IGNORECASE) or Path(parts[0]).stem)
        name = _assignment(parts if path.suffix else (*parts, ""), path, assignments)
        given[who.key, name or ""].append((path, parts[-1], trouble))

    some = [name for name in assignments if any(name == which for _, which in given)]
    if not some:
        form = f"STUDENT/ASSIGNMENT/ASSIGNMENT.ipynb, with assignments {', '.join(assignments)}"
        raise ValueError(f"submissions={str(source)!r} must hold {form}, or be a download from Canvas or Moodle")

    result = []
    for key, who in people.items():
        for name in some:
            unclear = [file for file in given.get((key, ""), []) if len(some) == 1 or file[2]]
            result.append(_chosen(who, name, given.get((key, name), []), unclear, key in strict))
    return sorted(result, key=lambda submission: (submission.student, submission.assignment))


def _chosen(
    who: Person, name: str, found: list[tuple[Path, str, str]], unclear: list[tuple[Path, str, str]], strict: bool
) -> Submission:
    """Returns the submission made of the files of one student for one assignment: the newest, if there are several."""
    readable = [(path, file) for path, file, trouble in found if not trouble]
    if not readable:
        readable = [(path, file) for path, file, trouble in unclear if not trouble]
    if not readable:
        troubles = [trouble for _, _, trouble in (*found, *unclear) if trouble]
        missing = f"no {name}.ipynb was handed in"
        return Submission(who.key, name, None, who.names, strict, "", troubles[0] if troubles else missing)

    exact = [pair for pair in readable if pair[1] == f"{name}.ipynb"]
    newest = max(readable, key=lambda pair: (_number(pair[1]), pair[0].stat().st_mtime))
    path, file = exact[0] if strict and len(exact) == 1 else newest  # platforms number what is handed in again
    others = [other for _, other in readable if other != file]
    note = f"{file} was read as {name}.ipynb" if file != f"{name}.ipynb" else ""
    if others:
        note = f"{file} was read, and not {', '.join(sorted(others))}"
    return Submission(who.key, name, path, who.names, strict, note)


def _number(file: str) -> int:
    found = re.search(r"(\d+)\)?$", Path(file).stem)
    return int(found[1]) if found else 0
