"""Notebooks in this process, with their own parameters and the shipped runs: without the cells that train or measure,
and without those that need them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sparsity_lab import runs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SLOW = r"Training\(|train\(|time_\w+\(|configs\)|load_corpus\(|\.run\("


def left_out(*_: Any, **__: Any) -> None:
    raise NameError("what is trained is left out")


def run_cells(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Runs the notebook whose name starts so, and gives its names after each cell."""
    (path,) = NOTEBOOKS.glob(f"{name}*.ipynb")
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setattr(runs, "run_all", left_out)
    names: dict[str, Any] = {"display": lambda *_: None}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and not re.search(SLOW, cell.source):
            try:
                exec(cell.source, names)
            except NameError:  # of a cell that was left out
                continue
            yield names
