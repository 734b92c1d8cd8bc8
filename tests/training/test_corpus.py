"""The corpus: the same bytes everywhere, a held-out part that is held out, windows that need no replay."""

import dataclasses
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_lab.files import StrangeFile
from sparsity_lab.training import corpus as corpus_module
from sparsity_lab.training.batches import Windows, decode, encode, validation_batches
from sparsity_lab.training.corpus import Corpus, load_corpus


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a network that fails the test that uses it."""

    def no_network(*arguments: object) -> None:
        pytest.fail(f"the network was used: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("SPARSITY_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corpus"


def numbered(n_bytes: int) -> str:
    """A text that never repeats itself, with a newline at its end."""
    return "".join(f"line {i} says {i * i}\n" for i in range(n_bytes // 10))[: n_bytes - 1] + "\n"


def text_file(folder: Path, content: str | bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def everything(corpus: Corpus) -> bytes:
    return corpus.train.tobytes() + corpus.val.tobytes()


def no_preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "_write", lambda *arguments: pytest.fail("it was prepared again"))


# ---- What is prepared


@pytest.mark.parametrize("n_bytes", [4_096, 5_001, 32_768, 100_000, 524_287, 2_000_001])
def test_segments_are_split_and_none_is_lost(tmp_path: Path, n_bytes: int) -> None:
    text = numbered(n_bytes)
    corpus = load_corpus(str(text_file(tmp_path, text)))
    segment = min(16_384, max(512, n_bytes // 32))
    n_segments = n_bytes // segment
    expected = {text[i * segment : (i + 1) * segment].encode() for i in range(n_segments)}
    train, val = corpus.train.tobytes(), corpus.val.tobytes()

    held_out = [val[i : i + segment] for i in range(0, len(val), segment)]
    trained = [train[i : i + segment] for i in range(0, len(train), segment)]
    assert len(held_out) == max(1, round(0.03 * n_segments))
    assert all(part not in train for part in held_out)
    rest = text[n_segments * segment :].encode()
    assert set(held_out) | set(trained) == expected | ({rest} if rest else set())
    assert sorted(train + val) == sorted(text.encode())
    assert trained != sorted(trained, key=text.encode().index), "segments should be shuffled"


def test_corpus_is_read_only_and_describes_itself(tmp_path: Path) -> None:
    path = text_file(tmp_path, numbered(2_000_000))
    corpus = load_corpus(str(path))
    assert isinstance(corpus.train, np.memmap)
    assert isinstance(corpus.val, np.memmap)
    assert corpus.train.dtype == corpus.val.dtype == np.uint8
    assert not corpus.train.flags.writeable
    assert corpus.fingerprint == hashlib.sha256(everything(corpus)).hexdigest()
    assert corpus.describe() == f"{path}: 1.93 MB train, 65.54 kB held out, fingerprint {corpus.fingerprint[:8]}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        corpus.name = "other"  # type: ignore[misc]


def test_the_fingerprint_is_the_same_everywhere_and_forever(tmp_path: Path) -> None:
    """It depends on the text alone, and run records hold it: a change here makes old records incomparable."""
    path = text_file(tmp_path, numbered(600_000))
    assert load_corpus(str(path)).fingerprint.startswith("2935ab846c69fb72")


def test_progress_goes_up_to_one(tmp_path: Path) -> None:
    path = text_file(tmp_path, numbered(5_000))
    calls: list[tuple[str, float]] = []
    for _ in range(2):  # prepared, then from the cache
        calls.clear()
        corpus = load_corpus(str(path), progress=lambda text, fraction: calls.append((text, fraction)))
        fractions = [fraction for _, fraction in calls]
        assert fractions == sorted(fractions)
        assert fractions[0] >= 0
        assert calls[-1] == (corpus.describe(), 1.0)


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    first, second, third = numbered(9_000), "no newline at the end", "zweite Größe\n"
    text_file(folder, third, "b/z.MD")
    text_file(folder, first, "a.py")
    text_file(folder, second, "b/a.rst")
    text_file(folder, first, "copy.txt")
    text_file(folder, "Größe".encode("latin-1"), "latin.txt")
    text_file(folder, b"\0\1\2", "zeros.txt")
    text_file(folder, b"\x89PNG", "image.png")
    text_file(folder, "hidden", ".hidden.txt")
    text_file(folder, "hidden", ".git/config.txt")
    text_file(folder, "other people's", "node_modules/x.js")
    (folder / "broken.txt").symlink_to(folder / "nowhere.txt")
    corpus = load_corpus(str(folder))
    assert sorted(everything(corpus)) == sorted(f"{first}{second}\n{third}".encode())
    notes = "files left out: 1 binary, 1 duplicate, 1 not UTF-8, 1 of other kinds"
    assert corpus.notes == notes
    assert corpus.describe().endswith(f"({notes})")
    alone = load_corpus(str(text_file(tmp_path, f"{first}{second}\n{third}")))
    assert alone.fingerprint == corpus.fingerprint, "files are read in the order of their paths"


def test_python_without_tests_generated_and_giant_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdlib, package = tmp_path / "stdlib", tmp_path / "packages" / "numpy"
    kept = {
        stdlib / "a.py": numbered(6_000),
        stdlib / "test.py": "test = 1\n",
        package / "__init__.py": "init = 1\n",
    }
    kept |= {
        package / "contest" / "latest.py": "latest = 1\n",
        package / "doc.py": '"""About"""\n# prose\n"""\nx\n"""\n',
    }
    kept |= {package / "late.py": numbered(2_000) + "# DO NOT EDIT what stands below\n"}  # not in the file's head
    for path, text in kept.items():
        text_file(path.parent, text, path.name)
    text_file(stdlib, "print(1)\n", "site-packages/other/x.py")
    for name in (
        "tests/x",
        "test/deep/x",
        "testing/x",
        "_generated/x",
        "test_x",
        "x_test",
        "x_pb2",
        "x_generated",
    ):
        text_file(package, f"print({name!r})\n", f"{name}.py")
    text_file(package, "# Auto-generated by a script\nx = 1\n", "made.py")
    text_file(package, "# License\n# This file is generated. DO NOT EDIT.\nx = 2\n", "made2.py")
    text_file(package, '"""Table generated from a file."""\nx = 3\n', "made3.py")
    text_file(package, numbered(500_001), "giant.py")
    text_file(package, "not python", "readme.txt")

    monkeypatch.setattr("sysconfig.get_path", lambda name: str(stdlib))
    found = {"numpy": SimpleNamespace(origin=str(package / "__init__.py"))}  # the other packages are absent
    monkeypatch.setattr("importlib.util.find_spec", found.get)
    corpus = load_corpus("python")
    assert sorted(everything(corpus)) == sorted("".join(kept.values()).encode())
    assert corpus.name == "python"
    assert corpus.notes == ""
    assert len(everything(load_corpus("standard-library"))) == 6_000 + len("test = 1\n")

    text_file(package, "init = 12345\n", "__init__.py")  # another version of it
    assert load_corpus("python").fingerprint != corpus.fingerprint


def test_the_real_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.perf_counter()
    corpus = load_corpus("standard-library")
    assert time.perf_counter() - start < 5
    assert 5e6 < corpus.train.size < 30e6
    assert corpus.val.size == pytest.approx(0.03 * corpus.train.size, rel=0.1)
    text = everything(corpus)
    assert b"class OrderedDict(dict):" in text
    assert b"class TestCase(unittest.TestCase)" not in text

    no_preparing(monkeypatch)
    start = time.perf_counter()
    assert load_corpus("standard-library").fingerprint == corpus.fingerprint
    assert time.perf_counter() - start < 0.5


# ---- The cache


def test_cache_is_used_until_the_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, sha256 = tmp_path / "folder", hashlib.sha256
    text_file(folder, numbered(9_000), "a.txt")
    before = load_corpus(str(folder))
    with monkeypatch.context() as patch:
        no_preparing(patch)
        patch.setattr(
            hashlib, "sha256", lambda content: sha256(content) if len(content) < 9_000 else pytest.fail("hashed")
        )
        assert load_corpus(str(folder)).fingerprint == before.fingerprint

    text_file(folder, numbered(9_001)[1:], "a.txt")  # as many bytes as before, but later
    os.utime(folder / "a.txt", ns=(1, 1))
    changed = load_corpus(str(folder))
    assert changed.fingerprint != before.fingerprint
    text_file(folder, "more", "b.txt")
    assert load_corpus(str(folder)).fingerprint not in (before.fingerprint, changed.fingerprint)
    assert sorted(everything(before)) == sorted(numbered(9_000).encode()), "an open corpus should stay as it was"


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*.bin", truncate),
        ("*.bin", Path.unlink),
        ("*.bin", lambda path: path.write_bytes(b"")),
        ("*.bin", lambda path: path.write_bytes(path.read_bytes() + b"more")),
        ("*.bin", lambda path: path.write_bytes(path.read_bytes().replace(b"7", b"8", 1))),  # as large as before
        ("*.bin", pipe),
        ("*.json", truncate),
        ("*.json", Path.unlink),
        ("*.json", pipe),
        ("*.json", lambda path: path.write_text("[" * 100_000)),
        ("*.json", lambda path: path.write_text(path.read_text().replace('_bytes": ', '_bytes": 1' + 400 * "0"))),
        ("*.json", lambda path: path.write_bytes(b"\xff\0")),
        ("*.json", lambda path: path.write_text("[]")),
        ("*.json", lambda path: path.write_text('{"fingerprint": 3}')),
        ("*.json", lambda path: path.write_text(path.read_text().replace('_bytes": ', '_bytes": -'))),
        ("*.json", lambda path: path.write_text(path.read_text().replace('_bytes": ', '_bytes": 0.0'))),
    ],
)
def test_damaged_cache_is_rebuilt(tmp_path: Path, cache: Path, pattern: str, damage: Callable[[Path], Any]) -> None:
    path = text_file(tmp_path, numbered(9_000))
    good = load_corpus(str(path))
    content, fingerprint = everything(good), good.fingerprint
    del good
    [target] = cache.glob(pattern)
    damage(target)
    again = load_corpus(str(path))
    assert (again.fingerprint, everything(again)) == (fingerprint, content)
    assert sorted(file.suffix for file in cache.iterdir()) == [".bin", ".json"], "nothing else should stay behind"


def test_a_cache_without_room(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path, numbered(9_000))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(StrangeFile, match="No space left.*make room there.*prepares"):
            homeless = load_corpus(str(path))
        assert not list(cache.iterdir()), "nothing half written stays"
        no_preparing(patch)
        assert load_corpus(str(path)) is homeless, "prepared once in a process"

    assert not homeless.train.flags.writeable
    monkeypatch.setattr(corpus_module, "_homeless", {})
    housed = load_corpus(str(path))  # with room again
    assert list(cache.iterdir())
    assert (housed.fingerprint, housed.notes) == (homeless.fingerprint, homeless.notes)
    for mine, other in ((housed.train, homeless.train), (housed.val, homeless.val)):
        assert (mine == other).all()


def test_file_that_another_process_holds(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, a file that is mapped into memory cannot be replaced."""
    path = text_file(tmp_path, numbered(9_000))
    replace = os.replace

    def windows_replace(source: Path, target: Path) -> None:
        if target.suffix == ".bin":
            raise PermissionError(13, "Access is denied", target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", windows_replace)
    with pytest.warns(StrangeFile, match="make it writable"):  # nobody holds it: a folder that cannot be written to
        load_corpus(str(path))
    monkeypatch.undo()
    monkeypatch.setattr(corpus_module, "_homeless", {})
    monkeypatch.setenv("SPARSITY_LAB_CACHE", str(cache.parent))
    first = load_corpus(str(path))
    os.utime(path, ns=(1, 1))
    monkeypatch.setattr(os, "replace", windows_replace)
    assert load_corpus(str(path)).fingerprint == first.fingerprint


def test_two_processes_at_once(tmp_path: Path, cache: Path) -> None:
    path = text_file(tmp_path, numbered(3_000_000))
    script = """if True:
        import pathlib, sys, time
        from sparsity_lab.training.corpus import load_corpus
        me, other, name = sys.argv[1:]
        pathlib.Path(me).touch()
        while not pathlib.Path(other).exists(): time.sleep(0.001)
        corpus = load_corpus(name)
        print(corpus.fingerprint, corpus.train.size, corpus.val.size)
    """
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    root = str(Path(__file__).parents[2])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *names, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": root, "PYTHONHASHSEED": str(seed)},
        )
        for seed, names in enumerate([(a, b), (b, a)])
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    corpus = load_corpus(str(path))
    assert outputs == [f"{corpus.fingerprint} {corpus.train.size} {corpus.val.size}\n"] * 2
    assert hashlib.sha256(everything(corpus)).hexdigest() == corpus.fingerprint
    assert len(list(cache.iterdir())) == 2


def test_cache_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_LAB_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert corpus_module.cache_dir().name == "sparsity-lab"
    monkeypatch.setenv("SPARSITY_LAB_CACHE", "~/elsewhere")
    assert corpus_module.cache_dir() == Path.home() / "elsewhere"


# ---- Mistakes


@pytest.mark.parametrize("name", ["", "no-such-file.txt", "pyhton", "~nobody/text.txt", "x" * 5_000, "a\0b"])
def test_missing_source(name: str) -> None:
    with pytest.raises(ValueError, match=r'(?s)corpus=.* does not exist: give "python", "standard-library"'):
        load_corpus(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"has 0 bytes of text, at least 4,096 are needed: give a longer text"),
        (b"x" * 4_095, r"has 4,095 bytes of text, at least 4,096 are needed"),
        ("Größe ".encode("latin-1") * 1_000, r"is not UTF-8: give a text file saved as UTF-8"),
        ("text".encode("utf-16") * 1_000, r"is binary: give a text file"),
        (b"\0" * 10_000, r"is binary: give a text file"),
    ],
)
def test_unusable_file(tmp_path: Path, cache: Path, content: bytes, message: str) -> None:
    path = text_file(tmp_path, content)
    with pytest.raises(ValueError, match=f"corpus='{path}' {message}"):
        load_corpus(str(path))
    assert not cache.exists()


def test_unusable_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 0 bytes of text, at least"):
        load_corpus(str(tmp_path))
    text_file(tmp_path, b"\xff" * 10_000)
    text_file(tmp_path, b"\xff" * 10_000, "image.png")
    with pytest.raises(ValueError, match=r"has 0 bytes .*1 not UTF-8, 1 of other kinds.* such as \.txt"):
        load_corpus(str(tmp_path))
    with pytest.raises(ValueError, match=r"is neither a file nor a folder"):
        load_corpus(os.devnull)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="has more than 10,000 bytes: give a part of it"):
        load_corpus(str(text_file(tmp_path, numbered(10_001))))


# ---- Hugging Face data sets, from disk


def rows(n: int) -> list[str]:
    return [f"row {i} says {i * i}" for i in range(n)]


def test_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts = [*rows(2_000), "", None, "Größe\n", "last\n"]
    data = datasets.Dataset.from_dict({"label": list(range(2_004)), "title": ["t"] * 2_004, "text": texts})
    data.save_to_disk(tmp_path / "saved")
    corpus = load_corpus(f"hf:{tmp_path}/saved")
    expected = "\n".join([*rows(2_000), "Größe\nlast\n"]).encode()
    assert sorted(everything(corpus)) == sorted(expected)

    splits = {"test": data.select(range(5)), "train": data}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "splits")
    assert load_corpus(f"hf:{tmp_path}/splits").fingerprint == corpus.fingerprint
    datasets.DatasetDict({"test": data, "dev": data}).save_to_disk(tmp_path / "untrained")
    with pytest.raises(ValueError, match=r"needs a split `train`, or only one split, got \['dev', 'test'\]"):
        load_corpus(f"hf:{tmp_path}/untrained")


def test_folder_of_data_files_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    lines = "".join(json.dumps({"n": i, "story": row}) + "\n" for i, row in enumerate(rows(2_000)))
    text_file(tmp_path / "data", lines, "train.jsonl")
    corpus = load_corpus(f"hf:{tmp_path}/data")  # `story` is the only column of strings
    assert sorted(everything(corpus)) == sorted("\n".join(rows(2_000)).encode())

    monkeypatch.setattr(corpus_module, "MAX_BYTES", 12_000)
    monkeypatch.setattr(corpus_module, "FORMAT", -1)  # past the cache
    first = load_corpus(f"hf:{tmp_path}/data")
    assert sorted(everything(first)) == sorted("\n".join(rows(2_000)).encode()[:12_000])
    assert first.describe().endswith("(its first 12.00 kB)")


def test_unusable_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    two = {"question": rows(9), "answer": rows(9), "n": list(range(9))}
    datasets.Dataset.from_dict(two).save_to_disk(tmp_path / "two")
    message = (
        r"needs a column `text`, or only one column of strings, got \['answer', 'question'\] among the columns .*'n'"
    )
    with pytest.raises(ValueError, match=message):
        load_corpus(f"hf:{tmp_path}/two")
    datasets.Dataset.from_dict({"text": rows(9)}).save_to_disk(tmp_path / "short")
    with pytest.raises(ValueError, match="has 121 bytes of text, at least"):
        load_corpus(f"hf:{tmp_path}/short")
    text_file(tmp_path / "broken", "{" * 100, "train.jsonl")
    (tmp_path / "empty").mkdir()
    for name in ("broken", "empty"):
        with pytest.raises(ValueError, match=r"cannot be loaded by Hugging Face datasets: \S"):
            load_corpus(f"hf:{tmp_path}/{name}")
    for name in ("hf:", "hf:/no/such/folder", "hf:./folder", "hf:a/b/c/d", "hf:a b"):
        with pytest.raises(ValueError, match="is no folder and no data set's name: give hf:OWNER/NAME"):
            load_corpus(name)


class FakeRows(list[dict[str, str]]):
    """What is used of a streamed data set."""

    def select_columns(self, columns: list[str]) -> "FakeRows":
        return FakeRows({column: row[column] for column in columns} for row in self)

    def iter(self, size: int) -> list[dict[str, list[str]]]:
        return [{key: [row[key] for row in self] for key in self[0]}]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("hf:imdb", ("imdb",)), ("hf:a/b-c.d", ("a/b-c.d",)), ("hf:a/b/c-v1", ("a/b", "c-v1"))],
)
def test_names_of_the_hub(monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[str, ...]) -> None:
    asked = []

    def load_dataset(*where: str, streaming: bool) -> dict[str, FakeRows]:
        asked.append((where, streaming))
        return {"train": FakeRows({"text": row} for row in rows(2_000))}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    for _ in range(2):  # the second time from the cache
        assert load_corpus(name).name == name
    assert asked == [(arguments, True)]


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'sparsity-lab\[datasets\]'"):
        load_corpus("hf:imdb")


# ---- Windows

LENGTHS = {"n_bytes": st.integers(2, 400), "context": st.integers(1, 40), "seed": st.integers(0, 2**32 - 1)}


def data_of(n_bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.arange(n_bytes).astype(np.uint8)


@given(**LENGTHS, batch_size=st.integers(1, 30), epoch=st.integers(0, 3))
def test_every_window_once_an_epoch(n_bytes: int, context: int, seed: int, batch_size: int, epoch: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, max(n_bytes, context + 1)).astype(np.uint8)
    windows = Windows(data, context, seed)
    n = windows.n_windows
    assert n == (len(data) - 1) // context
    first, last = epoch * n // batch_size, ((epoch + 1) * n - 1) // batch_size
    batches = [windows.batch(step, batch_size) for step in range(first, last + 1)]
    skip = epoch * n - first * batch_size
    x = torch.cat([x for x, _ in batches])[skip : skip + n]
    y = torch.cat([y for _, y in batches])[skip : skip + n]
    seen = sorted(zip(x.tolist(), y.tolist(), strict=True))
    whole = data.tolist()
    starts = [i * context for i in range(n)]
    assert seen == sorted((whole[i : i + context], whole[i + 1 : i + context + 1]) for i in starts)


@settings(max_examples=25)
@given(**LENGTHS, batch_size=st.integers(1, 30))
def test_any_step_without_replay(n_bytes: int, context: int, seed: int, batch_size: int) -> None:
    data = data_of(max(n_bytes, context + 1))
    steps = list(range(12))
    windows = Windows(data, context, seed)
    in_turn = [windows.batch(step, batch_size) for step in steps]
    random.Random(seed).shuffle(steps)
    for step in steps:
        resumed = Windows(data, context, seed).batch(step, batch_size)
        for again in (resumed, windows.batch(step, batch_size)):
            assert torch.equal(again[0], in_turn[step][0])
            assert torch.equal(again[1], in_turn[step][1])


def test_shapes_and_orders() -> None:
    windows = Windows(data_of(10_001), 100, 0)
    assert windows.n_windows == 100
    x, y = windows.batch(7, 16)
    assert x.shape == y.shape == (16, 100)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert torch.equal(x[:, 1:], y[:, :-1])

    def order(seed: int, epoch: int) -> list[list[int]]:
        return Windows(data_of(10_001), 100, seed).batch(epoch, 100)[0].tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i]), "each seed and epoch has its own order"


def test_the_order_is_the_same_forever() -> None:
    """Checkpoints hold a step, not an order: a change here changes what a resumed run sees."""
    assert Windows(np.arange(21, dtype=np.uint8), 2, 3).batch(0, 12)[0][:, 0].tolist() == [
        18,
        2,
        0,
        16,
        4,
        8,
        6,
        10,
        14,
        12,
        10,
        2,
    ]


def test_windows_are_quick() -> None:
    """Bounds are far above what is needed (20 ms and 0.03 ms), so that only a wrong algorithm passes them."""
    data = np.zeros(85_000_000, np.uint8)
    start = time.perf_counter()
    windows = Windows(data, 128, 0)
    windows.batch(0, 16)
    assert time.perf_counter() - start < 0.5
    start = time.perf_counter()
    for step in range(100):
        windows.batch(step, 16)
    assert time.perf_counter() - start < 0.1


@given(
    n_bytes=st.integers(2, 5_000),
    context=st.integers(1, 40),
    batch_size=st.integers(1, 30),
    n_tokens=st.integers(1, 5_000),
)
def test_validation_batches(n_bytes: int, context: int, batch_size: int, n_tokens: int) -> None:
    n_bytes, n_tokens = max(n_bytes, context + 1), max(n_tokens, context)
    data = np.random.default_rng(0).integers(0, 256, n_bytes).astype(np.uint8)
    batches = validation_batches(data, context, batch_size, n_tokens)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    available = (n_bytes - 1) // context
    n = min(available, n_tokens // context)
    assert x.shape == y.shape == (n, context)
    assert x.numel() <= n_tokens
    assert all(len(x) == batch_size for x, _ in batches[:-1])
    starts = [i * available // n * context for i in range(n)]
    assert x.tolist() == [data[i : i + context].tolist() for i in starts]
    assert y.tolist() == [data[i + 1 : i + context + 1].tolist() for i in starts]
    gaps = np.diff([*starts, available * context])
    assert gaps.min() >= context, "without overlap"
    assert gaps.max() - gaps.min() <= context, "evenly spread"
    whole = validation_batches(data, context, 10_000, n_tokens)
    assert torch.equal(torch.cat([x for x, _ in whole]), x), "the windows do not depend on the batch size"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: Windows(data_of(128), 128, 0), "context=128 needs at least 129 bytes of data, got 128"),
        (lambda: Windows(data_of(128), 0, 0), "context=0 must be at least 1"),
        (lambda: Windows(data_of(128), 8, -1), "seed=-1 must be in 0"),
        (lambda: Windows(data_of(128), 8, 2**32), "seed=4294967296 must be in 0"),
        (lambda: Windows(data_of(128), 8, 0).batch(-1, 4), "step=-1 must be at least 0"),
        (lambda: Windows(data_of(128), 8, 0).batch(0, 0), "batch_size=0 at least 1"),
        (
            lambda: validation_batches(data_of(8), 8, 4, 100),
            "context=8 needs at least 9 bytes of data, got 8",
        ),
        (lambda: validation_batches(data_of(99), 8, 4, 7), "n_tokens=7: need .* n_tokens ≥ context=8"),
        (lambda: validation_batches(data_of(99), 8, 0, 80), "batch_size=0, .*: need batch_size ≥ 1"),
    ],
)
def test_impossible_windows(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mistake()


@given(st.text())
def test_text_there_and_back(text: str) -> None:
    tokens = encode(text)
    assert tokens.dtype == torch.int64
    assert tokens.shape == (len(text.encode()),)
    assert decode(tokens) == text


def test_bytes_that_are_no_text() -> None:
    assert decode(encode("aé")[:-1]) == "a\N{REPLACEMENT CHARACTER}"
    assert decode(torch.tensor([97, 300, 98])) == "a\N{REPLACEMENT CHARACTER}b"  # of a model with more tokens
