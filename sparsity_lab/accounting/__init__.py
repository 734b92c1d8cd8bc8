"""What a config costs, from arithmetic alone: nothing here imports torch."""

from sparsity_lab.accounting.flops import (
    active_flops_6nd,
    flops_by_part,
    flops_per_step,
    flops_per_token,
    plan,
)
from sparsity_lab.accounting.parameters import Parameters, count_parameters

__all__ = [
    "Parameters",
    "active_flops_6nd",
    "count_parameters",
    "flops_by_part",
    "flops_per_step",
    "flops_per_token",
    "plan",
]
