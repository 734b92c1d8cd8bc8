"""Tell whether a model fits on some GPUs, to serve or to train it, and what each of them holds."""

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from sparsity_lab.accounting import fits
from sparsity_lab.accounting.devices import DEVICES, device
from sparsity_lab.accounting.fits import Held, Split
from sparsity_lab.accounting.formats import CACHES, FORMATS, published_format, weight_format
from sparsity_lab.accounting.memory import SHORT, bytes_of
from sparsity_lab.accounting.presets import MODEL_NAMES, PRESETS, named_model
from sparsity_lab.accounting.shape import Model, Shape, lab_config
from sparsity_lab.accounting.train_memory import RECOMPUTE, Recompute
from sparsity_lab.cli.count import as_lines
from sparsity_lab.config import one_of
from sparsity_lab.units import quantity

CONTEXT = 8192  # if none is given

Plan = Callable[[Split, int, int], Held]  # of a split, a context and a batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help=MODEL_NAMES)
    add("--device", default="h100", help=f"one of {', '.join(DEVICES)} (default h100)")
    add("--gpus", type=int, help="how many (default: as many as the split needs, or 1)")
    add(
        "--context",
        help=f"tokens of each sequence, e.g. 32768 or 128k (default {CONTEXT:,}, or the longest if that is less)",
    )
    add("--batch", type=int, help="sequences at a time, on all GPUs together (default: one per copy)")
    add("--weights", help=f"{', '.join(FORMATS)} (default: as the config.json says, else bf16)")
    add("--cache", help=f"{', '.join(CACHES)} (default bf16)")
    add("--tensor", type=int, help="cut matrices over so many GPUs (default: all; in training 1)")
    add("--pipeline", type=int, help="stages of layers (default 1)")
    add("--data", type=int, help="copies of the model (default 1; in training all)")
    add("--expert", type=int, help="spread routed experts over so many GPUs (default: as --tensor)")
    add("--usable", type=float, default=0.9, help="share of a GPU's memory to fill (default 0.9)")
    add("--train", action="store_true", help="count training with AdamW instead of serving")
    add("--zero", type=int, help="ZeRO stage, 0 to 3, with --train (default 0)")
    add("--recompute", help=f"with --train: {', '.join(RECOMPUTE)} (default scores)")


def run(options: argparse.Namespace) -> None:
    name, config, notes, seen = named_model(options.model)
    settings = config.settings if isinstance(config, Shape) else PRESETS[name].settings
    if isinstance(config, Shape):
        config = lab_config(config) or config
    longest = fits.longest_context(settings, config.context)
    context = min(CONTEXT, longest) if options.context is None else quantity("context", options.context)
    if not 1 <= context <= longest or context != int(context):
        raise ValueError(f"context={context:g} must be a whole number from 1 to the model's {longest}")
    if not 0 < options.usable <= 1:
        raise ValueError(f"usable={options.usable:g} must be above 0 and at most 1, e.g. 0.9")

    gpu, split, context = device(options.device), _split(options), int(context)
    options.batch = split.data if options.batch is None else options.batch
    if not 1 <= options.batch <= fits.MANY:
        raise ValueError(f"batch={options.batch} must be from 1 to {fits.MANY}")
    plan, stored, other = _plan(options, config, settings)
    room = gpu.memory * options.usable
    held = plan(split, context, options.batch)
    batch = fits.largest(lambda n: plan(split, context, n).total <= room, fits.MANY)
    tokens = fits.largest(lambda n: plan(split, n, options.batch).total <= room, longest)
    needed = _needed(plan, context, options, room)
    data = {
        "model": name, "device": gpu.name, "gpus": split.devices, **asdict(split), "training": options.train,
        "context": context, "batch": options.batch, **stored, "notes": list(notes),
        "each_gpu": asdict(held), "total": held.total, "vision": seen * other / split.tensor,
        "memory": gpu.memory, "usable": room, "fits": held.total <= room,
        "largest_batch": batch, "longest_context": tokens, "models_longest_context": longest,
        "needed": needed and {"gpus": needed.devices, **asdict(needed)},
    }  # fmt: skip
    print(json.dumps(data) if options.json else _text(data, options.usable))


def _split(options: argparse.Namespace) -> Split:
    """Returns the split that was asked for. GPUs that it leaves over cut matrices, or in training hold copies."""
    tensor, pipeline, data = options.tensor or 1, options.pipeline or 1, options.data or 1
    for name in ("gpus", "tensor", "pipeline", "data", "expert"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    asked = tensor * pipeline * data
    more, rest = divmod(options.gpus or asked, asked)
    free = "data" if options.train else "tensor"
    if rest or (more > 1 and getattr(options, free)):
        raise ValueError(
            f"gpus={options.gpus} must be tensor × pipeline × data = {tensor} × {pipeline} × {data}"
            + ("" if getattr(options, free) else " or a multiple of it")
        )
    split = Split(tensor, pipeline, data, options.expert)
    return replace(split, **{free: more * getattr(split, free)})


def _plan(
    options: argparse.Namespace, config: Model, settings: Mapping[str, Any]
) -> tuple[Plan, dict[str, Any], float]:
    """Returns what counts, what it assumes, and the bytes of a weight that is not compressed."""
    other = "serving: leave out --train" if options.train else "training: add --train"
    for name in ("cache",) if options.train else ("zero", "recompute"):
        if getattr(options, name) is not None:
            raise ValueError(f"{name}={getattr(options, name)} belongs to {other}")
    if options.train:
        dtype, zero = options.weights or "bf16", options.zero or 0
        again: Recompute = options.recompute or "scores"
        one_of("weights", dtype, SHORT)
        assumed = {"weights": dtype, "zero": zero, "recompute": again}
        return (
            lambda split, n, batch: fits.training(config, split, dtype, zero, again, n, batch),
            assumed,
            bytes_of(dtype),
        )
    stored = weight_format(options.weights) if options.weights else published_format(settings, config.n_layers)
    cache = options.cache or "bf16"
    assumed = {"weights": stored.name, "cache": cache}
    return lambda split, n, batch: fits.serving(config, split, stored, cache, n, batch), assumed, stored.other


def _needed(plan: Plan, context: int, options: argparse.Namespace, room: float) -> Split | None:
    """Returns the split over the fewest GPUs that would do, with powers of two wherever none was asked for; None if
    none would. Copies help only if ZeRO spreads something over them."""
    tensors = [options.tensor] if options.tensor else [1 << n for n in range(6)]
    stages = [options.pipeline] if options.pipeline else [1 << n for n in range(6)]
    copies = [options.data] if options.data else [1 << n for n in range(10 if options.train and options.zero else 1)]
    splits = [Split(*ways, options.expert) for ways in product(tensors, stages, copies)]
    for each in sorted(splits, key=lambda split: (split.devices, split.pipeline, split.tensor)):
        with suppress(ValueError):  # more than the model's heads or layers
            if plan(each, context, options.batch).total <= room:
                return each
    return None


def _text(data: Mapping[str, Any], usable: float) -> str:
    ways = _ways(data)
    kind = f"ZeRO {data['zero']}, recomputing {data['recompute']}" if data["training"] else f"cache {data['cache']}"
    lines = [
        f"{data['model']} on {data['gpus']} × {data['device']}" + (f", split by {ways}" if ways else ""),
        f"{'training' if data['training'] else 'serving'} {data['batch']:,} × {data['context']:,} tokens; weights "
        f"{data['weights']}, {kind}",
        "",
        f"{'Each GPU holds':<26}{'GB':>9}{'GiB':>10}",
        *(_row(part, n) for part, n in data["each_gpu"].items() if n),
        _row("total", data["total"]),
        _row(f"usable, {usable:.0%} of memory", data["usable"]),
        "",
    ]
    spare = abs(data["usable"] - data["total"])
    amount = f"{_amount(spare)} per GPU"
    if data["fits"]:
        lines.append(f"It fits, with {amount} to spare.")
    else:
        needed = data["needed"]
        would = f"{needed['gpus']:,} GPUs would do ({_ways(needed)})" if needed else "no split that was tried would do"
        lines.append(f"It does not fit: {amount} too much; {would}.")
    lines.append(_most(data))
    if data["vision"]:
        lines.append(f"Its vision part takes {_amount(data['vision'])} more per GPU, and is not in these numbers.")
    return "\n".join([*lines, *as_lines(data["notes"])])


def _amount(n: float) -> str:
    return f"{n / 1e9:,.2f} GB ({n / 2**30:,.2f} GiB)"


def _ways(split: Mapping[str, Any]) -> str:
    return ", ".join(f"{way} {split[way]}" for way in ("tensor", "pipeline", "data", "expert") if (split[way] or 1) > 1)


def _most(data: Mapping[str, Any]) -> str:
    batch, context = data["batch"], data["context"]
    if not data["longest_context"]:
        return f"No context fits with a batch of {batch:,}."
    longest = f"longest context for batch {batch:,}: {data['longest_context']:,} of the model's"
    return (
        f"Largest batch at {context:,} tokens: {data['largest_batch']:,}; {longest} {data['models_longest_context']:,}."
    )


def _row(name: str, n: float) -> str:
    return f"{name:<26}{n / 1e9:>9,.2f}{n / 2**30:>10,.2f}"
