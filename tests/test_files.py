"""The one way in which the lab writes files."""

import os
import threading
from pathlib import Path

import pytest

from sparsity_lab.files import atomic, cache_dir, home, read_bytes, set_aside, write_text


def test_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    write_text(path, "old")

    def broken() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert path.read_text() == "old"
    write_text(path, "new, with Größe")
    assert path.read_text(encoding="utf-8") == "new, with Größe"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"], "and nothing else is left"


def test_many_threads_write_one_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.txt", [str(n) * 10_000 for n in range(8)]
    threads = [threading.Thread(target=write_text, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_LAB_HOME", str(tmp_path / "runs"))
    monkeypatch.setenv("SPARSITY_LAB_CACHE", "~/cache")
    assert home() == tmp_path / "runs"
    assert cache_dir() == Path.home() / "cache"


def test_what_is_set_aside_is_kept_but_not_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for content in "abcde":
        path.write_text(content)
        (tmp_path / f"run.safetensors{content}.aside").touch()  # somebody else's
        aside = set_aside(path)
        assert not path.exists()
        assert aside.read_text() == content
    kept = sorted(tmp_path.glob("run.safetensors.*.aside"))
    assert [each.read_text() for each in kept] == ["c", "d", "e"]
    assert len(list(tmp_path.iterdir())) == len(kept) + 5


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    assert read_bytes(tmp_path / "a") == b"1234"
    with pytest.raises(OSError, match="a has 4 bytes, more than 3"):
        read_bytes(tmp_path / "a", 3)
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("pipe", "is no regular file"), (".", "is a folder"), ("none", "No such file")):
        with pytest.raises(OSError, match=why):
            read_bytes(tmp_path / name)
