"""What a submission may do in the sandbox."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sparsity_lab.classroom.sandbox import choose

TRAINING = """
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs import run_all
from sparsity_lab.runs.pool import pool
with open("text.txt", "w") as file:
    file.writelines(f"line {i} says {i * i}\\n" for i in range(2_400))
model = ModelConfig(d_model=8, n_heads=1, d_expert=16, context=32, n_experts=4)
runs = [RunConfig(budget=2e7, corpus="text.txt", eval_tokens=1_024, seed=seed) for seed in (0, 1)]
print(*run_all([(model, run) for run in runs])["status"], pool().size)
"""


def test_a_submission_can_train_on_its_share_of_cores() -> None:
    """Its worker processes fit into the limits, and it has one, because many submissions may be graded at once."""
    try:
        sandbox = choose(None, False, 2 << 30, [])
    except ValueError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        sandbox.folder(Path(folder))
        command = sandbox.command([sys.executable, "-c", TRAINING], Path(folder))
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "finished finished 1\n", done.stderr
