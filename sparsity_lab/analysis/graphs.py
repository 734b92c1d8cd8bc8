"""How sparse is a network? An index for the degrees of its nodes and one for the weights of its edges.

A network sparsity index after Goswami, Das and Nandy, "Sparsity of weighted networks: measures and applications" (arXiv
2009.06310), and Goswami, Murthy and Das (arXiv 1612.07074), who make the Gini index aware of how many edges there could
be: the Lorenz curve of the sorted degrees is divided by the degrees' total in the *complete* graph. With trapezoids,

    index = 1 − ρ·(1 − Gini),    ρ = total / total of the complete graph

The full text of the papers was not at hand, so this follows their abstracts and others' use of the index. Their steps
of the Lorenz curve may differ from trapezoids, and their formula for edge weights from `weight_index`.

Of the six criteria, Robin Hood, Rising Tide and Babies hold here. Cloning does not, because two copies of a graph are
sparser than one, nor does Scaling, because twice the degrees are less sparse. The abstract of the journal version
(2018, doi 10.1016/j.ins.2018.05.044) says the same of these two (Scaling holds in special cases), and that the other
four hold. With the index above Bill Gates fails: while no node is added, any degree that grows lowers it. So theirs
differs from it somewhere.

Legend: A inputs and B outputs of a layer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from sparsity_lab.analysis.sparsity_measures import Array, absolute_values, gini
from sparsity_lab.runs.foreign import read_table


def sparsity_index(values: Any, total: float) -> float:
    """Computes 1 − ρ·(1 − Gini(values)) with ρ = Σ values / ``total``, their sum in a complete network; 1 if all are 0.
    For the degrees of a simple graph of V nodes it is V·(V−1). Raises ValueError if the values sum to more than that,
    and as a measure does."""
    c = absolute_values(values)
    share = float(c.sum()) / total if total else 0.0
    if share > 1 + 1e-9:
        raise ValueError(f"values sum to {c.sum():g}, more than total={total:g} of a complete network")
    return 1 - share * (1 - float(gini(c))) if share else 1.0


def weight_index(weights: Any, places: int) -> float:
    """Computes the Gini index of the weights of all edges there could be, ``places`` many; 1 without edges.

    Only the ``weights`` of edges that exist need be given: the zeros of the others make it 1 − ρ·(1 − Gini), where ρ is
    the share of places taken. Raises ValueError for more weights than places, and as a measure does.
    """
    c = absolute_values(weights) if np.size(weights) else np.zeros(0)
    if len(c) > places:
        raise ValueError(f"{len(c):,} weights are more than places={places:,} for edges")
    return 1 - len(c) / places * (1 - float(gini(c))) if c.any() else 1.0


@dataclass(frozen=True)
class Network:
    """The sparsity of a graph. Indices and Gini go from 0, all alike, to 1."""

    nodes: int
    edges: int
    density: float  # the share of the edges there could be
    degree_index: float
    degree_gini: float  # 0 for any regular graph, however few its edges; NaN without edges
    weight_index: float
    weight_gini: float


def of_graph(graph: nx.Graph) -> Network:
    """Measures an undirected graph without loops; an edge without ``weight`` has 1. Raises ValueError for others."""
    if graph.is_directed() or graph.is_multigraph() or nx.number_of_selfloops(graph):
        raise ValueError(f"graph={graph} must be simple: undirected, without parallel edges and loops")
    V = graph.number_of_nodes()
    if V < 2:
        raise ValueError(f"graph={graph} must have at least 2 nodes")
    degrees_V, weights = degrees_and_weights(graph)
    return Network(
        nodes=V,
        edges=len(weights),
        density=nx.density(graph),
        degree_index=sparsity_index(degrees_V, V * (V - 1)),
        degree_gini=float(gini(degrees_V)),
        weight_index=weight_index(weights, V * (V - 1) // 2),
        weight_gini=float(gini(weights)) if len(weights) else float("nan"),
    )


def degrees_and_weights(graph: nx.Graph) -> tuple[Array, Array]:
    """Returns the degree of each node and the weight of each edge."""
    degrees = np.array([degree for _, degree in graph.degree()], float)
    return degrees, np.array([weight for *_, weight in graph.edges(data="weight", default=1.0)], float)


@dataclass(frozen=True)
class BipartiteLayer:
    """The sparsity of a layer of a neural network, seen as a bipartite network of inputs and outputs."""

    density: float
    input_index: float  # of the inputs' degrees; for those of the outputs, give the transpose
    input_gini: float  # NaN without edges
    weight_index: float  # Gini of all A·B weights, those below the threshold as 0


def of_layer(weights_AB: Any, threshold: float = 0.0) -> BipartiteLayer:
    """Measures a layer's matrix as a bipartite network: its edges are the weights of magnitude above ``threshold``, and
    in a complete one each input has B. Raises ValueError for anything but a matrix, and for NaN."""
    if np.ndim(weights_AB) != 2:
        raise ValueError(f"weights_AB of shape {tuple(np.shape(weights_AB))} must be a matrix: inputs by outputs")
    c_AB = absolute_values(weights_AB).reshape(np.shape(weights_AB))
    there_AB = c_AB > threshold
    degrees_A = there_AB.sum(1)
    return BipartiteLayer(
        density=float(there_AB.mean()),
        input_index=sparsity_index(degrees_A, c_AB.size),
        input_gini=float(gini(degrees_A)),
        weight_index=weight_index(c_AB[there_AB], c_AB.size),
    )


def read_edges(path: Path) -> nx.Graph:
    """Reads a CSV file with the columns source, target and, optionally, weight: an undirected edge per row. Raises
    ValueError, which names the row, for anything but a simple weighted network."""
    table = read_table(path, dtype={"source": str, "target": str}, keep_default_na=False)
    missing = [name for name in ("source", "target") if name not in table]
    if missing or table.empty:
        lacks = f"no column {missing[0]!r}" if missing else "no edges"
        raise ValueError(f"{path} has {lacks}: its first line must be source,target or source,target,weight")

    weights = pd.to_numeric(table["weight"], errors="coerce") if "weight" in table else pd.Series(1.0, table.index)
    pairs = pd.Series([tuple(sorted(pair)) for pair in zip(table["source"], table["target"], strict=True)], table.index)
    for wrong, why in (
        (~np.isfinite(weights) | (weights == 0), "has no weight: it must be a finite number other than 0"),
        (table["source"] == table["target"], "is a loop, which a simple network does not have"),
        (pairs.duplicated(), "repeats an edge: an edge of an undirected network stands in one row"),
        ((table["source"] == "") | (table["target"] == ""), "lacks a node"),
    ):
        if wrong.any():
            raise ValueError(f"{path}: row {int(wrong.to_numpy().argmax()) + 2} {why}")
    return nx.from_pandas_edgelist(table.assign(weight=weights), edge_attr="weight")
