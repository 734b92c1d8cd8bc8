"""A training step as compiled code: torch's compiler fuses the plain model into C++ for this processor.

A shape of model takes it some ten seconds once; the code is then kept in the cache folder. `make_ready` does that in a
process of its own, so that a run can be stopped meanwhile or go on without. A run is compiled from its first step to
its last or not at all, or else its numbers would depend on the clock.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.files import cache_dir, read_bytes, write_text
from sparsity_lab.models import Transformer, routes
from sparsity_lab.models import transformer as _of_models

WORTH_IT = 1e12  # FLOPs of a run, which then takes a minute or more
ROUTERS = ("softmax", "sigmoid")  # the others decide by the data how many rows there are
MOST_SHAPES = 64  # that one process compiles
BUSY = 75  # what a process returns that found another one at its work


def should_compile(model: ModelConfig, run: RunConfig) -> bool:
    """Tells whether a run is long enough and of a kind for compiled code, and its compiler has not failed."""
    usual = run.backend == "grouped" and run.dtype == "float32" and model.router in ROUTERS
    on_cpu = run.device == "cpu" or not torch.cuda.is_available()
    return usual and on_cpu and run.budget >= WORTH_IT and has_compiler() and _note(model, run) is not False


def has_compiler() -> bool:
    """Tells whether compiling is possible: a C++ compiler is there and ``$SPARSITY_LAB_COMPILE`` is not 0."""
    wanted = os.environ.get("SPARSITY_LAB_COMPILE", "1") != "0"
    return wanted and any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++")))


def is_ready(model: ModelConfig, run: RunConfig) -> bool:
    """Tells whether the code for this shape is in the cache folder."""
    return _note(model, run) is True


def make_ready(model: ModelConfig, run: RunConfig) -> "subprocess.Popen[bytes]":
    """Starts a process that makes the code for this shape. It ends with a note on whether that worked, or at once with
    `BUSY` if another process is at it."""
    command = [sys.executable, "-m", __name__, model.to_json(), resolve(model, run).to_json()]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def available(model: ModelConfig, run: RunConfig) -> bool:
    """Returns whether the code for this shape is there; waits until it is made, if that was not tried before."""
    while is_untried(model, run) and make_ready(model, run).wait() == BUSY:
        time.sleep(0.2)
    return has_compiler() and is_ready(model, run)


def is_untried(model: ModelConfig, run: RunConfig) -> bool:
    """Tells whether nobody has tried to make the code for this shape."""
    return has_compiler() and _note(model, run) is None


def loss(model: Transformer, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Does what ``model.loss`` does. Code for a shape that this process has not met takes up to three seconds to load,
    and ten to make if it is not in the cache folder."""
    both: tuple[Tensor, Tensor] = _compiler()(model, x_BT, y_BT)
    return both


@cache
def _compiler() -> Any:
    # a folder for this version of the model: torch's cache knows an operator by its name, not by what it does
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_folder() / f"inductor-{_sources()[:16]}")
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._inductor.config.compile_threads = 1  # no processes of its own: the other cores have runs of theirs
    torch._inductor.config.cpp_wrapper = True  # what calls the pieces is C++ too: Python took 5 % of a step
    return torch.compile(_loss, dynamic=False, fullgraph=True)


def _loss(model: Transformer, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, Tensor]:
    return model.loss(x_BT, y_BT)


def _folder() -> Path:
    return cache_dir() / "compiled"


def _note(model: ModelConfig, run: RunConfig) -> bool | None:
    """Returns whether making the code has worked, None if it was not tried."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return bool(json.loads(read_bytes(_path(model, run)))["works"])
    return None


def _path(model: ModelConfig, run: RunConfig) -> Path:
    batch, machine = [resolve(model, run).sequences, run.threads], [torch.__version__, routes.processor()]
    what = [model.to_json(), *batch, _sources(), *machine]
    return _folder() / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.json"


@cache
def _sources() -> str:
    folder = Path(_of_models.__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def make(model_json: str, run_json: str) -> None:
    model, run = ModelConfig.from_json(model_json), RunConfig.from_json(run_json)
    path = _path(model, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), timeout=0):
        if _note(model, run) is not None:
            return
        error = ""
        try:
            torch.set_num_threads(run.threads)
            routes.use(routes.here())
            network = Transformer(model).train()
            x_BT = torch.zeros(run.sequences, model.context, dtype=torch.int64)
            y_BT = x_BT.clone()  # one tensor in two places would be another graph
            torch.stack(loss(network, x_BT, y_BT)).sum().backward()
        except Exception as problem:  # no headers, no disk, a version that can't: runs go on without
            error = f"{type(problem).__name__}: {problem}"
        write_text(path, json.dumps({"works": not error, "error": error, "model": model.to_dict()}))


if __name__ == "__main__":
    try:
        make(*sys.argv[1:])
    except Timeout:
        sys.exit(BUSY)
