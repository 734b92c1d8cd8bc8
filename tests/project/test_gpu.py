"""`make gpu` where there is no GPU: what it says, what becomes of a step that fails, hangs or prints rubbish, and that
every step runs on the processor. Not run here: CUDA's kernels, timing by real events, and torch's counts of memory."""

import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import timing
from benchmarks.agreement import assert_alike, difference
from benchmarks.gpu import __main__ as runner
from benchmarks.gpu import device, install, many, memory, pieces
from benchmarks.gpu.plan import STEPS, TOTAL
from benchmarks.gpu.process import run
from benchmarks.gpu.report import write
from benchmarks.timing import Row
from sparsity_lab.cli import doctor
from sparsity_lab.cli.main import main
from tests.sweeps import alive

ROOT = Path(__file__).parents[2]
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a step and its children are a process group")


@pytest.fixture(scope="session")
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def shared_cache(own_folders: None, one_cache: Path, monkeypatch: Patch) -> None:
    """The text is prepared once, and not for each step."""
    monkeypatch.setenv("SPARSITY_LAB_CACHE", str(one_cache))


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


# ---- The command


def test_without_a_gpu_it_says_so_at_once_and_needs_nothing_but_python(tmp_path: Path) -> None:
    bare = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['']"]
    bare[-1] += "; from benchmarks.gpu.__main__ import main; sys.exit(main({}))"
    for arguments, status in (("[]", 1), ("['--plan']", 0)):
        command = [*bare[:-1], bare[-1].format(arguments)]
        found = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False)
        assert found.returncode == status, found.stderr
        if status:
            assert (found.stdout, len(found.stderr.splitlines())) == ("", 1)
            assert found.stderr.startswith("No NVIDIA GPU was found here")
        else:
            assert all(f"{step.name:<9} {step.seconds:>3} s  {step.question}" in found.stdout for step in STEPS)


def test_the_steps_fit_into_eight_minutes_and_are_files() -> None:
    assert sum(step.seconds for step in STEPS) <= TOTAL == 480
    for step in STEPS:
        assert (ROOT / f"benchmarks/gpu/{step.name}.py").exists()


def nvidia_smi(folder: Path, answer: str, status: int = 0) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    command.chmod(0o755)


def test_a_gpu_without_a_torch_that_sees_it_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(runner, "HAS_CUDA", "raise SystemExit(1)")
    nvidia_smi(tmp_path, "NVIDIA H200")
    assert runner.main([]) == 1
    message = capsys.readouterr().err
    assert message.startswith("NVIDIA H200 is here, but")
    assert "make gpu PYTHON=" in message
    assert len(message.splitlines()) == 1
    nvidia_smi(tmp_path, "NVIDIA-SMI has failed because it couldn't communicate with the driver", status=9)
    assert runner.main([]) == 1
    assert capsys.readouterr().err.startswith("No NVIDIA GPU was found here")


def test_doctor_starts_it_where_the_repository_is(tmp_path: Path, monkeypatch: Patch, capfd: Any) -> None:
    assert main(["doctor", "--gpu", "--plan"]) == 0
    assert capfd.readouterr().out.startswith("install ")
    assert main(["doctor", "--plan"]) == 2
    assert capfd.readouterr().err == "sparsity-lab: --plan lists the steps of --gpu: sparsity-lab doctor --gpu --plan\n"
    monkeypatch.setattr(doctor, "SUITE", tmp_path)
    assert main(["doctor", "--gpu"]) == 2
    assert "run `make gpu` in its folder" in capfd.readouterr().err


def test_an_unknown_step_is_named(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        runner.main(["--device", "cpu", "spead"])
    assert "no step 'spead'; there are install, device" in capsys.readouterr().err


# ---- A step's process


def test_a_step_that_works() -> None:
    row = {"what": "a", "bar": "≤ 1", "measured": "2", "reached": False}
    text = f"import json; print('working'); print(json.dumps({row!r})); print('{{\"verdict\": \"Two\"}}')"
    found = run("x", program(text), 30)
    assert (found.status, found.verdict, found.rows, found.log) == ("done", "Two", [row], ["working"])
    assert found.short == 1


FAILING = {
    "raise ValueError('no such kernel')": "ValueError: no such kernel",
    "raise SystemExit('nvcc is missing')": "nvcc is missing",
    "raise SystemExit(3)": "it printed nothing",
    "import os, signal; print('deep in a kernel', flush=True); os.kill(os.getpid(), signal.SIGSEGV)": (
        "ended by SIGSEGV; last line: deep in a kernel"
    ),
    "import no_such_package": "ModuleNotFoundError: No module named 'no_such_package'",
}


@pytest.mark.parametrize("text", FAILING)
def test_a_step_that_fails_says_why_in_one_line(text: str) -> None:
    found = run("x", program(text), 30)
    assert (found.status, found.verdict) == ("failed", FAILING[text])


def test_a_step_that_hangs_is_killed_with_its_children_and_keeps_its_rows() -> None:
    text = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print('{"what": "child", "measured": "%d"}' % child.pid, flush=True)
print('{"verdict": "so far so good"}', flush=True)
time.sleep(600)
"""
    start = time.monotonic()
    found = run("x", program(text), 3)
    assert time.monotonic() - start < 60
    assert (found.status, found.verdict) == ("stopped", "stopped at its limit of 3 s; so far so good")
    deadline = time.monotonic() + 10
    while alive(int(found.rows[0]["measured"])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(found.rows[0]["measured"]))


def test_a_child_that_outlives_its_step_is_killed() -> None:
    text = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print('{"what": "child", "measured": "%d"}' % child.pid)
"""
    found = run("x", program(text), 60)
    assert found.status == "done"
    deadline = time.monotonic() + 10
    while alive(int(found.rows[0]["measured"])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(found.rows[0]["measured"]))


RUBBISH = (
    b"\xff\xfe\x00 no text",
    b'{"what": "cut of',
    b"[1, 2]",
    b"{}",
    b'{"what": 3}',
    b'{"verdict": ["a", 1]}',
    b"{" * 100_000,
    b'{"what": "a | b\\nc", "measured": null, "reached": "maybe"}',
)


def test_rubbish_ends_in_the_log_and_breaks_no_report(tmp_path: Path) -> None:
    path = tmp_path / "rubbish"
    path.write_bytes(b"\n".join(RUBBISH) + b"\n")
    found = run("device", program(f"import sys; sys.stdout.buffer.write(open({str(path)!r}, 'rb').read())"), 30)
    assert found.status == "done"
    write(tmp_path, "a machine", list(STEPS), [found])
    table = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("|")]
    assert "| a \\| b c |  | None |  |" in table
    assert json.loads((tmp_path / "report.json").read_text())["steps"][1]["name"] == "device"


# ---- The report

SCRIPT = """
import os, sys
from pathlib import Path
from benchmarks.gpu import __main__ as runner
from benchmarks.gpu.plan import Step
commands = {"one": "print('{\\"verdict\\": \\"One is known\\"}')", "two": sys.argv[2], "three": "print('never')"}
runner.STEPS = [Step(name, 30, name + "?") for name in commands]
runner.step_command = lambda name, device: [sys.executable, "-c", commands[name]]
sys.exit(runner.main(["--device", "cpu", "--out", sys.argv[1]]))
"""


def run_three(folder: Path, second: str) -> int:
    command = [sys.executable, "-c", SCRIPT, str(folder), second]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode


def statuses(folder: Path) -> list[str]:
    return [step["status"] for step in json.loads((folder / "report.json").read_text())["steps"]]


def test_a_step_that_fails_stops_no_other(tmp_path: Path) -> None:
    assert run_three(tmp_path, "raise ValueError('no')") == 1
    assert statuses(tmp_path) == ["done", "failed", "done"]
    text = (tmp_path / "report.md").read_text()
    assert "| one | done | One is known |" in text
    assert "ValueError: no" in text


def test_the_report_survives_a_kill(tmp_path: Path) -> None:
    assert run_three(tmp_path, "import os; os.kill(os.getppid(), 9)") == -signal.SIGKILL
    assert statuses(tmp_path) == ["done", "not reached", "not reached"]
    assert "| two | not reached | not reached | 0 s |" in (tmp_path / "report.md").read_text()


def test_sigterm_kills_the_step_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    told = (
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); os.kill(os.getppid(), 15); time.sleep(600)"
    )
    assert run_three(tmp_path, told) == 143
    assert statuses(tmp_path) == ["done", "not reached", "not reached"]
    assert not alive(int(pid.read_text()))


def test_bars_that_are_not_reached_count(tmp_path: Path) -> None:
    assert run_three(tmp_path, """print('{"what": "a", "measured": "2", "reached": false}')""") == 1
    assert "(bars not reached: 1)" in (tmp_path / "report.md").read_text()
    assert run_three(tmp_path, """print('{"what": "a", "measured": "2", "reached": true}')""") == 0


# ---- The steps, in small sizes on the processor


@pytest.mark.parametrize("name", ["device", "backends", "training", "decode", "speed", "worth", "memory", "pieces"])
def test_a_step_measures(name: str) -> None:
    *rows, verdict = importlib.import_module(f"benchmarks.gpu.{name}").rows("cpu")
    assert isinstance(verdict, str)
    assert all(isinstance(row, Row) for row in rows)
    assert [row for row in rows if row.reached is False] == []
    assert rows or name == "pieces"


def test_many_runs_share_a_device_and_a_sweep_is_tried(monkeypatch: Patch) -> None:
    monkeypatch.setattr(many, "COUNTS", {"cpu": (1, 2)})
    monkeypatch.setattr(many, "sweep", lambda per_gpu, device: f"{per_gpu} on {device}")
    first, second, verdict, *sweeps = many.rows("cpu")
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.what == "1 runs at once, width 8: tokens/s"
    assert "times one's" in second.measured
    assert isinstance(verdict, str)
    assert sweeps
    monkeypatch.undo()
    monkeypatch.setattr(many, "GRID", "[[runs]]\nwith = 7\n")
    assert "exit status 2" in many.sweep(1, "cpu")


def test_what_is_missing_is_named_and_installed_in_two_calls(monkeypatch: Patch) -> None:
    calls: list[tuple[str, ...]] = []

    def pip(verb: str, *options: str, env: dict[str, str]) -> SimpleNamespace:
        assert (verb, options[0]) == ("install", "--target")
        calls.append(options[2:])
        return SimpleNamespace(returncode=int("megablocks==0.10.0" in options), stderr="no index")

    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setattr(install, "without_cuda", dict)
    assert list(install.rows("cpu")) == ["Everything is there"]
    gone = {"pytest", "hypothesis", "megablocks", "transformers"}
    monkeypatch.setattr(install, "find_spec", lambda module: None if module in gone else module)
    [said] = install.rows("cuda")
    assert calls == [("-c", str(ROOT / "constraints.txt"), "pytest", "hypothesis"), ("megablocks==0.10.0",)]
    installed = "installed pytest, hypothesis; missing, so that steps which need it say so: "
    assert said == installed + "transformers, megablocks"


def test_the_versions_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"MEGABLOCKS := {install.BY_HAND['megablocks']} {install.BY_HAND['stk']}" in makefile


def test_tests_are_found_by_their_mark_and_reported_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    mark = "import pytest\npytestmark = pytest.mark." + "cuda\n"
    good, bad, skipped = "test_good(): pass", "test_bad(): assert 1 == 2", "test_no(): pytest.skip('no such GPU')"
    (tmp_path / "tests/test_a.py").write_text(f"{mark}def {good}\ndef {bad}\ndef {skipped}\n")
    (tmp_path / "tests/test_b.py").write_text(mark + "import no_such_package\n")
    (tmp_path / "tests/test_c.py").write_text("raise SystemExit('not to be read')\n")
    text = f"from pathlib import Path; from benchmarks.gpu import tests, step; tests.ROOT = Path({str(tmp_path)!r})"
    found = run("tests", program(f"{text}; step.main('tests', 'cpu')"), 60)
    assert found.status == "done", found.log
    measured = {row["what"].rpartition("::")[2]: row["measured"] for row in found.rows}
    assert measured["test_good"] == "passed"
    assert measured["test_bad"].startswith("failed: ")
    assert measured["test_no"] == "skipped: Skipped: no such GPU"
    assert "no_such_package" in measured["tests/test_b.py"]
    assert found.verdict == "2 failed, 1 passed, 1 skipped"

    (tmp_path / "tests/conftest.py").write_text("import no_such_package\n")
    found = run("tests", program(f"{text}; step.main('tests', 'cpu')"), 60)
    assert found.status == "failed"
    assert found.verdict.startswith("pytest has run no test")
    assert any("no_such_package" in line for line in found.log)


# ---- What only a GPU has, with stand-ins for its counters


class Event:
    """Counts the calls between two events as its milliseconds."""

    calls = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.calls

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "Event") -> float:
        return float(end.at - self.at)


def test_a_gpu_is_timed_by_events_around_a_block(monkeypatch: Patch) -> None:
    def function() -> None:
        Event.calls += 1

    monkeypatch.setattr(torch.cuda, "Event", Event)
    times = timing.take_turns({"a": function}, 0.0, block=4, device="cuda")
    assert times["a"] == pytest.approx([1e-3] * 5)  # a call counts as a millisecond; warm-up calls don't count


SHEETS = {
    "NVIDIA H200": "h200",
    "Tesla T4": "t4",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA GeForce RTX 4090": None,
}


@pytest.mark.parametrize("name", SHEETS)
def test_a_gpu_is_described(name: str, monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    sheet = device.data_sheet("cuda")
    assert (sheet.name if sheet else None) == SHEETS[name]
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=2**34, multi_processor_count=40)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    nvidia_smi(tmp_path, "580.1")
    found = device._versions("cuda")
    assert (found["driver"], found["capability"], found["memory"]) == ("580.1", "7.5", "16.0 GiB, 40 multiprocessors")
    assert found["bfloat16 in hardware"].startswith("no")


def test_the_expected_memory_is_more_in_float32_and_with_experts() -> None:
    dense = memory.DENSE["cuda"]
    sparse = dense.replace(d_expert=dense.d_expert // 2, n_experts=16, top_k=2)
    assert memory.expected(dense, "float32") > memory.expected(dense, "bfloat16")
    assert memory.expected(sparse, "float32") > memory.expected(dense, "float32")


HEADER = "CUDA_CALL(cub::DeviceScan::ExclusiveSum(d_in,\n\t    stream{}));\n"


@pytest.mark.parametrize("refused", ["download", "install", ""])  # "": all is well, but there are no pieces in it
def test_pieces_that_do_not_build_say_why(refused: str, monkeypatch: Patch, tmp_path: Path) -> None:
    header = tmp_path / "megablocks-0.10.0/csrc/cumsum.h"
    header.parent.mkdir(parents=True)
    header.write_text(HEADER.format(",\n\t    debug_synchronous"))
    built = list[str]()

    def pip(verb: str, *options: str, env: dict[str, str]) -> SimpleNamespace:
        if verb == "download":
            with tarfile.open(Path(options[3]) / "megablocks-0.10.0.tar.gz", "w:gz") as archive:
                archive.add(header.parents[1], "megablocks-0.10.0")
        else:
            built.append(Path(options[-1], "csrc/cumsum.h").read_text())
        return SimpleNamespace(returncode=int(verb == refused), stdout="ops.cu(3): error: no such type\n", stderr="")

    monkeypatch.setattr(pieces, "PIECES", tmp_path / "pieces")
    monkeypatch.setattr(pieces, "_why_not_built", lambda device: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(pieces, "pip", pip)
    with pytest.raises(SystemExit, match=r"They could not be built: ops.cu\(3\): error: no such type"):
        list(pieces.rows("cuda"))
    assert built == [HEADER.format("")] * (refused != "download")


def test_a_difference_that_is_no_number_never_passes() -> None:
    right = torch.ones(4)
    assert difference(right, right) == 0
    assert_alike(right + 1e-4, right)
    for wrong in (right + 1e-2, right * float("nan")):
        with pytest.raises(AssertionError, match="differs by"):
            assert_alike(wrong, right)
