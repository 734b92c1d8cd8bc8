"""The race: always as many parts, the ends inside the window, the gap between them, and labels that can be read."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sparsity_lab.figures.race import GHOSTS, SLOTS, End, Line, race, race_parts
from sparsity_lab.widgets.live_figure import LiveFigure

BUDGET = 1e11
PLOT = 119  # pixels that the enlarged part is high
LABEL = 17  # pixels that a label is high
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a figure takes a tenth of a second, so nothing is shrunk


def line(role: str, losses: list[float], label: str = "") -> Line:
    return label or role, role, np.geomspace(BUDGET / 100, BUDGET, len(losses)), losses


def ends_at(sparse: float, dense: float) -> list[End]:
    return [End("this", "S 0.938", BUDGET, sparse), End("dense", "dense, width 32", BUDGET, dense)]


LOSSES = st.floats(0.5, 5.5)
RACES = st.fixed_dictionaries(
    {
        "lines": st.lists(
            st.builds(line, st.sampled_from(SLOTS), st.lists(LOSSES, max_size=6), st.text("ab<", max_size=3)),
            max_size=14,
        ),
        "budget": st.floats(1e10, 1e13),
        "ends": st.one_of(
            st.just([]), st.builds(lambda loss: ends_at(loss, 2.0)[:1], LOSSES), st.builds(ends_at, LOSSES, LOSSES)
        ),
        "expected": st.lists(
            st.builds(
                lambda role, loss, half: End(role, role, BUDGET, loss, loss - half, loss + half),
                st.sampled_from(["this", "dense"]),
                LOSSES,
                st.floats(0, 0.4),
            ),
            max_size=2,
        ),
        "bands": st.lists(
            st.builds(
                lambda role, losses: [
                    End(role, role, BUDGET * (1 + i), y, y - 0.1, y + 0.1) for i, y in enumerate(losses)
                ],
                st.sampled_from(["this", "dense"]),
                st.lists(LOSSES, max_size=5),
            ),
            max_size=2,
        ),
    }
)


def plain(value: Any) -> Any:
    """With lists in place of tuples and arrays, numbers to float32's precision, and without plotly's own names."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None and key != "uid"}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(inner) for inner in value]
    return float(np.float32(value)) if isinstance(value, (int, float, np.number)) else value


def shown(figure: go.Figure) -> list[Any]:
    return [plain(part.to_plotly_json()) for part in (*figure.data, figure.layout)]


@settings(max_examples=15, phases=PHASES)
@given(RACES)
def test_always_as_many_parts_and_they_are_the_figure(arguments: dict[str, Any]) -> None:
    parts, figure, empty = race_parts(**arguments), race(**arguments), race([], BUDGET)
    assert len(figure.data) == len(empty.data) == len(parts) - 1
    assert len(figure.layout.annotations) == len(empty.layout.annotations)
    assert shown(figure)[:-1] == [plain(part) for part in parts[:-1]]
    layout = shown(figure)[-1]
    expanded = go.Layout(**parts[-1]).to_plotly_json()
    assert {key: layout[key] for key in expanded} == plain(expanded)


@settings(max_examples=15, phases=PHASES)
@given(RACES, RACES)
def test_a_figure_that_moves_becomes_the_figure_that_is_drawn_anew(old: dict[str, Any], new: dict[str, Any]) -> None:
    live = LiveFigure(race(**old), race_parts(**old))
    live.show(race_parts(**new))
    assert shown(live.widget) == shown(race(**new))


@given(RACES)
def test_the_window_contains_the_ends(arguments: dict[str, Any]) -> None:
    ends = [*arguments["ends"], *arguments["expected"]]
    low, high = race_parts(**arguments)[-1]["yaxis2"]["range"]
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert high - low >= 0.3
    for end in ends:
        assert low < (end.loss if end.low is None else end.low) <= end.loss
        assert end.loss <= (end.loss if end.high is None else end.high) < high


def test_without_anything_there_is_an_empty_stage() -> None:
    figure = race([], BUDGET)
    assert not any(len(trace.x) for trace in figure.data)
    assert {note.text for note in figure.layout.annotations} == {"", "The race is drawn here."}
    start, end = figure.layout.xaxis.range
    assert start < math.log10(BUDGET) < end
    assert figure.layout.yaxis.range[1] > math.log(256), "blind guessing is in it"


def test_every_line_is_drawn_whole_and_once_more_enlarged() -> None:
    losses = {"this": [5.0, 3.0, 2.0], "dense": [5.0, 3.1, 2.2], "measured": [4.0, 2.5], "measured dense": [4.1, 2.6]}
    lines = [line(role, values) for role, values in losses.items()]
    lines += [line("ghost", [4.0, 3.0], f"ghost {i}") for i in range(GHOSTS)]
    drawn = [trace for trace in race(lines, BUDGET).data if trace.name and len(trace.x)]
    assert Counter(trace.name for trace in drawn) == dict.fromkeys([label for label, *_ in lines], 2)
    for name, values in losses.items():
        for trace in drawn:
            if trace.name == name:
                np.testing.assert_allclose(trace.y, values)
    whole, enlarged = (sum(trace.xaxis == axis for trace in drawn) for axis in (None, "x2"))
    assert whole == enlarged == len(lines)
    assert drawn[len(lines) - 1].name == "this", "the model on the dial lies on top"


def test_the_gap_between_two_ends() -> None:
    figure = race([], BUDGET, ends_at(1.9, 2.1))
    (gap,) = [trace for trace in figure.data if trace.marker.symbol == "line-ew"]
    assert list(gap.y) == [1.9, 2.1]
    assert len(set(gap.x)) == 1
    assert BUDGET < gap.x[0] < 2 * BUDGET, "beside the ends, not on them"
    assert sorted(note.text for note in figure.layout.annotations) == ["", "0.200", "dense 2.10", "sparse 1.90"]
    for ends in ([], ends_at(1.9, 2.1)[:1]):
        (gap,) = [trace for trace in race([], BUDGET, ends).data if trace.marker.symbol == "line-ew"]
        assert len(gap.x) == len(gap.y) == 0


def test_expected_ends_have_no_gap_and_give_way_to_real_ones() -> None:
    expected = [end._replace(low=end.loss - 0.05, high=end.loss + 0.1) for end in ends_at(1.5, 2.5)]
    notes = [note.text for note in race([], BUDGET, (), expected).layout.annotations if note.text]
    assert notes == ["sparse 1.50", "dense 2.50"]
    marks = [trace for trace in race([], BUDGET, (), expected).data if trace.mode == "markers" and len(trace.x)]
    assert [trace.marker.symbol for trace in marks] == ["square-open", "circle-open"]
    assert [round(trace.error_y.array[0], 6) for trace in marks] == [0.1, 0.1]
    assert [round(trace.error_y.arrayminus[0], 6) for trace in marks] == [0.05, 0.05]
    ended = race([], BUDGET, ends_at(1.4, 2.4), expected)
    assert "sparse 1.40" in [note.text for note in ended.layout.annotations]


@pytest.mark.parametrize("gap", [0.0, 1e-4, 0.01, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.45, 1.5])
@pytest.mark.parametrize("swapped", [False, True])
def test_labels_do_not_overlap(gap: float, swapped: bool) -> None:
    ends = ends_at(2.0, 2.0 + gap)
    figure = race([], BUDGET, ends[::-1] if swapped else ends)
    low, high = figure.layout.yaxis2.range
    boxes = []
    for note in figure.layout.annotations:
        if note.text:
            middle = (note.y - low) / (high - low) * PLOT + {"top": -1, "middle": 0, "bottom": 1}[
                note.yanchor
            ] * LABEL / 2
            boxes.append((middle - LABEL / 2, middle + LABEL / 2))
    boxes.sort()
    assert len(boxes) >= 2
    for (_, below), (above, _) in pairwise(boxes):
        assert below <= above + 1
