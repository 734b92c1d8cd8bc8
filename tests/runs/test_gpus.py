"""Several workers on each GPU. No GPU is needed: what a worker sees of them is decided by its environment."""

import os
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import DATA
from sparsity_lab.runs import gpus as gpus_module
from sparsity_lab.runs.gpus import Gpu, bytes_of_run, gpus, place, sharing
from sparsity_lab.runs.grid import read_grid
from sparsity_lab.runs.pool import Line, Pool
from sparsity_lab.runs.repeat import run_all
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.sweep import _State, assumed, sweep
from tests.sweeps import SPEED, until

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # so that workers need not import this file

TWO = (Gpu("NVIDIA X", "2", 20e9), Gpu("NVIDIA Y", "GPU-5c", 16e9))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> tuple[Gpu, ...]:
    """A machine with two GPUs."""
    monkeypatch.setattr(gpus_module, "gpus", lambda: TWO)
    return TWO


def visible(line: Line, wait: bool = False) -> tuple[str, int]:
    """What a worker sees, and its process; once it is told to go on."""
    while wait and not line.heard(1.0):
        pass
    return os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def test_each_worker_sees_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with closing(Pool(gpus=["2", "GPU-5c", "2", "GPU-5c", "2"])) as pool:
        assert pool.size == 5
        jobs = [pool.submit(visible, True) for _ in range(5)]
        for job in jobs:
            job.send("go")
        seen = [job.result(60) for job in jobs]
        assert Counter(gpu for gpu, _ in seen) == {"2": 3, "GPU-5c": 2}
        assert len({process for _, process in seen}) == 5

        # One that dies is replaced on the GPU that it leaves.
        os.kill(seen[0][1], 9)
        until(lambda: len(pool._workers) == 4)
        again = [pool.submit(visible, True) for _ in range(5)]
        for job in again:
            job.send("go")
        assert Counter(gpu for gpu, _ in (job.result(60) for job in again)) == {"2": 3, "GPU-5c": 2}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_workers_take_gpus_in_turn(two: tuple[Gpu, ...], model: ModelConfig, run: RunConfig) -> None:
    workers = place([(model, run)], 3)
    assert workers == [*two, *two, *two]
    assert sharing(workers) == "6 workers: 3 on GPU 2 (NVIDIA X), 3 on GPU GPU-5c (NVIDIA Y)."
    assert sharing(workers[:1]) == "1 worker: 1 on GPU 2 (NVIDIA X)."
    assert place([(model, run)], None) == place([], 3) == []


def test_workers_must_fit(two: tuple[Gpu, ...], model: ModelConfig, run: RunConfig) -> None:
    """By the largest of the runs and the smallest of the GPUs."""
    large = ModelConfig.of_width(1024, n_experts=4), RunConfig(budget=1e18)
    fit = int(16e9 // bytes_of_run(*large))
    assert 1 < fit < 20
    assert len(place([(model, run), large], fit)) == 2 * fit
    with pytest.raises(
        ValueError, match=rf"per_gpu={fit + 1}: the largest run \(width 1024, 4 experts.* at most {fit}$"
    ):
        place([(model, run), large], fit + 1)
    with pytest.raises(ValueError, match=r"per_gpu=1: .* and GPU GPU-5c .* has 16.00 GB free: not even one fits"):
        place([(ModelConfig.of_width(8192), run)], 1)


@given(width=st.sampled_from([8, 64, 256]), experts=st.sampled_from([1, 16, 64]), batch=st.integers(1, 64))
def test_memory_grows_with_the_run(width: int, experts: int, batch: int) -> None:
    model, run = ModelConfig.of_width(width, n_experts=experts), RunConfig(batch_size=batch)
    bytes_ = bytes_of_run(model, run)
    assert bytes_ > gpus_module.CONTEXT + 16 * model.d_model * model.d_expert * 3 * experts, (
        "weights, AdamW's, gradients"
    )
    for more in ((model, run.replace(batch_size=batch + 1)), (model.replace(d_expert=4 * width), run)):
        assert bytes_of_run(*more) > bytes_


@pytest.mark.parametrize(
    ("per_gpu", "device", "message"),
    [
        (2, "auto", "per_gpu=2, but torch finds no CUDA GPU here"),
        (None, "cuda", "device='cuda', but torch finds no CUDA GPU here"),
        (0, "auto", "per_gpu=0 must be at least 1"),
    ],
)
def test_without_a_gpu(
    per_gpu: int | None, device: str, message: str, model: ModelConfig, run: RunConfig,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """Nothing is trained, nor recorded as failed."""
    monkeypatch.setattr(gpus_module, "gpus", lambda: ())
    pairs = [(model, run.replace(device=device))]
    for train in (
        lambda: sweep(pairs, tmp_path, per_gpu=per_gpu, speed=SPEED),
        lambda: run_all(pairs, tmp_path, per_gpu=per_gpu),
    ):
        with pytest.raises(ValueError, match=message):
            train()
    assert not RunStore(tmp_path).load()


def test_a_process_of_its_own_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds what torch finds, and this process needs no torch for it."""
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.__wrapped__() == ()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "NVIDIA X{}".format)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((5 + number) * 10**9, 9 * 10**9))
    for variable, ids in (("", ["0", "1"]), ("3, GPU-5c", ["3", "GPU-5c"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        assert gpus_module._look() == [Gpu("NVIDIA X0", ids[0], 5e9), Gpu("NVIDIA X1", ids[1], 6e9)]


NEVER = """
import torch

def asked(*arguments, **options):
    raise AssertionError("a process that workers are copied from has asked for CUDA")

for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "mem_get_info"):
    setattr(torch.cuda, name, asked)
import sparsity_lab.runs.forked
"""

PARENT = """
import sys
from pathlib import Path
from sparsity_lab.runs import gpus
from sparsity_lab.runs.gpus import Gpu
from sparsity_lab.cli.main import main

gpus.gpus = lambda: (Gpu("NVIDIA X", "0", 20e9),)
if __name__ == "__main__":
    Path("text.txt").write_text("".join(f"{i} squared is {i * i}\\n" for i in range(3_000)))
    Path("grid.toml").write_text('[[runs]]\\nwidth = 8\\nbudget = [3e7, 2e7]\\ncorpus = "text.txt"\\n')
    assert main(["sweep", "grid.toml", "--out", "runs", "--per-gpu", "2"]) == 0
    assert len(list(Path("runs").glob("*.json"))) == 2
    torch = sys.modules.get("torch")
    print("torch" if torch else "no torch", torch is not None and torch.cuda.is_initialized())
"""


def test_who_hands_runs_out_never_touches_cuda(tmp_path: Path) -> None:
    """Nor does what workers are forked from: a fork of a process that has is of no use."""
    for name, text in (("never.py", NEVER), ("parent.py", PARENT)):
        (tmp_path / name).write_text(text)
        done = subprocess.run([sys.executable, name], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("no torch False\n"), "and the lab's own processes do not need it"
    assert "2 workers: 2 on GPU 0 (NVIDIA X)." in done.stderr


def test_whole_budgets_come_first(model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    pairs = [(model, run.replace(budget=budget, seed=seed)) for seed, budget in enumerate([3e7, 1e7, 2e7, 1e7])]
    state = _State(pairs, 4, [3.0, 1.0, 2.0, 1.5], tmp_path, whole_budgets=True)
    assert [pair[1].seed for pair in state.queue] == [3, 1, 2, 0]


def test_the_grid_for_a_gpu() -> None:
    """Its first budget is in the shipped grid too, and at the speed that it assumes it takes about ten minutes."""
    from sparsity_lab.accounting.devices import device

    pairs = read_grid(DATA / "isoflop" / "grid-gpu.toml")
    assert {(run.device, run.dtype) for _, run in pairs} == {("cuda", "bfloat16")}
    shipped = read_grid(DATA / "isoflop" / "grid.toml")
    bridge = [(model, run.replace(device="auto", dtype="float32")) for model, run in pairs if run.budget == 1e13]
    assert bridge
    assert all(pair in shipped for pair in bridge)
    h200 = device("h200")
    *budgets, assumption = assumed(pairs, h200, 0.02)
    assert budgets[0].startswith(f"10¹³ FLOPs: {len(bridge)} runs, ")
    assert budgets[-1].endswith("8 min 21 s so far.")
    assert (
        assumption
        == "Assumed, not measured: all runs together reach 2 % of its peak (9.89e+14 FLOP/s in bfloat16) on h200."
    )
    assert max(bytes_of_run(*pair) for pair in pairs) * 16 < h200.memory, "sixteen workers fit"
