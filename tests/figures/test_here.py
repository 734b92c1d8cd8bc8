"""You are here: the frame is where the dials stand, and the words say the number under it."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.figures.here import LEFT, TOP, gains_map
from sparsity_lab.runs import measured
from sparsity_lab.units import power

GAINS = measured.gain_table()
SPARSITIES = [s for s in GAINS.columns if s]


def ring(svg: str) -> dict[str, float]:
    (frame,) = [rect for rect in ElementTree.fromstring(svg).iter("rect") if rect.get("fill") == "none"]
    return {name: float(frame.attrib[name]) for name in ("x", "y", "width", "height")}


def cells(svg: str) -> list[ElementTree.Element]:
    return [rect for rect in ElementTree.fromstring(svg).iter("rect") if rect.get("fill") != "none"]


@pytest.mark.parametrize("budget", GAINS.index)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_frame_is_around_its_cell(budget: float, sparsity: float) -> None:
    svg = gains_map(GAINS, sparsity, budget)
    rects, found = cells(svg), ring(svg)
    place = list(GAINS.index).index(budget) * len(SPARSITIES) + SPARSITIES.index(sparsity)
    inside = rects[place].attrib
    assert found["x"] <= float(inside["x"])
    assert float(inside["x"]) + float(inside["width"]) <= found["x"] + found["width"]
    assert abs(found["y"] - float(inside["y"])) <= 2
    assert abs(float(inside["height"]) - found["height"]) <= 3


@pytest.mark.parametrize("budget", GAINS.index)
@pytest.mark.parametrize("sparsity", GAINS.columns)
def test_words_name_the_number(budget: float, sparsity: float) -> None:
    words = ElementTree.fromstring(gains_map(GAINS, sparsity, budget)).attrib["aria-label"]
    column = sparsity or SPARSITIES[0]  # a dense model is nearest to the least sparse one
    value = GAINS.loc[budget, column]
    assert f"S = {column:.4g} at {power(budget)} FLOPs" in words
    if np.isnan(value):
        assert "was not measured" in words
        assert "nats" not in words, "nothing is made up"
    else:
        assert f"{value:+.3f} nats per byte" in words


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.99, 0.9999])
@pytest.mark.parametrize("budget", [1e3, 1e10, 2.2e11, 1e20])
def test_beyond_the_edges_the_frame_stays_in_the_box(sparsity: float, budget: float) -> None:
    svg = gains_map(GAINS, sparsity, budget)
    _, _, width, height = map(float, ElementTree.fromstring(svg).attrib["viewBox"].split())
    found = ring(svg)
    assert 0 <= found["x"] <= width - found["width"]
    assert found["x"] + found["width"] / 2 >= LEFT, "not on the names of the budgets"
    assert TOP - 1 <= found["y"] <= height - found["height"]


def test_sparser_lies_to_the_right_and_more_flops_higher() -> None:
    frames = [ring(gains_map(GAINS, s, 1e12))["x"] for s in (0.0, 0.5, 0.75, 0.9, 0.9375, 0.96)]
    assert frames == sorted(frames)
    assert len(set(frames)) >= 5, "only what lies left of the map shares a place"
    heights = [ring(gains_map(GAINS, 0.75, b))["y"] for b in (1e11, 2e11, 5e11, 1e12, 1e13)]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) >= 4


def test_numbers_and_colours_of_cells() -> None:
    table = pd.DataFrame({0.0: [0.0, 0.0], 0.5: [0.123, -0.05], 0.75: [np.nan, 0.2]}, index=[1e11, 1e12])
    svg = gains_map(table, 0.5, 1e11)
    low, unknown, lost, won = cells(svg)
    assert low.get("fill") == won.get("fill") != lost.get("fill")
    assert unknown.get("fill") not in (low.get("fill"), lost.get("fill"))
    assert (
        float(won.attrib["fill-opacity"]) >= float(low.attrib["fill-opacity"]) > float(unknown.attrib["fill-opacity"])
    )
    assert float(low.attrib["y"]) > float(lost.attrib["y"]), "the larger budget is above"
    words = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert {".12", "−.05", ".20", ".5", ".75", "10¹¹", "10¹²"} <= set(words)
    assert "nan" not in svg
    assert "was not measured" in gains_map(table, 0.75, 1e11)


def test_an_empty_table_is_no_map() -> None:
    assert gains_map(pd.DataFrame(), 0.5, 1e11) == ""
