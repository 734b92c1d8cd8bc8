"""Reads the settings of one ``config.json``: by the file's own names, with the defaults of the model's own class."""

import re
import reprlib
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

MOST = 2**24  # of any width or number in a file
MOST_LAYERS = 1024

# A setting with one of these words in its name may change what is counted, so it is refused
# unless a reader asked for it, or the model's own class has it and counts nothing by it.
TELLING = re.compile(
    r"expert|moe|lora|ssm|mamba|conv|linear_attn|linear_attention|recurrent|hyper|index_|indexer|altup|laurel|"
    r"cross_attention|per_layer|shared|gated|gate|mlp_bias|attention_bias|qkv_bias|use_bias|layer_types|layers_block|"
    r"latent|sliding_window|sink|chunk_size|qk_norm|qk_layernorm|lm_head|compress|pruned_heads|engram|head_dim|"
    r"attention_out_bias|mlp_only|dense_replace|sparse_step|num_kv|multi_query|kv_shared|pattern"
)
HARMLESS = re.compile(  # these only say how the same weights are used, trained or stored
    r"router_(aux|z)_?loss|aux_loss|jitter|output_router|norm_topk|moe_loss|experts_implementation|"
    r"expert_capacity|router_ignore|use_grouped_mm|ep_size|moe_normalize|moe_dtype|add_router|"
    r"no_rope|rope_interleave|conv_pos|chunk_size_feed_forward|_dtype$|^mtp_|moe_renormalize|moe_router_activation|"
    r"moe_capacity|moe_gate$|moe_use_aux_free"
)


@cache
def class_defaults() -> dict[str, dict[str, Any]]:
    """Returns what the classes in transformers take for left-out settings, by type (`hf_defaults.toml`): ``defaults``;
    ``aliases``, other names of settings; and ``ignored``, settings by which nothing is counted. ``whole_models`` has
    the tie_word_embeddings of models of text and more."""
    return tomllib.loads(Path(__file__).with_name("hf_defaults.toml").read_text(encoding="utf-8"))


class FileSettings:
    """The settings of one file. It remembers which of them a reader asked for.

    Args:
        values: what the file says.
        kind: its model_type.
        where: what stands before each name in messages, such as ``text_config.``.
    """

    def __init__(self, values: dict[str, Any], kind: str, where: str = ""):
        known = class_defaults().get(kind, {})
        self.kind, self.where = kind, where
        self.defaults: dict[str, Any] = known.get("defaults", {})
        self.aliases: dict[str, str] = known.get("aliases", {})
        self.read: set[str] = set(known.get("ignored", ()))
        self.values: dict[str, Any] = {}
        self.names: dict[str, str] = {}  # by which name the file sets a setting
        for given, value in values.items():
            name = self.aliases.get(given, given)
            if name in self.values and self.values[name] != value:
                shown = f"{self._shown(name)} and {where}{given}={reprlib.repr(value)}"
                raise ValueError(f"{shown} are two names of one setting, and contradict each other")
            self.values[name], self.names[name] = value, given

    def _shown(self, name: str) -> str:
        value = self.values.get(name, self.defaults.get(name))
        return f"{self.where}{self.names.get(name, name)}={'null' if value is None else reprlib.repr(value)}"

    def get(self, name: str) -> Any:
        """Returns a setting: None if the file says null, and the class's default if it says nothing."""
        name = self.aliases.get(name, name)
        self.read.add(name)
        return self.values[name] if name in self.values else self.defaults.get(name)

    def says(self, name: str) -> bool:
        """Tells whether the file sets this itself."""
        return self.aliases.get(name, name) in self.values

    def _number(self, name: str, value: Any, low: int, high: int) -> int:
        name = self.aliases.get(name, name)
        if value is None and name not in self.values:
            raise ValueError(f"{self.where}{name} is missing, and a {self.kind} model has no usual value for it")
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
        if not whole or value != int(value):
            raise ValueError(f"{self._shown(name)} must be a whole number from {low:,} to {high:,}")
        return int(value)

    def whole(self, name: str, low: int = 1, high: int = MOST) -> int:
        """Returns a number. Raises ValueError unless it is whole and in range, or if neither file nor class sets it."""
        return self._number(name, self.get(name), low, high)

    def maybe(self, name: str, low: int = 1, high: int = MOST) -> int | None:
        """Does as `whole` does, but returns None for null."""
        value = self.get(name)
        return None if value is None else self._number(name, value, low, high)

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is None and not self.says(name):
            return False
        if not isinstance(value, bool):
            raise ValueError(f"{self._shown(name)} must be true or false")
        return value

    def only(self, name: str, *understood: Any) -> None:
        """Raises ValueError if a setting has a value that is not among ``understood``. It may be unset."""
        value = self.get(name)
        if value is not None and value not in understood:
            raise ValueError(f"{self._shown(name)} is not understood; we know {', '.join(map(str, understood))}")

    def section(self, name: str) -> dict[str, Any] | None:
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{self._shown(name)} must be a JSON object with named settings")
        return value

    def per_layer(self, name: str, layers: int, kinds: dict[str, str], usual: Callable[[int], str]) -> list[str]:
        """Returns a word for each layer: what the file lists, by ``kinds``, or ``usual`` of the layer's number."""
        listed = self.get(name)
        if listed is None:
            return [usual(i) for i in range(layers)]
        if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
            raise ValueError(f"{self._shown(name)} must be a list with a word for each layer")
        if len(listed) != layers:
            raise ValueError(f"{self.where}{name} has {len(listed):,} entries for {layers:,} layers")
        for word in listed:
            if word not in kinds:
                raise ValueError(
                    f"{self.where}{name} has {reprlib.repr(word)}, which is not understood in a {self.kind} model; we "
                    f"know {', '.join(kinds)}"
                )
        return [kinds[word] for word in listed]

    def numbers(self, name: str) -> list[int]:
        """Returns a list of small whole numbers, such as numbers of layers; empty if it is unset."""
        value = self.get(name)
        if value is None:
            return []
        good = isinstance(value, list) and all(type(each) is int and 0 <= each < MOST_LAYERS for each in value)
        if not good:
            raise ValueError(f"{self._shown(name)} must be a list of whole numbers")
        return list(value)

    def refuse_unread(self) -> None:
        for name, value in self.values.items():
            telling = TELLING.search(name) and not HARMLESS.search(name)
            if telling and name not in self.read and value not in (None, False, 0, [], {}):
                raise ValueError(f"{self._shown(name)} is not understood in a {self.kind} model, so it is not counted")
