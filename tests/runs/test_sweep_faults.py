"""Sweeps when something breaks: workers, the sweep itself, the scheduler, the disk. All of it is really broken."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import pytest
import torch

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import StrangeFile
from sparsity_lab.record import run_id
from sparsity_lab.runs import worker as sweep_worker
from sparsity_lab.runs.grid import Pair
from sparsity_lab.runs.pool import TRIES
from sparsity_lab.runs.store import RunStore, user_store
from sparsity_lab.runs.sweep import Progress, missing
from sparsity_lab.training import checkpoint
from sparsity_lab.training.trainer import Training
from tests.sweeps import (
    Background,
    Trainings,
    alive,
    cluster_here,
    content,
    contents,
    options_here,
    pairs_of,
    swept,
    trained_here,
    until,
)

ROOT = Path(__file__).parents[2]
DIED = "WorkerDied: every worker that had it died; was there too little memory?"


@pytest.fixture(params=["pool", "cluster"])
def here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Options with which the two workers of a sweep are threads of this process."""
    yield from options_here(request.param, monkeypatch, workers=2)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


@pytest.fixture
def run(run: RunConfig) -> RunConfig:
    """Some twenty steps."""
    return run.replace(budget=4e7)


# ---- Other processes, and how they are disturbed

# Loaded by the workers of a test. They log what they train, save after each step, and at the sixth step of seed 0 they
# wait for a file "go" or for a stop.
WATCHED = """
import os, time
from pathlib import Path
from sparsity_lab.runs import pool
from sparsity_lab.runs import worker as sweep_worker
from sparsity_lab.training import trainer as training

folder = Path({folder!r})
if not hasattr(training, "untouched"):  # Dask loads this twice
    training.untouched = training.Training.__init__, training.Training.step, pool.Line.__init__
begin, step, begin_line = training.untouched
sweep_worker.SECONDS_BETWEEN_CHECKPOINTS = 0.0
connections = []

def say(*words):
    with open(folder / "events", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

def watched_line(self, connection, number):
    begin_line(self, connection, number)
    connections.append(connection)

def watched_begin(self, *arguments, **options):
    begin(self, *arguments, **options)
    if self.run_config.budget < 1e12:  # not those whose speed is measured
        say("begin", self.run_config.seed, self.steps_done)

def told():
    return connections and connections[-1].poll() or list((folder / "runs").glob(".stop*"))

def watched_step(self):
    if self.run_config.seed == 0 and self.steps_done == 5 and not (folder / "go").exists():
        say("wait", os.getpid())
        while not (folder / "go").exists() and not told():
            time.sleep(0.01)
    if self.run_config.seed == 9:
        os._exit(1)
    return step(self)

training.Training.__init__, training.Training.step = watched_begin, watched_step
pool.Line.__init__ = watched_line
"""

# The command line, whose workers are copies of a process that has loaded this.
WATCHING = """
import sys
from sparsity_lab.cli.main import main
from sparsity_lab.runs import pool

context = pool._context

def watched():
    found = context()
    found.set_forkserver_preload(["sparsity_lab.runs.forked", "watched"])
    return found

pool._context = watched
sys.exit(main(sys.argv[1:]))
"""


class Others:
    """Processes that this test started, and what their workers logged."""

    def __init__(self, folder: Path):
        self.folder, self.runs = folder, folder / "runs"
        self.script = folder / "watched.py"
        self.script.write_text(WATCHED.format(folder=str(folder)))
        (folder / "watching.py").write_text(WATCHING)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.folder}",
            "DASK_DISTRIBUTED__WORKER__PRELOAD": str([str(self.script)]),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def sweep(self, grid: Path) -> subprocess.Popen[str]:
        return self.start("watching", "sweep", str(grid), "--out", str(self.runs), "--workers", "1")

    def events(self, kind: str) -> list[tuple[int, ...]]:
        path = self.folder / "events"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [tuple(map(int, numbers)) for name, *numbers in lines if name == kind]

    def wait_at_step(self, times: int = 1) -> int:
        """The process whose run of seed 0 waits at its sixth step, the so manyth time that one does."""
        until(lambda: len(self.events("wait")) >= times)
        return self.events("wait")[times - 1][0]

    def go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Others]:
    others = Others(tmp_path)
    yield others
    for process in others.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def grid(run: RunConfig, tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    shape = "width = 8\nsparsity = 0.75\nd_expert = 16\ncontext = 32\n"
    rest = f'{shape}eval_tokens = 1_024\ndevice = "cpu"\ncorpus = "{run.corpus}"\n'
    path.write_text(f"[[runs]]\nbudget = 6e7\nseed = 0\n{rest}\n[[runs]]\nbudget = 4e7\nseed = [1, 2]\n{rest}")
    return path


def pairs_in(grid: Path) -> list[Pair]:
    from sparsity_lab.runs.grid import read_grid

    return read_grid(grid)


def expected(pairs: list[Pair]) -> dict[int, dict[str, Any]]:
    return {run.seed: content(trained_here(model, run)) for model, run in pairs}


# ---- Workers


def test_a_worker_that_is_killed_and_one_that_always_dies(others: Others, grid: Path) -> None:
    """The first run is tried again, from its checkpoint; the other is recorded as failed; the rest goes on."""
    grid.write_text(grid.read_text().replace("[1, 2]", "[1, 9]"))
    *good, bad = pairs_in(grid)
    process = others.sweep(grid)
    os.kill(others.wait_at_step(), signal.SIGKILL)
    others.go()
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (1, "2 of 3 runs done, 1 failed.\n"), err
    assert others.events("begin")[:2] == [(0, 0), (0, 5)], "tried again where the last checkpoint was"
    assert others.events("begin").count((9, 0)) == TRIES
    by_status = {record.seed: record.status for record in RunStore(others.runs).load()}
    assert by_status == {0: "finished", 1: "finished", 9: "failed"}
    (record,) = [record for record in RunStore(others.runs).load() if record.seed == 9]
    assert record.error == DIED
    assert expected(good).items() <= contents(others.runs).items()
    assert missing([*good, bad], others.runs) == [bad]


def test_a_clusters_worker_that_always_dies(model: ModelConfig, run: RunConfig, others: Others) -> None:
    good, bad = (model, run.replace(seed=1)), (model, run.replace(budget=6e7, seed=9))
    settings = {"distributed.worker.preload": [str(others.script)], "distributed.scheduler.allowed-failures": 0}
    with dask.config.set(settings), cluster_here(processes=True) as cluster:
        progress = swept([good, bad], others.runs, scheduler=cluster.scheduler_address)
    assert progress == Progress(2, 1, 1, 1.0, 0.0)
    assert {record.seed: record.error for record in RunStore(others.runs).load()} == {1: "", 9: DIED}


# ---- The sweep itself


def test_a_sweep_that_is_killed_goes_on(others: Others, grid: Path, here: dict[str, str], trainings: Trainings) -> None:
    pairs = pairs_in(grid)
    swept(pairs[1:2], others.runs, **here)  # done before
    first = RunStore(others.runs).path(*pairs[1]).stat().st_mtime_ns
    process = others.sweep(grid)
    worker = others.wait_at_step()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not alive(worker))  # it notices that it is alone, and saves its run
    trainings.begun.clear()
    assert swept(pairs, others.runs, **here) == Progress(3, 3, 0, 1.0, 0.0)
    assert sorted(trainings.begun) == [(0, 6), (2, 0)], "seed 0 from its checkpoint, seed 1 not at all"
    assert RunStore(others.runs).path(*pairs[1]).stat().st_mtime_ns == first
    assert contents(others.runs) == expected(pairs)
    assert list((others.runs / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_terminal_and_the_end_of_a_clusters_time(
    number: int, others: Others, grid: Path, here: dict[str, str], trainings: Trainings
) -> None:
    """Both reach the workers too. What they train is saved, and the next sweep goes on from there."""
    pairs = pairs_in(grid)
    process = others.sweep(grid)
    others.wait_at_step()
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number, err
    assert "of 3 runs done" in out
    assert err.endswith(f"To resume:\n  sparsity-lab sweep {grid} --out {others.runs} --workers 1\n")
    assert "Traceback" not in err
    assert "3 runs to train: about" in err
    assert list(others.runs.glob(".stop*")) == []
    assert tomllib.loads((others.runs / "provenance.toml").read_text())["runs"] == len(RunStore(others.runs).load())
    (saved,) = (others.runs / "checkpoints").glob("*.safetensors")
    state = checkpoint.peek(saved)
    assert state is not None
    assert state["step"] == 6
    assert swept(pairs, others.runs, **here).done == 3
    assert (0, 6) in trainings.begun
    assert contents(others.runs) == expected(pairs)


def test_stopped_and_interrupted_a_run_ends_as_if_unbroken(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    pairs = [(model, run), (model, run.replace(seed=1, budget=2e7))]
    reached: list[int] = []

    def note(training: Training) -> None:
        if training.run_config.seed == 0:
            reached.append(training.steps_done)
            until(lambda: training.steps_done < 5 or told or len(reached) > 6)

    told: list[bool] = []

    def interrupt(progress: Progress) -> None:
        if not told and len(reached) == 6:
            told.append(True)
            raise KeyboardInterrupt

    trainings.at_step = note
    stopped = swept(pairs, tmp_path, **here, report=interrupt)
    assert told
    assert stopped.done < 2
    assert list(tmp_path.glob(".stop*")) == []
    state = checkpoint.peek(tmp_path / "checkpoints" / f"{run_id(*pairs[0])}.safetensors")
    assert state is not None
    at = state["step"]
    assert at >= 6

    asked = []
    trainings.begun.clear()
    again = swept(pairs, tmp_path, **here, stop=lambda: bool(asked.append(1)) or len(asked) > 0)
    assert (again.done, again.failed) == (stopped.done, 0), "nothing is begun after a stop"
    assert trainings.begun == []
    assert swept(pairs, tmp_path, **here) == Progress(2, 2, 0, 1.0, 0.0)
    assert (0, at) in trainings.begun
    assert contents(tmp_path) == expected(pairs)


def test_a_second_interrupt_ends_it_at_once(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    over = []
    trainings.at_step = lambda training: until(lambda: over)
    interrupts = []

    def impatient(progress: Progress) -> None:
        if trainings.begun:
            interrupts.append(progress)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept([(model, run)], tmp_path, **here, report=impatient)
    over.append(True)
    assert len(interrupts) == 2
    assert list(tmp_path.glob(".stop*")) == []
    assert swept([(model, run)], tmp_path, **here).done == 1
    if here:
        assert trainings.begun == [(0, 0)], "its worker goes on, and another sweep waits for it"
    else:
        assert trainings.begun == [(0, 0), (0, 1)], "its worker saves it when the step is over"


def test_stop_where_no_worker_is(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    with cluster_here(0) as cluster:
        seen: list[Progress] = []
        progress = swept(
            [(model, run)], tmp_path, scheduler=cluster.scheduler_address, report=seen.append,
            stop=lambda: len(seen) > 2,
        )  # fmt: skip
    assert progress.done == 0


# ---- Several sweeps


def test_the_same_sweep_in_two_processes_trains_each_run_once(
    others: Others, grid: Path, here: dict[str, str], trainings: Trainings
) -> None:
    process = others.sweep(grid)
    others.wait_at_step()  # it holds seed 0 while the other sweep here wants it too
    mine = Background(pairs_in(grid), others.runs, **here)
    until(lambda: trainings.begun)  # of the others
    others.go()
    assert mine.result() == Progress(3, 3, 0, 1.0, 0.0)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "3 of 3 runs done.\n"), err
    begun = [*others.events("begin"), *trainings.begun]
    assert sorted(begun) == [(0, 0), (1, 0), (2, 0)], "both sweeps together trained each run once"
    assert trainings.begun, "and shared them out"
    trainings.begun.clear()
    assert contents(others.runs) == expected(pairs_in(grid))


def test_overlapping_sweeps_into_one_folder(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    pairs = pairs_of(model, run, 5)
    a = Background(pairs[:4], tmp_path, **here)
    b = Background(pairs[1:], tmp_path, **here)
    assert (a.result(), b.result()) == (Progress(4, 4, 0, 1.0, 0.0), Progress(4, 4, 0, 1.0, 0.0))
    assert sorted(trainings.begun) == [(seed, 0) for seed in range(5)]
    assert contents(tmp_path) == expected(pairs)


def test_runs_in_threads_of_one_worker_do_not_share_their_luck(
    model: ModelConfig, run: RunConfig, tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are drawn from torch's generator, of which a process has one."""
    pairs = pairs_of(model, run.replace(budget=1e7), 4)
    alone = expected(pairs)
    seed_generator = torch.manual_seed

    def seed_and_pause(seed: int) -> Any:
        generator = seed_generator(seed)
        time.sleep(0.05)  # in which another thread would seed it too
        return generator

    monkeypatch.setattr(torch, "manual_seed", seed_and_pause)
    with cluster_here(1, threads=4) as cluster:
        assert swept(pairs, tmp_path, scheduler=cluster.scheduler_address).done == 4
    assert contents(tmp_path) == alone


# ---- The scheduler


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_cluster_whose_scheduler_dies(
    model: ModelConfig, run: RunConfig, others: Others, trainings: Trainings
) -> None:
    """The sweep waits for a new one at the same address, and its records are those of this process."""
    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler_at = ("--host", address, "--dashboard-address", "127.0.0.1:0")

    def cluster() -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
        scheduler = others.start("distributed.cli.dask_scheduler", *scheduler_at)
        return scheduler, others.start("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard")

    scheduler, worker = cluster()
    pairs = [(model, run.replace(budget=6e7)), (model, run.replace(seed=1)), (model, run.replace(seed=2))]
    sweep = Background(pairs, others.runs, scheduler=address)
    others.wait_at_step()
    scheduler.kill()
    scheduler.wait()
    worker.kill()
    others.go()
    cluster()
    assert sweep.result() == Progress(3, 3, 0, 1.0, 0.0)
    begun = others.events("begin")
    assert begun[0] == (0, 0)
    assert sorted({seed for seed, _ in begun}) == [0, 1, 2]
    assert trainings.begun == [], "all of it was trained over there"
    assert contents(others.runs) == expected(pairs)


# ---- The disk


def test_a_torn_record_is_trained_again(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    pairs = pairs_of(model, run, 2)
    swept(pairs, tmp_path, **here)
    before = contents(tmp_path)
    for store in (RunStore(tmp_path), user_store()):
        path = store.path(*pairs[1])
        path.write_text(path.read_text()[: path.stat().st_size // 2])
    trainings.begun.clear()
    with pytest.warns(UserWarning, match="not a run record"):
        assert swept(pairs, tmp_path, **here).done == 2
    assert trainings.begun == [(1, 0)]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("what", ["torn", "another text"])
def test_a_checkpoint_that_does_not_fit_is_set_aside(
    what: str, model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], trainings: Trainings
) -> None:
    path = tmp_path / "runs" / "checkpoints" / f"{run_id(model, run)}.safetensors"
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} and {i * 7}\n" for i in range(9_000)))
    training = Training(model, run.replace(corpus=str(text)))
    training.step()
    training.save(path)
    if what == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    trainings.begun.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StrangeFile)  # where it appears depends on who trains
        assert swept([(model, run)], tmp_path / "runs", **here) == Progress(1, 1, 0, 1.0, 0.0)
    assert trainings.begun == [(0, 0)]
    assert contents(tmp_path / "runs") == expected([(model, run)])
    assert [each.suffix for each in path.parent.iterdir()] == [".aside"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where one may be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no tmpfs may be mounted here; the test beside this one makes do without")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 1_024):
            pass


@pytest.mark.parametrize("at", ["record", "checkpoint"])
def test_a_full_disk(
    at: str, model: ModelConfig, run: RunConfig, small_disk: Path, here: dict[str, str], trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Said as such; what is finished stays; with room again the sweep goes on."""
    pairs = [(model, run.replace(budget=6e7)), (model, run.replace(seed=1))]
    folder = small_disk / "runs"
    assert swept(pairs[1:], folder, **here).done == 1
    monkeypatch.setattr(sweep_worker, "SECONDS_BETWEEN_CHECKPOINTS", 0.0 if at == "checkpoint" else 1e9)

    def full(training: Training) -> None:
        if training.steps_done == 3 and not (small_disk / "filler").exists():
            fill(small_disk)

    trainings.at_step = full
    with pytest.raises(OSError, match=r"No space left on device: make room and start the sweep again") as error:
        swept(pairs, folder, **here)
    assert error.value.errno == errno.ENOSPC
    assert [record.seed for record in RunStore(folder).load()] == [1]
    assert not list(folder.glob("**/*tmp*")), "nothing half-written takes up what room there is"
    (small_disk / "filler").unlink()
    trainings.at_step = lambda training: None
    assert swept(pairs, folder, **here) == Progress(2, 2, 0, 1.0, 0.0)
    assert contents(folder) == expected(pairs)


def test_a_full_disk_without_one(
    model: ModelConfig, run: RunConfig, tmp_path: Path, here: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(model, run, 2)
    swept(pairs[:1], tmp_path, **here)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("sparsity_lab.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left on device: make room and start the sweep again"):
            swept(pairs, tmp_path, **here)
    assert [record.seed for record in RunStore(tmp_path).load()] == [0]
    assert not list(tmp_path.glob(".*.json*"))
    assert swept(pairs, tmp_path, **here).done == 2
