"""Two processes give the losses and weights of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsity_lab.cli import main
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.parallel import Workers
from sparsity_lab.training import Training

WORKER = """
import json, sys
import torch
import torch.distributed as dist
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.parallel import Workers
from sparsity_lab.training import Training

rank, meeting, mode, model, run = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
workers = Workers(mode)
training = Training(ModelConfig.from_json(model), RunConfig.from_json(run), workers=workers)
while not training.done:
    training.step()
val = training.evaluate()
weights = {name: weight.detach().double().sum().item() for name, weight in training.model.named_parameters()}
print(json.dumps({"losses": list(training.losses), "val": val, "weights": weights}))
workers.leave(0)
"""


def both(tmp_path: Path, mode: str, model: ModelConfig, run: RunConfig) -> list[dict[str, object]]:
    meeting = tmp_path / "meeting"
    arguments = [str(meeting), mode, model.to_json(), run.to_json()]
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
    results = both(tmp_path, mode, model, run)
    for result in results:
        torch.testing.assert_close(
            torch.tensor(result["losses"]), torch.tensor(list(alone.losses)), rtol=2e-3, atol=2e-3
        )
        assert result["val"] == pytest.approx(alone.evaluate(), rel=2e-3)
    first, second = (result["weights"] for result in results)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    for name, weight in alone.model.named_parameters():
        total = first[name] + second[name] if mode == "experts" and "moe.experts" in name else first[name]
        assert total == pytest.approx(weight.detach().double().sum().item(), rel=0.05, abs=0.05), name


def test_under_torchrun(corpus_file: Path, tmp_path: Path) -> None:
    words = [
        "train",
        "--width",
        "8",
        "--sparsity",
        "0.75",
        "--budget",
        "3e7",
        "--batch-size",
        "4",
        "--corpus",
        str(corpus_file),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    done = subprocess.run(
        [*command, "sparsity_lab", *words, "--parallel", "experts", "--json"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["status"] == "finished"
    assert record["sparsity"] == 0.75


def test_mistakes(capsys: pytest.CaptureFixture[str], corpus_file: Path) -> None:
    with pytest.raises(ValueError, match="parallel='data' needs several processes: start them with torchrun"):
        Workers("data")
    with pytest.raises(ValueError, match="parallel='rows' is not known: use data or experts"):
        Workers("rows")  # type: ignore[arg-type]
    assert main(["train", "--width", "8", "--budget", "1e8", "--corpus", str(corpus_file), "--parallel", "data"]) == 2
    assert "start them with torchrun" in capsys.readouterr().err
