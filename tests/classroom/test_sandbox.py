"""What a submission may do in the sandbox."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sparsity_lab.classroom.sandbox import Sandbox, choose, lent

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


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs code as another user")
LEFT = """
mkdir -p /tmp/lab-left /dev/shm/lab-left && cd /tmp/lab-left && echo secret > file
echo secret > /dev/shm/lab-left/file
for n in $(seq 300); do mkdir -p folder && cd folder; done
setsid sleep 600 & setsid sleep 600 &
"""


@root_only
def test_without_namespaces_nothing_of_a_submission_is_left(tmp_path: Path) -> None:
    with lent(Sandbox("user", 61_000, 1 << 30)) as mine, lent(Sandbox("user", 61_000, 1 << 30)) as other:
        assert mine.uid != other.uid
        for sandbox in (mine, other):
            (tmp_path / str(sandbox.uid)).mkdir()
        user = ["setpriv", f"--reuid={other.uid}", f"--regid={other.uid}", "--clear-groups", "--"]
        bystander = subprocess.Popen([*user, "sleep", "600"])
        subprocess.run([*[part.replace(str(other.uid), str(mine.uid)) for part in user], "sh", "-c", LEFT], check=True)
        assert mine.written() > 0
        mine.clean_up(tmp_path)

        assert mine.written() == 0
        assert not Path("/tmp/lab-left").exists()
        assert not Path("/dev/shm/lab-left").exists()
        left = subprocess.run(["ps", "-U", str(mine.uid), "-o", "stat="], capture_output=True, text=True, check=False)
        assert not [state for state in left.stdout.split() if not state.startswith("Z")]
        assert bystander.poll() is None, "another grading goes on"
        bystander.kill()
        bystander.wait()
