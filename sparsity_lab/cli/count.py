"""Count the weights of a published model or of a config.json, and its FLOPs per token."""

import argparse
import json
from typing import Any

from sparsity_lab.accounting import EMBEDDINGS, count_parameters, flops_by_part
from sparsity_lab.accounting.flops import sequence_length
from sparsity_lab.accounting.presets import MODEL_NAMES, Named, named_model
from sparsity_lab.accounting.shape import shape_of
from sparsity_lab.units import billions, number

PARTS = ("embedding", "attention", "norms", "router", "dense", "shared", "routed", "head")
TABLES = {"both": "both tables of embeddings", "output": "the output table alone", "none": "no table"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_NAMES)
    parser.add_argument("--context", help="tokens of a sequence (default 8192, if the model takes them)")


def run(options: argparse.Namespace) -> None:
    named = named_model(options.model)
    model, weights = named.model, count_parameters(named.model)
    length = sequence_length(model, options.context)
    parts = {part: getattr(weights, part) for part in PARTS}
    data = {
        "model": named.name,
        "total": weights.total,
        "active": {convention: weights.active_with(convention) for convention in EMBEDDINGS},
        "sparsity_experts": model.sparsity,
        "sparsity_params": weights.sparsity,
        "parts": parts,
        "active_parts": parts | {"routed": weights.routed_active},
        "layers": shape_of(model).kinds,
        "context": length,
        "flops_per_token": None if model.n_encoder_layers else flops_by_part(model, length),
        "vision": named.vision,
        "notes": list(named.notes),
    }
    print(json.dumps(data) if options.json else _text(named, data))


def _text(named: Named, data: dict[str, Any]) -> str:
    import pandas as pd

    model = named.model
    experts = f"{model.top_k} of {model.n_experts} experts" if model.has_router else "dense"
    if model.n_shared_experts:
        experts += f" and {model.n_shared_experts} shared"
    heading = f"{named.name}: {model.n_layers} layers, width {model.d_model}, {experts}"
    if len(data["layers"]) > 1:
        heading += f"\nattention: {', '.join(f'{n} {kind}' for kind, n in data['layers'].items())}"

    table = pd.DataFrame({"weights": data["parts"], "active on a token": data["active_parts"]})
    table = table[table["weights"] > 0].rename({} if model.has_router else {"routed": "feed-forward"})
    table.loc["total"] = table.sum()
    table["share of all"] = table["weights"] / data["total"]
    rows = table.to_string(formatters=["{:,}".format, "{:,}".format, "{:.1%}".format])

    sums = [f"Total  {billions(data['total'])}"]
    sums += [f"Active {billions(data['active'][c])} counting {TABLES[c]}" for c in EMBEDDINGS]
    if data["flops_per_token"]:
        flops = number(sum(data["flops_per_token"].values()))
        sums.append(f"FLOPs  {flops} per token, forward, in a sequence of {data['context']:,} tokens")
    sparsity = f"{data['sparsity_experts']:.4g} by experts and {data['sparsity_params']:.4g} by parameters"
    sums.append(f"Sparsity {sparsity}: the share that is inactive on a token")
    return "\n".join([heading, "", rows, "", *sums, *as_lines(named.notes)])


def as_lines(notes: tuple[str, ...]) -> list[str]:
    """Returns the notes on a model as lines for the end of an answer."""
    return ["", *(f"Note: {note}" for note in notes)] if notes else []
