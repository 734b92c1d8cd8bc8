"""Whatever lies in the lab's folders, or is given to it: no traceback, no hang, and nothing beside it is lost.

Good files are spoilt by the thousand, in their bytes and in their structure, from a fixed seed.
"""

import copy
import json
import os
import random
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from sparsity_lab.cli.main import main
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import StrangeFile, home
from sparsity_lab.record import Record
from sparsity_lab.runs.foreign import load_runs
from sparsity_lab.runs.grid import read_grid
from sparsity_lab.runs.store import RunStore, load_frame
from sparsity_lab.training import checkpoint
from sparsity_lab.training.corpus import Corpus, load_corpus
from sparsity_lab.training.trainer import Training
from sparsity_lab.widgets.dashboard import MagicDial
from sparsity_lab.widgets.link import link_of, read_link, write_link
from sparsity_lab.widgets.settings import Settings

SEED = 18  # another one tries other files
RECORDS, CHECKPOINTS, GRIDS, LINKS, CORPORA, TABLES = 900, 300, 300, 300, 150, 300
AT_ONCE = 90  # that lie in one folder, fewer than a dashboard shows
BUSY, HANG = 2.0, 30.0  # seconds of the processor, and of the clock, because the machine may have other work

BYTES = [b"", b"\0", b"\xff", b"[", b"}", b'"', b",", b"-", b"9" * 40, b"\n", b"1e999", b"NaN"]
ODD: list[Any] = [
    None, True, -1, 0, 0.5, 2**31, 10**400, -(10**400), 1e300, -1e300, float("nan"), float("inf"), "", "x", "banana",
    "\0", "\ud800", "é" * 300, "../../x", [], {}, [[]], ["x"], {"x": 1}, [float("nan")], "9" * 5000,
]  # fmt: skip


@pytest.fixture
def chance() -> random.Random:
    print(f"seed {SEED}")  # shown if the test fails
    return random.Random(SEED)


@contextmanager
def no_hang() -> Iterator[None]:
    """Fails what does not come back. Files that are passed over may be warned of."""

    def late(*_: object) -> None:
        pytest.fail(f"it took more than {BUSY} s of the processor, or {HANG} s in all")

    before = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_REAL, HANG)
    signal.setitimer(signal.ITIMER_PROF, BUSY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StrangeFile)
            yield
    finally:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def refused(function: Callable[[Any], object], argument: Any) -> str:
    """Returns what a user is told of a mistake; nothing if it is none."""
    try:
        function(argument)
    except ValueError as error:
        return str(error)
    return ""


# ---- ways to spoil


def spoilt_bytes(good: bytes, chance: random.Random) -> bytes:
    """Damages a file here and there."""
    data = bytearray(good)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        at, size = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 8, 64])
        data[at : at + size * chance.randrange(2)] = chance.choice([*BYTES, chance.randbytes(size), bytes(data[:size])])
    return bytes(data[: chance.randrange(len(data) + 1)]) if chance.random() < 0.2 else bytes(data)


def spoilt_values(good: Any, chance: random.Random) -> Any:
    """Changes a value, or a name, somewhere in what JSON can hold."""
    values = copy.deepcopy(good)
    part = values
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = chance.choice(keys)
        if not (isinstance(part[key], (dict, list)) and part[key] and chance.random() < 0.7):
            break
        part = part[key]
    change = chance.choice(["odd", "odd", "odd", "odd", "deep", "gone", "more", "renamed", "swapped"])
    if change == "odd":
        part[key] = chance.choice(ODD)
    elif change == "deep":
        part[key] = json.loads("[" * 400 + "]" * 400)
    elif change == "swapped":
        part[key], part[keys[0]] = part[keys[0]], part[key]
    elif change == "gone" or isinstance(part, list):
        del part[key]
    else:
        part["renamed"] = part.pop(key) if change == "renamed" else 1
    return values


def spoilt_json(good: dict[str, Any], chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.03:
        return chance.choice([b"", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"\xff\xfe", b"1" * 5000, b"\0" * 4096])
    values = spoilt_values(good, chance) if kind < 0.7 else good
    text = json.dumps(values).encode()
    return text if kind < 0.7 else spoilt_bytes(text, chance)


def no_file(path: Path, chance: random.Random) -> None:
    """Makes something there that is no regular file."""

    def bind(path: Path) -> None:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
        os.chdir(here)

    makers: list[Callable[[Path], object]] = [os.mkfifo, Path.mkdir, bind, lambda p: p.symlink_to(p.name)]
    makers += [lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to("nowhere"), lambda p: p.symlink_to(p.parent)]
    chance.choice(makers)(path)


def put(path: Path, content: bytes, chance: random.Random) -> None:
    if chance.random() < 0.05:
        no_file(path, chance)
    else:
        path.write_bytes(content)


# ---- what is spoilt


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Records of runs that differ in size, sparsity and seed, as a law needs them."""
    made = []
    for width in (8, 16, 24, 32):
        for sparsity in (0.0, 0.75, 0.9375):
            for seed in range(AT_ONCE // 12 + 3):
                model, run = ModelConfig.on_dial(width, sparsity), RunConfig(budget=1e9, seed=seed, corpus="text")
                loss = 2 + 9 / width - 0.2 * sparsity + 0.01 * ((7 * seed + width) % 5)
                record = Record(
                    status="finished", val_loss=loss, val_bits=loss / np.log(2), flops=10**9, tokens=width * 10_000,
                    steps=50, params_total=width**2 * 100, params_active=width**2 * 90, sparsity=sparsity, seconds=1.0,
                    seed=seed, model=model.to_dict(), run=run.to_dict(),
                    corpus={"name": "text", "fingerprint": "f" * 64}, device="cpu", versions={"torch": "2"},
                    curve={"flops": [1e8, 1e9], "loss": [4.0, 3.0]}, routes={"linear": ["torch"]},
                    scores={"recall": 0.5},
                )  # fmt: skip
                made.append(record)
    return made


@pytest.fixture
def saved(corpus: Corpus, model: ModelConfig, run: RunConfig, tmp_path: Path) -> Path:
    """A checkpoint of a run of which some steps are done."""
    training = Training(model, run, corpus=corpus)
    for _ in range(3):
        training.step()
    training.save(tmp_path / "run.safetensors")
    return tmp_path / "run.safetensors"


def test_records(records: list[Record], chance: random.Random, capsys: pytest.CaptureFixture[str]) -> None:
    """In each folder lie good records and spoilt ones. All readers find the good ones."""
    good, names = records[AT_ONCE:], [record.id for record in records]
    for start in range(0, RECORDS, AT_ONCE):
        store = RunStore(home() / f"{start}" / "runs")
        store.folder.mkdir(parents=True)
        for record in good:
            (store.folder / f"{record.id}.json").write_text(record.to_json())
        for record in records[:AT_ONCE]:
            put(store.folder / f"{record.id}.json", spoilt_json(json.loads(record.to_json()), chance), chance)
        (store.folder.parent / "dashboard.json").write_text(json.dumps({"runs": names, "names": {}}))

        with no_hang(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("SPARSITY_LAB_HOME", str(store.folder.parent))
            found, table = store.load(), load_frame(store.folder)
            assert {record.id for record in good} <= {record.id for record in found}
            assert {record.id for record in good} <= set(table["id"]) <= {record.id for record in found}
            assert table["fingerprint"].nunique() == 1
            assert np.isfinite(table.select_dtypes("number").drop(columns=["val_loss", "cpu_seconds"])).all(axis=None)
            for record in found:
                assert store.finished(record.model_config, record.run_config, record.corpus["fingerprint"]) in (
                    record, None,
                )  # fmt: skip
                assert record.summary()
            dashboard = MagicDial(calibrate=False, corpus="text", width=8)
            assert not dashboard.curves().empty or not found
            dashboard.runs._repr_mimebundle_()
            dashboard.figure()
            for each in (dashboard, *dashboard.children):
                each.close()
            arguments = ["fit", str(store.folder), "--law", "reduced", "--bootstraps", "2", "--json"]
            if start == 0:
                assert main(arguments) == 0, capsys.readouterr().err


def test_checkpoints(saved: Path, model: ModelConfig, run: RunConfig, chance: random.Random, corpus: Corpus,
                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """A dashboard opens, `prune` and `measure` say what they miss, and a run resumes or starts anew."""
    state = checkpoint.peek(saved)
    assert state is not None
    good = saved.read_bytes()
    with safe_open(saved, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    mine = state["model"], state["run"]
    folder = home() / "checkpoints"
    folder.mkdir(parents=True)

    def begin(path: Path) -> Training:
        return Training(model, run, corpus=corpus, checkpoint_path=path)

    paths = []
    for number in range(CHECKPOINTS):
        path = folder / f"{number}.safetensors"
        if number % 2:
            save_file(tensors, path, metadata={"state": spoilt_json(state, chance).decode(errors="replace")})
        else:
            header = 8 + int.from_bytes(good[:8], "little")
            put(path, spoilt_bytes(good[:header], chance) + good[header:], chance)
        paths.append(path)

    with no_hang():
        MagicDial(calibrate=False, corpus="text", width=8).close()
    for number, path in enumerate(paths):
        with no_hang():
            state = checkpoint.peek(path)
            if number % 4 < 2:
                status = main(["prune", str(path), "--method", "magnitude", "--json"])
                assert status == 2 or (status == 0 and state is not None)
            if number % 8 == 0:
                assert main(["measure", str(path), "--json"]) in (0, 2)
            if state is not None and (state["model"], state["run"]) != mine:  # it is whole, but another run's
                assert "is of another run" in refused(begin, path)
                continue
            training = begin(path)
            assert training.steps_done in (0, 3)
            assert training.steps_done == 0 or state is not None
            assert bool(training.notice) == (training.steps_done == 0 and os.path.lexists(path) is False)
    capsys.readouterr()


GRID = """
[[runs]]
budget = [1e9, 3e9]
width = [8, 16]
sparsity = [0, 0.75]
granularity = 1
[[runs]]
width = 16
hold = "total"
seed = [0, 1]
corpus = "text"
"""
IN_GRIDS = [
    "[[[[1]]]]",
    "{a = 1}",
    "nan",
    "inf",
    "1e400",
    "9" * 5000,
    "-1",
    "[]",
    "true",
    "2020-01-01",
    '"x"',
    "[" * 50_000,
]


def test_grids(tmp_path: Path, chance: random.Random, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grid.toml"
    for number in range(GRIDS):
        path.unlink(missing_ok=True)
        text = GRID.encode()
        if number % 2:
            name = chance.choice(["budget", "width", "sparsity", "granularity", "hold", "seed", "top_k", "warmup"])
            text += f"[[runs]]\n{name} = {chance.choice(IN_GRIDS)}\n".encode()
        else:
            text = spoilt_bytes(text, chance)
        path.write_bytes(text)
        with no_hang():
            if message := refused(read_grid, path):
                assert message.startswith(f"grid {path}")
                assert len(message) < 600
                if number < 40:
                    assert main(["sweep", str(path), "--out", str(tmp_path / "out"), "--estimate"]) == 2
    capsys.readouterr()


def test_links(chance: random.Random) -> None:
    """Pasted into a dashboard, which shows what is good in them, and says what is wrong."""
    dashboard, good = MagicDial(calibrate=False, width=8), f"{write_link(link_of(Settings()))}&lesson=Why%3F&hide=w,d"
    for number in range(LINKS):
        text = spoilt_bytes(good.encode(), chance).decode(errors="replace")
        with no_hang():
            link = read_link(text)
            assert sum(map(len, link.notes)) < 2_000
            if number < 60:
                dashboard.share.value = text
                assert read_link(dashboard.share.value).notes == ()
    dashboard.close()


def test_corpora(corpus: Corpus, tmp_path: Path, chance: random.Random) -> None:
    """A spoilt cache is made anew, to the byte, and a spoilt text is refused or read."""
    cache = Path(os.environ["SPARSITY_LAB_CACHE"]) / "corpus"
    content = {path: path.read_bytes() for path in cache.iterdir()}
    train, val = corpus.train.tobytes(), corpus.val.tobytes()
    for _ in range(CORPORA):
        path = chance.choice(list(content))
        path.unlink()
        spoilt = spoilt_json(json.loads(content[path]), chance) if path.suffix == ".json" else None
        put(path, spoilt or spoilt_bytes(content[path], chance), chance)
        with no_hang():
            again = load_corpus(corpus.name)
            assert (again.fingerprint, again.train.tobytes(), again.val.tobytes()) == (corpus.fingerprint, train, val)

    for number in range(CORPORA // 5):
        text = tmp_path / f"{number}.txt"
        put(text, spoilt_bytes(train[:8_000], chance), chance)
        with no_hang():
            assert (message := refused(load_corpus, str(text))) == "" or message.startswith("corpus=")


def test_tables(tmp_path: Path, chance: random.Random, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of runs and of edges."""
    runs = "loss,params_total,tokens,sparsity\n" + "".join(
        f"{2 + 5 / n + 9 / d:.4f},{n}e6,{d}e9,0\n" for n in range(1, 7) for d in range(1, 7)
    )
    edges = "source,target,weight\n" + "".join(f"{a},{b},{a + b}\n" for a in range(6) for b in range(a))
    for number in range(TABLES):
        is_runs = number % 2 == 0
        path = tmp_path / f"{number}.{chance.choice(['csv', 'CSV'])}"
        lines = (runs if is_runs else edges).splitlines()
        row = chance.randrange(len(lines))
        lines[row] += chance.choice([",1", ",", ",1,2", ',"', "", '"'])
        text = "\n".join(lines).encode() if chance.random() < 0.3 else (runs if is_runs else edges).encode()
        put(path, spoilt_bytes(text, chance), chance)
        with no_hang():
            if not is_runs:
                assert main(["measure", str(path), "--json"]) in (0, 2)
            elif number < 30:
                assert main(["fit", str(path), "--law", "chinchilla", "--bootstraps", "2", "--json"]) in (0, 2)
            else:
                assert (message := refused(load_runs, path)) == "" or str(path) in message
    capsys.readouterr()
