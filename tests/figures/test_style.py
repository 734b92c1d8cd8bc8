"""The kit of figures: one template, looks that are told apart, axes whose ticks are what they say."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sparsity_lab.figures import style

FRAME = pd.DataFrame({"line": ["b", "b", "a"], "x": [1, 2, 1], "y": [3.0, 4.0, 5.0], "half": [0.1, 0.2, 0.3]})


def test_one_look_for_light_and_dark_themes() -> None:
    figure = style.styled([style.line([1], [2], "one", style.LOOKS[0], "%{y}")], 300, xaxis={"title": "x"})
    look = json.loads(figure.to_json())["layout"]["template"]["layout"]
    assert look["paper_bgcolor"] == look["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert figure.layout.height == 300
    assert style.styled(figure, 200) is figure


@pytest.mark.parametrize("looks", [style.LOOKS, style.ORDERED, style.ROLES.values()])
def test_looks_are_told_apart(looks: tuple[style.Look, ...]) -> None:
    assert len(set(looks)) == len(looks)
    assert len({(look.dash, look.symbol, look.width) for look in looks}) == len(looks), "without colours too"


def test_lines_with_intervals() -> None:
    second, first = go.Figure(style.lines_with_intervals(FRAME, "x", "y", "half", "%{y}")).data
    assert (second.name, list(second.x), list(second.y), list(second.error_y.array)) == (
        "b",
        [1, 2],
        [3, 4],
        [0.1, 0.2],
    )
    assert (first.name, list(first.error_y.array)) == ("a", [0.3])
    assert first.line.dash != second.line.dash
    assert first.hovertemplate == "%{y}<extra>a</extra>"


def test_intervals_from_end_to_end() -> None:
    ends = FRAME.assign(low=FRAME["y"] - 1, high=FRAME["y"] + 2, details=["p", "q", "r"])
    trace, _ = style.lines_with_intervals(ends, "x", "y", ("low", "high"), "%{customdata}", mode="markers")
    assert (list(trace["error_y"]["array"]), list(trace["error_y"]["arrayminus"])) == ([2, 2], [1, 1])
    assert (trace["mode"], list(trace["customdata"])) == ("markers", ["p", "q"])


def test_every_line_is_drawn() -> None:
    names = [f"line {i}" for i in range(20)]
    frame = pd.DataFrame({"line": names, "x": 1, "y": 2.0})
    assert [trace["name"] for trace in style.lines_with_intervals(frame, "x", "y", None, "%{y}")] == names


def test_axes() -> None:
    axis = style.sparsity_axis([0.75, 0, 0.75, 0.9375], "S")
    np.testing.assert_allclose(axis["tickvals"], [0, 2, 4])
    assert axis["ticktext"] == ["0", "0.75", "0.9375"]
    assert style.stops([0.5, 0.1], ".0%") == {"tickvals": [0.1, 0.5], "ticktext": ["10%", "50%"]}
    assert style.log_axis("x")["type"] == style.log_axis("x", fine=True)["type"] == "log"
    assert [style.sparsity_name(s) for s in (0, 0.9375)] == ["dense", "S = 0.938"]
