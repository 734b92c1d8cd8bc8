"""Turns a Hugging Face ``config.json`` into a `Shape`. What is not understood is refused by name, not guessed."""

import json
import re
import reprlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsity_lab.accounting.hf_settings import FileSettings, class_defaults
from sparsity_lab.accounting.hf_types import TYPES
from sparsity_lab.accounting.hf_vision import count_vision
from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.accounting.shape import NOTHING, Shape, Weights
from sparsity_lab.files import read_bytes
from sparsity_lab.units import billions

LARGEST = 20_000_000  # bytes; most files have a few thousand, those that list modules without quantization millions

MESSAGE = 600  # letters at most of what is wrong with a file, whose names may be of any length


def load_hf_config(path: str | Path) -> Shape:
    """Returns the shape that a file describes, or the ``config.json`` of a folder; ``-`` is standard input.

    Raises ValueError, which starts with the path, for a file that is missing or no JSON, and as `from_hf` does.
    """
    name = "standard input" if str(path) == "-" else str(path)
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
        name = str(path)
    name = printable(name)
    try:
        data = sys.stdin.buffer.read(LARGEST + 1) if name == "standard input" else read_bytes(path, LARGEST)
    except OSError as error:
        raise ValueError(f"{name}: cannot be read ({error.strerror or printable(str(error))})") from None
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON ({error})") from None
    return read_hf_config(data, name)


def read_hf_config(text: bytes, name: str) -> Shape:
    """Returns the shape that the contents of a ``config.json`` describe; ``name`` is what to call it in an error.
    Raises ValueError as `load_hf_config` does."""
    try:
        values = json.loads(text.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply to be a config.json") from None
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON ({error})") from None
    try:
        return from_hf(values)
    except ValueError as error:
        raise ValueError(f"{name}: {printable(str(error))[:MESSAGE]}") from None


def printable(text: str) -> str:
    """Returns text in which what would steer a terminal, or break a line, is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def from_hf(values: Any) -> Shape:
    """Returns the shape that the contents of a ``config.json`` describe.

    Raises ValueError naming the architecture or the setting that is not understood, or the field whose value makes no
    sense.
    """
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object with named settings")
    text, where = values, ""
    for part in ("text_config", "llm_config", "language_config"):
        if isinstance(values.get(part), dict):  # a model of text and more; its text part is counted
            text, where = _text_part(values, part), f"{part}."
    kind = text.get("model_type")
    if kind in FLAT:
        text = {"tie_word_embeddings": False} | {name: values[name] for name in values if name != "vision_config"}
        kind = text["model_type"] = f"{kind}_text"
    if not isinstance(kind, str):
        raise ValueError(f"{where}model_type is missing: is this the config.json of a Hugging Face model?")
    if kind not in TYPES:
        raise ValueError(
            f"{where}model_type={_short(kind)} is not understood (`sparsity-lab models` lists those that are)"
        )
    if text.get("is_encoder_decoder") and kind != "switch_transformers":
        raise ValueError(f"{where}is_encoder_decoder=True is not understood in a {kind} model")
    settings = FileSettings(text, kind, where)
    shape = TYPES[kind](settings)
    settings.refuse_unread()
    return replace(_left_out(_with_head(shape, values), values, where), settings=values)


FLAT = ("qwen2_vl", "qwen2_5_vl")  # whose makers' files have the settings of the text part outside of a text_config


def _short(value: Any) -> str:
    return printable(reprlib.repr(value))


def _text_part(values: dict[str, Any], part: str) -> dict[str, Any]:
    """Returns the settings of the text part, with tie_word_embeddings, which may stand outside of it."""
    text = dict(values[part])
    inner, outer = text.get("tie_word_embeddings"), values.get("tie_word_embeddings")
    usual = "" if "tie_word_embeddings" in values else ", as its class takes it to be"
    if outer is None:  # the head belongs to the whole model
        outer = class_defaults()["whole_models"].get(str(values.get("model_type")))
    if outer is not None and inner is not None and inner != outer:
        raise ValueError(
            f"tie_word_embeddings={_short(outer)}{usual}, but {part}.tie_word_embeddings={_short(inner)}: which holds?"
        )
    return text | ({} if outer is None else {"tie_word_embeddings": outer})


DRAFTS = re.compile(r"eagle|mtp|medusa|nextn|draft|speculat|hydra|dflash", re.I)
CAUSAL = re.compile(r"\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration)")


def _with_head(shape: Shape, values: dict[str, Any]) -> Shape:
    """Gives the shape the head that ``architectures`` names, if it is not that of a language model."""
    named = values.get("architectures")
    if named is None:
        return shape
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise ValueError(f"architectures={_short(named)} must be a list of one name")
    name = named[0]
    if DRAFTS.search(name):
        raise ValueError(f"architectures={_short(named)} is a draft model, which is not understood")
    if CAUSAL.fullmatch(name):
        return shape
    tied = shape.embedding < shape.vocab_size * shape.d_model
    table = shape.embedding + (shape.head.matrices if tied else 0)
    if name.endswith("ForSequenceClassification"):
        labels = _labels(values)
        return replace(shape, embedding=table, head=Weights(labels * shape.d_model), lab={})
    bare = {f"{kind}model".replace("_", "") for kind in (shape.kind, str(values.get("model_type")))}
    if name.lower() in bare | {each.replace("text", "") for each in bare}:
        return replace(shape, embedding=table, head=NOTHING, lab={}, left_out=("no head: a model of features alone",))
    raise ValueError(f"architectures={_short(named)} is not understood: it is no language model that we know")


def _labels(values: dict[str, Any]) -> int:
    named, count = values.get("id2label"), values.get("num_labels", 2)
    if isinstance(named, dict):
        count = len(named)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 2**20:
        raise ValueError(f"num_labels={_short(count)} must be a whole number from 1 to 2^20")
    return count


def _left_out(shape: Shape, values: dict[str, Any], where: str) -> Shape:
    """Says which parts of the file are not counted."""
    parts = list(shape.left_out)
    seen, unknown = 0, ""
    if where or values.get("model_type") in FLAT:
        others = {name for name, value in values.items() if name.endswith("_config") and isinstance(value, dict)}
        others -= {where[:-1], "quantization_config"}
        named = where[:-1] or "the text part"
        try:
            seen = count_vision(values, shape.d_model)
        except ValueError as error:
            unknown = f": {printable(str(error))[:200]}"
        if seen:
            others.discard("vision_config")
            both = billions(count_parameters(shape).total + seen)
            parts.append(f"only {named} is counted; with its vision part ({billions(seen)}) it has {both}")
        if others or not seen:
            beside = ", ".join(sorted(printable(name)[:40] for name in others)) or "what stands beside it"
            parts.append(f"only {named} is counted, without {beside}{unknown}")
    text = values[where[:-1]] if where else values
    ahead = text.get("num_nextn_predict_layers") or text.get("num_mtp_layers") or text.get("mtp_num_hidden_layers")
    if isinstance(ahead, int) and ahead > 0:
        parts.append(f"multi-token prediction ({ahead} layer{'s'[: ahead > 1]} for training) is not counted")
    if any(name.startswith("dspark_") for name in text):
        parts.append("the draft model (DSpark) is not counted")
    return replace(shape, vision=seen, left_out=tuple(parts))
