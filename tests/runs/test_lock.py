"""One process at a time trains a run, and the others can say who."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sparsity_lab.runs.lock import RunLock

HOLDER = """
import sys, time
from pathlib import Path
from sparsity_lab.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print(lock.take(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "run.safetensors"


def held_by_another(path: Path) -> "subprocess.Popen[str]":
    environment = os.environ | {"JPY_SESSION_NAME": "/home/somebody/01_the_magic_dial.ipynb"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_one_at_a_time(path: Path) -> None:
    one, other = RunLock(path), RunLock(path)
    assert other.is_free()
    assert one.take()
    assert not other.take()
    assert not other.is_free()
    assert f"(process {os.getpid()}) has been training this run since " in other.owner()
    other.give_back()
    assert not other.is_free(), "it was not the other's to give back"
    one.give_back()
    assert other.take()
    other.give_back()
    assert list(path.parent.iterdir()) == [], "nothing is left"


def test_a_dead_process_blocks_nobody(path: Path) -> None:
    process = held_by_another(path)
    lock = RunLock(path)
    assert not lock.take()
    assert lock.owner().startswith(f"01_the_magic_dial.ipynb (process {process.pid}) has been training this run since ")
    process.kill()
    process.communicate()
    assert path.with_suffix(".lock").exists(), "it is left, as its note is"
    assert lock.is_free()
    assert lock.take()
    assert f"(process {os.getpid()})" in lock.owner()
    lock.give_back()


def test_where_and_when(path: Path) -> None:
    path.parent.mkdir()
    since = time.mktime((2026, 3, 1, 14, 5, 0, 0, 0, -1))
    note = {"notebook": "n" * 500, "process": 7, "machine": "elsewhere", "since": since}
    path.with_suffix(".owner").write_text(json.dumps(note))
    expected = "n" * 80 + " (process 7 on elsewhere) has been training this run since 01 Mar 14:05"
    assert RunLock(path).owner() == expected


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"since": "x"}', '{"since": 1e300}', "[" * 100_000, "\0"])
def test_a_note_that_is_torn(text: str, path: Path) -> None:
    path.parent.mkdir()
    path.with_suffix(".owner").write_text(text)
    assert RunLock(path).owner() == "Another program is training this run"


@pytest.mark.parametrize("make", ["mkfifo", "mkdir"])
def test_a_pipe_or_a_folder_in_the_place_of_its_files(make: str, path: Path) -> None:
    path.parent.mkdir()
    for suffix in (".lock", ".owner"):
        getattr(os, make)(path.with_suffix(suffix))
    lock = RunLock(path)
    assert lock.owner() == "Another program is training this run"
    assert lock.is_free()
    assert lock.take()
    lock.give_back()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_no_lock_can_be_made_nobody_waits(number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refused)
    lock = RunLock(path)
    assert lock.take()
    lock.give_back()
    assert lock.is_free()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = RunLock(tmp_path / "file" / "checkpoints" / "run.safetensors")
    assert lock.is_free()
    assert lock.take()
    lock.give_back()
