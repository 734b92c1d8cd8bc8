"""What do inactive experts buy in right answers? `python -m benchmarks.tasks [BUDGET …]`

Trains models on the corpus "tasks", over widths and along the dial, examines them, and writes their records with the
scores, without loss curves, to data/tasks. data/tasks/plan.toml says what they are for. Runs that are on disk are not
repeated.
"""

import sys
from dataclasses import replace
from pathlib import Path

from sparsity_lab.analysis.task_scores import score_tasks
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.provenance import write_provenance
from sparsity_lab.runs.repeat import run_all
from sparsity_lab.runs.store import RunStore

WIDTHS = {1e12: (16, 24, 32)}  # up to the width beyond which more weights no longer help to recall
SPARSITIES = (0.0, 0.75, 0.9375, 0.984375)
SEEDS = (3, 4, 5)  # others than those with which the plan was made
FOLDER = Path("data/tasks")


def main(budgets: list[float]) -> None:
    store = RunStore(FOLDER)
    for budget in budgets:
        models = [ModelConfig.on_dial(width, sparsity) for width in WIDTHS[budget] for sparsity in SPARSITIES]
        seeds = [RunConfig(budget=budget, seed=seed, corpus="tasks") for seed in SEEDS]
        for record in run_all([(model, run) for run in seeds for model in models], score=score_tasks)["record"]:
            store.save(replace(record, curve={"flops": [], "loss": []}))
    write_provenance(FOLDER, "python -m benchmarks.tasks")


if __name__ == "__main__":
    main([float(budget) for budget in sys.argv[1:]] or list(WIDTHS))
