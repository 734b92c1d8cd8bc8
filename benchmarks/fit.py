"""How long a law takes to fit to as many runs as the suite measures, and to answer under a slider."""

import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.timing import Row
from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.laws.fitting import fit
from sparsity_lab.laws.isoflop import judge_claims

WIDTHS = {
    1e11: (8, 12, 16, 24, 32),
    3e11: (12, 16, 20, 28, 40),
    1e12: (16, 20, 28, 40, 56),
    3e12: (20, 28, 40, 56, 72),
    1e13: (24, 32, 48, 64, 96),
}
SPARSITIES = (0.0, 0.75, 0.9375, 0.984375)
MOVES = 100


def grid(seeds: int = 2) -> pd.DataFrame:
    """The suite's runs, but for their losses."""
    rows = []
    for budget, widths in WIDTHS.items():
        for sparsity in SPARSITIES:
            for width in widths:
                model = ModelConfig.on_dial(width, sparsity)
                count, planned = count_parameters(model), plan(model, RunConfig(budget=budget))
                row = {"sparsity": sparsity, "n_experts": model.n_experts, "top_k": model.top_k, "width": width}
                row |= {"n_layers": model.n_layers, "d_expert": model.d_expert, "budget": budget}
                row |= {"flops": planned.flops, "status": "finished"}
                row |= {"params_total": count.total, "params_active": count.active, "tokens": planned.tokens}
                rows += [row | {"seed": seed} for seed in range(seeds)]
    return pd.DataFrame(rows)


def law(N: pd.Series, D: pd.Series, S: pd.Series) -> pd.Series:
    """A law of the form of Abnar's Eq. 6, with losses and best widths like those of small byte-level models."""
    return 600 / N**0.75 + 900 / D**0.55 + 0.2 * (1 - S) ** 0.1 + 12 / ((1 - S) ** 0.22 * N**0.28) + 0.6


def measured(runs: pd.DataFrame, noise: float = 0.01, seed: int = 0) -> pd.DataFrame:
    """``runs`` with the losses of `law`, and seeds that differ by so many nats."""
    errors = noise * np.random.default_rng(seed).standard_normal(len(runs))
    return runs.assign(val_loss=law(runs["params_total"], runs["tokens"], runs["sparsity"]) + errors)


def rows() -> Iterator[Row]:
    runs = measured(grid())
    for name in ("abnar", "reduced"):
        start = time.process_time()
        fitted = fit(runs, name)
        seconds = time.process_time() - start
        what = f"fit, {name}: {len(runs)} runs, {len(fitted.resamples)} resamples"
        yield Row(what, "≤ 20 s of CPU", f"{seconds:.1f} s", seconds <= 20)
        times = []
        for move in range(MOVES):
            start = time.perf_counter()
            fitted.predict(1e4 * (1 + move), 1e6, 0.9)
            times.append((time.perf_counter() - start) * 1e3)
        p95 = float(np.percentile(times, 95))
        yield Row(f"fit, {name}: a prediction with its interval", "p95 ≤ 20 ms", f"p95 {p95:.2f} ms", p95 <= 20)
    start = time.process_time()
    judge_claims(runs)
    seconds = time.process_time() - start
    yield Row(f"verdicts: {len(runs)} runs, 1000 resamples", "≤ 2 s of CPU", f"{seconds:.2f} s", seconds <= 2)
