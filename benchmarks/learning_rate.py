"""Is the default learning rate good at the corners? `python -m benchmarks.learning_rate [BUDGET …]`

Trains each corner of the lab at half, once and twice the default rate, one seed, and writes each loss's distance from
the best of the three to data/learning_rate.csv. Runs that are on disk are not repeated.
"""

import sys
from pathlib import Path

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.experiment import run_all
from sparsity_lab.training import resolve

BUDGETS = (1e10, 1e11, 1e12)
WIDTHS = {1e10: (8, 16), 1e11: (12, 32), 1e12: (24, 48)}
SPARSITIES = (0.0, 0.9375, 0.984375)
FACTORS = (0.5, 1.0, 2.0)
TABLE = Path("data/learning_rate.csv")


def main(budgets: list[float]) -> None:
    pairs = []
    for budget in budgets:
        for width in WIDTHS[budget]:
            for sparsity in SPARSITIES:
                model = ModelConfig.on_dial(width, sparsity)
                rate = resolve(model, RunConfig(budget=budget)).learning_rate
                assert rate is not None
                pairs += [(model, RunConfig(budget=budget, learning_rate=rate * factor)) for factor in FACTORS]
    runs = run_all(pairs)
    runs["factor"] = list(FACTORS) * (len(runs) // len(FACTORS))
    table = runs.pivot_table(index=["budget", "width", "sparsity"], columns="factor", values="val_loss")
    table["default_over_best"] = table[1.0] - table.min(axis=1)
    TABLE.parent.mkdir(exist_ok=True)
    table.round(4).to_csv(TABLE)
    print(table.round(4).to_string())


if __name__ == "__main__":
    main([float(budget) for budget in sys.argv[1:]] or list(BUDGETS))
