"""The sparsity of networks against NetworkX, against the curve drawn out, and in cases with a known answer."""

import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from networkx.algorithms import bipartite
from scipy.sparse import csr_array

from sparsity_lab.analysis.criteria import CRITERIA, counter_example, criteria_table, search
from sparsity_lab.analysis.graphs import (
    degrees_and_weights,
    of_graph,
    of_layer,
    read_edges,
    sparsity_index,
    weight_index,
)
from sparsity_lab.analysis.sparsity_measures import Measure, gini


@st.composite
def graphs(draw: st.DrawFn) -> nx.Graph:
    return nx.gnp_random_graph(draw(st.integers(2, 12)), draw(st.floats(0, 1)), seed=draw(st.integers(0, 999)))


def by_trapezoids(degrees: list[int], total: float) -> float:
    """The Lorenz curve of the complete graph, piece by piece: 1 − twice the area under it."""
    area = reached = 0.0
    for degree in sorted(degrees):
        area += (reached + degree / total / 2) / len(degrees)
        reached += degree / total
    return 1 - 2 * area


@given(graphs())
def test_degree_index(graph: nx.Graph) -> None:
    V, degrees = len(graph), [d for _, d in graph.degree()]
    found = of_graph(graph)
    assert found.degree_index == pytest.approx(by_trapezoids(degrees, V * (V - 1)), abs=1e-12)
    assert (found.nodes, found.edges) == (V, graph.number_of_edges())
    assert found.density == pytest.approx(nx.density(graph))
    assert found.degree_gini == pytest.approx(float(gini(degrees)), nan_ok=True)


@given(graphs(), st.data())
def test_every_edge_lowers_it(graph: nx.Graph, data: st.DataObject) -> None:
    missing = list(nx.non_edges(graph))
    assume(missing)
    more = graph.copy()
    more.add_edge(*data.draw(st.sampled_from(missing)))
    assert of_graph(more).degree_index < of_graph(graph).degree_index
    assert of_graph(more).weight_index < of_graph(graph).weight_index


@pytest.mark.parametrize(
    ("graph", "degree_index"),
    [
        (nx.complete_graph(6), 0),
        (nx.empty_graph(6), 1),
        (nx.cycle_graph(6), 1 - 2 / 5),
        (nx.random_regular_graph(3, 10, seed=0), 1 - 3 / 9),
        # A star of 4: degrees 1, 1, 1, 3, so ρ = 6/12 and Gini = (−3−1+1+3·3)/(4·6) = 1/4
        (nx.star_graph(3), 1 - (1 / 2) * (3 / 4)),
    ],
)
def test_known_graphs(graph: nx.Graph, degree_index: float) -> None:
    found = of_graph(graph)
    assert found.degree_index == pytest.approx(degree_index)
    if graph.number_of_edges():
        assert found.weight_gini == 0
        assert found.weight_index == pytest.approx(1 - found.density), "all edges weigh 1"
    else:
        assert math.isnan(found.weight_gini)
        assert found.weight_index == 1


@given(st.lists(st.integers(1, 99), min_size=1, max_size=9), st.integers(0, 20))
def test_weight_index_is_gini_with_the_absent_edges(weights: list[int], absent: int) -> None:
    assert weight_index(weights, len(weights) + absent) == pytest.approx(float(gini(weights + [0] * absent)), abs=1e-9)


def test_zachary() -> None:
    """A network that comes with NetworkX: 34 people, 78 weighted friendships (Zachary 1977)."""
    graph = nx.karate_club_graph()
    found = of_graph(graph)
    weights = [data["weight"] for *_, data in graph.edges(data=True)]
    assert (found.nodes, found.edges) == (34, 78)
    assert found.density == pytest.approx(nx.density(graph))
    assert found.degree_index == pytest.approx(by_trapezoids([d for _, d in graph.degree()], 34 * 33))
    assert found.weight_index == pytest.approx(float(gini(weights + [0] * (34 * 33 // 2 - 78))))
    degrees, same = degrees_and_weights(graph)
    assert degrees.sum() == 2 * 78
    assert sorted(same) == sorted(weights)


def test_criteria() -> None:
    """As a measure of a vector of degrees, of which none can exceed 1000."""
    index = Measure("index", lambda c: np.float64(sparsity_index(c, 1000 * len(c))), "1 − ρ(1 − Gini)", "")
    row = criteria_table({"index": index}).loc["index", ["D1", "D2", "D3", "D4", "P2"]]
    # Cloning is judged below, on graphs: whoever clones the nodes also doubles the degrees that there could be
    assert row[row].index.tolist() == ["D1", "D3", "D4", "P2"]
    grown = counter_example(index, CRITERIA["P1"], np.array([1.0, 20, 2]), np.array([1.0, 40, 2]))
    assert grown is not None
    assert grown.sparsity_after < grown.sparsity_before
    assert search(index, CRITERIA["D2"]) is not None


def test_two_copies_of_a_graph_are_sparser_than_one() -> None:
    graph = nx.star_graph(3)
    assert of_graph(nx.disjoint_union(graph, graph)).degree_index > of_graph(graph).degree_index + 0.1


@pytest.mark.parametrize(
    "graph", [nx.DiGraph([(0, 1)]), nx.MultiGraph([(0, 1), (0, 1)]), nx.Graph([(0, 0), (0, 1)]), nx.empty_graph(1)]
)
def test_other_graphs(graph: nx.Graph) -> None:
    with pytest.raises(ValueError, match=r"graph=.* must (be simple|have at least 2 nodes)"):
        of_graph(graph)


def test_impossible_sums() -> None:
    with pytest.raises(ValueError, match=r"values sum to 9, more than total=6"):
        sparsity_index([4, 5], 6)
    with pytest.raises(ValueError, match="3 weights are more than places=2"):
        weight_index([1, 2, 3], 2)


# ---- layers


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.floats(0, 2))
def test_layer_is_its_bipartite_graph(A: int, B: int, seed: int, threshold: float) -> None:
    weights_AB = np.random.default_rng(seed).standard_normal((A, B))
    cut = np.where(np.abs(weights_AB) > threshold, np.abs(weights_AB), 0)
    found, graph = of_layer(weights_AB, threshold), bipartite.from_biadjacency_matrix(csr_array(cut))
    inputs, outputs = ([graph.degree[n] for n in graph if graph.nodes[n]["bipartite"] == side] for side in (0, 1))
    assert (len(inputs), len(outputs)) == (A, B)
    assert found.density == graph.number_of_edges() / (A * B)
    assert found.input_index == pytest.approx(by_trapezoids(inputs, A * B), abs=1e-12)
    assert of_layer(weights_AB.T, threshold).input_index == pytest.approx(by_trapezoids(outputs, A * B), abs=1e-12)
    assert found.weight_index == pytest.approx(float(gini(cut)) if found.density else 1, abs=1e-9)


def test_layers_with_a_known_answer() -> None:
    full = of_layer(np.ones((3, 5)))
    assert (full.density, full.input_index, full.weight_index) == pytest.approx((1, 0, 0))
    one_input = np.zeros((4, 5))
    one_input[2] = 1  # everything comes from one input: a quarter of the edges
    found = of_layer(one_input)
    assert of_layer(one_input.T).input_index == pytest.approx(1 - 0.25), "outputs are alike"
    assert found.input_index == pytest.approx(1 - 0.25 * (1 - 0.75))
    assert of_layer(np.zeros((2, 2))).input_index == 1
    with pytest.raises(ValueError, match=r"weights_AB of shape \(3,\) must be a matrix"):
        of_layer(np.ones(3))


# ---- files


def test_read_edges(tmp_path: Path) -> None:
    path = tmp_path / "edges.csv"
    path.write_text("source,target,weight\nNA,b,2\nb,1,-0.5\n1,2,3e1\n")
    graph = read_edges(path)
    assert set(graph) == {"NA", "b", "1", "2"}
    assert {tuple(sorted(pair)): w for *pair, w in graph.edges(data="weight")} == {
        ("NA", "b"): 2,
        ("1", "b"): -0.5,
        ("1", "2"): 30,
    }
    path.write_text("target,source\n1,2\n2,3\n")
    assert [w for *_, w in read_edges(path).edges(data="weight")] == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be read as a table"),
        ("a,b\n1,2\n", "has no column 'source'"),
        ("source,target\n", "has no edges"),
        ("source,target,weight\n1,2,1\n2,3,\n", "row 3 has no weight"),
        ("source,target,weight\n1,2,nan\n", "row 2 has no weight"),
        ("source,target,weight\n1,2,0\n", "row 2 has no weight"),
        ("source,target,weight\n1,2,heavy\n", "row 2 has no weight"),
        ("source,target\n1,2\n2,2\n", "row 3 is a loop"),
        ("source,target\n1,2\n2,3\n2,1\n", "row 4 repeats an edge"),
        ("source,target\n1,\n", "row 2 lacks a node"),
    ],
)
def test_files_that_are_no_network(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "edges.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_edges(path)


def test_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "edges.csv"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="can't be read as a table"):
        read_edges(path)
