"""What `sparsity-lab count`, `cost`, `compare`, `cache` and `optimum` say: as data for --json, and as text."""

from dataclasses import asdict
from typing import Any

from sparsity_lab.accounting import CONVENTIONS, EMBEDDINGS, count_parameters, flops_by_part
from sparsity_lab.accounting.cost import bill
from sparsity_lab.accounting.devices import Device
from sparsity_lab.accounting.memory import bytes_of, cache_bytes, cache_bytes_per_token, cache_elements_per_layer
from sparsity_lab.config import ModelConfig
from sparsity_lab.units import billions, number, size

PARTS = ("embedding", "attention", "norms", "router", "dense", "shared", "routed", "head")
TABLES = {"both": "both tables of embeddings", "output": "the output table alone", "none": "no table"}


def count(config: ModelConfig) -> dict[str, Any]:
    """``total`` weights with both tables; ``active`` by embedding convention; ``parts`` and what of them works on a
    token; FLOPs a token by part, forward (None for an encoder-decoder)."""
    weights = count_parameters(config)
    parts = {name: getattr(weights, name) for name in PARTS}
    return {
        "total": weights.total,
        "active": {convention: weights.active_with(convention) for convention in EMBEDDINGS},
        "sparsity_experts": config.sparsity,
        "sparsity_params": weights.sparsity,
        "parts": parts,
        "active_parts": parts | {"routed": weights.routed_active},
        "flops_per_token": None if config.n_encoder_layers else flops_by_part(config, min(config.context, 4096)),
    }


def count_text(name: str, config: ModelConfig) -> str:
    data = count(config)
    experts = f"{config.top_k} of {config.n_experts} experts" if config.has_router else "dense"
    if config.n_shared_experts:
        experts += f" and {config.n_shared_experts} shared"
    lines = [
        f"{name}: {config.n_layers} layers, width {config.d_model}, {experts}",
        "",
        f"{'part':<14}{'weights':>20}{'at work on a token':>22}{'share of all':>14}",
    ]
    for part, weights in data["parts"].items():
        if weights:
            label = "feed-forward" if part == "routed" and not config.has_router else part
            share = f"{weights / data['total']:.1%}"
            lines.append(f"{label:<14}{weights:>20,}{data['active_parts'][part]:>22,}{share:>14}")
    lines.append(f"{'total':<14}{data['total']:>20,}{data['active']['both']:>22,}{1:>14.1%}")
    lines += ["", f"Total  {billions(data['total'])}"]
    lines += [f"Active {billions(data['active'][c])} counting {TABLES[c]}" for c in EMBEDDINGS]
    lines.append(
        f"Sparsity {data['sparsity_experts']:.4g} by experts, {data['sparsity_params']:.4g} by parameters: "
        f"the share of either that sleeps on a token"
    )
    return "\n".join(lines)


def cost(
    config: ModelConfig, tokens: float, device: Device, utilisation: float, dtype: str, convention: str
) -> dict[str, Any]:
    """Raises ValueError for an unknown convention, and as `bill` does."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention={convention!r} is not known: use one of {', '.join(CONVENTIONS)}")
    if not 0 < tokens < 1e18:
        raise ValueError(f"tokens={tokens:g} must be above 0 and below 1e18, e.g. 1e12")
    flops = CONVENTIONS[convention](config) * tokens
    return asdict(bill(flops, device, utilisation, dtype)) | {
        "convention": convention,
        "device": device.name,
        "dtype": dtype,
        "peak": device.peak(dtype),
        "price": device.price,
        "utilisation": utilisation,
    }


def cost_text(name: str, data: dict[str, Any], tokens: float) -> str:
    return "\n".join(
        [
            f"{name} on {tokens:.4g} tokens, {data['device']} at {data['utilisation']:.1%} of its peak "
            f"({data['dtype']}, {data['peak']:.4g} FLOP/s), $ {data['price']:g} an hour",
            "",
            f"FLOPs ({data['convention']})   {data['flops']:.3g}",
            f"device hours    {data['device_hours']:,.0f}",
            f"cost            $ {data['dollars']:,.0f}",
            f"energy          {data['megawatt_hours']:,.0f} MWh at most, for the boards alone",
        ]
    )


def compare(a: ModelConfig, b: ModelConfig) -> list[dict[str, Any]]:
    """Rows: what, a, b."""
    return [
        {"what": what, "a": first, "b": second}
        for (what, first), (_, second) in zip(_profile(a).items(), _profile(b).items(), strict=True)
    ]


def _profile(config: ModelConfig) -> dict[str, float | None]:
    weights = count_parameters(config)
    counted = not config.n_encoder_layers
    return {
        "total weights": weights.total,
        "active weights (both tables)": weights.active_with("both"),
        "active weights (output table)": weights.active_with("output"),
        "sparsity by experts": config.sparsity,
        "sparsity by parameters": weights.sparsity,
        "forward FLOPs a token at context 1": sum(flops_by_part(config, 1).values()) if counted else None,
        "forward FLOPs a token at context 4096": sum(flops_by_part(config, 4096).values()) if counted else None,
        "weights, bytes in bfloat16": weights.total * bytes_of("bfloat16"),
        "cache, numbers a token and layer": cache_elements_per_layer(config),
        "cache, bytes a token in bfloat16": cache_bytes_per_token(config),
    }


def compare_text(a: str, b: str, rows: list[dict[str, Any]]) -> str:
    wide = max(12, len(a) + 2, len(b) + 2)
    lines = [f"{'':<38}{a:>{wide}}{b:>{wide}}{'second/first':>14}"]
    for row in rows:
        ratio = f"{row['b'] / row['a']:.3g}" if row["a"] and row["b"] is not None else ""
        lines.append(f"{row['what']:<38}{number(row['a']):>{wide}}{number(row['b']):>{wide}}{ratio:>14}")
    return "\n".join(lines)


def cache(config: ModelConfig, tokens: int, dtype: str, batch: int) -> dict[str, Any]:
    """Bytes of a cache, and of the caches the same heads would need as MHA, GQA with 8 groups, and MQA (after Table 1
    of DeepSeek-V2, arXiv 2405.04434). Raises ValueError for sizes that make no sense."""
    if not 1 <= tokens <= config.context:
        raise ValueError(f"tokens={tokens:g} must be from 1 to the model's context={config.context}")
    if not 1 <= batch <= 10**9:
        raise ValueError(f"batch={batch:g} must be from 1 to 1e9")
    return _cache_row(config, tokens, dtype, batch) | {
        "twins": {name: _cache_row(twin, tokens, dtype, batch) for name, twin in attention_twins(config).items()}
    }


def _cache_row(config: ModelConfig, tokens: int, dtype: str, batch: int) -> dict[str, float]:
    return {
        "bytes": cache_bytes(config, tokens, dtype, batch),
        "bytes_per_token": cache_bytes_per_token(config, dtype),
        "elements_per_token_per_layer": cache_elements_per_layer(config),
    }


def attention_twins(config: ModelConfig) -> dict[str, ModelConfig]:
    """The model with other attention: mha, gqa (8 groups, or the largest number below that fits) and mqa. Of MLA the
    part of a head without positions gives the width, as in DeepSeek's table."""
    groups = max(g for g in range(1, min(8, config.n_heads) + 1) if config.n_heads % g == 0)
    plain = {"kv_lora_rank": None, "q_lora_rank": None, "qk_nope_head_dim": None, "qk_rope_head_dim": None}
    width = config.nope_dim if config.is_mla else config.d_head
    heads = {"mha": config.n_heads, "gqa": groups, "mqa": 1}
    return {n: config.replace(**plain, v_head_dim=None, d_head=width, n_kv_heads=h) for n, h in heads.items()}


def cache_text(name: str, config: ModelConfig, tokens: int, dtype: str, batch: int) -> str:
    data = cache(config, tokens, dtype, batch)
    kind = "MLA" if config.is_mla else {config.n_heads: "MHA", 1: "MQA"}.get(config.kv_heads, "GQA")
    rows = {f"{name} ({kind})": data} | {f"with {n.upper()}": row for n, row in data["twins"].items()}
    lines = [
        f"Cache of {batch:,} × {tokens:,} tokens, {dtype}",
        "",
        f"{'':<28}{'numbers a token, layer':>24}{'bytes a token':>16}{'in all':>14}",
    ]
    lines += [
        f"{label:<28}{row['elements_per_token_per_layer']:>24,}{row['bytes_per_token']:>16,.0f}{size(row['bytes']):>14}"
        for label, row in rows.items()
    ]
    if config.is_mla:
        without = data["bytes"] * (config.kv_lora_rank or 0) / cache_elements_per_layer(config)
        lines += ["", f"Common mistake: {size(without)}, which leaves out the RoPE key that all heads share."]
    if config.window is not None:
        lines += ["", f"Layers with a sliding window keep {config.window} tokens at most."]
    return "\n".join(lines)


def optimum_text(law: str, source: str, n_means: str, compute: float, data: dict[str, Any]) -> str:
    """``data``: an `Optimum` as a dict."""
    total = "not known to this law" if data["n_total"] is None else f"{number(data['n_total'])} in all"
    lines = [
        f"{law} at {compute:.4g} FLOPs: {source}",
        "",
        f"sparsity    {data['sparsity']:.4g}",
        f"parameters  {total} (its N: {n_means})",
        f"active      {number(data['n_active'])} on a token",
        f"tokens      {number(data['tokens'])}, {data['tokens'] / data['n_active']:.3g} for each active parameter",
        f"loss        {data['loss']:.4f} nats a token",
    ]
    return "\n".join(lines + [f"Careful: {warning}" for warning in data["warnings"]])
