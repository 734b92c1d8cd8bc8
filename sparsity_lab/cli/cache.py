"""Count the bytes of attention's cache, and what other kinds of attention would need."""

import argparse
import json

from sparsity_lab.accounting import memory
from sparsity_lab.accounting.presets import MODEL_NAMES, named_model
from sparsity_lab.config import ModelConfig
from sparsity_lab.units import size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_NAMES)
    parser.add_argument("--tokens", type=float, required=True, help="length of each sequence, e.g. 131072")
    parser.add_argument("--dtype", default="bf16", help="bf16 (default), fp32, fp8, int8, …")
    parser.add_argument("--batch", type=int, default=1, help="number of sequences (default 1)")


def run(options: argparse.Namespace) -> None:
    name, config = named_model(options.model)
    if options.tokens != options.tokens // 1:
        raise ValueError(f"tokens={options.tokens:g} must be a whole number")
    if not 1 <= options.tokens <= config.context:
        raise ValueError(f"tokens={options.tokens:g} must be from 1 to the model's context={config.context}")
    if not 1 <= options.batch <= 10**9:
        raise ValueError(f"batch={options.batch:g} must be from 1 to 1e9")

    tokens, dtype, batch = int(options.tokens), options.dtype, options.batch
    data = _sizes(config, tokens, dtype, batch)
    twins = {twin: _sizes(other, tokens, dtype, batch) for twin, other in memory.attention_twins(config).items()}
    if options.json:
        asked = {"model": name, "tokens": tokens, "dtype": dtype, "batch": batch}
        print(json.dumps(asked | data | {"twins": twins}))
        return

    import pandas as pd

    kind = "MLA" if config.is_mla else {config.n_heads: "MHA", 1: "MQA"}.get(config.kv_heads, "GQA")
    rows = {f"{name} ({kind})": data} | {f"with {twin.upper()}": row for twin, row in twins.items()}
    table = pd.DataFrame(rows).T[["elements_per_token_per_layer", "bytes_per_token", "bytes"]]
    table.columns = pd.Index(["numbers per token and layer", "bytes per token", "in all"])
    print(f"Cache of {batch:,} × {tokens:,} tokens, {dtype}\n")
    print(table.to_string(formatters=["{:,.0f}".format, "{:,.0f}".format, size]))
    if config.is_mla:
        without = data["bytes"] * (config.kv_lora_rank or 0) / data["elements_per_token_per_layer"]
        print(f"\nCommon mistake: {size(without)}, which leaves out the RoPE key that all heads share.")
    if config.window is not None:
        print(f"\nLayers with a sliding window keep at most {config.window} tokens.")


def _sizes(config: ModelConfig, tokens: int, dtype: str, batch: int) -> dict[str, float]:
    return {
        "bytes": memory.cache_bytes(config, tokens, dtype, batch),
        "bytes_per_token": memory.cache_bytes(config, 1, dtype),
        "elements_per_token_per_layer": memory.cache_elements_per_layer(config),
    }
