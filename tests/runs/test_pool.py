"""The pool: every job ends, whatever happens to its process, and no process is left behind."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from sparsity_lab.files import StrangeFile
from sparsity_lab.runs import pool as pools
from sparsity_lab.runs.pool import TRIES, Line, Pool, WorkerDied, cores
from tests.sweeps import alive, until

ROOT = Path(__file__).parents[2]
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # so that workers need not import this file


@pytest.fixture(params=["forkserver", "spawn"])
def one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """A pool of one worker, started as on Linux and as elsewhere."""
    if request.param == "forkserver" and sys.platform != "linux":
        pytest.skip("torch cannot be forked here")
    monkeypatch.setattr(pools, "_method", request.param)
    with closing(Pool(1)) as pool:
        yield pool


@pytest.fixture
def two() -> Iterator[Pool]:
    with closing(Pool(2)) as pool:
        yield pool


# ---- Jobs


def echo(line: Line, *values: Any) -> tuple[Any, ...]:
    return values


def until_told(line: Line, path: Path) -> list[Any]:
    """Says in a file which process it is, and returns what it heard, the last of it "go"."""
    path.write_text(str(os.getpid()))
    heard: list[Any] = []
    while "go" not in heard:
        heard += line.heard(1.0)
    return heard


def die(line: Line, path: Path, times: int) -> int:
    """Ends its process so many times; then returns how often it was tried."""
    with open(path, "a") as file:
        file.write("x")
    if path.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return path.stat().st_size


def begun(path: Path) -> int:
    """The process of a job that writes it down."""
    until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


# ---- What a caller gets


def test_answers_in_order(one: Pool, tmp_path: Path) -> None:
    def note(line: Line, number: int) -> int:
        with open(tmp_path / "order", "a") as file:
            file.write(str(number))
        return os.getpid()

    jobs = [one.submit(note, number) for number in range(5)]
    processes = {job.result(60) for job in jobs}
    assert (tmp_path / "order").read_text() == "01234"
    assert len(processes) == 1, "started once"
    assert os.getpid() not in processes
    assert one.submit(echo, 1, None).result(60) == (1, None)


def test_two_at_a_time(two: Pool, tmp_path: Path) -> None:
    jobs = [two.submit(until_told, tmp_path / name) for name in "abc"]
    first = {begun(tmp_path / "a"), begun(tmp_path / "b")}
    assert len(first) == 2
    assert not (tmp_path / "c").exists()
    jobs[0].send("go")
    assert jobs[0].result(60) == ["go"]
    assert begun(tmp_path / "c") in first
    for job in jobs:
        job.send("go")
    wait([job.future for job in jobs], 60)


def test_news_come_in_order_and_before_the_result(one: Pool) -> None:
    def tells(line: Line) -> str:
        for number in range(3):
            line.tell(number)
        return "done"

    def deaf(news: int) -> None:
        raise ZeroDivisionError

    news: list[int] = []
    assert one.submit(tells, hear=news.append).result(60) == "done"
    assert news == [0, 1, 2]
    assert one.submit(tells, hear=deaf).result(60) == "done", "a listener's error is its own"


def test_what_is_sent_arrives_before_and_after_the_job_begins(one: Pool, tmp_path: Path) -> None:
    first, second = (one.submit(until_told, tmp_path / name) for name in "ab")
    second.send("early")
    begun(tmp_path / "a")
    first.send("late")
    first.send("go")
    second.send("go")
    assert first.result(60) == ["late", "go"]
    assert second.result(60) == ["early", "go"]
    first.send("too late")
    assert one.submit(lambda line: line.heard(0.2)).result(60) == []


def test_a_stop_that_came_too_late_is_not_for_the_next_job(one: Pool, tmp_path: Path) -> None:
    """It is in the pipe already when the next job begins."""

    def sleeps(line: Line) -> None:
        (tmp_path / "begun").touch()
        until(lambda: (tmp_path / "sent").exists())

    job = one.submit(sleeps)
    until((tmp_path / "begun").exists)
    job.send("stop")
    (tmp_path / "sent").touch()
    job.result(60)
    assert one.submit(lambda line: line.heard(0.2)).result(60) == []


def test_a_job_in_the_queue_can_be_taken_back(one: Pool, tmp_path: Path) -> None:
    first, second, third = (one.submit(until_told, tmp_path / name) for name in "abc")
    begun(tmp_path / "a")
    assert not first.cancel(), "it has begun"
    assert second.cancel()
    assert wait([second.future], 10).done, "who waits for it is told"
    with pytest.raises(CancelledError):
        second.result()
    assert third.future.cancel(), "also behind the pool's back"
    first.send("go")
    first.result(60)
    assert one.submit(echo).result(60) == ()
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()
    assert not first.cancel()


def test_who_looks_on_does_not_wait(one: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "SPARE", 1)
    job = one.submit(until_told, tmp_path / "a")
    waiting = one.submit(echo, 1)
    begun(tmp_path / "a")
    more = one.submit(until_told, tmp_path / "b", at_once=True)
    extra = begun(tmp_path / "b")
    third = one.submit(until_told, tmp_path / "c", at_once=True)
    one_too_many = begun(tmp_path / "c")
    assert not waiting.future.done()
    third.send("go")
    third.result(60)
    until(lambda: not alive(one_too_many))
    more.send("go")
    more.result(60)
    again = one.submit(until_told, tmp_path / "d", at_once=True)
    assert begun(tmp_path / "d") == extra, "it has stayed"
    assert not waiting.future.done()
    again.send("go")
    again.result(60)
    job.send("go")
    assert (job.result(60), waiting.result(60)) == (["go"], (1,))


# ---- Surroundings


def test_jobs_follow_the_folder_the_settings_and_the_path_of_who_submits(
    one: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(line: Line) -> tuple[str, str | None, str | None, bool]:
        found = (os.environ.get(f"SPARSITY_LAB_{name}") for name in ("HOME", "X"))
        return os.getcwd(), *found, str(tmp_path) in sys.path

    monkeypatch.setenv("SPARSITY_LAB_X", "1")
    first = one.submit(look).result(60)
    assert first == (os.getcwd(), str(tmp_path / "home"), "1", False)
    monkeypatch.delenv("SPARSITY_LAB_X")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert one.submit(look).result(60) == (str(tmp_path), str(tmp_path / "home"), None, True)


@pytest.mark.parametrize(
    ("settings", "limit", "expected"),
    [
        ({"SPARSITY_LAB_CORES": "3", "CPU_LIMIT": "2"}, "100000 100000", 3),
        ({"CPU_LIMIT": "2.5"}, "100000 100000", 2),
        ({"CPU_LIMIT": "0.5"}, "max 100000", 1),
        ({}, "250000 100000", 3),
        ({}, "50000 100000", 1),
        ({}, "max 100000", 64),
        ({}, "9900000 100000", 64),
        ({}, None, 64),
    ],
)
def test_cores(
    settings: dict[str, str], limit: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SPARSITY_LAB_CORES", "CPU_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pools, "CONTAINER", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert cores() == expected


@pytest.mark.parametrize("text", ["two", "nan", "inf"])
def test_cores_that_are_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_LAB_CORES", text)
    with pytest.raises(ValueError, match=f"SPARSITY_LAB_CORES='{text}' must be a number of cores"):
        cores()


def test_threads_that_wait_let_their_core_go() -> None:
    """Set before torch is loaded, here and so in workers, unless the user has said otherwise."""
    code = "import os, sparsity_lab; print(os.environ['OMP_WAIT_POLICY'])"
    for settings, expected in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):
        rest = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=rest | settings, capture_output=True, text=True
        )
        assert found.stdout.strip() == expected


# ---- Errors


class Stubborn(Exception):
    """One that can be pickled, but not read again."""

    def __init__(self, one: int, two: int):
        super().__init__("stubborn")


def fails(line: Line, error: Any, *arguments: Any) -> None:
    raise error(*arguments)


def test_errors_come_back_with_the_place_where_they_happened(one: Pool) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        one.submit(fails, ZeroDivisionError, "by what").result(60)
    assert str(caught.value) == "by what"
    assert "in fails\n" in caught.value.__notes__[0]
    with pytest.raises(OSError, match="full") as full:
        one.submit(fails, OSError, 28, "full").result(60)
    assert full.value.errno == 28
    for error, arguments in ((Stubborn, (1, 2)), (SystemExit, (3,)), (KeyboardInterrupt, ())):
        with pytest.raises(RuntimeError, match=error.__name__):
            one.submit(fails, error, *arguments).result(60)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError), match="pickle"):
        one.submit(lambda line: threading.Lock()).result(60)
    assert one.submit(echo, "still there").result(60) == ("still there",)


# ---- Deaths


def test_a_job_is_tried_again_where_its_worker_dies_and_given_up_in_the_end(one: Pool, tmp_path: Path) -> None:
    assert one.submit(die, tmp_path / "some", TRIES - 1).result(60) == TRIES
    with pytest.raises(WorkerDied, match="too little memory"):
        one.submit(die, tmp_path / "all", TRIES).result(60)
    assert (tmp_path / "all").stat().st_size == TRIES
    assert one.submit(echo, "next").result(60) == ("next",)


def test_a_worker_that_dies_idle_is_replaced(one: Pool) -> None:
    process = one.submit(lambda line: os.getpid()).result(60)
    os.kill(process, signal.SIGKILL)
    assert one.submit(lambda line: os.getpid()).result(60) != process


def test_what_was_said_is_said_again_to_the_next_worker(one: Pool, tmp_path: Path) -> None:
    job = one.submit(until_told, tmp_path / "a")
    process = begun(tmp_path / "a")
    job.send("stop")
    os.kill(process, signal.SIGKILL)
    until(lambda: begun(tmp_path / "a") != process)
    job.send("go")
    assert job.result(60) == ["stop", "go"]


def test_no_process_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(gpu: str | None) -> None:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(pools, "_Worker", full)
    with closing(Pool(1)) as pool, pytest.raises(WorkerDied) as caught:
        pool.submit(echo).result(60)
    assert isinstance(caught.value.__cause__, BlockingIOError)


def test_a_pool_is_closed_while_a_job_waits_for_its_second_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(1)
    job = pool.submit(until_told, tmp_path / "a")
    process = begun(tmp_path / "a")
    tried, go = threading.Event(), threading.Event()

    def slow(gpu: str | None) -> None:
        tried.set()
        go.wait(60)
        raise BlockingIOError

    monkeypatch.setattr(pools, "_Worker", slow)
    os.kill(process, signal.SIGKILL)
    assert tried.wait(60)
    assert not job.cancel(), "it has begun"
    pool.close()
    go.set()
    with pytest.raises(WorkerDied):
        job.result(60)


def test_a_pool_that_is_closed(tmp_path: Path) -> None:
    pool = Pool(1)
    job, waiting = pool.submit(until_told, tmp_path / "a"), pool.submit(echo)
    process = begun(tmp_path / "a")
    pool.close()
    pool.close()
    with pytest.raises(WorkerDied):
        job.result(60)
    with pytest.raises(CancelledError):
        waiting.result(60)
    until(lambda: not alive(process))
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(echo)


# ---- The process that has the pool

SCRIPT = """
import os, sys, time
from pathlib import Path
from sparsity_lab.runs.pool import pool
print("begin", flush=True)

def work(line):
    Path("worker").write_text(str(os.getpid()))
    while True:
        line.heard(1.0)

def who(line):
    return os.getpid()

"""


def script(text: str, folder: Path) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT + text)
    return subprocess.Popen(
        [sys.executable, str(path)], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_workers_end_with_the_process_that_has_them(tmp_path: Path) -> None:
    process = script("pool().submit(work)\ntime.sleep(600)", tmp_path)
    worker = begun(tmp_path / "worker")
    process.kill()
    process.communicate()
    until(lambda: not alive(worker))


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "pool().submit(who)", "pool().close()"])
def test_a_script_ends_at_once_and_quietly(end: str, tmp_path: Path) -> None:
    """Whatever its workers do. It needs no ``if __name__ == "__main__"``, and runs once."""
    written = "Path('worker').exists() and Path('worker').read_text()"  # or the worker would end before it is
    process = script(f"pool().submit(work)\nwhile not ({written}): time.sleep(.01)\n{end}", tmp_path)
    assert process.communicate(timeout=60) == ("begin\n", "")
    assert process.returncode == 0
    until(lambda: not alive(begun(tmp_path / "worker")))


def test_ctrl_c_reaches_no_worker(tmp_path: Path) -> None:
    """Also while the first of them starts, which takes a second."""
    text = """
import signal
signal.signal(signal.SIGINT, lambda *_: None)
pool()
for _ in range(30):
    time.sleep(0.05)
    os.killpg(0, signal.SIGINT)
first = pool().submit(who).result(60)
os.killpg(0, signal.SIGINT)
print(first == pool().submit(who).result(60))
"""
    out, err = script(text, tmp_path).communicate(timeout=60)
    assert (out, err) == ("begin\nTrue\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_a_pool_of_its_own(tmp_path: Path) -> None:
    text = """
mine = pool().submit(who).result(60)
child = os.fork()
if not child:
    print(pool().submit(who).result(60) != mine, flush=True)
    pool().close()
    os._exit(0)
os.waitpid(child, 0)
print(pool().submit(who).result(60) == mine)
"""
    out, err = script(text, tmp_path).communicate(timeout=60)
    assert (out, err) == ("begin\nTrue\nTrue\n", "")


def test_a_job_that_is_handed_out_needs_no_torch_here(tmp_path: Path) -> None:
    text = """
from sparsity_lab.runs.worker import fingerprints
Path("text.txt").write_text("a line\\n" * 9_000)
print(len(pool().submit(fingerprints, ["text.txt"]).result(60)["text.txt"]), "torch" in sys.modules)
"""
    out, err = script(text, tmp_path).communicate(timeout=60)
    assert (out, err) == ("begin\n64 False\n", "")


def finds_a_strange_file(line: Line) -> int:
    warnings.warn("a.json is strange", StrangeFile, stacklevel=1)
    return 1


def test_what_a_worker_passes_over_is_said_here(one: Pool) -> None:
    """Its own stderr may be read by nobody."""
    with pytest.warns(StrangeFile, match=r"^a\.json is strange$"):
        assert one.submit(finds_a_strange_file).result(30) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one.submit(finds_a_strange_file).result(30) == 1
    assert one.submit(finds_a_strange_file).result(30) == 1, "the pool is as it was"
