"""Estimate the hours, the money and the energy of a training run."""

import argparse
import json
from dataclasses import asdict

from sparsity_lab.accounting.cost import training_bill
from sparsity_lab.accounting.devices import DEVICES, device
from sparsity_lab.accounting.flops import CONVENTIONS, sequence_length
from sparsity_lab.accounting.memory import long_name
from sparsity_lab.accounting.presets import MODEL_NAMES, named_model
from sparsity_lab.cli.count import as_lines
from sparsity_lab.units import quantity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help=MODEL_NAMES)
    add("--tokens", required=True, help="training tokens, e.g. 14.8e12 or 14.8T")
    add("--device", default="h100", help=f"one of {', '.join(DEVICES)} (default h100)")
    add("--utilisation", "--utilization", type=float, default=0.4, help="share of the device's peak (default 0.4)")
    add("--dtype", help="type whose peak counts, e.g. fp8 (default bf16, or fp16 where a device lacks it)")
    add("--price", type=float, help="$ per hour (default: the price in the lab's table)")
    add("--convention", default="6ND", help=f"to count FLOPs by: {', '.join(CONVENTIONS)} (default 6ND)")
    add("--context", help="tokens of a sequence (default 8192, if the model takes them)")


def run(options: argparse.Namespace) -> None:
    name, model, notes, _ = named_model(options.model)
    if options.price is not None and not 0 <= options.price < 1e6:
        raise ValueError(f"price={options.price:g} must be $ per hour, from 0 to 1e6")
    machine = device(options.device, **({} if options.price is None else {"price": options.price}))
    dtype = long_name(options.dtype or machine.usual)
    tokens, length = quantity("tokens", options.tokens), sequence_length(model, options.context)
    paid = training_bill(model, tokens, machine, options.utilisation, dtype, options.convention, length)

    if options.json:
        data = {"model": name, "tokens": tokens, **asdict(paid), "convention": options.convention}
        data |= {"context": length, "device": machine.name, "dtype": dtype, "peak": machine.peak(dtype)}
        data |= {"price": machine.price, "utilisation": options.utilisation, "notes": list(notes)}
        print(json.dumps(data))
        return
    sequences = "at any length" if options.convention == "6ND" else f"in sequences of {length:,} (see --context)"
    print(
        f"{name} on {tokens:.4g} tokens {sequences}, {machine.name} at {options.utilisation:.1%} of its peak "
        f"in {dtype} ({machine.peak(dtype):.4g} FLOP/s), $ {machine.price:g} per hour\n\n"
        f"FLOPs ({options.convention})   {paid.flops:.3g}\n"
        f"device hours    {paid.device_hours:,.0f}\n"
        f"cost            $ {paid.dollars:,.0f}\n"
        f"energy          at most {paid.megawatt_hours:,.0f} MWh, for the boards alone"
    )
    print(*as_lines(notes), sep="\n")
