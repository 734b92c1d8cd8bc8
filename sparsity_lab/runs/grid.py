"""A list of runs from a TOML file: tables whose lists are multiplied out.

    [[runs]]
    budget = [1e11, 3e11]
    width = [12, 16, 24]
    sparsity = [0, 0.9375]
    seed = [0, 1, 2]

``width``, ``sparsity`` and ``hold`` set the dial, and ``top_k`` the number of active experts at each of its stops.
``granularity`` cuts every expert into that many narrower ones, that many times as many of them active (Krajewski et al.
2024, arXiv 2402.07871). Any other field of `ModelConfig` or `RunConfig` may stand beside them, one value or a list.
"""

import itertools
import math
import reprlib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import read_bytes
from sparsity_lab.record import run_id

Pair = tuple[ModelConfig, RunConfig]

DIAL = {"width": 32, "sparsity": 0.0, "hold": "active", "top_k": 1, "granularity": 1}
SET_BY_DIAL = ("d_model", "n_experts")
OF_MODEL = [field.name for field in fields(ModelConfig) if field.name not in (*SET_BY_DIAL, *DIAL)]
OF_RUN = [field.name for field in fields(RunConfig)]
MAX_RUNS = 100_000


def read_grid(path: Path | str) -> list[Pair]:
    """Reads the runs of a grid file, each once, in the order of the file.

    Raises ValueError that names the file, the table and the field if one is not understood.
    """
    try:
        content = tomllib.loads(read_bytes(Path(path)).decode())
    except FileNotFoundError:
        raise ValueError(f"grid {path} does not exist: name a TOML file with [[runs]] tables") from None
    except RecursionError:
        raise ValueError(f"grid {path} is nested too deeply: write one value, or a list of values") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"grid {path} is not TOML ({error})") from None

    tables = content.get("runs")
    if set(content) != {"runs"} or not isinstance(tables, list) or {type(table) for table in tables} != {dict}:
        found = ", ".join(content) or "nothing"
        raise ValueError(f"grid {path} must hold [[runs]] tables and nothing else, got {found}")
    try:
        return grid_runs(*tables)
    except ValueError as error:
        raise ValueError(f"grid {path}: {error}") from None


def grid_runs(*tables: dict[str, Any]) -> list[Pair]:
    """Returns the runs of several tables. In each, lists are multiplied out, the last varying fastest. A run that
    appears twice is kept once. Raises ValueError for a field or a value that is not understood."""
    pairs: dict[str, Pair] = {}
    total = 0
    for number, table in enumerate(tables, start=1):
        choices = {name: value if isinstance(value, list) else [value] for name, value in table.items()}
        for name, values in choices.items():
            if name not in (*DIAL, *OF_MODEL, *OF_RUN):
                hint = " (the dial sets it: use width and sparsity)" if name in SET_BY_DIAL else ""
                raise ValueError(f"table {number} has {name!r}, which is no field of a run{hint}")
            if not values:
                raise ValueError(f"table {number}: {name}=[] gives no run; name at least one value")

        total += math.prod(map(len, choices.values()))
        if total > MAX_RUNS:
            raise ValueError(f"table {number} makes it {total:,} runs, more than {MAX_RUNS:,}: shorten its lists")

        for choice in itertools.product(*choices.values()):
            try:
                model, run = _pair(dict(zip(choices, choice, strict=True)))
            except ValueError as error:
                raise ValueError(f"table {number}: {error}") from None
            pairs.setdefault(run_id(model, run), (model, run))
    return list(pairs.values())


def _pair(fields_of_run: dict[str, Any]) -> Pair:
    """Returns the configs of one choice of values: the dial first, then the cut, then fields that are set by name."""
    dial: dict[str, Any] = DIAL | {name: value for name, value in fields_of_run.items() if name in DIAL}
    dense = ModelConfig.on_dial(dial["width"], 0.0, dial["hold"])
    dense = dense.replace(n_experts=dial["top_k"], top_k=dial["top_k"])
    model = dense.with_sparsity(dial["sparsity"], dial["hold"])

    parts = dial["granularity"]
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1 or model.d_expert % parts:
        raise ValueError(
            f"granularity={reprlib.repr(parts)} must be a whole number that divides the experts' width {model.d_expert}"
        )
    cut = {"d_expert": model.d_expert // parts, "n_experts": model.n_experts * parts, "top_k": model.top_k * parts}

    named = {name: value for name, value in fields_of_run.items() if name in OF_MODEL}
    run = RunConfig(**{name: value for name, value in fields_of_run.items() if name in OF_RUN})
    return model.replace(**cut | named), run
