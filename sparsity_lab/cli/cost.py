"""Estimate the hours, the money and the energy of a training run."""

import argparse
import json
from dataclasses import asdict

from sparsity_lab.accounting.cost import training_bill
from sparsity_lab.accounting.devices import DEVICES, device
from sparsity_lab.accounting.flops import CONVENTIONS
from sparsity_lab.accounting.presets import MODEL_NAMES, named_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help=MODEL_NAMES)
    add("--tokens", type=float, required=True, help="training tokens, e.g. 14.8e12")
    add("--device", default="h100", help=f"one of {', '.join(DEVICES)} (default h100)")
    add("--utilisation", type=float, default=0.4, help="share of the device's peak (default 0.4)")
    add("--dtype", help="type whose peak counts, e.g. bf16 or fp8 (default: the device's fastest)")
    add("--price", type=float, help="$ per hour (default: the price in the lab's table)")
    add("--convention", default="6ND", help=f"to count FLOPs by: {', '.join(CONVENTIONS)} (default 6ND)")


def run(options: argparse.Namespace) -> None:
    name, config = named_model(options.model)
    if options.price is not None and not 0 <= options.price < 1e6:
        raise ValueError(f"price={options.price:g} must be $ per hour, from 0 to 1e6")
    machine = device(options.device, **({} if options.price is None else {"price": options.price}))
    dtype = options.dtype or machine.fastest
    paid = training_bill(config, options.tokens, machine, options.utilisation, dtype, options.convention)

    if options.json:
        data = {"model": name, "tokens": options.tokens, **asdict(paid), "convention": options.convention}
        data |= {"device": machine.name, "dtype": dtype, "peak": machine.peak(dtype), "price": machine.price}
        print(json.dumps(data | {"utilisation": options.utilisation}))
        return
    print(
        f"{name} on {options.tokens:.4g} tokens, {machine.name} at {options.utilisation:.1%} of its peak "
        f"({dtype}, {machine.peak(dtype):.4g} FLOP/s), $ {machine.price:g} per hour\n\n"
        f"FLOPs ({options.convention})   {paid.flops:.3g}\n"
        f"device hours    {paid.device_hours:,.0f}\n"
        f"cost            $ {paid.dollars:,.0f}\n"
        f"energy          at most {paid.megawatt_hours:,.0f} MWh, for the boards alone"
    )
