"""Lists processors and their peaks: the makers' figures for dense products, without "structured sparsity"."""

from dataclasses import dataclass, replace
from typing import Any

from sparsity_lab.accounting.memory import SHORT, bytes_of


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

    def peak(self, dtype: str) -> float:
        """Returns the FLOP/s for a type. Raises ValueError for a type the device has no figure for."""
        bytes_of(dtype)
        name = SHORT.get(dtype, dtype)
        if name not in self.flops:
            raise ValueError(f"dtype={dtype!r}: {self.name} has figures for {', '.join(self.flops)} only")
        return self.flops[name]


T, GB = 1e12, 1e9
DEVICES = {
    device.name: device
    for device in (
        Device(
            "t4", {"float16": 65 * T, "float32": 8.1 * T}, 320 * GB, 16 * GB, 70, 0.35,
            "NVIDIA T4 data sheet, 2019"
        ),
        Device(
            "v100", {"float16": 125 * T, "float32": 15.7 * T}, 900 * GB, 32 * GB, 300, 0.8,
            "NVIDIA V100 data sheet, 2020 (SXM2)"
        ),
        Device(
            "a100", {"bfloat16": 312 * T, "float16": 312 * T, "float32": 19.5 * T}, 2039 * GB, 80 * GB, 400, 1.5,
            "NVIDIA A100 data sheet, 2021 (SXM, 80 GB)"
        ),
        Device(
            "h100", {"fp8": 1979 * T, "bfloat16": 989.4 * T, "float16": 989.4 * T, "float32": 67 * T},
            3350 * GB, 80 * GB, 700, 2.5, "NVIDIA H100 data sheet, 2023 (SXM; halved where it counts sparsity)"
        ),
        Device(
            "h800", {"fp8": 1513 * T, "bfloat16": 756 * T, "float16": 756 * T, "float32": 51 * T},
            2000 * GB, 80 * GB, 350, 2.0,
            "Peaks of the PCIe card, NVIDIA H100 data sheet, 2023; price: DeepSeek-V3 report (arXiv 2412.19437)"
        ),
        Device(
            "h800-sxm", {"fp8": 1979 * T, "bfloat16": 989.4 * T, "float16": 989.4 * T, "float32": 67 * T},
            3350 * GB, 80 * GB, 700, 2.0, "As the H100 SXM, with slower links; price: DeepSeek-V3 report, Table 1"
        ),
        Device(
            "h200", {"fp8": 1979 * T, "bfloat16": 989.4 * T, "float16": 989.4 * T, "float32": 67 * T},
            4800 * GB, 141 * GB, 700, 3.0, "NVIDIA H200 data sheet, 2024 (SXM; halved where it counts sparsity)"
        ),
        Device(
            "b200", {"fp8": 4500 * T, "bfloat16": 2250 * T, "float16": 2250 * T, "float32": 75 * T},
            8000 * GB, 180 * GB, 1000, 4.5, "NVIDIA DGX B200 data sheet, 2024 (one of eight, without sparsity)"
        ),
        Device(
            "mi300x", {"fp8": 2614.9 * T, "bfloat16": 1307.4 * T, "float16": 1307.4 * T, "float32": 163.4 * T},
            5300 * GB, 192 * GB, 750, 2.5, "AMD Instinct MI300X data sheet, 2023"
        ),
        Device(
            "rtx4090", {"fp8": 330.3 * T, "bfloat16": 165.2 * T, "float16": 165.2 * T, "float32": 82.6 * T},
            1008 * GB, 24 * GB, 450, 0.4, "NVIDIA Ada architecture white paper, 2023 (sums in float32)"
        ),
    )
}  # fmt: skip


def device(name: str, **changes: Any) -> Device:
    """Returns a device from the table, with some figures changed. Raises ValueError for an unknown name."""
    if name not in DEVICES:
        raise ValueError(f"device={name!r} is not known: use one of {', '.join(DEVICES)}")
    return replace(DEVICES[name], **changes)
