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

# The last cell of notebooks whose explorers need trained models: what the gallery would show of each is what Python
# draws. (tests/pages/test_outputs.py has the others.)
STOPS = f"""
import gc, sys
sys.path.insert(0, {str(FOLDER.parent)!r})
from sparsity_lab.widgets import Explorer
from tests.pages.test_outputs import assert_equals_python
explorers = [each for each in gc.get_objects() if type(each) is Explorer]
for each in explorers:
    assert_equals_python(each, most=30, every=3)
print(len(explorers), "explorers compared")
"""
WITH_MODELS = {"03_inside_the_experts": 1, "05_mla_cache": 2, "06_measuring_sparsity": 1, "07_turning_things_off": 2}

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
    values = profile(FOLDER, "ci", notebook)
    if notebook.stem in WITH_MODELS:
        book = nbformat.read(notebook, as_version=4)
        book.cells.append(nbformat.v4.new_code_cell(STOPS))
        notebook = tmp_path / "with_stops" / notebook.name
        notebook.parent.mkdir()
        nbformat.write(book, notebook)
    execute(notebook, output, values)
    cells = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [out for cell in cells for out in cell.outputs]
    if notebook.stem in WITH_MODELS:
        assert outputs.pop().text == f"{WITH_MODELS[notebook.stem]} explorers compared\n"
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
