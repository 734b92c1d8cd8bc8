"""Every notebook, executed without a browser with its `ci` parameters, leaves figures and no errors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sparsity_lab.classroom.execute import execute, find_notebooks, parameters, profile

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = find_notebooks(FOLDER, [])

FIGURE, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"

pytestmark = pytest.mark.notebooks


def says(output: Mapping[str, Any]) -> bool:
    """Whether an output tells something to those who don't see figures: printed lines, Markdown, a table, or what an
    explorer or the result of a guess says."""
    data = output.get("data", {})
    if FIGURE in data or WIDGET in data:
        return WIDGET in data and "text/html" in data and bool(data["text/plain"])
    table = "<table" in data.get("text/html", "")
    return table or "text/markdown" in data or (output.get("name") == "stdout" and bool(output["text"].strip()))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_executes_and_leaves_figures(notebook: Path, tmp_path: Path) -> None:
    output = tmp_path / notebook.name
    execute(notebook, output, profile(FOLDER, "ci", notebook))
    cells = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [out for cell in cells for out in cell.outputs]
    figures = [out for out in outputs if FIGURE in out.get("data", {})]
    assert figures
    for figure in figures:
        traces = figure["data"][FIGURE]["data"]
        assert traces
        assert all(trace.get("x") or trace.get("z") for trace in traces)
    silent = [
        cell.source
        for cell in cells
        if any(FIGURE in out.get("data", {}) for out in cell.outputs) and not any(map(says, cell.outputs))
    ]
    assert not silent, "these cells show a figure and say nothing of it in words"
    assert len(json.dumps(outputs)) < 2_000_000  # a notebook that people can open


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_and_commented(notebook: Path) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert all(":" in line.split("=")[0] and "  # " in line for line in cell.source.splitlines())
    assert parameters(notebook)
