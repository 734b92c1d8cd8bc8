"""Text becomes bytes on disk.

A corpus is bytes (256 tokens, and no tokenizer to train or download), cut into segments, shuffled with a fixed seed and
split into a part to train on and a held-out part. It is prepared once and then read from a cache. The same files give
the same bytes on every machine; their SHA-256 is the corpus's fingerprint.
"""

import codecs
import hashlib
import importlib
import importlib.util
import json
import os
import re
import stat
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from sparsity_lab import schema
from sparsity_lab.files import StrangeFile, atomic, cache_dir, check_regular, read_bytes, unwritable, write_text
from sparsity_lab.training import tasks
from sparsity_lab.training.tasks import Bytes
from sparsity_lab.units import size

Progress = Callable[[str, float], None]  # what is being done, and the fraction done in [0, 1]

SEGMENT = 16_384  # bytes; the unit of the shuffle and of the split
SMALLEST_SEGMENT = 512  # a text of less than 32 segments is cut into smaller ones, down to this
HELD_OUT = 0.03  # of the segments
MIN_BYTES = 4_096
MAX_BYTES = 1_000_000_000  # a corpus is prepared in memory
FORMAT = 1  # raise it when a rule of this file changes: cached corpora are then prepared again

PACKAGES = ("torch", "pandas", "numpy", "sympy", "networkx", "IPython")
MAX_SOURCE_BYTES = 500_000  # of one Python file: larger ones are mostly tables
NO_SOURCE = re.compile(  # tests and generated files, by path; those of the last line hold the paths of one machine
    r"(.*/)?(tests?|_?testing|idle_test|_?generated|lib-dynload)/.*"
    r"|(.*/)?(test_[^/]*|[^/]*_tests?|conftest|[^/]*_pb2(_grpc)?|[^/]*_generated[^/]*)\.py"
    r"|(.*/)?(_sysconfigdata[^/]*|python-config)\.py"
)
GENERATED = re.compile(  # in comments and in a docstring's first line, because other prose may just mention it
    rb'^(#|""").*(generated (by|from|with|using)|auto-?generated|do not (edit|modify))', re.M | re.I
)
TEXT_KINDS = re.compile(
    r".*\.(txt|text|md|markdown|rst|tex|org|adoc|html?|xml|csv|tsv|jsonl?|ya?ml|toml|ini|cfg|pyi?|c|h|cc|cpp|hpp|cu"
    r"|rs|go|java|kt|scala|swift|jsx?|tsx?|css|sh|sql|r|jl|lua|rb|pl|php|hs)",
    re.I,
)
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules"}  # and hidden ones


@dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared text. `train` and `val`, (bytes,), are read-only and share no segment; memory-mapped where the
    cache has room."""

    name: str
    fingerprint: str  # SHA-256 of train then val, hex
    train: Bytes = field(repr=False)
    val: Bytes = field(repr=False)
    notes: str = ""  # what was left out of a folder or data set

    def describe(self) -> str:
        """Returns one line, such as "python: 85.1 MB train, 2.6 MB held out, fingerprint 1a2b3c4d"."""
        sizes = f"{size(self.train.size)} train, {size(self.val.size)} held out"
        notes = f" ({self.notes})" if self.notes else ""
        return f"{self.name}: {sizes}, fingerprint {self.fingerprint[:8]}{notes}"


def load_corpus(name: str = "python", *, progress: Progress | None = None) -> Corpus:
    """Finds a corpus in the cache (`cache_dir()`), or prepares it and puts it there; where the cache can't be written,
    it stays in memory, with a warning.

    `name` is one of
    - "python": Python source that is already on this machine: the standard library and those of PACKAGES that
      are installed, without tests, generated files and files over MAX_SOURCE_BYTES;
    - "standard-library": the standard library alone;
    - "tasks": lines of small tasks with exact answers, mixed with some of "python" (`sparsity_lab.training.tasks`);
    - a text file, or a folder: its files of TEXT_KINDS, recursively, sorted by path. Hidden files and
      SKIPPED_FOLDERS are passed over; other kinds, duplicates and what is not UTF-8 are counted in `notes`;
    - "hf:OWNER/NAME", "hf:OWNER/NAME/SUBSET": the first MAX_BYTES bytes of a data set of Hugging Face's Hub:
      its `train` or only split, its `text` or only column of strings. Once cached, it is not looked up again;
    - "hf:FOLDER": the same, written by `Dataset.save_to_disk` or readable by `datasets.load_dataset`.

    `progress` is called with a text and a fraction in [0, 1], the last time with 1.0. Raises ValueError if the source
    is missing, below MIN_BYTES, over MAX_BYTES, binary, not UTF-8, or a data set that cannot be loaded.
    """
    report: Progress = progress or (lambda text, fraction: None)
    source = _find(name)
    folder = cache_dir() / "corpus"
    key = hashlib.sha256(json.dumps([FORMAT, name, source.stamp]).encode()).hexdigest()[:24]

    corpus = _open(folder, key, name) or _homeless.get(key)
    if corpus is None:
        text, notes = source.read(report)
        if len(text) < MIN_BYTES:
            has = f"{len(text):,} bytes of text" + (f" ({notes})" if notes else "")
            fix = "give a longer text, or a folder with files such as .txt, .md or .py"
            raise ValueError(f"corpus={name!r} has {has}, at least {MIN_BYTES:,} are needed: {fix}")
        report("writing", 0.9)
        try:
            _write(folder, key, text, notes)
            corpus = _open(folder, key, name)
            assert corpus is not None, f"the corpus just written to {folder} cannot be read"
        except OSError as error:
            trouble = f"{unwritable(folder, error)}. Each process prepares corpus={name!r} anew until then."
            warnings.warn(trouble, StrangeFile, stacklevel=2)
            corpus = _homeless[key] = _prepared(name, text, notes)

    report(corpus.describe(), 1.0)
    return corpus


def check_corpus(name: str) -> None:
    """Raises the ValueError of `load_corpus` for a source that is not there, can't be read or is no text, at once: a
    folder is not searched, and the Hub is not asked."""
    path = os.path.expanduser(name)
    if name.startswith("hf:"):
        return
    if not (os.path.isdir(path) or os.path.isfile(path)):
        _find(name)
        return

    if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
        raise ValueError(f"corpus={name!r} may not be read: give a file or folder of yours")
    if os.path.isfile(path):
        with open(path, "rb") as file:
            start = file.read(65_536)
        if len(start) < MIN_BYTES:
            raise ValueError(f"corpus={name!r} has {len(start):,} bytes of text, at least {MIN_BYTES:,} are needed")
        try:
            codecs.getincrementaldecoder("utf-8")().decode(start)
        except UnicodeDecodeError:
            raise ValueError(f"corpus={name!r} is not UTF-8: give a text file saved as UTF-8") from None


# ---- Sources: a stamp that changes when the source does (cheap), and a way to read it (seconds).


class _Source(NamedTuple):
    stamp: list[Any]  # JSON, for the cache key
    read: Callable[[Progress], tuple[bytearray, str]]  # → text, notes


class _File(NamedTuple):
    label: str  # relative path with "/": files are sorted alike on all machines
    path: str
    size: int
    mtime: int


def _find(name: str) -> _Source:
    if name in ("python", "standard-library"):
        return _python_source(PACKAGES if name == "python" else ())
    if name == "tasks":
        return _tasks_source()
    if name.startswith("hf:"):
        return _hf_source(name)
    path = os.path.expanduser(name)
    if not os.path.exists(path):
        fix = 'give "python", "standard-library", "tasks", "hf:OWNER/NAME" or the path of a text file or folder'
        raise ValueError(f"corpus={name!r} does not exist: {fix}")
    return _text_source(name, os.path.realpath(path))


def _python_source(packages: tuple[str, ...]) -> _Source:
    roots = {"stdlib": sysconfig.get_path("stdlib")}
    stamp: list[Any] = [sys.version, roots["stdlib"]]
    for package in packages:
        spec = importlib.util.find_spec(package)  # finds it without importing it
        if spec and spec.origin:
            roots[package] = os.path.dirname(spec.origin)
            stamp.append(_file(spec.origin, package))  # its time is when this version was installed

    def read(report: Progress) -> tuple[bytearray, str]:
        files = [file for label, root in roots.items() for file in _walk(root, f"{label}/")]
        files = [f for f in files if f.label.endswith(".py") and f.size <= MAX_SOURCE_BYTES]
        files = [f for f in files if not NO_SOURCE.fullmatch(f.label)]
        return _read_files(files, report, generated=False)[0], ""

    return _Source(stamp, read)


def _tasks_source() -> _Source:
    def read(report: Progress) -> tuple[bytearray, str]:
        source = load_corpus("python", progress=lambda text, fraction: report(text, 0.8 * fraction))
        report("drawing examples", 0.8)
        return tasks.training_text(source.train[: tasks.TEXT_BYTES].tobytes()), ""

    return _Source([tasks.stamp(), _python_source(PACKAGES).stamp], read)


def _text_source(name: str, path: str) -> _Source:
    is_folder = os.path.isdir(path)
    found = _walk(path) if is_folder else [_file(path, os.path.basename(path))]
    files = [f for f in found if TEXT_KINDS.fullmatch(f.label)] if is_folder else found
    if sum(file.size for file in files) > MAX_BYTES:
        raise ValueError(f"corpus={name!r} has more than {MAX_BYTES:,} bytes: give a part of it")

    def read(report: Progress) -> tuple[bytearray, str]:
        text, rejected = _read_files(files, report, generated=True)
        if rejected and not is_folder:
            raise ValueError(f"corpus={name!r} is {next(iter(rejected))}: give a text file saved as UTF-8")
        rejected["of other kinds"] += len(found) - len(files)
        notes = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items()) if n)
        return text, f"files left out: {notes}" if notes else ""

    return _Source(files, read)


def _hf_source(name: str) -> _Source:
    where = name.removeprefix("hf:")
    path = os.path.expanduser(where)
    folder = os.path.realpath(path) if os.path.isdir(path) else ""
    if not folder and not re.fullmatch(r"[\w.-]*\w(/[\w.-]*\w){0,2}", where):
        fix = "give hf:OWNER/NAME, hf:OWNER/NAME/SUBSET or hf:FOLDER"
        raise ValueError(f"corpus={name!r} is no folder and no data set's name: {fix}")

    def read(report: Progress) -> tuple[bytearray, str]:
        text = bytearray()
        for rows in _load_hf(name, folder):
            for row in rows:
                _append(text, (row or "").encode(errors="replace"))
            report(f"reading {name}: {size(len(text))}", 0.9 * min(1.0, len(text) / MAX_BYTES))
            if len(text) > MAX_BYTES:
                del text[MAX_BYTES:]
                return text, f"its first {size(MAX_BYTES)}"
        return text, ""

    return _Source(list(_walk(folder)) if folder else [], read)  # on the Hub, only the name is known


def _load_hf(name: str, folder: str) -> Iterator[list[str | None]]:
    """Yields the column of text, in batches of rows."""
    try:
        datasets = importlib.import_module("datasets")  # here, because it is optional and takes a second
    except ImportError as error:
        fix = "pip install 'sparsity-lab[datasets]'"
        raise ValueError(f"corpus={name!r} needs Hugging Face datasets: {fix}") from error

    try:
        if folder and any(os.path.exists(f"{folder}/{file}") for file in ("state.json", "dataset_dict.json")):
            data = datasets.load_from_disk(folder)
        else:
            parts = name.removeprefix("hf:").split("/")
            where = [folder] if folder else ["/".join(parts[:2]), *parts[2:]]  # and the subset
            data = datasets.load_dataset(*where, streaming=True)  # or there would be a second copy on disk

        if isinstance(data, dict):  # of splits
            if "train" not in data and len(data) != 1:
                raise ValueError(f"it needs a split `train`, or only one split, got {sorted(data)}")
            data = data["train"] if "train" in data else next(iter(data.values()))

        sample = list(islice(data, 100))  # streamed, it may not know its columns; a first row may be empty
        columns = sorted({key for row in sample for key, value in row.items() if isinstance(value, str)})
        if "text" not in columns and len(columns) != 1:
            got = f"{columns} among the columns {sorted({key for row in sample for key in row})}"
            raise ValueError(f"it needs a column `text`, or only one column of strings, got {got}")
    except Exception as error:  # of many types: no such name or subset, no network, an unknown format
        raise ValueError(f"corpus={name!r} cannot be loaded by Hugging Face datasets: {error}") from error

    column = "text" if "text" in columns else columns[0]
    return (rows[column] for rows in data.select_columns([column]).iter(1000))


def _walk(root: str, prefix: str = "") -> list[_File]:
    """Returns the regular files under a folder, sorted by label (prefix + relative path)."""
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and name[0] != "."]
        for name in names:
            path = os.path.join(folder, name)
            if name[0] != "." and os.path.isfile(path):  # no broken links, no pipes
                files.append(_file(path, prefix + os.path.relpath(path, root).replace(os.sep, "/")))
    return sorted(files)


def _file(path: str, label: str) -> _File:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"corpus={path!r} is neither a file nor a folder: give one of them")
    return _File(label, path, status.st_size, status.st_mtime_ns)


def _read_files(files: list[_File], report: Progress, generated: bool) -> tuple[bytearray, Counter[str]]:
    """Returns the text of the files in their order, and how many were left out for which reason."""
    text, seen, rejected = bytearray(), set(), Counter[str]()
    for i, file in enumerate(files):
        if i % 50 == 0:
            report(f"reading {file.label}", 0.9 * i / len(files))
        content, fault = b"", ""
        try:
            content = Path(file.path).read_bytes()
            content.decode()
        except OSError:
            fault = "unreadable"
        except UnicodeDecodeError:
            fault = "not UTF-8"
        if b"\0" in content:  # it may be valid UTF-8, but it is in no text
            fault = "binary"

        digest = hashlib.sha256(content).digest()
        if fault:
            rejected[fault] += 1
        elif digest in seen:
            rejected["duplicate"] += 1
        elif generated or not GENERATED.search(content[:1024]):
            seen.add(digest)
            _append(text, content)
    return text, rejected


def _append(text: bytearray, document: bytes) -> None:
    if text and not text.endswith(b"\n"):
        text += b"\n"
    text += document


# ---- Cache: KEY.json describes what a source gave and names FINGERPRINT.bin, train then val. Each appears whole
# or not at all. A .bin is named by its content, so two processes that prepare a corpus write the same files.

SAMPLES, SAMPLE_BYTES = 64, 4_096  # of a .bin, to be hashed whenever it is opened: the whole would take a second


class _Meta(TypedDict):
    fingerprint: str
    train_bytes: int
    val_bytes: int
    sample: str  # see `_sample`
    notes: str


def _sample(data: Bytes) -> str:
    """Hashes some blocks of a text, the first and the last among them."""
    found = hashlib.blake2b(digest_size=16)
    for start in np.linspace(0, max(0, data.size - SAMPLE_BYTES), SAMPLES).astype(int):
        found.update(data[start : start + SAMPLE_BYTES].tobytes())
    return found.hexdigest()


_homeless: dict[str, Corpus] = {}  # by key: those that this process prepared and could not write


def _arranged(text: bytearray) -> tuple[list[memoryview], int]:
    """Returns the parts of a text in the order of a .bin, and how many bytes of it are held out."""
    segment = min(SEGMENT, max(SMALLEST_SEGMENT, len(text) // 32))
    n = len(text) // segment
    n_val = max(1, round(HELD_OUT * n))
    view = memoryview(text)
    shuffled = [view[i * segment : (i + 1) * segment] for i in np.random.RandomState(0).permutation(n)]
    rest = view[n * segment :]  # shorter than a segment: to train
    return [*shuffled[n_val:], rest, *shuffled[:n_val]], n_val * segment


def _digest(parts: list[memoryview]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


def _write(folder: Path, key: str, text: bytearray, notes: str) -> None:
    parts, val_bytes = _arranged(text)
    fingerprint = _digest(parts)
    path = folder / f"{fingerprint}.bin"
    try:
        with atomic(path) as temporary, open(temporary, "wb") as stream:
            stream.writelines(parts)
    except PermissionError:  # on Windows, when another process has it open: it is there, and the same
        if not path.exists():
            raise

    meta: _Meta = {
        "fingerprint": fingerprint,
        "train_bytes": len(text) - val_bytes,
        "val_bytes": val_bytes,
        "sample": _sample(np.memmap(path, np.uint8, "r")),
        "notes": notes,
    }
    write_text(folder / f"{key}.json", json.dumps(meta))


def _prepared(name: str, text: bytearray, notes: str) -> Corpus:
    """Returns the corpus of a text without a cache, as `_open` would find it there."""
    parts, val_bytes = _arranged(text)
    data = np.frombuffer(b"".join(parts), np.uint8)
    return Corpus(name, _digest(parts), data[: data.size - val_bytes], data[data.size - val_bytes :], notes)


def _open(folder: Path, key: str, name: str) -> Corpus | None:
    """Opens the corpus in the cache, checked by its sizes and by a sample; None if it is not there or damaged."""
    try:
        meta = schema.from_json(read_bytes(folder / f"{key}.json"), _Meta)
        n_train, n_val = meta["train_bytes"], meta["val_bytes"]
        path = folder / f"{meta['fingerprint']}.bin"
        check_regular(path)
        data = np.memmap(path, np.uint8, "r")
        if data.size != n_train + n_val or min(n_train, n_val) < 1 or _sample(data) != meta["sample"]:
            return None
        return Corpus(name, meta["fingerprint"], data[:n_train], data[n_train:], meta["notes"])
    except (OSError, ValueError):
        return None
