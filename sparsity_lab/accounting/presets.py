"""Published models: the makers' settings as configs, beside the numbers the makers gave. The data is `presets.toml`."""

import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sparsity_lab.accounting.hf_config import from_hf, load_hf_config, printable, read_hf_config
from sparsity_lab.accounting.parameters import Embeddings
from sparsity_lab.accounting.shape import Model, Shape, lab_config


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
    whole: dict[str, Any] = field(default_factory=dict)  # what the file says of a model whose text part this is

    @cached_property
    def shape(self) -> Shape:
        return from_hf(self.whole | {"text_config": self.settings} if self.whole else self.settings)

    @cached_property
    def config(self) -> Model:
        """The lab's config, if all layers are of a kind that the lab trains; else the shape."""
        return lab_config(self.shape) or self.shape

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, and the parts that are not counted."""
        return (*([self.note] if self.note else []), *self.shape.left_out)

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
MODEL_NAMES = "a preset (see `sparsity-lab models`), the path of a Hugging Face config.json, or - for standard input"


def preset(name: str) -> Preset:
    """Returns a preset by its name. Raises ValueError, with the names that there are, for an unknown one."""
    if name not in PRESETS:
        raise _unknown(name)
    return PRESETS[name]


def _unknown(name: str) -> ValueError:
    return ValueError(f"no preset {name!r}: use one of {', '.join(PRESETS)}, or the path of a config.json")


class Named(NamedTuple):
    """A model that a user named: a label, what is counted, what to know about it, and the weights of a vision part,
    which are not counted with it."""

    name: str
    model: Model
    notes: tuple[str, ...]
    vision: int


def pasted_model(text: str) -> Named:
    """Returns what somebody pasted: a preset, by its name or its repository, or the contents of a ``config.json``. The
    model is its `Shape`, also if the lab has a config for it. Raises ValueError for what is neither."""
    text = text.strip().lstrip("\ufeff").lstrip()
    if text.startswith(("{", "[")):
        shape = read_hf_config(text.encode("utf-8", "surrogatepass"), "config.json")
        return Named(shape.kind, shape, shape.left_out, shape.vision)
    found = _known(text)
    if found is None:
        start = printable(text[:40] + "…" * (len(text) > 40))
        raise ValueError(f"'{start}' is neither a config.json, which starts with {{, nor one of {', '.join(PRESETS)}")
    return Named(found.name, found.shape, found.notes, found.shape.vision)


def _known(name: str) -> Preset | None:
    """Returns the preset that a name or a repository, in letters of any case, stands for."""
    names = {preset.repository.lower(): preset.name for preset in PRESETS.values()}
    return PRESETS.get(name) or PRESETS.get(names.get(name.lower(), name.lower()))


def named_model(name: str) -> Named:
    """Returns a preset, by its name or its repository on Hugging Face; or what a ``config.json`` describes, a folder
    that holds one, or ``-`` for standard input. Raises ValueError for what is none of these."""
    path = Path(name)
    if name == "-" or (name not in PRESETS and path.exists()):
        shape = load_hf_config(path)
        return Named("standard input" if name == "-" else printable(str(path)), shape, shape.left_out, shape.vision)
    if found := _known(name):
        return Named(found.name, found.config, found.notes, found.shape.vision)
    if path.suffix == ".json":
        raise ValueError(f"{printable(name)}: cannot be read (No such file or directory)")
    if "/" in name:
        raise ValueError(
            f"{printable(name)} is no file, no folder, and no repository of a preset (`sparsity-lab models` lists "
            f"them): download its config.json"
        )
    raise _unknown(name)
