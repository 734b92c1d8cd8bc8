"""What a student's code gives back, as data: numbers, texts, lists, arrays and tensors written as JSON.

Whatever an object pretends to be, only its numbers and letters come across, so nothing that a test compares with can
have been made by the student.
"""

import base64
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

LARGEST = 20_000_000  # bytes of one message
PRINTED = 100_000  # characters that one cell may print
DEEPEST = 20  # lists in lists
ALLOWED = "answers are numbers, texts, lists, tuples, dictionaries, sets, arrays and tensors"


def to_data(value: Any, depth: int = 0) -> Any:
    """Returns ``value`` in the form that JSON holds. Raises ValueError, with a reason for the student, where there is
    none."""
    if depth > DEEPEST:
        raise ValueError(f"lists are nested more than {DEEPEST} deep")
    if value is None or isinstance(value, (bool, np.bool_)):
        return None if value is None else bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, str):
        return "".join(value).encode(errors="replace").decode()  # no half of a pair

    if isinstance(value, dict):
        return {"dict": [[to_data(part, depth + 1) for part in pair] for pair in value.items()]}
    if isinstance(value, (tuple, list, set, frozenset)):
        parts = [to_data(part, depth + 1) for part in value]
        return parts if isinstance(value, list) else {"tuple" if isinstance(value, tuple) else "set": parts}

    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        plain = value.detach().cpu()
        array = np.asarray(plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain)
        return {"tensor": _array(array), "moves": bool(value.requires_grad)}
    if isinstance(value, np.ndarray) or type(value).__module__.startswith("pandas"):
        return {"array": _array(np.asarray(value))}
    raise ValueError(f"{type(value).__name__} can't be compared: {ALLOWED}")


def _array(array: np.ndarray) -> list[Any]:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"an array of {array.dtype} can't be compared: use one of numbers")
    return [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]


def from_data(data: Any, tensor: Callable[[Any, bool], Any] = lambda tensor, moves: tensor) -> Any:
    """Returns the value that `to_data` wrote. ``tensor`` may put another in the place of each tensor; it is told
    whether the student's had a gradient. Raises ValueError for anything that `to_data` doesn't write."""
    try:
        return _value(data, tensor, 0)
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"the answer can't be read: {error}") from None


def _value(data: Any, tensor: Callable[[Any, bool], Any], depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"lists are nested more than {DEEPEST} deep")
    if isinstance(data, list):
        return [_value(part, tensor, depth + 1) for part in data]
    if not isinstance(data, dict):
        return data
    kind = next(iter(data), "")
    if kind == "dict":
        return {_value(key, tensor, depth + 1): _value(part, tensor, depth + 1) for key, part in data["dict"]}
    if kind in ("tuple", "set"):
        return (tuple if kind == "tuple" else set)(_value(part, tensor, depth + 1) for part in data[kind])

    dtype, shape, text = data[kind]
    if np.dtype(dtype).kind not in "biuf":
        raise ValueError("the answer can't be read: an array of something else than numbers")
    array = np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape).copy()
    if kind == "array":
        return array
    import torch  # a test that gets a tensor has it anyway

    return tensor(torch.from_numpy(array), bool(data["moves"]))


def to_line(message: dict[str, Any]) -> bytes:
    """Returns a message as a line. Raises ValueError for one that is too large."""
    line = json.dumps(message).encode() + b"\n"
    if len(line) > LARGEST:
        raise ValueError(f"an answer takes {len(line):,} bytes, more than {LARGEST:,}")
    return line


def quoted(value: Any, width: int = 120) -> str:
    """Returns ``value`` as a failed test quotes it."""
    if type(value).__name__ == "DataFrame":
        return f"a table of {len(value)} rows"
    if type(value).__name__ == "ModelConfig":
        changed = {name: part for name, part in vars(value).items() if part != getattr(type(value), name, None)}
        text = ", ".join(f"{name}={part!r}" for name, part in changed.items())
        text = f"ModelConfig({text})"
    elif isinstance(value, tuple):
        return f"({', '.join(quoted(part, width // 2) for part in value[:6])})"
    else:
        text = " ".join(repr(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"
