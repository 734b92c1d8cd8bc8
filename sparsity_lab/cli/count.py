"""Count the weights of a published model or of a config.json, and its FLOPs per token."""

import argparse
import json
from typing import Any

from sparsity_lab.accounting import EMBEDDINGS, count_parameters, flops_by_part
from sparsity_lab.accounting.presets import MODEL_NAMES, named_model
from sparsity_lab.config import ModelConfig
from sparsity_lab.units import billions

PARTS = ("embedding", "attention", "norms", "router", "dense", "shared", "routed", "head")
TABLES = {"both": "both tables of embeddings", "output": "the output table alone", "none": "no table"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_NAMES)


def run(options: argparse.Namespace) -> None:
    name, config = named_model(options.model)
    weights = count_parameters(config)
    parts = {part: getattr(weights, part) for part in PARTS}
    data = {
        "model": name,
        "total": weights.total,
        "active": {convention: weights.active_with(convention) for convention in EMBEDDINGS},
        "sparsity_experts": config.sparsity,
        "sparsity_params": weights.sparsity,
        "parts": parts,
        "active_parts": parts | {"routed": weights.routed_active},
        "flops_per_token": None if config.n_encoder_layers else flops_by_part(config, min(config.context, 4096)),
    }
    print(json.dumps(data) if options.json else _text(config, data))


def _text(config: ModelConfig, data: dict[str, Any]) -> str:
    import pandas as pd

    experts = f"{config.top_k} of {config.n_experts} experts" if config.has_router else "dense"
    if config.n_shared_experts:
        experts += f" and {config.n_shared_experts} shared"
    heading = f"{data['model']}: {config.n_layers} layers, width {config.d_model}, {experts}"

    table = pd.DataFrame({"weights": data["parts"], "active on a token": data["active_parts"]})
    table = table[table["weights"] > 0].rename({} if config.has_router else {"routed": "feed-forward"})
    table.loc["total"] = table.sum()
    table["share of all"] = table["weights"] / data["total"]
    rows = table.to_string(formatters=["{:,}".format, "{:,}".format, "{:.1%}".format])

    sums = [f"Total  {billions(data['total'])}"]
    sums += [f"Active {billions(data['active'][c])} counting {TABLES[c]}" for c in EMBEDDINGS]
    sparsity = f"{data['sparsity_experts']:.4g} by experts and {data['sparsity_params']:.4g} by parameters"
    return "\n".join([heading, "", rows, "", *sums, f"Sparsity {sparsity}: the share that is inactive on a token"])
