"""What an explorer shows in a page is what Python draws, at every stop."""

import base64
import itertools
import json
import re
from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from nbformat import v4
from plotly.utils import PlotlyJSONEncoder

from sparsity_lab import widgets
from sparsity_lab.pages.outputs import Outputs, frames, merged
from sparsity_lab.widgets import stops
from sparsity_lab.widgets.explorer import Explorer, choice, pick, slide
from sparsity_lab.widgets.live_figure import changes, parts_of
from tests.pages.cells import run_cells
from tests.widgets.test_explorer import TREES, without_none


def plain(tree: Any) -> Any:
    """As JSON reads it, arrays as lists."""
    return json.loads(json.dumps(tree, cls=PlotlyJSONEncoder))


def unpacked(tree: Any) -> Any:
    """Plotly's packed arrays as lists."""
    if isinstance(tree, dict) and "bdata" in tree:
        array = np.frombuffer(base64.b64decode(tree["bdata"]), tree["dtype"])
        return plain(array.reshape([int(n) for n in str(tree.get("shape", len(array))).split(",")]))
    if isinstance(tree, dict):
        return {key: unpacked(value) for key, value in tree.items() if key != "uid"}
    return [unpacked(each) for each in tree] if isinstance(tree, list) else tree


def assert_equals_python(explorer: Explorer, most: int, every: int = 1) -> dict[str, Any]:
    """Compares every so many frames with what Python draws; returns the table of stops."""
    drawing = json.loads(explorer.figure.to_json())
    table = stops.stops_table(explorer.controls, explorer._draw, explorer._describe, explorer._live.shown, most)
    table = json.loads(json.dumps(table))
    written = {name: text.value for name, text in explorer.controls.items() if isinstance(text, ipw.Textarea)}
    moving = {name: control for name, control in explorer.controls.items() if name not in written}
    few = stops.sampled([stops.Stops.of(control) for control in moving.values()], most)
    places = list(itertools.product(*(each.values for each in few)))
    assert len(places) == len(table["frames"])
    drawn = {id(frame): figure for figure, frame in frames(drawing, table)}
    wrong: dict[str, Any] = {}
    for values, frame in list(zip(places, table["frames"], strict=True))[::every]:
        at = written | dict(zip(moving, values, strict=True))
        try:
            figure, text = explorer._draw(**at), explorer._describe(**at)
        except ValueError as error:
            problem = str(error)
            wrong |= {} if frame == {"error": problem} else {problem: frame}
            continue
        assert frame["text"] == text
        *traces, layout = plain(parts_of(figure))
        assert unpacked(drawn[id(frame)]) == {"data": traces, "layout": layout}, at
    assert not wrong
    return table


def line(slope: float, name: str, lift: float) -> go.Figure:
    if slope < 0:
        raise ValueError(f"slope={slope:g} must not be negative")
    points = np.linspace(0, 1, 3 + int(10 * lift))  # their number changes too
    layout = {"title": {"text": name}} if name == "a" else {"xaxis": {"type": "log"}}
    lines = [{"type": "scatter", "x": points, "y": points * slope + lift, "name": name}]
    return go.Figure(lines * (1 + (slope == 0) + (name == "b")), layout)  # one, two or three


def made(**more: ipw.ValueWidget) -> Explorer:
    controls = {
        "slope": choice("slope", {"down": -1, "flat": 0, "up": 1.5}, 1.5),
        "name": pick("name", ["a", "b"], "b"),
    }
    return Explorer(line, "{name}: {slope} & {lift}".format, **controls, **more)


def test_every_stop_equals_what_python_draws() -> None:
    table = assert_equals_python(made(lift=slide("lift", 0.13, 0, 1, 0.1, ".2f")), 1_000)
    assert [control["kind"] for control in table["controls"]] == ["slider", "menu", "slider"]
    assert table["controls"][0] == {"label": "slope", "kind": "slider", "stops": ["down", "flat", "up"], "start": 2}
    assert table["controls"][2]["stops"][:3] == ["0.00", "0.10", "0.13"], "where it stands is a stop"
    assert not table["sampled"]


def test_a_table_has_no_empty_headers() -> None:
    """Neither a plain table nor a styled one; a screen reader would announce them."""
    table = pd.DataFrame({"loss": [1.5]}, index=pd.Index(["dense"], name="model"))
    for html in (table.to_html(), table.style.to_html()):
        output = Outputs("p").shown(v4.new_output("display_data", {"text/html": html, "text/plain": "a table"}))
        assert output is not None
        shown = output.data["text/html"]
        assert re.findall(r">([^<>]*)</th>", shown) == ["loss", "model", "dense"], "all but those that head nothing"
        assert shown.count("<td") + shown.count("<th") == html.count("<td") + html.count("<th")


def test_too_many_stops_are_sampled_and_the_page_says_so() -> None:
    explorer = made(lift=slide("lift", 0.3, 0, 1, 0.001, ".2f"))
    table = assert_equals_python(explorer, 60)
    lift = table["controls"][2]
    assert len(table["frames"]) <= 60
    assert table["sampled"]
    assert (lift["stops"][0], lift["stops"][lift["start"]], lift["stops"][-1]) == ("0.00", "0.30", "1.00")
    assert len(table["controls"][1]["stops"]) == 2, "a menu is left whole"
    page = Outputs("p").explorer(json.loads(explorer.figure.to_json()), table, "text")
    assert "fewer stops here than in JupyterLab" in page


@settings(max_examples=40)
@given(old=TREES, new=TREES)
def test_merging_undoes_what_changes_found(old: dict[str, Any], new: dict[str, Any]) -> None:
    old, new = without_none(old), without_none(new)
    assert merged(old, changes(old, new)) == new


MOVING = {
    "02_counting": 3,
    "04_isoflop": 1,
    "08_better": 2,
    "09_what": 1,
    "11_what": 2,
}  # explorers that need no training


@pytest.mark.parametrize("name", MOVING)
def test_explorers_of_the_notebooks_equal_what_python_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Explorer] = []

    class Noted(Explorer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(widgets, "Explorer", Noted)
    assert any(len(found) == MOVING[name] for _ in run_cells(name, monkeypatch))
    for explorer in found:
        assert_equals_python(explorer, most=40, every=4)
