"""Sliders in front of a formula, without a browser: what they show is what the formula says."""

import json
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.widgets.explorer import Explorer, choice, pick, slide
from sparsity_lab.widgets.live_figure import changes


def line(slope: float, name: str) -> go.Figure:
    if slope < 0:
        raise ValueError(f"slope={slope:g} must not be negative")
    return go.Figure([{"type": "scatter", "x": [0, 1], "y": [0, slope], "name": name}], {"title": {"text": name}})


def told(slope: float, name: str) -> str:
    return f"{name} rises by {slope:g} & <more>"


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(line, told, slope=choice("slope", [-1, 0, 1, 2], 1), name=pick("name", ["a", "b"], "a"))


def test_follows_its_controls(explorer: Explorer) -> None:
    assert explorer.values == {"slope": 1, "name": "a"}
    explorer.controls["slope"].value = 2
    explorer.controls["name"].value = "b"
    (trace,) = explorer.figure.data
    assert list(trace.y) == [0, 2]
    assert trace.name == explorer.figure.layout.title.text == "b"
    assert "b rises by 2 &amp; &lt;more&gt;" in explorer.summary.value


def test_its_output_holds_widget_figure_and_text(explorer: Explorer) -> None:
    """JupyterLab prefers the widget; whoever has none shows the figure and the text."""
    for slope in (1, 2):
        explorer.controls["slope"].value = slope
        bundle = explorer._repr_mimebundle_()
        assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
        figure = go.Figure(bundle["application/vnd.plotly.v1+json"])
        assert list(figure.data[0].y) == [0, slope]
        assert bundle["text/plain"] == f"a rises by {slope} & <more>"
        assert f"a rises by {slope} &amp; &lt;more&gt;" in bundle["text/html"]
        assert json.dumps(bundle)


def test_a_mistake_is_shown_and_the_figure_stays(explorer: Explorer) -> None:
    explorer.controls["slope"].value = -1
    assert "slope=-1 must not be negative" in explorer.problem.value
    assert list(explorer.figure.data[0].y) == [0, 1]
    explorer.controls["slope"].value = 2
    assert explorer.problem.value == ""
    assert list(explorer.figure.data[0].y) == [0, 2]


VALUES = st.recursive(st.none() | st.integers(0, 3) | st.text(max_size=2), lambda inner: st.lists(inner, max_size=2))
TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), VALUES),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | VALUES),
)


def applied(old: Any, change: Any) -> Any:
    """As plotly's update does: dictionaries are merged."""
    if not (isinstance(old, dict) and isinstance(change, dict)):
        return change
    merged = old | {key: applied(old.get(key), value) for key, value in change.items()}
    return {key: value for key, value in merged.items() if value is not None}


def without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_none(value) for key, value in tree.items() if value is not None}
    return tree


@given(old=TREES, new=TREES)
def test_changes_lead_from_old_to_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    old, new = without_none(old), without_none(new)
    assert changes(new, new) == {}
    assert applied(old, changes(old, new)) == new


def test_changes_of_arrays() -> None:
    old = {"x": np.array([1.0, 2.0]), "y": (1, 2), "line": {"color": "red", "width": 2}}
    new = {"x": np.array([1.0, 2.0]), "y": [1, 3], "line": {"color": "blue", "width": 2}}
    assert changes(old, new) == {"y": [1, 3], "line": {"color": "blue"}}


def test_controls() -> None:
    assert choice("S", [0.0, 0.5, 0.9375], 0.9).value == 0.9375, "snapped to the nearest stop"
    assert choice("S", {"half": 0.5, "all": 0.0}, 0.5).options == (("half", 0.5), ("all", 0.0))
    assert slide("price", 9.0, 0.5, 6.0, 0.1).value == 6.0
    assert pick("device", ["a", "b"], "b").value == "b"


def test_any_number_of_traces_follows() -> None:
    def draw(n: int) -> go.Figure:
        return go.Figure([{"type": "scatter", "y": [n, k], "name": f"{k} of {n}"} for k in range(n)])

    explorer = Explorer(draw, "{n}".format, n=choice("n", [1, 2, 3], 2))
    for n in (3, 1, 2, 3):
        explorer.controls["n"].value = n
        assert [trace.name for trace in explorer.figure.data] == [f"{k} of {n}" for k in range(n)]
        assert [tuple(trace.y) for trace in explorer.figure.data] == [(n, k) for k in range(n)]


@pytest.mark.parametrize("n", [3, 300])
def test_arrays_of_any_length_follow(n: int) -> None:
    """Plotly packs an array as bytes beside its type and shape: the bytes alone are none."""

    def draw(points: int) -> go.Figure:
        table = pd.DataFrame({"a": np.arange(points), "b": np.arange(points) * 2.0})
        return go.Figure(go.Scatter(x=table["a"], y=table["b"], customdata=table[["a", "b"]]))

    explorer = Explorer(draw, lambda points: str(points), points=choice("points", [2, n], 2))
    explorer.controls["points"].value = n
    np.testing.assert_array_equal(explorer.figure.data[0].customdata, np.stack([np.arange(n), np.arange(n) * 2], 1))
    np.testing.assert_array_equal(explorer.figure.data[0].y, np.arange(n) * 2.0)
