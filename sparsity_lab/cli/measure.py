"""Measure how sparse weights are, or a network, by every measure."""

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsity_lab import analysis  # a room is imported when one of its names is used

Row = dict[str, float | None]  # None where a measure is not defined


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="weights (.safetensors), or edges (.csv with source,target and perhaps weight)")


def run(options: argparse.Namespace) -> None:
    data = measure_file(Path(options.file))
    print(json.dumps(data) if options.json else _text(data))


def measure_file(path: Path) -> dict[str, Any]:
    """Returns every measure of each of the ``tensors`` in a file of weights. For a file of edges, returns the fields of
    `graphs.Network` and every measure of ``degrees`` and of ``weights``. None stands where a measure is not defined, as
    for zeros or for a tensor without numbers.

    Raises ValueError for a missing, foreign or damaged file, and for NaN and infinities, with the tensor's name.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file: name a .safetensors or a .csv file")
    kind = path.suffix.lower()
    if kind == ".safetensors":
        return {"tensors": _tensors(path)}
    if kind == ".csv":
        graph = analysis.graphs.read_edges(path)
        degrees, weights = map(_measures, analysis.graphs.degrees_and_weights(graph))
        return _defined(asdict(analysis.graphs.of_graph(graph))) | {"degrees": degrees, "weights": weights}
    raise ValueError(f"{path} must be a .safetensors file of weights or a .csv file of edges")


def _tensors(path: Path) -> dict[str, Row]:
    from safetensors import SafetensorError, safe_open

    rows: dict[str, Row] = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                try:
                    rows[name] = _measures(file.get_tensor(name))
                except ValueError as error:
                    raise ValueError(f"{path}: {name}: {error}") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from None
    return rows


def _measures(numbers: Any) -> Row:
    measures = analysis.sparsity_measures.MEASURES
    there = math.prod(numbers.shape) > 0
    return _defined({n: m(numbers) for n, m in measures.items()}) if there else dict.fromkeys(measures)


def _defined(values: Mapping[str, Any]) -> Row:
    """Returns numbers as JSON has them: whole ones stay whole, NaN becomes None."""
    return {n: v if isinstance(v, int) else float(v) if math.isfinite(v) else None for n, v in values.items()}


def _text(data: dict[str, Any]) -> str:
    import pandas as pd

    rows, heading = data.get("tensors"), ""
    if rows is None:
        rows = {f"{p}s": {"sparsity index": data[f"{p}_index"]} | data[f"{p}s"] for p in ("degree", "weight")}
        heading = f"{data['nodes']:,} nodes, {data['edges']:,} edges, {data['density']:.3g} of all possible ones\n\n"
    table = pd.DataFrame(rows, dtype=float).T.to_string(na_rep="–", float_format="{:.4g}".format)
    formulas = [f"{m.name:<13} {m.formula}" for m in analysis.sparsity_measures.MEASURES.values()]
    return "\n".join([heading + table, "", *formulas])
