"""What a new worker process already has in it where the system can fork: this module is loaded once, and each worker
starts as a copy of it in some 20 ms and shares its memory."""

import gc
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process with threads of its own cannot be copied safely

import sparsity_lab.runs.worker
import sparsity_lab.training.trainer  # noqa: F401

gc.collect()
gc.freeze()  # or each worker's garbage collection would copy what they share
