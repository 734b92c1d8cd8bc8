"""Is the default learning rate good where claims lean on it? `python -m benchmarks.learning_rate [BUDGET …]`

Trains the best shapes of each budget (width, layers, sparsity) at half and twice the default rate with `SEEDS`,
compares them with the runs in data/isoflop, which have the default, and writes data/learning_rate.csv: the mean loss at
each rate, by how much the default is above the better of the other two, and half the 95 % interval of that difference.
Runs that are on disk are not repeated, rows of other budgets stay.
"""

import sys
from pathlib import Path

import pandas as pd

from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.intervals import contrast_interval
from sparsity_lab.runs import measured
from sparsity_lab.runs.repeat import run_all

Shape = tuple[int, int, float]  # width, layers, sparsity
SHAPES: dict[float, tuple[Shape, ...]] = {
    1e11: ((16, 2, 0.0), (16, 1, 0.9375), (16, 1, 0.984375)),
    3e11: ((32, 1, 0.0), (24, 1, 0.9375), (24, 1, 0.984375)),
    1e12: ((32, 3, 0.0), (32, 2, 0.9375), (24, 2, 0.984375)),
    3e12: ((48, 2, 0.0), (48, 2, 0.9375), (32, 2, 0.984375)),
}
SEEDS = (0, 1, 2)
FACTORS = (0.5, 2.0)
TABLE = Path("data/learning_rate.csv")


def main(budgets: list[float]) -> None:
    keys, pairs = [], []
    for budget in budgets:
        for width, layers, sparsity in SHAPES[budget]:
            model = ModelConfig.on_dial(width, sparsity).replace(n_layers=layers)
            rate = resolve(model, RunConfig(budget=budget)).learning_rate
            assert rate is not None
            for factor in FACTORS:
                runs = [RunConfig(budget=budget, seed=seed, learning_rate=rate * factor) for seed in SEEDS]
                pairs += [(model, run) for run in runs]
                keys += [(budget, width, layers, sparsity, factor)] * len(runs)
    losses = pd.Series(run_all(pairs)["val_loss"].tolist(), pd.MultiIndex.from_tuples(keys))

    shipped, rows = measured.runs(None), []
    for budget in budgets:
        for width, layers, sparsity in SHAPES[budget]:
            cell = {"budget": budget, "width": width, "n_layers": layers, "sparsity": sparsity, "top_k": 1}
            default = shipped.loc[(shipped[list(cell)] == pd.Series(cell)).all(axis=1), "val_loss"]
            samples = {1.0: default.tolist()}
            samples |= {f: losses.loc[(budget, width, layers, sparsity, f)].tolist() for f in FACTORS}
            mean = {factor: sum(sample) / len(sample) for factor, sample in samples.items()}
            best = min(FACTORS, key=mean.__getitem__)
            above, half = contrast_interval([samples[1.0], samples[best]], [1, -1])
            rows.append({**cell, **{str(f): mean[f] for f in sorted(mean)}, "default_over_other": above, "half": half})
    table = pd.DataFrame(rows).drop(columns="top_k").round(4)
    if TABLE.exists():
        kept = pd.read_csv(TABLE)
        table = pd.concat([kept[~kept["budget"].isin(budgets)], table]).sort_values(["budget", "sparsity"])
    table.to_csv(TABLE, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main([float(budget) for budget in sys.argv[1:]] or list(SHAPES))
