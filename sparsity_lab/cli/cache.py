"""Count the bytes of attention's cache, and what other kinds of attention would need."""

import argparse
import json

from sparsity_lab.accounting import memory
from sparsity_lab.accounting.presets import MODEL_NAMES, named_model
from sparsity_lab.accounting.shape import Model, Shape, shape_of
from sparsity_lab.cli.count import as_lines
from sparsity_lab.units import quantity, size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_NAMES)
    parser.add_argument("--tokens", required=True, help="length of each sequence, e.g. 131072 or 128k")
    parser.add_argument("--dtype", default="bf16", help="bf16 (default), fp32, fp8, int8, …")
    parser.add_argument("--batch", type=int, default=1, help="number of sequences (default 1)")


def run(options: argparse.Namespace) -> None:
    name, model, notes, _ = named_model(options.model)
    shape = shape_of(model)
    asked = quantity("tokens", options.tokens)
    if asked != asked // 1:
        raise ValueError(f"tokens={asked:g} must be a whole number")
    if not 1 <= asked <= shape.context:
        raise ValueError(f"tokens={asked:g} must be from 1 to the model's context={shape.context}")
    if not 1 <= options.batch <= 10**9:
        raise ValueError(f"batch={options.batch:g} must be from 1 to 1e9")

    tokens, dtype, batch = int(asked), options.dtype, options.batch
    data = _sizes(model, tokens, dtype, batch)
    twins = {twin: _sizes(other, tokens, dtype, batch) for twin, other in memory.attention_twins(model).items()}
    if options.json:
        question = {"model": name, "tokens": tokens, "dtype": dtype, "batch": batch}
        print(json.dumps(question | data | {"twins": twins, "layers": shape.kinds, "notes": list(notes)}))
        return

    import pandas as pd

    kind = "MLA" if shape.is_mla else {shape.n_heads: "MHA", 1: "MQA"}.get(shape.kv_heads, "GQA")
    rows = {f"{name} ({kind if shape.n_heads else 'no attention'})": data}
    rows |= {f"with {twin.upper()}": row for twin, row in twins.items()} if shape.n_heads else {}
    table = pd.DataFrame(rows).T[["elements_per_token_per_layer", "bytes_per_token", "bytes"]]
    table.columns = pd.Index(["numbers per token and layer", "bytes per token", "in all"])
    print(f"Cache of {batch:,} × {tokens:,} tokens, {dtype}\n")
    print(table.to_string(formatters=["{:,.0f}".format, "{:,.0f}".format, size]))
    if shape.kv_lora_rank is not None and list(shape.kinds) == ["full"]:
        without = data["bytes"] * shape.kv_lora_rank / data["elements_per_token_per_layer"]
        print(f"\nCommon mistake: {size(without)}, which leaves out the RoPE key that all heads share.")
    print(*_layers(shape), *as_lines(notes), sep="\n")


def _layers(shape: Shape) -> list[str]:
    """Says what layers keep that keep something else than all keys and values."""
    lines = []
    for mixer, times in shape.mixers():
        some = f"{times} of {shape.n_layers} layers ({mixer.kind})"
        if mixer.kind == "cross":
            lines.append("Counted with as many tokens in the source, whose keys and values the decoder keeps, too.")
        elif mixer.keeps is not None:
            lines.append(f"{some} keep at most {mixer.keeps:,} tokens.")
        if mixer.stride > 1:
            lines.append(f"{some} keep one entry for {mixer.stride} tokens.")
        if mixer.state:
            lines.append(f"{some} keep a state of {mixer.state:,} numbers, however long the text is.")
    return ["", *dict.fromkeys(lines)] if lines else []


def _sizes(model: Model, tokens: int, dtype: str, batch: int) -> dict[str, float]:
    return {
        "bytes": memory.cache_bytes(model, tokens, dtype, batch),
        "bytes_per_token": memory.growth_per_token(model, dtype),
        "elements_per_token_per_layer": memory.cache_elements_per_layer(model),
    }
