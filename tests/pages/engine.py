"""The page's engine outside of a page: in the Node that Playwright brings, with the text that the page has."""

import base64
import hashlib
import json
import subprocess
from functools import cache
from typing import Any

import numpy as np
import torch
from playwright._impl._driver import compute_driver_executable

from sparsity_lab.pages import training
from sparsity_lab.training.corpus import Corpus

# A training of `input`, and its arrays for `floats`. Text has a character for each byte.
PRELUDE = """
const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const base64 = (array) => Buffer.from(array.slice().buffer).toString("base64");
const arrays = (model, key) => Object.fromEntries([...model.parameters].map(([name, p]) => [name, base64(p[key])]));
const begin = ({ config, run, steps, text }) =>
  new Training(config, run, steps, { train: bytes(text.train), val: bytes(text.val) });
"""


def in_node(script: str, **given: Any) -> Any:
    """Runs a script behind the engine, with ``given`` as `input`; returns what it logs, which is JSON."""
    source = f"{training.engine()}\n{PRELUDE}\nconst input = {json.dumps(given)};\n{script}"
    done = subprocess.run([compute_driver_executable()[0], "-"], input=source, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def floats(text: str) -> torch.Tensor:
    """Reads an array of the engine, (n,) float32."""
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), np.float32).copy())


@cache
def page_corpus() -> Corpus:
    """The page's text as the lab trains on it."""
    read = training.text()
    train, val = (np.frombuffer(read[part].encode("latin-1"), np.uint8).copy() for part in ("train", "val"))
    assert hashlib.sha256(train.tobytes() + val.tobytes()).hexdigest() == read["fingerprint"]
    return Corpus("page", read["fingerprint"], train, val)


@cache
def made_corpus() -> Corpus:
    """A text that stays the same, whatever becomes of the page's: words of three letters, some more often than others.
    Where two scores are so close that rounding decides on an expert, engine and torch part, so tests need one text."""
    dice = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    words = np.c_[letters[dice.integers(26, size=(60, 3))], np.full(60, ord(" "), np.uint8)]
    text = words[(60 * dice.random(12_000) ** 2).astype(int)].ravel()
    return Corpus("made", "made", text[:-4_000].copy(), text[-4_000:].copy())


def engine_text(corpus: Corpus) -> dict[str, str]:
    """A text as the engine gets it."""
    return {"train": corpus.train.tobytes().decode("latin-1"), "val": corpus.val.tobytes().decode("latin-1")}
