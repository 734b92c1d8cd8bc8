"""Several runs and what they say together, with seeds and intervals: the blocking twin of the live dashboard."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.runs.store import RunStore, home, run_id
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import Record, Training

CHECKPOINT_SECONDS = 15.0


def run_all(
    pairs: Sequence[tuple[ModelConfig, RunConfig]],
    folder: Path | None = None,
    score: Callable[[Training], dict[str, float]] | None = None,
) -> pd.DataFrame:
    """Trains every (model, run) that ``folder`` (default: the user's) holds no record of; gives one row a run.

    Columns: sparsity, n_experts, top_k, width, budget, seed, params_total, params_active, tokens, val_loss, status and
    record. A bar shows progress and the time left. An interrupt (the notebook's stop button) loses nothing: what is
    done is kept, and the run under way goes on from its checkpoint the next time. ``score`` examines each trained model
    for the record's ``scores``; records without them are trained again.
    """
    store = RunStore((folder or home()) / "runs")
    rows = []
    with tqdm(total=sum(run.budget for _, run in pairs), unit="FLOP", unit_scale=True) as bar:
        for model, run in pairs:
            corpus = load_corpus(run.corpus)
            record = store.find(model, run, corpus.fingerprint)
            at = bar.n
            if record is None or (score and record.scores is None and record.status == "finished"):
                bar.set_description(f"S={model.sparsity:.4g}, width {model.d_model}, seed {run.seed}")
                checkpoint = store.folder / "checkpoints" / f"{run_id(model, run)}.safetensors"
                training = Training(
                    model, run, corpus=corpus, checkpoint_path=checkpoint, checkpoint_seconds=CHECKPOINT_SECONDS
                )
                while not training.done:
                    bar.update(at + training.step().flops - bar.n)
                record = training.record(training.evaluate())
                if score and record.status == "finished":
                    record = replace(record, scores=score(training))
                store.save(record)
                checkpoint.unlink(missing_ok=True)
            bar.update(at + run.budget - bar.n)
            rows.append(_row(record))
    return pd.DataFrame(rows)


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean, and half the width of Student's interval for it; the half width of a single value is infinite."""
    from scipy.special import stdtrit  # here, so that a dashboard need not wait for scipy

    sample = np.asarray(values, float)
    if len(sample) < 2:
        return float(sample.mean()), float("inf")
    quantile = stdtrit(len(sample) - 1, (1 + confidence) / 2)
    return float(sample.mean()), float(quantile * sample.std(ddof=1) / len(sample) ** 0.5)


def summarise(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean held-out loss over seeds, with half the width of its 95 % interval: columns ``by``, loss, half, seeds."""
    groups = runs.dropna(subset="val_loss").groupby(by, sort=False)["val_loss"]
    rows = [(*key, *interval(list(losses)), len(losses)) for key, losses in groups]
    return pd.DataFrame(rows, columns=[*by, "loss", "half", "seeds"])


def gains(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """How much lower a sparse run ends than the dense run of the same seed: columns ``by``, gain, half, seeds.

    Pairing by seed takes out what both share, the order of the data. ``by`` must tell apart what is not to be paired.
    """
    loss = runs.pivot_table(index=[*by, "seed"], columns=runs["sparsity"] > 0, values="val_loss")
    gain = (loss[False] - loss[True]).dropna()
    rows = [(*(key if isinstance(key, tuple) else (key,)), *interval(list(g)), len(g)) for key, g in gain.groupby(by)]
    return pd.DataFrame(rows, columns=[*by, "gain", "half", "seeds"])


def _row(record: Record) -> dict[str, object]:
    model, run = record.model, record.run
    return {
        "sparsity": record.sparsity,
        "n_experts": model["n_experts"],
        "top_k": model["top_k"],
        "width": model["d_model"],
        "budget": run["budget"],
        "seed": record.seed,
        "params_total": record.params_total,
        "params_active": record.params_active,
        "tokens": record.tokens,
        "val_loss": np.nan if record.val_loss is None else record.val_loss,
        "status": record.status,
        "record": record,
    }
