"""Whether two ways to compute give the same numbers: the size of the difference over the size of what is right."""

import torch
from torch import Tensor

# bfloat16 keeps 8 binary digits, so each rounding may move a number by 2⁻⁹ of its size; several follow each other.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


def difference(got: Tensor, wanted: Tensor) -> float:
    """Returns ‖got − wanted‖ / ‖wanted‖, computed in float64 on the CPU; NaN if any number of ``got`` is."""
    a, b = got.detach().double().cpu(), wanted.detach().double().cpu()
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def assert_alike(got: Tensor, wanted: Tensor) -> None:
    """Raises AssertionError if they differ by more than the tolerance of ``got``'s type."""
    found = difference(got, wanted)
    assert found <= TOLERANCE[got.dtype], f"differs by {found:.1e}, more than {TOLERANCE[got.dtype]:.0e}"
