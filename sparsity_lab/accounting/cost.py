"""Turns FLOPs and bytes into hours, money and energy, and says on a roofline which limit of a device is met first."""

import math
from dataclasses import dataclass

from sparsity_lab.accounting.devices import Device
from sparsity_lab.accounting.flops import CONVENTIONS, decode_flops_by_part, sequence_length
from sparsity_lab.accounting.memory import bytes_of, cache_bytes
from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.accounting.shape import Model
from sparsity_lab.config import one_of


@dataclass(frozen=True)
class Bill:
    """The costs of a training run."""

    flops: float
    device_hours: float
    dollars: float
    megawatt_hours: float  # the boards at full power: an upper bound for them, without cooling and the rest

    def days_on(self, devices: int) -> float:
        return self.device_hours / devices / 24


def bill(flops: float, device: Device, utilisation: float, dtype: str) -> Bill:
    """Returns what ``flops`` cost on a device, of whose peak for ``dtype`` they reach the share ``utilisation``.

    Raises ValueError unless 0 < utilisation ≤ 1 and 0 ≤ flops < ∞.
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation={utilisation:g} must be above 0 and at most 1, e.g. 0.4")
    if not 0 <= flops < math.inf:
        raise ValueError(f"flops={flops:g} must be a number of FLOPs, e.g. 1e24")
    hours = flops / (device.peak(dtype) * utilisation) / 3600
    return Bill(flops, hours, hours * device.price, hours * device.watts / 1e6)


def training_bill(
    model: Model,
    tokens: float,
    device: Device,
    utilisation: float,
    dtype: str,
    convention: str = "6ND",
    context: int | None = None,
) -> Bill:
    """Returns what training on ``tokens`` tokens costs, its FLOPs counted by one of `CONVENTIONS`, in sequences of
    ``context`` tokens (default: see `sequence_length`).

    Raises ValueError for an unknown convention, for numbers of tokens that make no sense, and as `bill` does.
    """
    one_of("convention", convention, CONVENTIONS)
    if not 0 < tokens < 1e18:
        raise ValueError(f"tokens={tokens:g} must be above 0 and below 1e18, e.g. 1e12")
    flops = CONVENTIONS[convention](model, context=sequence_length(model, context))
    return bill(flops * tokens, device, utilisation, dtype)


def utilisation(flops: float, device_hours: float, device: Device, dtype: str) -> float:
    """Returns the share that ``flops`` are of what the device could have done at its peak in these hours."""
    return flops / (device_hours * 3600 * device.peak(dtype))


@dataclass(frozen=True)
class Work:
    """A piece of work on a roofline (Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785)."""

    flops: float
    bytes: float  # between memory and chip

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, in FLOPs per byte."""
        return self.flops / self.bytes

    def seconds(self, device: Device, dtype: str) -> float:
        """Returns the least time: that of the slower one of computing and moving."""
        return max(self.flops / device.peak(dtype), self.bytes / device.bandwidth)

    def is_memory_bound(self, device: Device, dtype: str) -> bool:
        return self.bytes / device.bandwidth > self.flops / device.peak(dtype)


def experts_touched(config: Model, tokens: int) -> float:
    """Returns how many routed experts of a layer at least one of ``tokens`` tokens chooses, on average, if routing is
    even and tokens choose independently: E·(1 − (1 − K/E)^tokens)."""
    return config.n_experts * (1 - config.sparsity**tokens)


def decode_work(config: Model, batch: int, position: int, dtype: str = "bfloat16") -> Work:
    """Returns the work of one new token for each of ``batch`` sequences of ``position`` tokens. Every active weight is
    read once, and each sequence's cache. Raises ValueError for a batch or position that is not positive."""
    if batch < 1 or position < 1:
        raise ValueError(f"batch={batch}, position={position}: both must be at least 1")
    count = count_parameters(config)
    every_token = count.active_with("output") - count.routed_active
    weights = every_token + count.routed / config.n_experts * experts_touched(config, batch)
    cache = cache_bytes(config, position, dtype, batch)
    flops = batch * sum(decode_flops_by_part(config, position).values())
    return Work(flops, weights * bytes_of(dtype) + cache)
