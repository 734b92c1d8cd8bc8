"""Who read what, as a figure: a square for every character and expert, and none besides."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.figures import style
from sparsity_lab.figures.routing import readers
from sparsity_lab.runs import measured

LINE = "if x:\n  y"


def squares(figure: Any, layer: int) -> set[tuple[int, int, str]]:
    """Character, expert (from 0) and kind."""
    axis = None if layer == 0 else f"y{layer + 1}"
    found = [trace for trace in figure.data if (trace.yaxis or "y") == (axis or "y")]
    return {(int(x), int(y) - 1, trace.name or "") for trace in found for x, y in zip(trace.x, trace.y, strict=True)}


@given(st.data(), st.integers(1, 4), st.integers(1, 9), st.integers(1, 2), st.booleans())
def test_a_square_where_an_expert_reads_a_character(
    data: st.DataObject, layers: int, experts: int, top_k: int, learnt: bool
) -> None:
    one = st.lists(st.integers(0, experts - 1), min_size=min(top_k, experts), max_size=min(top_k, experts), unique=True)
    reads = data.draw(st.lists(st.lists(one, min_size=len(LINE), max_size=len(LINE)), min_size=layers, max_size=layers))
    kinds = [[["keyword", "space", "name", ""][(e + layer) % 4] for e in range(experts)] for layer in range(layers)]
    figure = readers(LINE, reads, kinds if learnt else [], experts)
    names = {"space": "blank"}
    for layer in range(layers):
        wanted = {
            (place, e, names.get(kinds[layer][e], kinds[layer][e]) if learnt else "")
            for place, chosen in enumerate(reads[layer])
            for e in chosen
        }
        assert squares(figure, layer) == wanted
    assert figure.layout.showlegend == learnt
    assert len({trace.name for trace in figure.data if trace.showlegend}) == sum(
        bool(t.showlegend) for t in figure.data
    )


def test_hovering_names_the_character_and_kinds_have_their_colours() -> None:
    figure = readers(LINE, [[[0]] * len(LINE)], [["keyword", "name"]], 2)
    (trace,) = figure.data
    assert list(trace.text) == [repr(character) for character in LINE]
    assert trace.marker.color == style.VERMILION
    assert list(figure.layout.xaxis.ticktext) == ["i", "f", "·", "x", ":", "⏎", "·", "·", "y"]


@pytest.mark.parametrize("layers", ["1", "2", "3", "4"])
def test_what_ships_can_be_drawn(layers: str) -> None:
    routes = measured.routes()
    for n, found in routes["layers"][layers].items():
        figure = readers(routes["line"], found["trained"], found["favourites"], int(n))
        assert sum(len(trace.x) for trace in figure.data) == int(layers) * len(routes["line"])


def test_of_nothing_nothing_is_drawn() -> None:
    """A dense model has no routers."""
    assert len(readers(LINE, [], [], 1).data) == 0
