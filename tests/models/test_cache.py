"""Caches: decoding with one is the whole forward pass, its bytes are the formula's, and mistakes leave it intact."""

import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_lab.accounting.memory import cache_bytes
from sparsity_lab.accounting.presets import PRESETS
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer
from sparsity_lab.models.cache import new_cache

BASE = ModelConfig(vocab_size=30, context=24, d_model=16, n_heads=4, n_layers=2, d_expert=16)
KINDS = {
    "mha": BASE,
    "gqa": BASE.replace(n_kv_heads=2, n_experts=4),
    "mqa": BASE.replace(n_kv_heads=1),
    "mla": BASE.replace(kv_lora_rank=10, q_lora_rank=6, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=5),
    "window": BASE.replace(window=5),
    "mla with a window": BASE.replace(kv_lora_rank=10, window=3),
}
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def built(kind: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(KINDS[kind]).eval()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(cuts=st.lists(st.integers(1, 23), max_size=5), batch=st.integers(1, 3), room=st.integers(1, 24))
@torch.no_grad()
def test_in_chunks_is_at_once_is_token_by_token(kind: str, cuts: list[int], batch: int, room: int) -> None:
    model = built(kind)
    x = torch.randint(30, (batch, 24), generator=torch.Generator().manual_seed(len(cuts)))
    whole = model(x)
    for edges in ([0, *sorted(set(cuts)), 24], list(range(25))):
        cache = new_cache(model.config, batch, room=room)
        parts = [model(x[:, a:b], cache) for a, b in itertools.pairwise(edges)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(data=st.data(), batch=st.integers(2, 4))
@torch.no_grad()
def test_sequences_of_different_lengths(kind: str, data: st.DataObject, batch: int) -> None:
    """In one batch, padded, in chunks of different lengths: each as if alone."""
    model = built(kind)
    lengths = data.draw(st.lists(st.integers(1, 24), min_size=batch, max_size=batch))
    texts = [torch.randint(30, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    cache = new_cache(model.config, batch)
    done = [0] * batch
    logits: list[list[torch.Tensor]] = [[] for _ in range(batch)]
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        counts = [data.draw(st.integers(0, min(7, n - d))) for d, n in zip(done, lengths, strict=True)]
        if not any(counts):
            counts = [min(1, n - d) for d, n in zip(done, lengths, strict=True)]
        chunk = torch.zeros(batch, max(counts), dtype=torch.int64)
        for row, (text, d, c) in enumerate(zip(texts, done, counts, strict=True)):
            chunk[row, :c] = text[d : d + c]
        out = model(chunk, cache, torch.tensor(counts))
        for row, c in enumerate(counts):
            logits[row].append(out[row, :c])
            done[row] += c
    assert cache.lengths_B.tolist() == lengths
    for text, parts in zip(texts, logits, strict=True):
        torch.testing.assert_close(torch.cat(parts), model(text[None])[0], **CLOSE)


# ---- Bytes


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(tokens=st.integers(0, 24), batch=st.integers(1, 3), bf16=st.booleans())
@torch.no_grad()
def test_bytes_are_the_formulas(kind: str, int8: bool, tokens: int, batch: int, bf16: bool) -> None:
    config = KINDS[kind]
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = Transformer(config, dtype=dtype)
    cache = new_cache(config, batch, dtype=dtype, int8=int8, room=3)
    if tokens:
        model(torch.zeros(batch, tokens, dtype=torch.int64), cache)
    name = "int8" if int8 else "bfloat16" if bf16 else "float32"
    assert cache.nbytes == cache_bytes(config, tokens, name, batch)
    kept = int(cache.held_B[0])
    assert cache.nbytes == sum(tensor[:, :, :, :kept].contiguous().nbytes for tensor in cache.tensors.values())


DECODERS = [n for n, p in PRESETS.items() if isinstance(p.config, ModelConfig)]


@pytest.mark.parametrize("name", DECODERS)
def test_bytes_of_published_shapes(name: str) -> None:
    """On live tensors of the real shape, in bfloat16, for two sequences of seven tokens."""
    config = PRESETS[name].config
    assert isinstance(config, ModelConfig)
    cache = new_cache(config, 2, "meta", torch.bfloat16, room=7)
    cache.lengths_B = torch.tensor([7, 7])
    assert cache.nbytes == cache_bytes(config, 7, "bfloat16", 2)
    assert cache.names == (("latents",) if config.is_mla else ("keys", "values"))


@torch.no_grad()
def test_room_doubles() -> None:
    model, cache, rooms = built("mla"), new_cache(KINDS["mla"], 1, room=3), set()
    for _ in range(24):
        model(torch.zeros(1, 1, dtype=torch.int64), cache)
        rooms.add(cache.room)
    assert rooms == {3, 6, 12, 24}


@torch.no_grad()
def test_a_window_bounds_the_room() -> None:
    config = BASE.replace(window=4, context=1000)
    model, cache = Transformer(config), new_cache(config, 2)
    for _ in range(60):
        model(torch.zeros(2, 1, dtype=torch.int64), cache)
    assert cache.room <= 8
    assert cache.lengths_B.tolist() == [60, 60]
    assert cache.held_B.tolist() == [4, 4]


# ---- int8


@pytest.mark.parametrize("kind", ["mha", "mla"])
@torch.no_grad()
def test_int8_is_nearly_the_same(kind: str) -> None:
    """A vector's numbers are off by at most half a step of a 127th of its largest."""
    model = built(kind)
    x = torch.randint(30, (2, 24))
    exact, small = new_cache(model.config, 2), new_cache(model.config, 2, int8=True)
    wanted, got = model(x, exact), model(x, small)
    assert 0 < (got - wanted).abs().max() < 0.1 * wanted.abs().max()
    for name in exact.names:
        first = exact.tensors[name][0, :, :, :24]
        stored = small.tensors[name][0, :, :, :24] * small.tensors[f"{name}_scale"][0, :, :, :24]
        largest = first.abs().amax(-1, keepdim=True)
        assert ((stored - first).abs() <= largest / 127 / 2 + 1e-6).all()


# ---- Between forward passes


@pytest.mark.parametrize("kind", ["gqa", "mla"])
@settings(max_examples=10)
@given(length=st.integers(0, 20))
@torch.no_grad()
def test_truncate_and_continue(kind: str, length: int) -> None:
    model = built(kind)
    x, other = torch.randint(30, (2, 20)), torch.randint(30, (2, 4))
    cache = new_cache(model.config, 2)
    model(x, cache)
    cache.truncate(length)
    assert cache.lengths_B.tolist() == [length, length]
    text = torch.cat([x[:, :length], other], 1)
    torch.testing.assert_close(model(other, cache), model(text)[:, length:], **CLOSE)


# ---- Mistakes


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_mistakes_leave_the_cache_intact(kind: str) -> None:
    model = built(kind)
    x = torch.randint(30, (2, 24))
    cache = new_cache(model.config, 2)
    model(x[:, :20], cache)
    for tokens, counts, message in (
        (x[:, :5], None, "the cache holds 24 tokens, asked to hold 25: start a new one"),
        (x[:1, :2], None, "the cache holds 2 sequences, got tokens for 1"),
        (x[:, :2], torch.tensor([1, 3]), r"counts_B=\[1, 3\] must be 2 numbers from 0 to 2"),
        (x[:, :2], torch.tensor([-1, 1]), r"counts_B=\[-1, 1\] must be 2 numbers"),
        (x[:, :2], torch.tensor([1]), r"counts_B=\[1\] must be 2 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            model(tokens, cache, counts)
    with pytest.raises(ValueError, match="length=-1 must be at least"):
        cache.truncate(-1)
    torch.testing.assert_close(model(x[:, 20:], cache), model(x)[:, 20:], **CLOSE)


@torch.no_grad()
def test_a_window_cannot_go_back_past_what_it_dropped() -> None:
    model, cache = built("window"), new_cache(KINDS["window"], 1)
    for _ in range(20):
        model(torch.zeros(1, 1, dtype=torch.int64), cache)
    with pytest.raises(
        ValueError, match=r"length=3 must be at least \d+: what came before has left the window"
    ) as error:
        cache.truncate(3)
    (least,) = map(int, re.findall(r"at least (\d+)", str(error.value)))
    with pytest.raises(ValueError, match=f"at least {least}"):
        cache.truncate(least - 1)


@pytest.mark.parametrize("kind", ["window", "mla with a window"])
@settings(max_examples=10)
@given(tokens=st.integers(0, 20), length=st.integers(0, 20))
@torch.no_grad()
def test_a_window_goes_back_only_to_where_it_continues_as_before(kind: str, tokens: int, length: int) -> None:
    model = built(kind)
    text, other = torch.randint(30, (1, tokens)), torch.randint(30, (1, 3))
    cache = new_cache(model.config, 1, room=1)
    for at in range(tokens):
        model(text[:, at : at + 1], cache)
    try:
        cache.truncate(length)
    except ValueError:
        assert length < tokens, "what is not cut is all there"
        return
    kept = min(length, tokens)
    assert cache.lengths_B.tolist() == [kept]
    whole = torch.cat([text[:, :kept], other], 1)
    torch.testing.assert_close(model(other, cache), model(whole)[:, kept:], **CLOSE)


def test_no_sequences() -> None:
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        new_cache(BASE, 0)
