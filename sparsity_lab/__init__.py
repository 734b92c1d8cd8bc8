"""Sparsity Lab: small mixture-of-experts language models to learn sparsity with."""

import os

# Before torch is there: its threads wait for each other without using a core. On a machine that has other work, they
# made a step 20 to 60 times as long as with one thread (`benchmarks/waiting_threads.py`).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
