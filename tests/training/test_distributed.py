"""Two processes give the losses and weights of one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open

from sparsity_lab.cli.main import main
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.checkpoint import peek
from sparsity_lab.training.distributed import Workers
from sparsity_lab.training.trainer import Training

WORKER = """
import json, sys
import torch
import torch.distributed as dist
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.distributed import Workers
from sparsity_lab.training.trainer import Training

rank, meeting, mode, model, run, jobs = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
workers = Workers(mode)
results = []
for path, last in json.loads(jobs):
    training = Training(
        ModelConfig.from_json(model),
        RunConfig.from_json(run),
        checkpoint_path=path or None,
        checkpoint_seconds=0 if last and rank == "0" else 1e6,  # the first process decides
        workers=workers,
    )
    while not training.done and training.steps_done != last:
        training.step()
    val = training.evaluate()
    weights = {name: weight.detach().double().sum().item() for name, weight in training.model.named_parameters()}
    results.append({"losses": list(training.losses), "val": val, "weights": weights})
print(json.dumps(results))
workers.leave(0)
"""

Job = tuple[str, int | None]  # a checkpoint to resume from, or none; the step to stop at, saving after each, or the end


def both(
    tmp_path: Path, mode: str, model: ModelConfig, run: RunConfig, jobs: tuple[Job, ...] = (("", None),)
) -> list[list[dict[str, Any]]]:
    """What each of two processes found in each job."""
    arguments = [str(tmp_path / "meeting"), mode, model.to_json(), run.to_json(), json.dumps(jobs)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    results = []
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        results.append(json.loads(out.splitlines()[-1]))
    return results


SHAPES = {
    "top-1": {},
    "top-2, shared": {"top_k": 2, "n_shared_experts": 1},
    "deepseek": {"top_k": 2, "router": "sigmoid", "bias_rate": 0.01, "n_groups": 2, "top_groups": 1},
}


@pytest.mark.parametrize("mode", ["data", "experts"])
@pytest.mark.parametrize("kind", SHAPES)
def test_two_processes_are_one(mode: str, kind: str, model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    model = model.replace(**SHAPES[kind])
    run = run.replace(budget=4e7, batch_size=4, grad_clip=0.5)
    alone = Training(model, run)
    while not alone.done:
        alone.step()
    assert len(alone.losses) >= 8
    results = [found for (found,) in both(tmp_path, mode, model, run)]
    for result in results:
        torch.testing.assert_close(
            torch.tensor(result["losses"]), torch.tensor(list(alone.losses)), rtol=2e-3, atol=2e-3
        )
        assert result["val"] == pytest.approx(alone.evaluate(), rel=2e-3)
    first, second = (result["weights"] for result in results)
    for name, weight in alone.model.named_parameters():
        total = first[name] + second[name] if mode == "experts" and "moe.experts" in name else first[name]
        assert total == pytest.approx(weight.detach().double().sum().item(), rel=0.05, abs=0.05), name


@pytest.mark.parametrize("mode", ["data", "experts"])
def test_saved_by_two_resumes_with_two_or_one(mode: str, model: ModelConfig, run: RunConfig, tmp_path: Path) -> None:
    """And the other way round: the file is that of one process, moments of AdamW and biases included."""
    model = model.replace(**SHAPES["deepseek"])
    run = run.replace(budget=3e7, batch_size=4)
    path, by_one = tmp_path / "two" / "run.safetensors", tmp_path / "one.safetensors"
    alone = Training(model, run)
    while not alone.done:
        alone.step()
        if alone.steps_done == 3:
            alone.save(by_one)
    jobs: tuple[Job, ...] = (("", None), (str(path), 3), (str(path), None), (str(by_one), None))
    results = both(tmp_path, mode, model, run, jobs)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "one file"
    with safe_open(path, "pt") as two, safe_open(by_one, "pt") as one:
        assert set(two.keys()) == set(one.keys())
        for name in one.keys():  # noqa: SIM118
            torch.testing.assert_close(two.get_tensor(name), one.get_tensor(name), rtol=0.05, atol=5e-3, msg=name)
    resumed = Training(model, run, checkpoint_path=path)
    assert resumed.steps_done == 3
    while not resumed.done:
        resumed.step()
    wanted = torch.tensor(alone.losses)
    torch.testing.assert_close(torch.tensor(resumed.losses), wanted, rtol=2e-3, atol=2e-3)
    for unbroken, broken, again, from_one in results:
        assert len(broken["losses"]) == 3
        assert again["losses"] == unbroken["losses"], "to the last digit"
        torch.testing.assert_close(torch.tensor(from_one["losses"]), wanted, rtol=2e-3, atol=2e-3)


def test_under_torchrun(corpus_file: Path, tmp_path: Path) -> None:
    words = [
        "train",
        "--width",
        "8",
        "--sparsity",
        "0.75",
        "--budget",
        "5e7",
        "--batch-size",
        "4",
        "--corpus",
        str(corpus_file),
    ]
    saved = tmp_path / "run.safetensors"
    words += ["--checkpoint-seconds", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*command, "sparsity_lab", *words, "--parallel", "experts", "--json", "--checkpoint", str(saved)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["status"] == "finished"
    assert record["sparsity"] == 0.75
    state = peek(saved)
    assert state is not None
    assert state["step"] == record["steps"]


def test_mistakes(
    capsys: pytest.CaptureFixture[str], corpus_file: Path, model: ModelConfig, run: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="parallel='data' needs several processes: start them with torchrun"):
        Workers("data")
    with pytest.raises(ValueError, match="parallel='rows' is not known: use one of data, experts"):
        Workers("rows")  # type: ignore[arg-type]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        for router in ("expert_choice", "random"):
            with pytest.raises(ValueError, match=f"router='{router}' chooses for the whole batch at once"):
                Training(model.replace(router=router), run, workers=Workers("data"))
    finally:
        dist.destroy_process_group()
    assert main(["train", "--width", "8", "--budget", "1e8", "--corpus", str(corpus_file), "--parallel", "data"]) == 2
    assert "start them with torchrun" in capsys.readouterr().err
