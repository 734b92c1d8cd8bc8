"""The measured runs that ship with the suite, and a law fitted to them: something to see before any training."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import DATA
from sparsity_lab.laws import fair
from sparsity_lab.laws.fitting import Fit, PredictedLoss, load_fits
from sparsity_lab.laws.isoflop import near_best
from sparsity_lab.record import Record
from sparsity_lab.runs.lanes import LINE
from sparsity_lab.runs.store import RunStore, load_frame, to_frame

FOLDER = DATA / "isoflop"
LAW, NEAR = "law.fit", 2.0
CORPUS = "python"  # the text that they were trained on
LAYERS = 2  # of the models that the law was fitted to, and of the lab's models unless said otherwise
FARTHEST = 3.5  # times the budget, one way or the other


@functools.cache
def runs(n_layers: int | None = LAYERS) -> pd.DataFrame:
    """Returns the finished runs of models with that many layers (None: of all), as `load_frame` gives them; none where
    there is no data folder."""
    found = load_frame(FOLDER).loc[lambda frame: frame["status"] == "finished"]
    return found[found["n_layers"] == (n_layers or found["n_layers"])].reset_index(drop=True)


def like(pairs: Sequence[tuple[ModelConfig, RunConfig]]) -> pd.DataFrame | None:
    """Returns the measured runs of just these configs, one row each, as `repeat.run_all` does; None unless all of them
    were measured."""
    store, texts = RunStore(FOLDER), runs(None)["fingerprint"]
    records = [store.finished(*pair, texts[0]) for pair in pairs] if len(texts) else []
    kept = [record for record in records if record is not None and record.status == "finished"]
    if not kept or len(kept) < len(records):
        return None
    return to_frame(kept).assign(record=pd.Series(kept, dtype=object))


def near(budget: float) -> pd.DataFrame:
    """Returns the `runs` at the measured budget nearest to this one."""
    found = runs()
    return found[found["budget"] == min(found["budget"], key=lambda b: abs(np.log(b / budget)), default=budget)]


@functools.cache
def task_records() -> list[Record]:
    """Returns the records in data/tasks, with scores by task; none where there is no data folder."""
    return RunStore(DATA / "tasks").load()


@functools.cache
def routes() -> dict[str, Any]:
    """Returns the recorded routing of models on the dial: the ``line`` that they read, and in ``layers``, by number of
    layers and of experts, who read it ``untrained`` and ``trained`` and the experts' ``favourites``, in the form of
    `training.reading`. No layers where there is no data folder."""
    path = DATA / "routes.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {"line": LINE, "layers": {}}


@functools.lru_cache(256)
def nearest(model: ModelConfig, run: RunConfig) -> Record | None:
    """Returns the measured run most like this one, of as many layers and with experts of the same size relative to the
    width: first in budget, then in sparsity, width and seed.

    None for another text, depth or size of experts, or if no budget is near.
    """
    found = runs(model.n_layers)
    alike = (found["d_expert"] * model.d_model == model.d_expert * found["width"]) & (found["top_k"] == model.top_k)
    found = found[alike].reset_index(drop=True)
    if found.empty or run.corpus != CORPUS:
        return None

    distances = (  # the first counts most
        np.abs(np.log(found["budget"] / run.budget)),
        np.abs(np.log((1 - found["sparsity"]) / (1 - model.sparsity))).round(6),
        np.abs(np.log(found["width"] / model.d_model)),
        np.abs(found["seed"] - run.seed),
    )
    best = np.lexsort(distances[::-1])[0]
    return None if distances[0][best] > np.log(FARTHEST) else RunStore(FOLDER).read(str(found["id"][best]))


def expected(model: ModelConfig, run: RunConfig) -> PredictedLoss | None:
    """Returns the loss that the fitted law expects of this run, in nats per byte, and the 95% interval for one run.

    None where the law says nothing: for another text or depth, for finer experts, beyond the sizes, tokens and
    sparsities that were fitted, and for models far from the best size for their budget, which were left out of the fit
    (`near_best`).
    Raises ValueError if the budget does not pay for one step.
    """
    law = _law()
    if law is None or run.corpus != CORPUS or model.top_k > 1 or model.n_shared_experts or model.n_layers != LAYERS:
        return None
    params, tokens = count_parameters(model), plan(model, run).tokens
    place = (params.total, tokens, model.sparsity)
    low, high = _tokens_per_weight()
    near = low <= tokens / params.active <= high
    return law.predict(*place) if near and not law.outside(*place) else None


@functools.cache
def _best() -> pd.DataFrame:
    """Returns `fair.best_shapes` of the runs with one active expert."""
    return fair.best_shapes(runs(None)[runs(None)["top_k"] == 1])


@functools.cache
def gain_table() -> pd.DataFrame:
    """Returns how much lower the best model of a sparsity ended than the best dense one, each at its own width and
    depth: budgets (rows) × sparsities (columns), nats per byte, NaN where nothing was measured. Empty where there is
    no data folder."""
    if runs().empty:
        return pd.DataFrame()
    losses = _best().pivot_table(index="budget", columns="sparsity", values="loss")
    return -losses.sub(losses[0.0], axis=0)


def dense_budget(loss: float) -> float | None:
    """Returns the FLOPs for which the best dense models reach this loss, interpolated as in `fair.leverages`; None
    below the lowest loss that was measured and above the highest."""
    if runs().empty:
        return None
    dense = _best().loc[lambda best: best["sparsity"] == 0].sort_values("budget")
    falling = np.minimum.accumulate(dense["loss"].to_numpy())
    if not falling[-1] <= loss <= falling[0]:
        return None
    return float(np.exp(np.interp(-np.log(loss), -np.log(falling), np.log(dense["budget"].to_numpy(float)))))


def scatter(budget: float) -> float | None:
    """Returns the standard deviation of one run's loss from seed to seed, at the measured budget nearest to this one;
    None where there is no data folder."""
    if runs().empty:
        return None
    nearest_to = (np.log(_best()["budget"] / budget)).abs()
    return float(_best()["sd"][nearest_to.idxmin()])


@functools.cache
def _tokens_per_weight() -> tuple[float, float]:
    """Returns the fewest and the most tokens per active weight among the runs that were fitted."""
    found = near_best(runs()[runs()["top_k"] == 1], NEAR)
    ratio = found["tokens"] / found["params_active"]
    return float(ratio.min()), float(ratio.max())


@functools.cache
def _law() -> Fit | None:
    """Reads the law; data/README.md has the command that wrote it."""
    path = FOLDER / LAW
    return load_fits(path)[0] if path.exists() else None
