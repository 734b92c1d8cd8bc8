"""Scores of windows by loops and by autograd, what is kept and trained on, near-duplicates by the exact index."""

import math
import re
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsity_lab.analysis.data_pruning import (
    SHINGLE,
    distinct,
    keep,
    part,
    scores,
    shingles,
    train_on,
)
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer
from sparsity_lab.training.batches import Windows
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.trainer import Training

WindowsWT = npt.NDArray[np.uint8]


def some_model(config: ModelConfig, backend: str = "grouped") -> Transformer:
    """One that is sure of what it says, and often wrong."""
    torch.manual_seed(0)
    transformer = Transformer(config, backend)
    with torch.no_grad():
        transformer.head.normal_()
    return transformer


def pairs_of(corpus: Corpus, context: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """x_T and y_T of each window, in the text's order."""
    text = torch.from_numpy(np.asarray(corpus.train).astype(np.int64))
    starts = range(0, len(text) - context, context)
    return [(text[i : i + context], text[i + 1 : i + 1 + context]) for i in starts]


# ---- A part of the corpus


def test_part_is_the_beginning(corpus: Corpus) -> None:
    piece = part(corpus, 1_000)
    assert np.array_equal(piece.train, corpus.train[:1_000])
    assert piece.val is corpus.val
    assert piece.name == f"{corpus.name}, first 1,000 bytes"
    assert len({corpus.fingerprint, piece.fingerprint, part(corpus, 1_001).fingerprint}) == 3
    assert np.array_equal(part(corpus, corpus.train.size).train, corpus.train)
    for n_bytes in (0, -1, corpus.train.size + 1):
        with pytest.raises(
            ValueError, match=rf"n_bytes={n_bytes:,} must be from 1 to the corpus's {corpus.train.size:,}"
        ):
            part(corpus, n_bytes)


# ---- Windows that are kept


@given(st.data(), st.integers(2, 40), st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_kept_windows_are_served_once_an_epoch_and_no_others(
    data: st.DataObject, n: int, seed: int, batch_size: int
) -> None:
    numbers = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True))
    text = np.append(np.repeat(np.arange(n, dtype=np.uint8), 3), np.uint8(255))  # a window is three times its number

    def served(kept: list[int]) -> list[int]:
        windows = Windows(text, 3, seed, np.array(kept))
        assert windows.n_windows == len(kept)
        steps = math.ceil(3 * len(kept) / batch_size)
        x_BT = torch.cat([windows.batch(step, batch_size)[0] for step in range(steps)])
        assert (x_BT == x_BT[:, :1]).all()
        return x_BT[: 3 * len(kept), 0].tolist()

    order = served(numbers)
    for epoch in range(3):
        assert sorted(order[epoch * len(numbers) : (epoch + 1) * len(numbers)]) == sorted(numbers)
    assert order == served(numbers[::-1]), "the seed and what is kept decide, not how it was written down"


def test_kept_windows_come_in_a_new_order_each_epoch_and_seed() -> None:
    text = np.arange(201, dtype=np.uint8)
    orders = [
        tuple(Windows(text, 2, seed, np.arange(50)).batch(epoch, 50)[0][:, 0].tolist())
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_all_windows_kept_are_windows() -> None:
    text = np.random.default_rng(0).integers(0, 256, 100, dtype=np.uint8)
    mine, plain = Windows(text, 4, 7, np.arange(24)), Windows(text, 4, 7)
    for step in range(20):
        for got, wanted in zip(mine.batch(step, 5), plain.batch(step, 5), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize(("kept", "shown"), [([], "[]"), ([1, 1], "[1, 1]"), ([-1], "[-1]"), ([0, 5], "[0, 5]")])
def test_kept_windows_refuse_what_is_no_window(kept: list[int], shown: str) -> None:
    message = re.escape(f"kept={shown} must be different numbers of windows from 0 to 4, at least one")
    with pytest.raises(ValueError, match=message):
        Windows(np.zeros(16, np.uint8), 3, 0, np.array(kept, np.int64))


def test_training_on_all_windows_is_the_ordinary_training(model: ModelConfig, run: RunConfig, corpus: Corpus) -> None:
    ordinary = Training(model, run, corpus=corpus)
    while not ordinary.done:
        ordinary.step()
    wanted = ordinary.record(ordinary.evaluate())
    record = train_on(corpus, np.arange(ordinary.windows.n_windows), model, run)
    assert (record.curve, record.val_loss) == (wanted.curve, wanted.val_loss)


def test_training_costs_the_same_whatever_is_kept_and_reads_nothing_else(
    model: ModelConfig, run: RunConfig, corpus: Corpus
) -> None:
    kept, T = np.array([7, 2, 30]), model.context
    record = train_on(corpus, kept, model, run)
    more = train_on(corpus, np.arange(100), model, run)
    assert (record.flops, record.steps, record.tokens) == (more.flops, more.steps, more.tokens)
    assert record.tokens > 3 * T, "more than an epoch"
    assert record.val_loss is not None
    assert more.val_loss is not None
    assert more.val_loss < record.val_loss
    noise = np.random.default_rng(0).integers(0, 256, corpus.train.size, dtype=np.uint8)
    for number in kept:  # with the byte after it, which its last token has to predict
        read = slice(number * T, (number + 1) * T + 1)
        noise[read] = corpus.train[read]
    assert train_on(replace(corpus, train=noise), kept, model, run).curve == record.curve


def test_a_record_knows_what_was_kept(model: ModelConfig, run: RunConfig, corpus: Corpus) -> None:
    short = run.replace(budget=4e6)
    one, two, again = (
        train_on(corpus, np.array(kept), model, short).corpus["fingerprint"] for kept in ([5], [5, 40], [40, 5])
    )
    assert two == again
    assert len({corpus.fingerprint, one, two, part(corpus, 5).fingerprint}) == 4, "five bytes are not window five"


# ---- How hard a window is


@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_el2n_by_a_loop_over_tokens(model: ModelConfig, corpus: Corpus, tied: bool) -> None:
    small = part(corpus, 10 * model.context + 5)
    transformer = some_model(model.replace(tied_embeddings=tied))
    found = scores(transformer, small, batch_size=4)
    pairs = pairs_of(small, model.context)
    assert len(found) == len(pairs) == 10
    for number, (x_T, y_T) in enumerate(pairs):
        losses, errors = [], []
        for logits_V, y in zip(transformer(x_T[None])[0].detach().double().numpy(), y_T.tolist(), strict=True):
            p_V = np.exp(logits_V - logits_V.max())
            p_V /= p_V.sum()
            losses.append(-math.log(p_V[y]))
            errors.append(math.sqrt((p_V[y] - 1) ** 2 + sum(p * p for v, p in enumerate(p_V) if v != y)))
        assert found["loss"][number] == pytest.approx(np.mean(losses), rel=1e-5)
        assert found["el2n"][number] == pytest.approx(np.mean(errors), rel=1e-5)
    assert found["loss"].nunique() == 10
    assert found["el2n"].between(0, math.sqrt(2)).all()


def test_scores_of_a_model_that_knows_nothing(model: ModelConfig, corpus: Corpus) -> None:
    """p = 1/V: a loss of log V, and ‖p − onehot‖² = (1 − 1/V)² + (V − 1)/V² = 1 − 1/V."""
    transformer = Transformer(model)
    torch.nn.init.zeros_(transformer.head)
    found = scores(transformer, part(corpus, 1_000))
    assert list(found["loss"]) == pytest.approx([math.log(256)] * len(found))
    assert list(found["el2n"]) == pytest.approx([math.sqrt(255 / 256)] * len(found))


@pytest.mark.parametrize("tied", [False, True])
def test_grand_is_the_gradient_through_the_output_table_alone(model: ModelConfig, corpus: Corpus, tied: bool) -> None:
    small = part(corpus, 6 * model.context + 1)
    transformer = some_model(model.replace(tied_embeddings=tied))
    found = scores(transformer, small, batch_size=4)["grand"]
    whole = []
    for number, (x_T, y_T) in enumerate(pairs_of(small, model.context)):
        h_TD = transformer.hidden(x_T[None])[0][0].detach()
        head_VD = transformer.head.detach().clone().requires_grad_()
        gradient_VD = torch.autograd.grad(F.cross_entropy(F.linear(h_TD, head_VD), y_T), head_VD)[0]
        assert found[number] == pytest.approx(gradient_VD.norm().item(), rel=1e-4)
        loss = transformer.loss(x_T[None], y_T[None])[0]
        whole.append(torch.autograd.grad(loss, transformer.head)[0].norm().item())
    # A tied table is also the embedding, and has that gradient besides.
    assert (list(found) == pytest.approx(whole, rel=1e-4)) != tied


# ---- What to keep

values = st.lists(st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=60)


@given(values, st.floats(0, 1, exclude_min=True), st.booleans())
def test_keep_by_sorting(score: list[float], fraction: float, hard: bool) -> None:
    kept = keep(score, fraction, hard).tolist()
    order = sorted(range(len(score)), key=lambda i: (-score[i] if hard else score[i], i))
    assert len(kept) == max(1, round(fraction * len(score)))
    assert kept == sorted(order[: len(kept)])


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30, unique=True))
def test_hard_and_easy_halves_complement_each_other(score: list[float]) -> None:
    assume(len(score) % 2 == 0)
    halves = [*keep(score, 0.5, hard=True), *keep(score, 0.5, hard=False)]
    assert sorted(halves) == list(range(len(score)))


def test_keep_takes_a_column_and_at_least_one() -> None:
    column = pd.Series([3.0, 1.0, 2.0], index=[9, 8, 7])
    assert keep(column, 2 / 3, hard=True).tolist() == [0, 2], "places, not labels"
    assert keep(column, 1e-9, hard=False).tolist() == [1]
    assert keep(column, 1.0, hard=False).tolist() == [0, 1, 2]


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, math.nan])
def test_keep_refuses_fractions(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction={fraction} must be above 0 and at most 1"):
        keep([1.0, 2.0], fraction, hard=True)


@pytest.mark.parametrize(("score", "got"), [([], "0 of 0"), ([1.0, math.nan, 2.0], "1 of 3")])
def test_keep_refuses_scores_that_say_nothing(score: list[float], got: str) -> None:
    with pytest.raises(ValueError, match=f"score: {got} values are NaN; give at least one, by a model"):
        keep(score, 0.5, hard=True)


# ---- Near-duplicates


def test_shingles() -> None:
    def of(text: bytes) -> set[bytes]:
        return shingles(np.frombuffer(text, np.uint8))

    assert of(b"abcdefghij") == {b"abcdefgh", b"bcdefghi", b"cdefghij"}
    assert of(b"a" * 100) == {b"a" * SHINGLE}
    assert of(b"short") == {b"short"}


def jaccard(a: set[bytes], b: set[bytes]) -> float:
    return len(a & b) / len(a | b)


def exact(windows_WT: WindowsWT, threshold: float) -> list[int]:
    """What `distinct` would keep without an index: every window beside every earlier one that is kept."""
    kept: list[int] = []
    for number, window in enumerate(windows_WT):
        if all(jaccard(shingles(window), shingles(windows_WT[other])) < threshold for other in kept):
            kept.append(number)
    return kept


def random_bytes(seed: int, *shape: int) -> WindowsWT:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 8), st.lists(st.integers(0, 7), max_size=12))
def test_planted_near_duplicates_go_and_distinct_windows_stay(seed: int, n: int, copied: list[int]) -> None:
    """Another byte takes 8 of 121 shingles: J = 113/129 = 0.88 to the original, 0.77 or more to another copy."""
    originals = random_bytes(seed, n, 128)
    copies = originals[[i % n for i in copied]]
    copies[np.arange(len(copies)), np.arange(20, 20 + len(copies))] ^= 1
    place = np.random.default_rng(seed).permutation(n + len(copies))
    windows, family = np.concatenate([originals, copies])[place], np.array([*range(n), *(i % n for i in copied)])[place]
    kept = distinct(windows).tolist()
    assert kept == exact(windows, 0.5)
    assert kept == [i for i, mine in enumerate(family) if mine not in family[:i]], "the first of each family"


@pytest.mark.parametrize("seed", range(5))
def test_chains_are_cut_as_the_exact_index_cuts_them(seed: int) -> None:
    """Windows 24 bytes apart share J = 97/145 = 0.67; two steps apart 0.43. Which stay depends on the order."""
    text = random_bytes(seed, 24 * 40 + 128)
    chain = np.stack([text[24 * i : 24 * i + 128] for i in np.random.default_rng(seed).permutation(40)])
    kept = distinct(chain).tolist()
    assert kept == exact(chain, 0.5)
    assert 13 < len(kept) < 40


def crowd(shared: int) -> WindowsWT:
    """150 windows that begin alike, with ``shared`` of 128 bytes, and go on each in its own way."""
    windows = random_bytes(0, 150, 128)
    windows[:, :shared] = windows[0, :shared]
    return windows


def test_a_crowd_just_below_the_threshold_stays_whole() -> None:
    """J = 77/165 = 0.47, which MinHash alone can't tell from 0.5: its estimate is off by 0.044."""
    assert jaccard(*map(shingles, crowd(84)[:2])) == 77 / 165
    assert distinct(crowd(84)).tolist() == list(range(150))
    assert distinct(crowd(84), 0.45).size < 150


def test_of_a_crowd_just_above_the_threshold_few_are_missed() -> None:
    """J = 83/159 = 0.52: MinHash finds such a pair with a chance of 0.9, and one kept window is enough to find."""
    assert jaccard(*map(shingles, crowd(90)[:2])) == 83 / 159
    assert exact(crowd(90), 0.5) == [0]
    kept = distinct(crowd(90))
    assert kept[0] == 0
    assert len(kept) <= 5


def test_one_of_each_is_a_matter_of_the_threshold() -> None:
    """Three bytes changed in each of eight copies: two of them are six changes apart, J = 73/169 = 0.43 or more."""
    random = np.random.default_rng(0)
    copies = random_bytes(0, 20, 128).repeat(8, 0)
    for window in copies:
        window[random.integers(0, 128, 3)] ^= 1
    assert exact(copies, 0.3) == list(range(0, 160, 8))
    assert 20 <= len(distinct(copies, 0.3)) <= 22
    assert len(distinct(copies)) > 40


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_what_is_dropped_of_a_text_resembles_what_is_kept(corpus: Corpus, threshold: float) -> None:
    windows = corpus.train[: 300 * 64].reshape(300, 64)
    kept = distinct(windows, threshold)
    sets = [shingles(window) for window in windows]
    for number in set(range(300)) - set(kept.tolist()):
        assert any(jaccard(sets[number], sets[other]) >= threshold for other in kept[kept < number])


def test_distinct_of_none_of_one_and_of_equals() -> None:
    assert distinct(np.zeros((0, 128), np.uint8)).tolist() == []
    assert distinct(np.zeros((1, 128), np.uint8)).tolist() == [0]
    assert distinct(np.zeros((9, 4), np.uint8)).tolist() == [0]


@pytest.mark.parametrize("threshold", [0, 1, -0.1, math.nan])
def test_distinct_refuses_thresholds(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold={threshold} must be above 0 and below 1"):
        distinct(np.zeros((2, 9), np.uint8), threshold)
