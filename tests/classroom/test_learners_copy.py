"""A learner's copy of the suite: what the learner did stays, the rest is upgraded, and nothing leaves the folder."""

import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_lab import files
from sparsity_lab.classroom.learners_copy import MANIFEST, put

FIRST, TERMS = "notebooks/00_first.ipynb", "docs/terms.md"
NAMES = (FIRST, "notebooks/01_second.ipynb", "data/runs/run.json", TERMS)


def ship(suite: Path, version: int) -> None:
    """Makes a suite whose files all have this version."""
    for name in NAMES:
        path = suite / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}, version {version}")


def contents(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    ship(tmp_path / "suite", 1)
    (tmp_path / "suite/notebooks/__pycache__").mkdir()
    (tmp_path / "suite/notebooks/__pycache__/serve.pyc").write_text("made by pip")
    return tmp_path / "suite"


@pytest.fixture
def folder(suite: Path, tmp_path: Path) -> Path:
    put(suite, tmp_path / "my lab")
    return tmp_path / "my lab"


def test_everything_is_put_there_once(suite: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "my lab"
    assert put(suite, folder) == [f"New files in {folder}: {len(NAMES)}"]
    assert contents(folder) == {name: f"{name}, version 1" for name in NAMES}
    before = (folder / MANIFEST).stat()
    assert put(suite, folder) == []
    assert (folder / MANIFEST).stat().st_ino == before.st_ino, "what is up to date is not written"


def test_unchanged_files_are_upgraded(suite: Path, folder: Path) -> None:
    for version in (2, 3):
        ship(suite, version)
        (line,) = put(suite, folder)
        assert re.fullmatch(rf"Files in {folder} that are now those of version .+: {len(NAMES)}", line)
        assert contents(folder) == {name: f"{name}, version {version}" for name in NAMES}


def test_a_changed_file_is_kept_with_each_new_version_beside_it(suite: Path, folder: Path) -> None:
    (folder / FIRST).write_text("mine")
    assert put(suite, folder) == [], "there is no new version yet"
    ship(suite, 2)
    _, line = put(suite, folder)
    beside = line.rpartition(": ")[2]
    assert line.startswith(f"You have changed {FIRST}, so it is kept")
    assert beside.startswith("00_first.new-")
    assert beside.endswith(".ipynb"), "JupyterLab opens it"
    assert (folder / FIRST).read_text() == "mine"
    assert (folder / "notebooks" / beside).read_text() == f"{FIRST}, version 2"
    assert put(suite, folder) == [], "it is said once"

    (folder / "notebooks" / beside).write_text("mine too")
    ship(suite, 3)  # under the same number
    _, line = put(suite, folder)
    assert line.rpartition(": ")[2] != beside
    assert (folder / "notebooks" / beside).read_text() == "mine too"
    (folder / FIRST).write_text(f"{FIRST}, version 3")  # the learner takes the new one
    ship(suite, 4)
    assert len(put(suite, folder)) == 1
    assert (folder / FIRST).read_text() == f"{FIRST}, version 4"


def book(source: str = "1 + 1", **more: object) -> str:
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [], "source": [source]}
    return json.dumps({"cells": [cell | more], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


OPENED = json.loads(book(source="1 + 1")) | {"metadata": {"language_info": {"name": "python", "version": "3.14"}}}
BOOKS = {
    "only opened": (json.dumps(OPENED, indent=1), False),
    "run": (book(execution_count=1, outputs=[{"output_type": "stream", "name": "stdout", "text": "2"}]), True),
    "edited": (book("1 + 2"), True),
    "a cell more": (json.dumps(OPENED | {"cells": [*OPENED["cells"], *OPENED["cells"]]}), True),
    "no cells": ("{}", True),
    "cells that are none": ('{"cells": [1, {"source": 2}]}', True),
    "nested": ("[" * 100_000, True),
    "no JSON": ("mine", True),
}


@pytest.mark.parametrize("state", BOOKS)
def test_a_notebook_is_changed_by_what_is_in_its_cells(state: str, suite: Path, tmp_path: Path) -> None:
    folder, (text, changed) = tmp_path / "lab", BOOKS[state]
    (suite / FIRST).write_text(book())
    put(suite, folder)
    (folder / FIRST).write_text(text)
    (suite / FIRST).write_text(book("1 + 3"))
    put(suite, folder)
    assert (folder / FIRST).read_text() == (text if changed else book("1 + 3"))


def test_what_was_deleted_stays_away_until_it_is_asked_for(suite: Path, folder: Path) -> None:
    (folder / FIRST).unlink()
    shutil.rmtree(folder / "data")
    for version in (1, 2):
        ship(suite, version)
        put(suite, folder)
        assert set(contents(folder)) == {NAMES[1], TERMS}
    assert put(suite, folder, restore=True) == [f"New files in {folder}: 2"]
    assert contents(folder) == {name: f"{name}, version 2" for name in NAMES}


@given(st.lists(st.sampled_from(["upgrade", "change", "delete", "restore", "put", "lose the manifest"]), max_size=8))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_learners_words_stay(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    place = tmp_path_factory.mktemp("copy")
    suite, folder, version, mine, deleted = place / "suite", place / "lab", 1, "", False
    ship(suite, 1)
    put(suite, folder)
    for number, step in enumerate(steps):
        if step == "upgrade":
            ship(suite, version := version + 1)
        elif step == "change":
            mine, deleted = f"mine at {number}", False
            (folder / FIRST).write_text(mine)
        elif step == "delete":
            mine, deleted = "", True
            (folder / FIRST).unlink(missing_ok=True)
        elif step == "lose the manifest":
            (folder / MANIFEST).unlink(missing_ok=True)
            deleted = False
        put(suite, folder, restore=step == "restore")
        deleted = deleted and step != "restore"
        expected = None if deleted else mine or f"{FIRST}, version {version}"
        assert contents(folder).get(FIRST) == expected
        assert (folder / TERMS).read_text() == f"{TERMS}, version {version}"


def manifest_that_is_a_pipe(path: Path) -> None:
    os.mkfifo(path)


def manifest_that_is_a_folder(path: Path) -> None:
    path.mkdir()


def manifest_that_leads_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def manifest_with(content: bytes) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.write_bytes(content)

    return spoil


DAMAGED = {
    "empty": manifest_with(b""),
    "torn": manifest_with(b'{"files": {"docs/terms.md": "12'),
    "binary": manifest_with(bytes(range(256))),
    "a list": manifest_with(b"[]"),
    "no hashes": manifest_with(json.dumps({"files": dict.fromkeys(NAMES, 1)}).encode()),
    "other fields": manifest_with(b'{"files": {}, "more": 1}'),
    "nested": manifest_with(b"[" * 100_000),
    "too large": manifest_with(b" " * (files.LARGEST + 1)),
    "a pipe": manifest_that_is_a_pipe,
    "a folder": manifest_that_is_a_folder,
    "a link to nothing": manifest_that_leads_nowhere,
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.filterwarnings("ignore::sparsity_lab.files.StrangeFile")
def test_with_a_damaged_manifest_everything_counts_as_changed(damage: str, suite: Path, folder: Path) -> None:
    (folder / FIRST).write_text("mine")
    (folder / MANIFEST).unlink()
    DAMAGED[damage](folder / MANIFEST)
    ship(suite, 2)
    first, *kept = put(suite, folder)
    assert "can't be used" in first
    assert len(kept) == len(NAMES)
    found = contents(folder)
    assert found[FIRST] == "mine"
    assert found[TERMS] == f"{TERMS}, version 1"
    assert sorted(text for name, text in found.items() if ".new-" in name) == sorted(
        f"{name}, version 2" for name in NAMES
    )
    assert put(suite, folder) == [], "the manifest is whole again"


def test_a_manifest_names_nothing_outside(suite: Path, folder: Path, tmp_path: Path) -> None:
    """What is written comes from the list of what ships."""
    (tmp_path / "precious").write_text("precious")
    (folder / MANIFEST).write_text(json.dumps({"files": {"../precious": "0", str(tmp_path / "precious"): "0"}}))
    put(suite, folder, restore=True)
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_is_the_learners(suite: Path, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.ipynb"
    (folder / FIRST).rename(elsewhere)
    (folder / FIRST).symlink_to(elsewhere)
    (folder / TERMS).unlink()
    (folder / TERMS).symlink_to("nowhere")
    ship(suite, 2)
    lines = put(suite, folder)
    assert sum("so it is kept" in line for line in lines) == 2
    assert elsewhere.read_text() == f"{FIRST}, version 1", "not even though it is as it was shipped"
    assert os.readlink(folder / TERMS) == "nowhere"


@pytest.mark.parametrize("kind", ["folder", "pipe", "too large"])
def test_what_is_no_notebook_is_kept(kind: str, suite: Path, folder: Path) -> None:
    path = folder / FIRST
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(bytes(files.LARGEST + 1))
    before = path.lstat()
    ship(suite, 2)
    assert f"You have changed {FIRST}, so it is kept" in put(suite, folder)[1]
    assert path.lstat() == before


@pytest.mark.parametrize("part", ["notebooks", "data", "data/runs"])
def test_a_link_out_of_the_folder_is_refused_before_anything_is_written(
    part: str, suite: Path, folder: Path, tmp_path: Path
) -> None:
    (folder / part).rename(tmp_path / "outside")
    (folder / part).symlink_to(tmp_path / "outside")
    before, outside = contents(folder), contents(tmp_path / "outside")
    ship(suite, 2)
    with pytest.raises(ValueError, match=r"is a link out of .*my lab: move it away"):
        put(suite, folder)
    assert contents(tmp_path / "outside") == outside
    assert contents(folder) == before


def test_a_link_to_the_folder_and_one_within_it_are_fine(suite: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "data").rename(folder / "measured")
    (folder / "data").symlink_to("measured")
    (tmp_path / "short").symlink_to(folder)
    ship(suite, 2)
    assert len(put(suite, tmp_path / "short")) == 1
    assert (folder / "measured/runs/run.json").read_text() == "data/runs/run.json, version 2"


@pytest.mark.parametrize("place", ["", "docs"])
@pytest.mark.parametrize("kind", ["file", "dangling", "loop"])
def test_something_else_where_a_folder_is_needed(place: str, kind: str, suite: Path, tmp_path: Path) -> None:
    path = tmp_path / "lab" / place
    path.parent.mkdir(exist_ok=True)
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to("nowhere" if kind == "dangling" else path.name)
    with pytest.raises(ValueError, match="is no folder: move it away, or name another folder"):
        put(suite, tmp_path / "lab")
    assert path.is_symlink() or path.read_text() == "precious"
    assert len(list((tmp_path / "lab").glob("*"))) == (1 if place else 0)


def test_two_at_once(suite: Path, folder: Path) -> None:
    (folder / FIRST).write_text("mine")
    ship(suite, 2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: put(suite, folder), range(8)))
    found = contents(folder)
    assert found.pop(FIRST) == "mine"
    assert sorted(found.values()) == sorted(f"{name}, version 2" for name in NAMES), "and no file twice"
    assert put(suite, folder) == []


def test_a_copy_that_was_cut_off_is_finished(suite: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / FIRST).write_text("mine")
    ship(suite, 2)
    left, sync = [2], os.fsync

    def full(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            put(suite, folder)
    put(suite, folder)
    found = contents(folder)
    assert found.pop(FIRST) == "mine"
    assert sorted(found.values()) == sorted(f"{name}, version 2" for name in NAMES)
