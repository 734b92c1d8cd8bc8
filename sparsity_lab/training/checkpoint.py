"""A run on disk is one safetensors file with weights, AdamW's moments and, as JSON metadata, everything else.

Torch is imported where it is needed, because a dashboard looks for checkpoints without it.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from safetensors import SafetensorError, safe_open

from sparsity_lab import schema
from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import atomic, check_regular

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sparsity_lab.training.distributed import Workers

VERSION = 1


class _Losses(TypedDict):
    losses: list[float]


class State(TypedDict):
    """What a checkpoint's metadata hold."""

    version: int
    step: int
    losses: list[Any]  # numbers; the last one of a run that diverged is none
    model: dict[str, Any]
    run: dict[str, Any]
    corpus: str  # its fingerprint
    seconds: float
    cpu_seconds: NotRequired[float]
    routes: NotRequired[dict[str, list[str]] | None]
    compiled: NotRequired[bool]
    pruned: NotRequired[list[str]]  # names of weights


def check_path(path: Path) -> None:
    """Makes the checkpoint's folder. Raises ValueError, before any work is lost, if it can't be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"checkpoint {path} can't be written ({error}): name a file in another folder") from None


def save(
    path: Path,
    model: "nn.Module",
    optimizer: "torch.optim.AdamW",
    state: dict[str, Any],
    workers: "Workers | None" = None,
) -> None:
    """Writes as `atomic` does. If there are several processes, all have to call it; the first writes one file for all,
    as a single process would. Raises OSError if it can't be written."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        values = {f"model.{name}": weight.detach()}
        values |= {f"optimizer.{key}.{name}": value for key, value in optimizer.state.get(weight, {}).items()}
        tensors |= {key: workers.whole(weight, value) if workers else value for key, value in values.items()}
    if workers is not None and workers.rank > 0:
        return

    tensors |= {f"buffer.{name}": buffer for name, buffer in _buffers(model).items()}
    try:
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"state": json.dumps({"version": VERSION, **state})})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # safetensors has no errno
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def load(
    path: Path,
    model: "nn.Module",
    optimizer: "torch.optim.AdamW",
    identity: dict[str, Any],
    workers: "Workers | None" = None,
) -> dict[str, Any]:
    """Fills ``model`` and ``optimizer``, and returns the state that was saved. It does not matter how many processes
    saved it and how many read it.

    Raises ValueError, and fills nothing, if the file is not a checkpoint of this lab, or if its state differs from
    ``identity``.
    """
    import torch

    from sparsity_lab.models.routes import Routes

    with _opened(path, "pt") as file:
        state = _state(file)
        Routes.from_dict(state.get("routes") or Routes().to_dict())  # raises ValueError for those of another version
    for key, mine in identity.items():
        if state[key] != mine:
            raise ValueError(f"checkpoint {path} is of another run: {_difference(key, state[key], mine)}")

    with _opened(path, "pt") as file:
        names = set(file.keys())

        def tensor(name: str, like: "Tensor", shape: "torch.Size | None" = None) -> "Tensor":
            value: Tensor = file.get_tensor(name)
            value = workers.part(like, value).clone() if workers else value
            if (value.shape, value.dtype) != (like.shape if shape is None else shape, like.dtype):
                raise ValueError(f"{name} is {value.dtype} of shape {tuple(value.shape)}")
            return value.to(like.device)

        weights = dict(model.named_parameters())
        values: dict[Tensor, Tensor] = {weight: tensor(f"model.{name}", weight) for name, weight in weights.items()}
        values |= {buffer: tensor(f"buffer.{name}", buffer) for name, buffer in _buffers(model).items()}
        moments = {
            weight: {
                "step": tensor(f"optimizer.step.{name}", weight, torch.Size()),
                "exp_avg": tensor(f"optimizer.exp_avg.{name}", weight),
                "exp_avg_sq": tensor(f"optimizer.exp_avg_sq.{name}", weight),
            }
            for name, weight in weights.items()
            if f"optimizer.step.{name}" in names  # a run that was saved before its first step has none
        }

    with torch.no_grad():
        for mine, value in values.items():
            mine.copy_(value)
    for weight, moment in moments.items():
        optimizer.state[weight].update(moment)
    return state


def _buffers(model: "nn.Module") -> "dict[str, Tensor]":
    """Returns what training changes beside the weights: the routers' biases and seeds."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    return {name: tensor for name, tensor in model.state_dict().items() if name not in weights}


def peek(path: Path) -> dict[str, Any] | None:
    """Returns the state in a checkpoint, without its tensors; None, whatever lies there, if it is not one."""
    try:
        with _opened(path, "np") as file:
            return _state(file)
    except ValueError:
        return None


@contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    """Opens a checkpoint. Raises ValueError if it can't be read, or if what is done with it finds a fault."""
    try:
        check_regular(path)
        with safe_open(path, framework) as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a Sparsity Lab checkpoint of this version ({error})") from None


def _state(file: Any) -> dict[str, Any]:
    """Returns the `State` in an open file, with configs of this version. Raises ValueError if there is none."""
    state = schema.from_json((file.metadata() or {}).get("state", "null"), State)
    if state["version"] != VERSION:
        raise ValueError(f"it has version {state['version']}, this lab reads {VERSION}")
    schema.check({"losses": state["losses"][:-1]}, _Losses)
    if not all(isinstance(loss, float) for loss in state["losses"][-1:]):  # NaN is one too
        raise ValueError("its last loss is no number")

    model, run = ModelConfig.from_dict(state["model"]), RunConfig.from_dict(state["run"])
    if state["step"] > plan(model, run).steps:
        raise ValueError(f"it is at step {state['step']:,} of {plan(model, run).steps:,}")
    names = {name for name in file.keys() if name.startswith("model.")}  # noqa: SIM118 - not a dict
    if not names.issuperset(f"model.{name}" for name in state.get("pruned", [])):
        raise ValueError("it prunes a weight that it does not have")
    sizes = [math.prod(file.get_slice(name).get_shape()) for name in names]
    if sum(sizes) != count_parameters(model).total:  # before a model is built, which may be one of any size
        raise ValueError(f"it has {sum(sizes):,} weights and its model {count_parameters(model).total:,}")
    return state | {"model": model.to_dict(), "run": run.to_dict()}


def _difference(key: str, saved: Any, mine: Any) -> str:
    if key == "corpus":
        return f"it has read another text (fingerprint {saved[:8]}, now {mine[:8]})"
    if not isinstance(mine, dict):
        return f"its {key} is {saved!r}, this run's {mine!r}"
    name = next(name for name in mine if saved[name] != mine[name])
    return f"its {name} is {saved[name]!r}, this run's {mine[name]!r}"
