"""Every notebook, executed without a browser with its `ci` parameters, leaves figures and no errors."""

import json
from pathlib import Path

import nbformat
import pytest

from sparsity_lab.notebooks import execute, find, parameters, profile

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = find(FOLDER, [])

pytestmark = pytest.mark.notebooks


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_executes_and_leaves_figures(notebook: Path, tmp_path: Path) -> None:
    output = tmp_path / notebook.name
    execute(notebook, output, profile(FOLDER, "ci", notebook))
    cells = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [out for cell in cells for out in cell.outputs]
    figures = [out for out in outputs if "application/vnd.plotly.v1+json" in out.get("data", {})]
    assert figures
    for figure in figures:
        traces = figure["data"]["application/vnd.plotly.v1+json"]["data"]
        assert traces
        assert all(trace.get("x") or trace.get("z") for trace in traces)
    assert len(json.dumps(outputs)) < 2_000_000  # a notebook that people can open


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_and_commented(notebook: Path) -> None:
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert all(":" in line.split("=")[0] and "  # " in line for line in cell.source.splitlines())
    assert parameters(notebook)
