"""MegaBlocks' own compiled pieces, built for this GPU, and the backends compared once more with them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import torch

from benchmarks.gpu import backends
from benchmarks.gpu.install import BY_HAND, pip_install
from benchmarks.gpu.place import PIECES, environment
from benchmarks.gpu.process import step_command
from benchmarks.timing import Row
from sparsity_lab.models.megablocks import OPS, supplied


def rows(device: str) -> Iterator[Row | str]:
    if find_spec(OPS) is not None:  # built when MegaBlocks was installed, or in the call below
        yield from backends.rows(device)
        return
    if reason := _why_not_built(device):
        yield f"{reason}. Plain torch stands in for {', '.join(supplied())}"
        return
    major, minor = torch.cuda.get_device_capability()
    settings = {"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}", "MAX_JOBS": str(os.cpu_count() or 1)}
    built = pip_install(PIECES, "-v", BY_HAND["megablocks"], env=environment() | settings)
    if built.returncode or not list(PIECES.glob(f"{OPS}*")):
        print(built.stdout[-3000:], built.stderr[-3000:], file=sys.stderr)
        errors = re.findall(r"(?i)^.*\berror\b.*$", built.stdout + built.stderr, re.MULTILINE)
        raise SystemExit(f"They could not be built: {(errors or ['pip said nothing'])[0].strip()[:200]}")
    with_pieces = environment() | {"PYTHONPATH": os.pathsep.join([str(PIECES), environment()["PYTHONPATH"]])}
    subprocess.run(step_command("pieces", device), env=with_pieces, check=True)


def _why_not_built(device: str) -> str:
    from torch.utils.cpp_extension import CUDA_HOME

    if device == "cpu":
        return "They need a GPU"
    return "" if CUDA_HOME else "They can't be built, because nvcc, CUDA's compiler, is missing"
