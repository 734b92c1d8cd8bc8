"""The measured runs that ship with the suite, and a law fitted to them: something to see before any training."""

import functools

import numpy as np
import pandas as pd

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import DATA
from sparsity_lab.laws.fitting import Fit, PredictedLoss, load_fits
from sparsity_lab.laws.isoflop import near_best
from sparsity_lab.record import Record
from sparsity_lab.runs.store import RunStore, load_frame

FOLDER = DATA / "isoflop"
LAW, NEAR = "law.fit", 2.0
CORPUS = "python"  # the text that they were trained on
LAYERS = 2  # of the models that the law was fitted to, and of the lab's models unless said otherwise
FARTHEST = 3.5  # times the budget, one way or the other


@functools.cache
def runs(n_layers: int | None = LAYERS) -> pd.DataFrame:
    """Returns the finished runs of models with that many layers (None: of all), as `load_frame` gives them; none where
    only the package was installed."""
    found = load_frame(FOLDER).loc[lambda frame: frame["status"] == "finished"]
    return found[found["n_layers"] == (n_layers or found["n_layers"])].reset_index(drop=True)


@functools.cache
def task_records() -> list[Record]:
    """Returns the records in data/tasks, with scores by task; none where only the package was installed."""
    return RunStore(DATA / "tasks").load()


@functools.lru_cache(256)
def nearest(model: ModelConfig, run: RunConfig) -> Record | None:
    """Returns the measured run most like this one, of as many layers: first in budget, then in sparsity, width, cut of
    experts and seed.

    None for another text or depth, or if no budget is near.
    """
    found = runs(model.n_layers)
    if found.empty or run.corpus != CORPUS:
        return None

    distances = (  # the first counts most
        np.abs(np.log(found["budget"] / run.budget)),
        np.abs(np.log((1 - found["sparsity"]) / (1 - model.sparsity))).round(6),
        np.abs(np.log(found["width"] / model.d_model)),
        np.abs(np.log(found["d_expert"] / model.d_expert)),
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
