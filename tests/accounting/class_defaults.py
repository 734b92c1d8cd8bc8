"""What transformers' own classes take for settings that a file leaves out, by type, to compare `hf_defaults.toml` with.

Run as ``python -m tests.accounting.class_defaults``, this writes the file anew.
"""

import ast
import json
import tomllib
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from sparsity_lab.accounting import (
    hf_deepseek,
    hf_dense,
    hf_experts,
    hf_layers,
    hf_recurrent,
    hf_settings,
    hf_types,
    hf_vision,
)
from sparsity_lab.accounting.hf_settings import HARMLESS, TELLING

FILE = Path(hf_settings.__file__).with_name("hf_defaults.toml")
READERS = (hf_types, hf_layers, hf_dense, hf_deepseek, hf_experts, hf_recurrent, hf_vision)
SOURCES = [Path(module.__file__ or "") for module in READERS]


@cache
def names_in_readers() -> set[str]:
    """Every word that a reader may ask for."""
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(path.read_text())))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def class_of(kind: str) -> type[PretrainedConfig]:
    return type(AutoConfig.for_model(kind))


def of_class(kind: str, asked: set[str]) -> dict[str, Any]:
    own = class_of(kind)
    given = {field.name: field.default for field in fields(own) if field.default is not MISSING}  # type: ignore[arg-type]
    aliases = dict(own.attribute_map)
    counted = asked | {aliases[name] for name in asked & set(aliases)}
    plain = (bool, int, float, str, list)
    used = {name: value for name, value in given.items() if name in counted and isinstance(value, plain)}
    defaults = {aliases.get(name, name): value for name, value in used.items()}
    unread = [n for n in given if n not in counted and TELLING.search(n) and not HARMLESS.search(n)]
    return {"defaults": defaults, "aliases": aliases, "ignored": unread}


def known_kinds() -> list[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return [kind for kind in (*hf_types.TYPES, *hf_vision.TOWERS, *hf_vision.VISION) if kind in CONFIG_MAPPING_NAMES]


def all_classes() -> dict[str, dict[str, Any]]:
    asked = names_in_readers()
    return {kind: of_class(kind, asked) for kind in known_kinds()}


def tied_by_class(kind: str) -> bool | None:
    """Whether the tables of a model with a text part are tied, if its file does not say; None for other models."""
    try:
        own = class_of(kind)
    except Exception:  # some need more packages, or can't be built by their defaults
        return None
    tied = {field.name: field.default for field in fields(own)}.get("tie_word_embeddings")  # type: ignore[arg-type]
    return tied if "text_config" in own.sub_configs and isinstance(tied, bool) else None


def whole_models() -> dict[str, bool]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return {kind: tied for kind in CONFIG_MAPPING_NAMES if (tied := tied_by_class(kind)) is not None}


def written(values: dict[str, dict[str, Any]]) -> str:
    lines = ["# What transformers' classes take for settings that a file leaves out, as far as something is counted by",
             "# them; other names of settings; and settings of the class by which nothing is counted. A test compares",
             "# it with the classes; `python -m tests.accounting.class_defaults` writes it anew."]  # fmt: skip
    for kind, known in values.items():
        lines += ["", f"[{json.dumps(kind) if '.' in kind else kind}]"]
        for section in ("defaults", "aliases"):
            pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in known[section].items())
            if pairs:
                lines.append(f"{section} = {{ {pairs} }}")
        if known["ignored"]:
            lines.append(f"ignored = {json.dumps(known['ignored'])}")
    tied = [f"{json.dumps(kind)} = {json.dumps(value)}" for kind, value in whole_models().items()]
    lines += ["", "[whole_models]", *tied]
    return "\n".join(lines) + "\n"


def read() -> dict[str, dict[str, Any]]:
    known = tomllib.loads(FILE.read_text())
    empty: dict[str, Any] = {"defaults": {}, "aliases": {}, "ignored": []}
    return {kind: empty | values for kind, values in known.items()}


if __name__ == "__main__":
    FILE.write_text(written(all_classes()))
