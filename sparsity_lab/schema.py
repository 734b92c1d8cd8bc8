"""Checks what JSON gave against the type hints of a dataclass or a TypedDict.

A file of the lab's folders may be of another version, half written, or none of the lab's, so nothing in it is taken on
faith. The hints are the one description of what belongs into it.
"""

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

MOST = 1e30  # no number that the lab keeps is larger, and none is below 0

Fits = Callable[[Any], bool]


def from_json(text: str | bytes, kind: type) -> dict[str, Any]:
    """Returns the fields of ``kind``, a dataclass or a TypedDict, that a JSON object holds. Raises ValueError for any
    other text."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check(values, kind)
    found: dict[str, Any] = values
    return found


def check(values: Any, kind: type) -> None:
    """Raises ValueError, which names the field, unless ``values`` is a dict with the fields of ``kind``, a dataclass or
    a TypedDict, each of its type: those without a default, and no others. Numbers lie from 0 to `MOST`."""
    if not isinstance(values, dict):
        raise ValueError(f"it holds {reprlib.repr(values)}, and no fields")
    fit, needed = _fields(kind)
    for name in needed:
        if name not in values:
            raise ValueError(f"{name} is missing")
    for name, value in values.items():
        if name not in fit:
            raise ValueError(f"it has a field {name[:40]!r}, which this version does not know")
        if not fit[name](value):
            raise ValueError(f"{name}={reprlib.repr(value)} is not what belongs there")


@cache
def _fields(kind: type) -> tuple[Mapping[str, Fits], frozenset[str]]:
    """Returns a test for each field, and the names of those that may not be missing."""
    fit = {name: _fits(hint) for name, hint in get_type_hints(kind).items()}
    if is_dataclass(kind):
        return fit, frozenset(f.name for f in fields(kind) if f.default is MISSING)
    return fit, kind.__required_keys__  # type: ignore[attr-defined]  # of a TypedDict


@cache
def _fits(hint: Any) -> Fits:
    """Returns a function that tells whether a value is of this type."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: True
    if hint is int or hint is float:
        kinds = (int,) if hint is int else (int, float)  # JSON may write 2.0 as 2; bool is an int to isinstance
        return lambda value: type(value) in kinds and 0 <= value <= MOST  # False for NaN
    if hint is str:
        return _is_text
    if hint in (bool, NoneType):
        return lambda value: type(value) is hint
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in parts
    if origin in (Union, UnionType):
        several = [_fits(part) for part in parts]
        return lambda value: any(fits(value) for fits in several)
    if origin is list:
        each = _fits(parts[0])
        return lambda value: isinstance(value, list) and all(map(each, value))
    if origin is dict:
        each = _fits(parts[1])
        return lambda value: isinstance(value, dict) and all(map(_is_text, value)) and all(map(each, value.values()))
    if is_typeddict(hint):
        return lambda value: _is_valid(value, hint)
    raise TypeError(f"{hint} has no check")


def _is_text(value: Any) -> bool:
    """Tells whether a value is text that can be shown. A file's name may have bytes that are no UTF-8."""
    try:
        return isinstance(value, str) and value.encode(errors="surrogateescape") is not None
    except UnicodeEncodeError:
        return False


def _is_valid(value: Any, kind: type) -> bool:
    try:
        check(value, kind)
    except ValueError:
        return False
    return True
