"""Runs that others trained: a CSV file with a row per run becomes a table that the laws can be fitted to."""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsity_lab.files import read_bytes

LARGEST = 1_000_000_000  # bytes of a table
POSITIVE = ("val_loss", "params_total", "params_active", "tokens", "flops")
KNOWN = (*POSITIVE, "sparsity", "top_k", "n_layers", "width", "seed")
OTHER_NAMES = {"loss": "val_loss"}
DEFAULTS = {"sparsity": 0.0, "top_k": 1, "seed": 0}


def load_runs(path: Path | str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Reads a table of runs. ``columns`` maps our names to the file's, e.g. ``{"loss": "Final loss"}``; a column of the
    file that has one of our names need not be mapped. Our names: loss, params_total, params_active, tokens, flops,
    sparsity (0 if there is no such column), top_k, n_layers, width and seed.

    Needed are the loss, a number of parameters, and tokens or FLOPs; the third of N, D and C follows from C = 6·N·D,
    where N are the active parameters (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). The budget of a run is its
    FLOPs. Raises ValueError for a file that is no table, for names that are not known, and for the first value that is
    no number or out of range.
    """
    table = read_table(path)
    chosen = {OTHER_NAMES.get(name, name): name for name in (*KNOWN, *OTHER_NAMES) if name in table}
    for name, theirs in (columns or {}).items():
        if name not in (*KNOWN, *OTHER_NAMES):
            raise ValueError(f"columns: {name!r} is not known, use one of {', '.join((*OTHER_NAMES, *KNOWN))}")
        if theirs not in table:
            raise ValueError(f"columns: {path} has no column {theirs!r}; it has {', '.join(map(repr, table))}")
        chosen[OTHER_NAMES.get(name, name)] = theirs
    runs = pd.DataFrame({name: _numbers(table, path, name, theirs) for name, theirs in chosen.items()})
    runs = runs.assign(**{name: value for name, value in DEFAULTS.items() if name not in runs})

    sizes = [name for name in ("params_active", "params_total") if name in runs]
    if "val_loss" not in runs or not sizes or not {"tokens", "flops"} & set(runs):
        has = ", ".join(map(repr, table))
        raise ValueError(f"{path} needs a loss, params_total, and tokens or flops: name their columns; it has {has}")
    if len(sizes) == 1:
        if (runs["sparsity"] > 0).any():
            raise ValueError(f"{path} has sparse runs: name the columns of both params_total and params_active")
        runs["params_active"] = runs["params_total"] = runs[sizes[0]]
    if "tokens" not in runs:
        runs["tokens"] = runs["flops"] / (6 * runs["params_active"])
    if "flops" not in runs:
        runs["flops"] = 6 * runs["params_active"] * runs["tokens"]
    return runs.assign(budget=runs["flops"], status="finished")


def read_table(path: Path | str, **options: Any) -> pd.DataFrame:
    """Reads a CSV file whose first line names the columns; ``options`` are those of `pandas.read_csv`.

    Raises ValueError for a file that is none, also if a row has more values than the table has columns.
    """
    try:
        content = read_bytes(Path(path), LARGEST)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # index_col: pandas would take the first column for row names where rows have one value too many
            return pd.read_csv(io.BytesIO(content), index_col=False, **options)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise ValueError(f"{path} can't be read as a table with commas ({str(error).strip()})") from None


def _numbers(table: pd.DataFrame, path: Path | str, name: str, theirs: str) -> "pd.Series[float]":
    values = pd.to_numeric(table[theirs], errors="coerce")
    if name in POSITIVE:
        fine, should = np.isfinite(values) & (values > 0), "a number above 0"
    elif name == "sparsity":
        fine, should = (values >= 0) & (values < 1), "a number from 0 to below 1"
    else:
        fine, should = np.isfinite(values), "a number"
    if not fine.all():
        row = int((~fine).to_numpy().argmax())
        raise ValueError(f"{path}, run {row + 1}: {theirs}={table[theirs].iloc[row]} must be {should}")
    return values
