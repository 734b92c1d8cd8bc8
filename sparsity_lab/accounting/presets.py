"""Published models: the makers' settings as configs, beside the numbers the makers gave. The data is `presets.toml`."""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsity_lab.accounting.hf_config import from_hf, load_hf_config
from sparsity_lab.accounting.parameters import Embeddings
from sparsity_lab.config import ModelConfig


@dataclass(frozen=True)
class Preset:
    """A published model. ``total`` and ``active`` are the published numbers of weights, in units of 10⁹ and as exactly
    as published; ``embeddings`` is the convention under which the makers count ``active``."""

    name: str
    repository: str  # on Hugging Face
    published_in: str
    settings: dict[str, Any]  # those that matter for counting, as the makers' config.json names them
    total: float
    active: float
    embeddings: Embeddings = "both"
    tokens: float | None = None  # training tokens, where published
    note: str = ""

    @cached_property
    def config(self) -> ModelConfig:
        return from_hf(self.settings)

    @property
    def source(self) -> str:
        """The file that holds the shape, and after a semicolon where the numbers were published."""
        return f"https://huggingface.co/{self.repository}/blob/main/config.json; {self.published_in}"


def _read() -> dict[str, Preset]:
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    for fields in tables.values():
        fields["settings"] = {name: None if value == "null" else value for name, value in fields["settings"].items()}
    return {name: Preset(name, **fields) for name, fields in tables.items()}


PRESETS = _read()
MODEL_NAMES = f"a preset ({', '.join(PRESETS)}), or the path of a Hugging Face config.json"  # see `named_model`


def preset(name: str) -> Preset:
    """Returns a preset by its name. Raises ValueError, with the names that there are, for an unknown one."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: use one of {', '.join(PRESETS)}, or the path of a config.json")
    return PRESETS[name]


def named_model(name: str) -> tuple[str, ModelConfig]:
    """Returns a label and the config of a preset, of a Hugging Face ``config.json``, or of a folder that holds one."""
    path = Path(name)
    if name not in PRESETS and (path.exists() or path.suffix == ".json" or len(path.parts) > 1):
        return str(path), load_hf_config(path)
    return name, preset(name).config
