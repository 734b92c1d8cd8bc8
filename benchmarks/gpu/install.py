"""Installs what the steps import and this Python lacks into build/gpu/packages; what is there stays as it is.

Nothing depends on it: a step whose packages can't be had says so. pip's own settings say where packages come from; on a
machine without a network, `PIP_NO_INDEX=1 PIP_FIND_LINKS=folder make gpu` takes those that were carried there.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from benchmarks.gpu.place import BUILD, PACKAGES, ROOT, environment

NEEDED = {  # by the module that is imported; what these need themselves is torch's or in the list
    "numpy": "numpy", "pandas": "pandas", "scipy": "scipy", "safetensors": "safetensors", "filelock": "filelock",
    "lazy_loader": "lazy-loader", "tqdm": "tqdm", "cloudpickle": "cloudpickle", "networkx": "networkx",
    "pytest": "pytest", "pluggy": "pluggy", "iniconfig": "iniconfig",
    "hypothesis": "hypothesis", "sortedcontainers": "sortedcontainers",
}  # fmt: skip
BY_HAND = {"stk": "stanford-stk==0.7.1", "megablocks": "megablocks==0.10.0"}  # as in the Makefile
TOO_LARGE = ("torch", "triton", "transformers")  # looked for, and left to whoever installs the lab


def rows(device: str) -> Iterator[str]:
    wanted = [(NEEDED, ["-c", str(ROOT / "constraints.txt")]), (BY_HAND, [])]
    installed, failed = list[str](), [module for module in TOO_LARGE if find_spec(module) is None]
    for packages, options in wanted:  # in two calls: MegaBlocks may fail to build
        missing = [module for module in packages if find_spec(module) is None]
        if missing and device == "cuda":
            target = ["--target", str(PACKAGES), *options]
            done = pip("install", *target, *(packages[module] for module in missing), env=without_cuda())
            print(done.stderr, file=sys.stderr)
            (failed if done.returncode else installed).extend(missing)
        else:
            failed += missing
    said = [f"installed {', '.join(installed)}"] * bool(installed)
    said += [f"missing, so that steps which need it say so: {', '.join(failed)}"] * bool(failed)
    yield "; ".join(said) or "Everything is there"


def pip(verb: str, *options: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Calls pip for packages without what they need: MegaBlocks would bring another torch."""
    command = [sys.executable, "-m", "pip", verb, "--disable-pip-version-check", "-q", "--retries", "0"]
    command += ["--timeout", "10", "--no-deps", "--no-build-isolation", "--no-cache-dir", *options]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def without_cuda() -> dict[str, str]:
    """Returns an environment in which MegaBlocks' setup finds a torch that knows of no CUDA, because its compiled
    pieces take minutes; the last step builds them."""
    torch = BUILD / "no-cuda/torch"
    (torch / "utils").mkdir(parents=True, exist_ok=True)
    (torch / "__init__.py").write_text('__version__ = "cpu"\n')
    (torch / "utils/__init__.py").touch()
    (torch / "utils/cpp_extension.py").write_text("BuildExtension = CUDAExtension = CUDA_HOME = None\n")
    return environment() | {"PYTHONPATH": os.pathsep.join([str(torch.parent), str(PACKAGES)])}
