"""Compare two models side by side."""

import argparse
import json

from sparsity_lab.accounting import cache_elements_per_layer, count_parameters, flops_by_part
from sparsity_lab.accounting.flops import sequence_length
from sparsity_lab.accounting.memory import bytes_of, cache_bytes, growth_per_token
from sparsity_lab.accounting.presets import MODEL_NAMES, named_model
from sparsity_lab.accounting.shape import Model
from sparsity_lab.cli.count import as_lines
from sparsity_lab.units import number

LONGEST = 32  # letters in the name of a column


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help=MODEL_NAMES)
    parser.add_argument("b", help=MODEL_NAMES)
    parser.add_argument("--context", help="tokens of a sequence (default 8192, if both models take them)")


def run(options: argparse.Namespace) -> None:
    a, b = named_model(options.a), named_model(options.b)
    length = min(sequence_length(named.model, options.context) for named in (a, b))
    first, second = _profile(a.model, length), _profile(b.model, length)
    pairs = {what: (first[what], second[what]) for what in first}
    notes = tuple(f"{named.name}: {note}" for named in (a, b) for note in named.notes)
    if options.json:
        rows = [{"what": what, "a": one, "b": other} for what, (one, other) in pairs.items()]
        print(json.dumps({"a": a.name, "b": b.name, "context": length, "rows": rows, "notes": list(notes)}))
        return

    import pandas as pd

    cells = [(number(a), number(b), f"{b / a:.3g}" if a and b is not None else "") for a, b in pairs.values()]
    names = [named.name if len(named.name) <= LONGEST else f"…{named.name[1 - LONGEST :]}" for named in (a, b)]
    print(pd.DataFrame(cells, list(pairs), [*names, "second/first"]).to_string())
    print(*as_lines(notes), sep="\n")


def _profile(model: Model, length: int) -> dict[str, float | None]:
    weights = count_parameters(model)
    flops = {n: None if model.n_encoder_layers else sum(flops_by_part(model, n).values()) for n in (1, length)}
    return {
        "total weights": weights.total,
        "active weights (both tables)": weights.active_with("both"),
        "active weights (output table)": weights.active_with("output"),
        "sparsity by experts": model.sparsity,
        "sparsity by parameters": weights.sparsity,
        **{f"forward FLOPs per token at context {n}": value for n, value in flops.items()},
        "weights, bytes in bfloat16": weights.total * bytes_of("bfloat16"),
        "cache, numbers per token and layer": cache_elements_per_layer(model),
        "cache, bytes per token in bfloat16": growth_per_token(model),
        f"cache, bytes at {length:,} tokens in bfloat16": cache_bytes(model, length),
    }
