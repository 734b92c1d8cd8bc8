"""How long a law takes to fit to as many runs as the suite ships with, and to answer under a slider."""

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.timing import Row
from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.laws.fitting import LAWS, fit

WIDTHS = {
    1e11: (8, 12, 16, 24, 32),
    3e11: (12, 16, 20, 28, 40),
    1e12: (16, 20, 28, 40, 56),
    3e12: (20, 28, 40, 56, 72),
    1e13: (24, 32, 48, 64, 96),
}
SPARSITIES = (0.0, 0.75, 0.9375, 0.984375)
SEEDS = (0, 1)
# An Abnar law whose losses and best widths are about those of small byte-level models.
LAW = {"a": 30, "b": 200, "c": 0.3, "d": 20, "e": 0.5, "alpha": 0.5, "beta": 0.42, "lambda": -0.16, "delta": 0.15, "gamma": 0.3}


def grid() -> pd.DataFrame:
    """The suite's runs, but for their losses."""
    rows = []
    for budget, widths in WIDTHS.items():
        for sparsity in SPARSITIES:
            for width in widths:
                model = ModelConfig.on_dial(width, sparsity)
                count, planned = count_parameters(model), plan(model, RunConfig(budget=budget))
                row = {"sparsity": sparsity, "n_experts": model.n_experts, "top_k": model.top_k, "width": width}
                row |= {"d_expert": model.d_expert, "budget": budget, "flops": planned.flops, "status": "finished"}
                row |= {"params_total": count.total, "params_active": count.active, "tokens": planned.tokens}
                rows += [row | {"seed": seed} for seed in SEEDS]
    return pd.DataFrame(rows)


def measured(runs: pd.DataFrame, law: str, coefficients: dict[str, float], noise: float, seed: int) -> pd.DataFrame:
    """``runs`` with the losses of a law and normal noise of so many nats."""
    c, N, D, active = coefficients, runs["params_total"], runs["tokens"], 1 - runs["sparsity"]
