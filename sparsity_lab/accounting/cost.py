"""From FLOPs and bytes to hours, money and energy, and the roofline: which limit of a device is met first."""

import math
from dataclasses import dataclass

from sparsity_lab.accounting.devices import Device
from sparsity_lab.accounting.flops import decode_flops_by_part
from sparsity_lab.accounting.memory import bytes_of, cache_bytes
from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.config import ModelConfig


@dataclass(frozen=True)
class Bill:
    """What a training run costs."""

    flops: float
    device_hours: float
    dollars: float
    megawatt_hours: float  # the boards at full power: an upper bound for them, without cooling and the rest

    def days_on(self, devices: int) -> float:
        return self.device_hours / devices / 24


def bill(flops: float, device: Device, utilisation: float, dtype: str) -> Bill:
    """``utilisation``: the share of the device's peak for that type that the FLOPs reach.

    Raises ValueError unless 0 < utilisation ≤ 1 and 0 ≤ flops < ∞.
    """
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation={utilisation:g} must be above 0 and at most 1, e.g. 0.4")
    if not 0 <= flops < math.inf:
        raise ValueError(f"flops={flops:g} must be a number of FLOPs, e.g. 1e24")
    hours = flops / (device.peak(dtype) * utilisation) / 3600
    return Bill(flops, hours, hours * device.price, hours * device.watts / 1e6)


def utilisation(flops: float, device_hours: float, device: Device, dtype: str) -> float:
    """The share of the device's peak that these FLOPs are of what it could have done in these hours."""
    return flops / (device_hours * 3600 * device.peak(dtype))


@dataclass(frozen=True)
class Work:
    """A piece of work on a roofline (Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785)."""

    flops: float
    bytes: float  # between memory and chip

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOPs a byte."""
        return self.flops / self.bytes

    def seconds(self, device: Device, dtype: str) -> float:
        """At best: as long as the slower of computing and moving takes."""
        return max(self.flops / device.peak(dtype), self.bytes / device.bandwidth)

    def is_memory_bound(self, device: Device, dtype: str) -> bool:
        return self.bytes / device.bandwidth > self.flops / device.peak(dtype)


def experts_touched(config: ModelConfig, tokens: int) -> float:
    """Routed experts of a layer that at least one of ``tokens`` tokens chooses, on average, if routing is even and
    tokens choose independently: E·(1 − (1 − K/E)^tokens)."""
    return config.n_experts * (1 - config.sparsity**tokens)


def decode_work(config: ModelConfig, batch: int, position: int, dtype: str = "bfloat16") -> Work:
    """One new token for each of ``batch`` sequences of ``position`` tokens: every weight that works is read once, and
    each sequence's cache. Raises ValueError for a batch or position that is not positive."""
    if batch < 1 or position < 1:
        raise ValueError(f"batch={batch}, position={position}: both must be at least 1")
    count = count_parameters(config)
    every_token = count.active_with("output") - count.routed_active
    weights = every_token + count.routed / config.n_experts * experts_touched(config, batch)
    cache = cache_bytes(config, position, dtype, batch)
    flops = batch * sum(decode_flops_by_part(config, position).values())
    return Work(flops, weights * bytes_of(dtype) + cache)
