"""What `sparsity-lab measure` says of a file: as data for --json, and as text."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sparsity_lab.analysis.graphs import degrees_and_weights, of_graph, read_edges
from sparsity_lab.analysis.sparsity_measures import MEASURES, measure_all

Row = dict[str, float | None]  # None where a measure is not defined


def measure(path: Path) -> dict[str, Any]:
    """Of weights, ``tensors``: every measure by tensor. Of edges, the fields of `network.Network`, and every measure of
    ``degrees`` and of ``weights``. None where a measure is not defined, as of zeros or of a tensor without numbers.

    Raises ValueError for a missing, foreign or damaged file, and for NaN and infinities, with the tensor's name.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: name a .safetensors or a .csv file")
    if path.suffix == ".safetensors":
        return {"tensors": _tensors(path)}
    if path.suffix == ".csv":
        graph = read_edges(path)
        degrees, weights = degrees_and_weights(graph)
        return _defined(asdict(of_graph(graph))) | {"degrees": _row(degrees), "weights": _row(weights)}
    raise ValueError(f"{path} must be a .safetensors file of weights or a .csv file of edges")


def _tensors(path: Path) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                try:
                    tensor = file.get_tensor(name)
                    rows[name] = _row(tensor) if tensor.numel() else dict.fromkeys(MEASURES)
                except ValueError as error:
                    raise ValueError(f"{path}: {name}: {error}") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from None
    return rows


def _row(numbers: Any) -> Row:
    return _defined(measure_all(numbers))


def _defined(values: Mapping[str, Any]) -> Row:
    """As JSON has numbers: whole ones stay whole, NaN is None."""
    return {
        name: value if isinstance(value, int) else float(value) if math.isfinite(value) else None
        for name, value in values.items()
    }


def text(data: dict[str, Any]) -> str:
    """``data``: as `measure` gives it."""
    if "tensors" in data:
        return _table(data["tensors"])
    lines = [
        f"{data['nodes']:,} nodes, {data['edges']:,} edges, {data['density']:.3g} of those there could be",
        f"sparsity index of the degrees       {_short(data['degree_index'])}  (Gini {_short(data['degree_gini'])})",
        f"sparsity index of the edge weights  {_short(data['weight_index'])}  (Gini {_short(data['weight_gini'])})",
        "",
        _table({name: data[name] for name in ("degrees", "weights")}),
    ]
    return "\n".join(lines)


def _table(rows: Mapping[str, Row]) -> str:
    first = max([len(name) for name in rows] + [8])
    lines = [" " * first + "".join(f"{name:>13}" for name in MEASURES)]
    lines += [f"{n:<{first}}" + "".join(f"{_short(row[name]):>13}" for name in MEASURES) for n, row in rows.items()]
    return "\n".join([*lines, "", *(f"{m.name:<13} {m.formula}" for m in MEASURES.values())])


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
