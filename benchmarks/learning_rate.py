"""Is the default learning rate good at the corners? `python -m benchmarks.learning_rate [BUDGET …]`

Trains each corner of the lab at half, once and twice the default rate, one seed, and writes each loss's distance from
the best of the three to data/learning_rate.csv. Runs that are on disk are not repeated, rows of other budgets stay.
"""

import sys
from pathlib import Path

import pandas as pd

from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.runs.repeat import run_all

WIDTHS = {1e10: (8, 16), 1e11: (12, 32), 1e12: (24, 48), 3e12: (32, 64)}
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
                rates = [rate * factor if factor != 1 else None for factor in FACTORS]  # None: the default
                pairs += [(model, RunConfig(budget=budget, learning_rate=rate)) for rate in rates]
    runs = run_all(pairs)
    runs["factor"] = list(FACTORS) * (len(runs) // len(FACTORS))
    table = runs.pivot_table(index=["budget", "width", "sparsity"], columns="factor", values="val_loss")
    table["default_over_best"] = table[1.0] - table.min(axis=1)
    table = table.round(4).reset_index().rename(columns=str)
    kept = pd.read_csv(TABLE)
    table = pd.concat([kept[~kept["budget"].isin(budgets)], table]).sort_values(["budget", "width", "sparsity"])
    table.to_csv(TABLE, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main([float(budget) for budget in sys.argv[1:]] or list(WIDTHS))
