"""The one way in which the lab writes files."""

import threading
from pathlib import Path

import pytest

from sparsity_lab.files import atomic, cache_dir, home, write_text


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
