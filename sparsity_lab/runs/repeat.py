"""Several runs and what they say together, with seeds and intervals. Unlike the dashboard, a cell waits for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.intervals import over_seeds
from sparsity_lab.record import run_id
from sparsity_lab.runs.store import to_frame, user_store

if TYPE_CHECKING:
    from sparsity_lab.training.trainer import Training

CHECKPOINT_SECONDS = 15.0


def run_all(
    pairs: Sequence[tuple[ModelConfig, RunConfig]],
    folder: Path | None = None,
    score: "Callable[[Training], dict[str, float]] | None" = None,
) -> pd.DataFrame:
    """Trains every (model, run) that the store in ``folder`` (default: the user's) lacks; returns one row per run.

    The columns are those of `to_frame`, and ``record``. A bar shows progress and the time left. An interrupt (the
    notebook's stop button) loses nothing: finished runs are kept, and the one under way resumes from its checkpoint the
    next time. ``score`` examines each trained model for the record's ``scores``; records without them are trained anew.
    """
    from tqdm.auto import tqdm

    from sparsity_lab.training.corpus import load_corpus  # here, because it takes seconds to import torch
    from sparsity_lab.training.trainer import Training

    store, records = user_store(folder), []
    with tqdm(total=sum(run.budget for _, run in pairs), unit="FLOP", unit_scale=True) as bar:
        for model, run in pairs:
            corpus = load_corpus(run.corpus)
            record = store.finished(model, run, corpus.fingerprint)
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
            records.append(record)
    return to_frame(records).assign(record=pd.Series(records, dtype=object))


def summarise(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns mean held-out losses over seeds, half their 95% intervals' width: columns ``by``, loss, half, seeds."""
    return over_seeds(runs.dropna(subset="val_loss"), by, "val_loss").rename(columns={"val_loss": "loss"})


def gains(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns how much lower sparse runs end than the dense runs of the same seeds: columns ``by``, gain, half, seeds.

    Pairing by seed takes out what both share, the order of the data. ``by`` must separate runs that are no pair.
    """
    loss = runs.pivot_table(index=[*by, "seed"], columns=runs["sparsity"] > 0, values="val_loss")
    gain = (loss[False] - loss[True]).dropna().rename("gain")
    return over_seeds(gain.reset_index(), by, "gain")
