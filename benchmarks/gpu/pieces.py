"""MegaBlocks' own compiled pieces, built for this GPU, and the backends compared once more with them."""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu import backends
from benchmarks.gpu.install import BY_HAND, pip
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
    env = environment() | settings
    with tempfile.TemporaryDirectory() as folder:
        built = pip("download", "--no-binary", ":all:", "-d", folder, BY_HAND["megablocks"], env=env)
        if not built.returncode:
            built = pip("install", "-v", "--target", str(PIECES), str(sources(Path(folder))), env=env)
    if built.returncode or not list(PIECES.glob(f"{OPS}*")):
        print(built.stdout[-3000:], built.stderr[-3000:], file=sys.stderr)
        errors = re.findall(r"(?i)^.*\berror\b.*$", built.stdout + built.stderr, re.MULTILINE)
        raise SystemExit(f"They could not be built: {(errors or ['pip said nothing'])[0].strip()[:200]}")
    with_pieces = environment() | {"PYTHONPATH": os.pathsep.join([str(PIECES), environment()["PYTHONPATH"]])}
    subprocess.run(step_command("pieces", device), env=with_pieces, check=True)


def sources(folder: Path) -> Path:
    """Unpacks what pip has downloaded, and leaves out of two calls the argument that CUDA 13 no longer has."""
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    [header] = folder.glob("*/csrc/cumsum.h")
    header.write_text(re.sub(r",\s*debug_synchronous\)", ")", header.read_text()))
    return header.parents[1]


def _why_not_built(device: str) -> str:
    from torch.utils.cpp_extension import CUDA_HOME

    if device == "cpu":
        return "They need a GPU"
    return "" if CUDA_HOME else "They can't be built, because nvcc, CUDA's compiler, is missing"
