"""A run on disk is one safetensors file with weights, AdamW's moments and, as JSON metadata, everything else.

Torch is imported where it is needed, because a dashboard looks for checkpoints without it.
"""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from sparsity_lab.files import atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sparsity_lab.training.distributed import Workers

VERSION = 1


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

    Raises ValueError if the file is not a checkpoint of this lab, or if its state differs from ``identity``.
    """
    import torch

    try:
        with safe_open(path, "pt") as file:
            state: dict[str, Any] = json.loads((file.metadata() or {})["state"])
            if state["version"] != VERSION:
                raise ValueError(f"checkpoint {path} has version {state['version']}, this lab reads {VERSION}")
            for key, mine in identity.items():
                if state[key] != mine:
                    raise ValueError(f"checkpoint {path} is of another run: {_difference(key, state[key], mine)}")

            def tensor(name: str, weight: "Tensor") -> "Tensor":
                value: Tensor = file.get_tensor(name)
                return workers.part(weight, value).clone() if workers else value

            names = set(file.keys())
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    weight.copy_(tensor(f"model.{name}", weight))
                    if f"optimizer.step.{name}" in names:  # a run that was saved before its first step has none
                        for key in ("step", "exp_avg", "exp_avg_sq"):
                            optimizer.state[weight][key] = tensor(f"optimizer.{key}.{name}", weight).to(weight.device)
                for name, buffer in _buffers(model).items():
                    buffer.copy_(file.get_tensor(f"buffer.{name}"))
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a Sparsity Lab checkpoint ({error}): delete it or name another file") from None
    return state


def _buffers(model: "nn.Module") -> "dict[str, Tensor]":
    """Returns what training changes beside the weights: the routers' biases and seeds."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    return {name: tensor for name, tensor in model.state_dict().items() if name not in weights}


def peek(path: Path) -> dict[str, Any] | None:
    """Returns the state in a checkpoint, without its tensors; None if it is not one."""
    try:
        with safe_open(path, "np") as file:
            state: dict[str, Any] = json.loads((file.metadata() or {})["state"])
        return state if state["version"] == VERSION else None
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
        return None


def _difference(key: str, saved: Any, mine: Any) -> str:
    if not isinstance(mine, dict):
        return f"its {key} is {saved!r}, this run's {mine!r}"
    name = next(n for n in mine if saved.get(n) != mine[n])
    return f"its {name} is {saved.get(name)!r}, this run's {mine[name]!r}"
