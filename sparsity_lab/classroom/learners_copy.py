"""A learner's own copy of the suite in a folder, which an upgrade leaves as the learner has changed it."""

import hashlib
import json
import os
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TypedDict

from sparsity_lab import __version__
from sparsity_lab.files import atomic, read_bytes, write_text
from sparsity_lab.schema import from_json

MANIFEST = ".sparsity-lab.json"  # in the learner's folder


class Manifest(TypedDict):
    files: dict[str, str]  # path in the folder → hash of what was last shipped for it


def put(suite: Path, folder: Path, restore: bool = False) -> list[str]:
    """Copies the files of ``suite`` into ``folder``, and returns what a learner should know, in lines.

    A file that is as it was shipped is replaced by its new version. One that differs is the learner's: it is kept, and
    if there is a new version, that is put beside it. A notebook differs if its cells or their outputs do, and a link
    always. What the learner deleted comes back only to ``restore``, and nothing is ever removed.

    Raises ValueError where a file or a link out of the folder is in the way, and OSError if nothing can be written.
    """
    names = [path.relative_to(suite).as_posix() for path in sorted(suite.rglob("*")) if path.is_file()]
    names = [name for name in names if "__pycache__" not in name]  # which pip makes when it installs
    _check_places(folder, names)
    before, lines = _read(folder / MANIFEST)

    added, updated, now = 0, 0, {}
    for name in names:
        path, new = folder / name, (suite / name).read_bytes()
        now[name] = shipped = _hash(name, new)
        was, here = before.get(name), _hash_of(path)
        if here is None:
            if was is None or restore:
                _write(path, new)
                added += 1
        elif here == was != shipped:
            _write(path, new)
            updated += 1
        elif here != shipped != was:
            beside = _beside(path, shipped)
            _write(beside, new)
            lines.append(f"You have changed {name}, so it is kept; the new version is beside it: {beside.name}")

    if now != before:  # else nothing is written, so that a folder can be read-only
        write_text(folder / MANIFEST, json.dumps(Manifest(files=now), indent=1))
    done = [f"New files in {folder}: {added}"] if added else []
    done += [f"Files in {folder} that are now those of version {__version__}: {updated}"] if updated else []
    return [*done, *lines]


def _check_places(folder: Path, names: list[str]) -> None:
    """Raises ValueError, before anything is written, if a folder that is needed is something else, or a link that would
    take files out of ``folder``."""
    inside = {parent for name in names for parent in Path(name).parents}
    for place in sorted(folder / parent for parent in inside):
        if os.path.lexists(place) and not place.is_dir():
            raise ValueError(f"{place} is no folder: move it away, or name another folder")
        if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)):
            raise ValueError(f"{place} is a link out of {folder}: move it away, or name another folder")


def _read(manifest: Path) -> tuple[dict[str, str], list[str]]:
    """Returns the hashes of what was shipped, none if nobody can tell, and a line about that."""
    if not os.path.lexists(manifest):
        return {}, []
    try:
        return from_json(read_bytes(manifest), Manifest)["files"], []
    except (OSError, ValueError) as error:
        return {}, [f"{manifest} can't be used ({error}): whatever differs from this version counts as changed by you"]


def _hash(name: str, content: bytes) -> str:
    """Returns a hash of a file: for a notebook, of its cells, because JupyterLab writes the kernel's language into the
    rest, also if a notebook is only opened."""
    if name.endswith(".ipynb"):
        with suppress(ValueError, TypeError, KeyError, RecursionError):  # what is no notebook is compared as it is
            cells = [cell | {"source": "".join(cell["source"])} for cell in json.loads(content)["cells"]]
            content = json.dumps(cells, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def _hash_of(path: Path) -> str | None:
    """Returns the hash of a file; None if there is nothing, and "" for what can't be as it was shipped."""
    if not os.path.lexists(path):
        return None
    try:
        return "" if path.is_symlink() else _hash(path.name, read_bytes(path))
    except OSError:  # a folder, say, or a notebook with too many outputs
        return ""


def _beside(path: Path, shipped: str) -> Path:
    """Returns a place beside ``path`` for its new version, where nothing else is."""
    for number in count(1):
        beside = path.with_name(f"{path.stem}.new-{__version__}{f'-{number}' * (number > 1)}{path.suffix}")
        if _hash_of(beside) in (None, shipped):
            break
    return beside


def _write(path: Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)
