"""How settings and lessons travel in an address: ``s=.9375&b=1e11&w=32…``, which every door reads and writes.

`link.js` does the same in a page without Python, from the `RULES` here, and a test compares the two.
"""

import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, get_args
from urllib.parse import parse_qsl, quote

from sparsity_lab.config import BACKENDS, SLIDER_EXPERTS, Hold, one_of
from sparsity_lab.widgets.settings import BUDGETS, CORPORA, DEPTHS, WIDTHS, Settings


def _number(low: float, high: float, step: int = 0) -> dict[str, Any]:
    kind = f"a multiple of {step} " if step > 1 else "a whole number " * step
    says = f"{kind}between {_written(low)} and {_written(high)}"
    return {"low": low, "high": high, "step": step, "says": says}


def _choice(**values: Any) -> dict[str, Any]:
    return {"choices": values, "says": f"one of {', '.join(values)}"}


def _written(value: float) -> str:
    """Writes a number as short as a link needs it: 1e11, 0.9375, 32."""
    if value == 0 or 1e-4 <= value < 1e5:
        return repr(float(value)).removesuffix(".0")
    return f"{Decimal(repr(float(value))).normalize():e}".replace("e+", "e")


# A step of 0 stands for any number. A value may lie between the stops of its dial, which then gets one more.
_KEYS = {
    "s": ("sparsity", _number(0, 1 - 1 / SLIDER_EXPERTS)),
    "b": ("budget", _number(BUDGETS[0], BUDGETS[-1])),
    "w": ("width", _number(WIDTHS[0], WIDTHS[-1], 4)),
    "d": ("n_layers", _number(DEPTHS[0], DEPTHS[-1], 1)),
    "hold": ("hold", _choice(**{hold: hold for hold in get_args(Hold)})),
    "seed": ("seed", _number(0, 2**31 - 1, 1)),
    "text": ("corpus", _choice(**{name: name for name in CORPORA})),  # a path would name a file of whoever opens it
    "twin": ("dense_twin", _choice(**{"1": True, "0": False})),
    "backend": ("backend", _choice(**{name: name for name in BACKENDS})),
}

RULES: dict[str, Any] = {
    "longest": 2000,  # characters of a link
    "question": 300,  # characters of a lesson's question
    "page": ["token", "theme", "reset"],  # keys of an address that are no business of a link
    "keys": [{"key": key, "name": name, **rule} for key, (name, rule) in _KEYS.items()],
}

_ADDRESS = re.compile(r"[a-z]+://[^?#]*|[^?#=]*(?=[?#])")
_DECIMAL = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Link:
    """A link as it was read: fields of `Settings` with their values, those of its lesson, and a sentence for each thing
    in it that is not as it should be, and was therefore left out."""

    values: dict[str, Any] = field(default_factory=dict)
    lesson: str = ""  # the teacher's question
    hide: tuple[str, ...] = ()  # fields whose controls are not shown
    fix: tuple[str, ...] = ()  # fields whose controls can't be moved
    notes: tuple[str, ...] = ()


def read_link(text: str, largest: float = BUDGETS[-1]) -> Link:
    """Reads an address, or the part of it that follows ``#`` or ``?``. No text makes it fail. ``largest`` is the budget
    (FLOPs) that is offered here; a GPU pays for more than a page does."""
    if len(text) > RULES["longest"]:
        return Link(notes=(f"The link has over {RULES['longest']} characters: it is ignored.",))
    given, unknown, notes = _pairs(text)
    values: dict[str, Any] = {}
    for rule in RULES["keys"]:
        if rule["key"] in given:
            written = given[rule["key"]]
            rule = rule | _number(BUDGETS[0], largest) if rule["name"] == "budget" else rule
            value = _value(rule, written)
            if value is None:
                notes.append(f"The link's {rule['key']}={_cut(written)} is not {rule['says']}: the default is used.")
            else:
                values[rule["name"]] = value

    lesson = given.get("lesson", "")
    if len(lesson) > RULES["question"]:
        notes.append(f"The link's lesson has over {RULES['question']} characters: it is left out.")
        lesson = ""
    lists = {}
    for key in ("hide", "fix"):
        named = [name for name in given.get(key, "").split(",") if name]
        lists[key] = tuple(rule["name"] for rule in RULES["keys"] if rule["key"] in named)
        notes += [f"The link's {key} has {_cut(name)}, which is no control." for name in named if name not in _KEYS][:1]
    if unknown:
        notes.append(f"The link has {_cut(unknown[0])}, which is not known here: it is ignored.")
    return Link(values, lesson, lists["hide"], lists["fix"], tuple(notes))


def write_link(link: Link) -> str:
    """The inverse of `read_link`, without ``?`` or ``#``. It writes no note."""
    parts = []
    for rule in RULES["keys"]:
        if rule["name"] in link.values:
            value = link.values[rule["name"]]
            if isinstance(value, bool):
                value = "1" if value else "0"
            parts.append((rule["key"], value if isinstance(value, str) else _written(value)))
    parts += [("lesson", link.lesson)] if link.lesson else []
    text = [f"{key}={quote(value, safe='').replace('~', '%7E')}" for key, value in parts]
    for key, names in (("hide", link.hide), ("fix", link.fix)):
        keys = [rule["key"] for rule in RULES["keys"] if rule["name"] in names]
        text += [f"{key}={','.join(keys)}"] if keys else []
    return "&".join(text)


def link_of(settings: Settings, lesson: str = "", hide: Sequence[str] = (), fix: Sequence[str] = ()) -> Link:
    """Returns the link to these settings with a lesson's question and the fields whose controls it hides or fixes. A
    text that others don't have is left out. Raises ValueError for unknown fields and for a question that is too long.
    """
    values = settings.to_dict()
    for name in (*hide, *fix):
        one_of("control", name, values)
    if settings.corpus not in CORPORA:
        del values["corpus"]
    link = Link(values, lesson, tuple(hide), tuple(fix))
    longest = RULES["longest"] - 200  # because an address comes before it
    if len(lesson) > RULES["question"] or len(write_link(link)) > longest:
        most = (
            f"{RULES['question']} characters, and {longest} with the rest of the link, where é takes 6 and 中 takes 9"
        )
        raise ValueError(f"lesson={reprlib.repr(lesson)} is too long: it may have {most}")
    return link


def _pairs(text: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Returns what a link gives by key, each key's first value; the keys that are unknown; and notes on repeated
    ones."""
    text = text.strip(" \t\r\n")
    address = _ADDRESS.match(text)
    if address:
        query, _, fragment = text[address.end() :].partition("#")
        text = (fragment if "=" in fragment else query).removeprefix("?")
    given: dict[str, str] = {}
    unknown, notes = [], []
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key in given:
            notes.append(f"The link has {key} more than once: the first is used.")
        elif key in _KEYS or key in ("lesson", "hide", "fix"):
            given[key] = value
        elif key not in RULES["page"]:
            unknown.append(key)
    return given, unknown, list(dict.fromkeys(notes))


def _value(rule: dict[str, Any], written: str) -> Any:
    """Returns the value of a control, or None for what it can't have."""
    if "choices" in rule:
        return rule["choices"].get(written)
    written = written.replace("e ", "e+")  # in an address, a plus stands for a space
    value = float(written) if _DECIMAL.fullmatch(written) else -1.0
    if not rule["low"] <= value <= rule["high"] or (rule["step"] and value % rule["step"]):
        return None
    return int(value) if rule["step"] else value


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"
