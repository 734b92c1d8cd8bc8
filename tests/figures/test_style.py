"""The kit of figures: one template, looks that are told apart, axes whose ticks are what they say."""

import json
import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sparsity_lab.figures import style
from sparsity_lab.figures.laws import BUDGETS

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


def test_other_lines_look_like_no_dense_model() -> None:
    assert not {style.ORANGE} & {look.colour for look in (*style.OTHERS, *BUDGETS)}


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
    assert style.log_axis("x")["type"] == "log"
    assert [style.sparsity_name(s) for s in (0, 0.9375)] == ["dense", "S = 0.938"]


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([0.3, 20], "0.1 0.2 0.5 1 2 5 10 20 50 100 200 500"),
        ([300, 30_000], "100 200 500 1,000 2,000 5,000 10,000 20,000 50,000 100,000 200,000 500,000"),
        ([3e5, 2e6], "10⁵ 2×10⁵ 5×10⁵ 10⁶ 2×10⁶ 5×10⁶ 10⁷ 2×10⁷ 5×10⁷"),
        ([5, 5e5], "10⁰ 10¹ 10² 10³ 10⁴ 10⁵ 10⁶"),
        ([math.nan, 0, -1, math.inf, 3, 4], "1 1.5 2 3 4 5 7 10 15 20 30 40 50 70"),
    ],
)
def test_fine_ticks_are_written_in_full(values: list[float], written: str) -> None:
    ticks = style.fine_ticks(values)
    assert ticks["ticktext"] == written.split()
    assert ticks["tickvals"][0] <= min(value for value in values if value > 0)
    assert len(ticks["tickvals"]) == len(ticks["ticktext"])


def test_fine_ticks_of_nothing() -> None:
    assert style.fine_ticks([]) == {}
