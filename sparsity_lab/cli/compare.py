"""Compare two models side by side."""

import argparse
import json

from sparsity_lab.accounting import cache_elements_per_layer, count_parameters, flops_by_part
from sparsity_lab.accounting.memory import bytes_of, cache_bytes
from sparsity_lab.accounting.presets import MODEL_NAMES, named_model
from sparsity_lab.config import ModelConfig
from sparsity_lab.units import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help=MODEL_NAMES)
    parser.add_argument("b", help=MODEL_NAMES)


def run(options: argparse.Namespace) -> None:
    (name_a, a), (name_b, b) = named_model(options.a), named_model(options.b)
    first, second = _profile(a), _profile(b)
    pairs = {what: (first[what], second[what]) for what in first}
    if options.json:
        rows = [{"what": what, "a": one, "b": other} for what, (one, other) in pairs.items()]
        print(json.dumps({"a": name_a, "b": name_b, "rows": rows}))
        return

    import pandas as pd

    cells = [(number(a), number(b), f"{b / a:.3g}" if a and b is not None else "") for a, b in pairs.values()]
    print(pd.DataFrame(cells, list(pairs), [name_a, name_b, "second/first"]).to_string())


def _profile(config: ModelConfig) -> dict[str, float | None]:
    weights = count_parameters(config)
    flops = {n: None if config.n_encoder_layers else sum(flops_by_part(config, n).values()) for n in (1, 4096)}
    return {
        "total weights": weights.total,
        "active weights (both tables)": weights.active_with("both"),
        "active weights (output table)": weights.active_with("output"),
        "sparsity by experts": config.sparsity,
        "sparsity by parameters": weights.sparsity,
        **{f"forward FLOPs per token at context {n}": value for n, value in flops.items()},
        "weights, bytes in bfloat16": weights.total * bytes_of("bfloat16"),
        "cache, numbers per token and layer": cache_elements_per_layer(config),
        "cache, bytes per token in bfloat16": cache_bytes(config, 1),
    }
