"""Which windows of a text to keep: scores against loops, near-duplicates against all pairs, equal FLOPs."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_lab import data_pruning
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.corpus import Corpus, load_corpus
from sparsity_lab.data_pruning import (
    KeptWindows,
    distinct,
    gradient_norms,
    jaccard,
    keep,
    part,
    scores,
    shingles,
    train_on,
)
from sparsity_lab.models import Transformer
from sparsity_lab.training import Training
from sparsity_lab.windows import Windows, validation_batches

WINDOWS, CONTEXT = 40, 32


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    random = np.random.default_rng(0)
    path.write_text("\n".join(" ".join(map(str, random.integers(0, 99, 12))) for _ in range(3_000)))
    return part(load_corpus(str(path)), WINDOWS * CONTEXT + 1)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig.of_width(8, context=CONTEXT)


@pytest.fixture
def model(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    return Transformer(config)


def windows_of(corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor]:
    batches = validation_batches(corpus.train, CONTEXT, 16, corpus.train.size)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# ---- Scores


@torch.no_grad()
def test_loss_and_el2n_token_by_token(model: Transformer, corpus: Corpus) -> None:
    found = scores(model, corpus)
    x_BT, y_BT = windows_of(corpus)
    assert len(found) == len(x_BT) == WINDOWS
    for window in (0, 7, WINDOWS - 1):
        losses, errors = [], []
        for logits, answer in zip(model(x_BT[window][None])[0].tolist(), y_BT[window].tolist(), strict=True):
            top = max(logits)
            total = sum(math.exp(v - top) for v in logits)
            shares = [math.exp(v - top) / total for v in logits]
            losses.append(-math.log(shares[answer]))
            errors.append(math.sqrt(sum((share - (i == answer)) ** 2 for i, share in enumerate(shares))))
        assert found["loss"][window] == pytest.approx(np.mean(losses), rel=1e-4)
        assert found["el2n"][window] == pytest.approx(np.mean(errors), rel=1e-4)
    assert found["el2n"].between(0, math.sqrt(2)).all()


def test_grand_is_the_gradient_of_the_output_table(model: Transformer, corpus: Corpus) -> None:
    found = scores(model, corpus)["grand"]
    for window, (x_T, y_T) in enumerate(zip(*windows_of(corpus), strict=True)):
        head = model.head.detach().clone().requires_grad_()
        logits = F.linear(model.hidden(x_T[None])[0].detach().float(), head)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits[0], y_T), head)
        assert found[window] == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_gradient_norms_are_those_of_backward(model: Transformer, corpus: Corpus) -> None:
    x_BT, y_BT = (t[:3] for t in windows_of(corpus))
    found = gradient_norms(model, x_BT, y_BT)
    for window in range(3):
        model.zero_grad()
        loss: torch.Tensor = model.loss(x_BT[window : window + 1], y_BT[window : window + 1])[0]
        loss.backward()
        squares = sum(float(w.grad.square().sum()) for w in model.parameters() if w.grad is not None)
        assert float(found[window]) == pytest.approx(math.sqrt(squares), rel=1e-4)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60, unique=True), st.floats(0.01, 1))
def test_keep_takes_the_extremes(values: list[int], fraction: float) -> None:
    hard, easy = keep(values, fraction, hard=True), keep(values, fraction, hard=False)
    n = max(1, round(fraction * len(values)))
    assert sorted(values[i] for i in hard) == sorted(values)[-n:]
    assert sorted(values[i] for i in easy) == sorted(values)[:n]
    assert list(hard) == sorted(hard)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
def test_keep_says_what_is_wrong(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"fraction={fraction} must be above 0 and at most 1"):
        keep([1, 2], fraction, hard=True)


# ---- Training on what is kept


def test_kept_windows_are_read_once_an_epoch_and_no_others(corpus: Corpus) -> None:
    kept = np.array([3, 5, 11, 12, 30, 38])
    windows = KeptWindows(corpus.train, CONTEXT, 0, kept)
    everything = np.asarray(corpus.train)
    expected = sorted(everything[i * CONTEXT : (i + 1) * CONTEXT].tobytes() for i in kept)
    orders = []
    for epoch in range(3):
        rows = [x.numpy().astype(np.uint8) for x, _ in (windows.batch(step, 3) for step in (2 * epoch, 2 * epoch + 1))]
        orders.append([row.tobytes() for row in np.concatenate(rows)])
        assert sorted(orders[-1]) == expected
    assert len({tuple(order) for order in orders}) > 1, "in another order"
    for wrong in ([], [1, 1], [-1], [WINDOWS]):
        with pytest.raises(ValueError, match=f"kept must hold different numbers of windows, 0 to {WINDOWS - 1}"):
            KeptWindows(corpus.train, CONTEXT, 0, np.array(wrong, int))


def test_all_windows_are_the_windows(corpus: Corpus) -> None:
    whole, kept = Windows(corpus.train, CONTEXT, 1), KeptWindows(corpus.train, CONTEXT, 1, np.arange(WINDOWS))
    for step in range(6):
        assert all(map(torch.equal, whole.batch(step, 16), kept.batch(step, 16)))


def test_flops_are_the_same_whatever_is_kept(corpus: Corpus, config: ModelConfig) -> None:
    run = RunConfig(budget=2e8, batch_size=8, eval_tokens=1_024, corpus=corpus.name)
    everything = train_on(corpus, np.arange(WINDOWS), config, run)
    training = Training(config, run, corpus=corpus)
    while not training.done:
        training.step()
    assert everything.val_loss == training.evaluate()
    few = train_on(corpus, np.arange(5), config, run)
    assert (few.flops, few.tokens) == (everything.flops, everything.tokens)
    assert few.val_loss != everything.val_loss
    assert few.corpus != everything.corpus


def test_part(corpus: Corpus) -> None:
    half = part(corpus, 640)
    assert np.array_equal(half.train, corpus.train[:640])
    assert np.array_equal(half.val, corpus.val)
    assert half.fingerprint != corpus.fingerprint
    for wrong in (0, corpus.train.size + 1):
        with pytest.raises(ValueError, match=f"n_bytes={wrong:,} must be from 1 to"):
            part(corpus, wrong)


# ---- Near-duplicates


def greedy(windows: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for number, window in enumerate(windows):
        if all(jaccard(shingles(window), shingles(windows[other])) < threshold for other in kept):
            kept.append(number)
    return kept


def test_jaccard_by_hand() -> None:
    n = data_pruning.SHINGLE
    a, b = (np.frombuffer(bytes(range(start, start + n + 3)), np.uint8) for start in (0, 2))
    assert (len(shingles(a)), len(shingles(b))) == (4, 4)
    assert jaccard(shingles(a), shingles(b)) == 2 / 6
    assert shingles(a[:3]) == {a[:3].tobytes()}, "too short for one"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 40), st.sampled_from([0.3, 0.5, 0.8]))
def test_near_duplicates_as_all_pairs_have_them(seed: int, changed: int, threshold: float) -> None:
    """What is dropped is one for sure; what is kept may be one only if it is near the threshold."""
    random = np.random.default_rng(seed)
    windows = random.integers(0, 256, (6, 128), np.uint8).repeat(3, 0)
    for window in windows:
        window[random.integers(0, 128, changed // 4)] = 0
    found = list(distinct(windows, threshold))
    dropped = set(range(len(windows))) - set(found)
    for number in dropped:
        assert any(jaccard(shingles(windows[number]), shingles(windows[k])) >= threshold for k in found if k < number)
    for i, a in enumerate(found):
        for b in found[:i]:
            assert jaccard(shingles(windows[a]), shingles(windows[b])) < min(1, threshold + 0.2)


def test_copies_go_and_others_stay() -> None:
    random = np.random.default_rng(0)
    originals = random.integers(0, 256, (30, 128), np.uint8)
    copies = originals.copy()
    copies[:, 60] ^= 1
    both = np.concatenate([originals, copies])
    assert list(distinct(both)) == greedy(both, 0.5) == list(range(30))
    with pytest.raises(ValueError, match="threshold=1 must be between 0 and 1"):
        distinct(both, 1)
