"""What a config costs, from arithmetic alone: nothing here imports torch."""

from sparsity_lab.accounting.flops import (
    CONVENTIONS,
    abnar_flops_per_token,
    active_flops_6nd,
    causal_flops_per_token,
    decode_flops_by_part,
    flops_by_part,
    flops_per_step,
    flops_per_token,
    flops_skipping_zeros,
    mtp_flops,
    plan,
    prefill_flops,
    run_flops_by_part,
)
from sparsity_lab.accounting.parameters import EMBEDDINGS, Parameters, count_parameters

__all__ = [
    "CONVENTIONS",
    "EMBEDDINGS",
    "Parameters",
    "abnar_flops_per_token",
    "active_flops_6nd",
    "causal_flops_per_token",
    "count_parameters",
    "decode_flops_by_part",
    "flops_by_part",
    "flops_per_step",
    "flops_per_token",
    "flops_skipping_zeros",
    "mtp_flops",
    "plan",
    "prefill_flops",
    "run_flops_by_part",
]
