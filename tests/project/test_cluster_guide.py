"""Checks that the commands and scripts in docs/cluster.md run, as far as they can without a cluster."""

import ast
import re
import types
from pathlib import Path

import pytest

from sparsity_lab.cli.main import build_parser

TEXT = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
SLURM, KUBERNETES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_job_that_slurm_gets() -> None:
    jobqueue = pytest.importorskip("dask_jobqueue", reason="in the extra `cluster`")
    script = types.ModuleType("slurm")
    exec(compile(SLURM, "slurm.py", "exec"), script.__dict__)
    with script.cluster() as cluster:
        assert isinstance(cluster, jobqueue.SLURMCluster)
        job = cluster.job_script()
        assert re.fullmatch(r"tcp://[\d.]+:\d+", cluster.scheduler_address)
        assert cluster.scheduler_address in job
    for line in ("#SBATCH -p short", "#SBATCH -n 1", "#SBATCH --cpus-per-task=1", "#SBATCH --mem=4G",
                 "#SBATCH -t 04:00:00", "source ~/lab/.venv/bin/activate"):  # fmt: skip
        assert line in job.splitlines()
    assert "-m distributed.cli.dask_worker" in job
    assert "--nthreads 1" in job
    assert "--nworkers" not in job, "each job should have one process"


def test_the_snippets_call_what_there_is() -> None:
    """Checks the names and keywords of this package; those of Kubernetes are not installed here."""
    import inspect

    from sparsity_lab.runs import grid, sweep

    for snippet in (SLURM, KUBERNETES):
        calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
        ours = {call.func.id: call for call in calls if isinstance(call.func, ast.Name)}
        assert len(ours["read_grid"].args) == len(inspect.signature(grid.read_grid).parameters)
        bound = inspect.signature(sweep.sweep).bind(
            *ours["sweep"].args, **{word.arg: word.value for word in ours["sweep"].keywords}
        )
        assert set(bound.arguments) == {"pairs", "folder", "scheduler"}


def test_the_command_is_understood() -> None:
    commands = re.findall(r"sparsity-lab (sweep .*?)(?:`|\n)", TEXT)
    assert len(commands) == 4
    for command in commands:
        options = build_parser().parse_args(command.split())
        assert (options.grid, options.out) == ("grid.toml", "runs")
