"""Lists processors and what they could do at most. The data is `devices.toml`."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsity_lab.accounting.memory import bytes_of, long_name
from sparsity_lab.config import one_of


@dataclass(frozen=True)
class Device:
    """A processor. Adapt it with ``dataclasses.replace`` or `device`: prices above all are guesses to edit."""

    name: str
    flops: dict[str, float]  # peak FLOP/s of dense matrix products, by type
    bandwidth: float  # bytes/s between memory and chip
    memory: float  # bytes
    watts: float  # of the board, at most
    price: float  # $ per hour, rented
    source: str

    @property
    def fastest(self) -> str:
        """The type with the highest peak."""
        return max(self.flops, key=lambda dtype: self.flops[dtype])

    @property
    def usual(self) -> str:
        """The type in which most models are trained: bfloat16, or float16 on a device that lacks it."""
        return "bfloat16" if "bfloat16" in self.flops else "float16"

    def peak(self, dtype: str) -> float:
        """Returns the FLOP/s for a type. Raises ValueError for a type the device has no figure for."""
        bytes_of(dtype)
        name = long_name(dtype)
        if name not in self.flops:
            raise ValueError(f"dtype={dtype!r}: {self.name} has figures for {', '.join(self.flops)} only")
        return self.flops[name]


def _read() -> dict[str, Device]:
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    for fields in tables.values():
        fields["flops"] = {dtype: peak * 1e12 for dtype, peak in fields["flops"].items()}
        fields |= {"bandwidth": fields["bandwidth"] * 1e9, "memory": fields["memory"] * 2**20}
    return {name: Device(name, **fields) for name, fields in tables.items()}


DEVICES = _read()


def device(name: str, **changes: Any) -> Device:
    """Returns a device from the table, by its name in small or capital letters, with some figures changed. Raises
    ValueError for an unknown name."""
    one_of("device", name.lower(), DEVICES)
    return replace(DEVICES[name.lower()], **changes)
