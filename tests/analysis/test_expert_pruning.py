"""Experts turned off and merged: a smaller model gives the numbers of the large one without them."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsity_lab.accounting import count_parameters
from sparsity_lab.analysis.expert_pruning import (
    aligned,
    expert_loads,
    expert_losses,
    keep_experts,
    merge_experts,
    most,
    smaller_config,
)
from sparsity_lab.analysis.pruning import Batches, mean_loss, nonzeros
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer, generate
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.trainer import Training

BASE = ModelConfig(d_model=8, n_heads=2, d_expert=12, context=16, n_experts=6)
SHAPES = {
    "one of six": BASE,
    "two of six, one shared": BASE.replace(top_k=2, n_shared_experts=1),
    "sigmoid with a bias": BASE.replace(router="sigmoid", bias_rate=0.01, top_k=2),
    "dense first": BASE.replace(n_layers=3, n_dense_layers=1),
    "predicts further": BASE.replace(mtp_depth=1),
}
KEPT = torch.tensor([[0, 2, 3, 5], [1, 2, 4, 5]])


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(request.param)
    for router in model.routers():
        if router.bias_E is not None:
            router.bias_E.copy_(0.1 * torch.randn(6))
    return model


@pytest.fixture
def text(model: Transformer) -> Batches:
    tokens = torch.randint(256, (2, 4, 17), generator=torch.Generator().manual_seed(1))
    return [(batch[:, :-1], batch[:, 1:]) for batch in tokens]


@contextmanager
def masked(model: Transformer, gone: dict[int, list[int]]) -> Iterator[None]:
    """The oracle: the large model, with logits of −∞ for experts that are gone, by their layer with experts. (−10⁹, for
    a score of 0 and a bias could still win.)"""
    routers = model.routers()
    before = [(r.linear, r.bias_E) for r in routers]
    for layer, experts in gone.items():
        router, plain = routers[layer], routers[layer].linear
        off = torch.zeros(6, dtype=torch.bool)
        off[experts] = True
        router.linear = lambda x, w, off=off, plain=plain: plain(x, w).masked_fill(off, -1e9)
        if router.bias_E is not None:
            router.bias_E = router.bias_E.masked_fill(off, -1e9)
    yield
    for router, (linear, bias_E) in zip(routers, before, strict=True):
        router.linear, router.bias_E = linear, bias_E


@pytest.mark.parametrize("backend", ["naive", "grouped"])
def test_removed_equals_masked(model: Transformer, text: Batches, backend: str) -> None:
    twin = Transformer(model.config, backend)
    twin.load_state_dict(model.state_dict())
    smaller = keep_experts(twin, KEPT)
    assert smaller.config == model.config.replace(n_experts=4, mtp_depth=0)
    assert smaller.backend == backend
    with masked(twin, {0: [1, 4], 1: [0, 3]}):
        for x_BT, _ in text:
            torch.testing.assert_close(smaller(x_BT), twin(x_BT), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(smaller(text[0][0]), model(text[0][0]), atol=1e-3)


def test_removed_are_not_counted(model: Transformer) -> None:
    smaller = keep_experts(model, KEPT)
    counts = count_parameters(smaller.config)
    found = nonzeros(smaller)
    assert found == {part: getattr(counts, part) for part in found}
    before = nonzeros(model)
    assert (found["routed"] * 6, found["router"] * 6) == (before["routed"] * 4, before["router"] * 4)


def test_all_kept_is_the_same_model(model: Transformer, text: Batches) -> None:
    same = keep_experts(model, torch.arange(6).expand(2, -1))
    assert torch.equal(same(text[0][0]), model(text[0][0]))


def test_loads_by_counting(model: Transformer, text: Batches) -> None:
    expected = torch.zeros(2, 6)
    for x_BT, _ in text:
        model.hidden(x_BT)
        for layer, router in enumerate(model.routers()):
            assert router.last is not None
            for expert in router.last.experts_NK.flatten().tolist():
                expected[layer, expert] += 1
    choices = 2 * 4 * 16 * model.config.top_k
    torch.testing.assert_close(expert_loads(model, text), expected / choices)


def test_losses_against_masking(model: Transformer, text: Batches) -> None:
    before = {name: w.clone() for name, w in model.state_dict().items()}
    rises, whole = expert_losses(model, text), mean_loss(model, text)
    for layer, expert in itertools.product(range(2), range(6)):
        with masked(model, {layer: [expert]}):
            assert float(rises[layer, expert]) == pytest.approx(mean_loss(model, text) - whole, abs=1e-5)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert all(len(layer.moe.experts.down_EFD) in (1, 6) for layer in model.layers), "all are back"


def test_most() -> None:
    assert most(torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.9]]), 2)[0].tolist() == [1, 2]
    assert 2 in most(torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.9]]), 2)[1]


@pytest.mark.parametrize(
    ("changes", "n", "message"),
    [
        ({}, 1, r"n_experts=1 must be from 2 to 6 .* lower the sparsity"),
        ({"top_k": 3}, 2, "n_experts=2 must be from 3 to 6"),
        ({}, 7, "n_experts=7 must be from 2 to 6"),
        ({"n_experts": 1}, 1, "n_experts=1: the model has no experts to remove"),
        ({"router": "hash"}, 4, "router='hash' can't lose an expert: only softmax and sigmoid choose again"),
        ({"router": "expert_choice"}, 4, "router='expert_choice' can't lose an expert"),
        ({"n_groups": 2}, 4, "n_groups=2: experts can't leave their groups"),
    ],
)
def test_what_can_not_be(changes: dict[str, int], n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smaller_config(BASE.replace(**changes), n)


# ---- merging


def twins(config: ModelConfig, shuffled: bool) -> Transformer:
    """Experts 0 and 3, and 1 and 5, are the same, rows of the router too; the hidden units perhaps in another order."""
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for layer in model.layers:
            moe = layer.moe
            for one, other in ((0, 3), (1, 5)):
                order = torch.randperm(12) if shuffled else torch.arange(12)
                gate, up = moe.experts.gate_up_EDG[one].chunk(2, 1)
                moe.experts.gate_up_EDG[other] = torch.cat([gate[:, order], up[:, order]], 1)
                moe.experts.down_EFD[other] = moe.experts.down_EFD[one][order]
                moe.router.weight[other] = moe.router.weight[one]
    return model


@pytest.mark.parametrize("shuffled", [False, True])
def test_merging_identical_experts_changes_nothing(shuffled: bool) -> None:
    """With scores that do not know of each other; a softmax would give the share of both to the one that stays."""
    model = twins(BASE.replace(router="sigmoid", z_loss=0.0), shuffled)
    loads = torch.tensor([[0.3, 0.3, 0.15, 0.05, 0.15, 0.05]] * 2)
    merged = merge_experts(model, loads, 4)
    x_BT = torch.randint(256, (3, 16))
    torch.testing.assert_close(merged(x_BT), model(x_BT), rtol=1e-5, atol=1e-6)


def naive_mean(model: Transformer, layer: int, members: list[int], loads: Tensor) -> Tensor:
    """The hidden units of the first, each averaged with its partners by load; partners found by trying all orders."""
    experts = model.layers[layer].moe.experts

    def unit(e: int, f: int) -> Tensor:
        gate, up = experts.gate_up_EDG[e].chunk(2, 1)
        return torch.cat([gate[:, f], up[:, f], experts.down_EFD[e][f]]).detach()

    F = len(experts.down_EFD[0])
    total = torch.zeros(F, unit(0, 0).numel())
    for e in members:
        orders = itertools.permutations(range(F))
        best = max(orders, key=lambda o: sum(float(unit(members[0], f) @ unit(e, o[f])) for f in range(F)))
        for f in range(F):
            total[f] += loads[e] / loads[members].sum() * unit(e, best[f])
    return total


def test_merging_against_all_orders() -> None:
    torch.manual_seed(0)
    model = Transformer(BASE.replace(d_expert=4, n_layers=1))
    loads = torch.tensor([[0.05, 0.3, 0.2, 0.05, 0.25, 0.15]])
    merged = merge_experts(model, loads, 3)
    weight = model.routers()[0].weight
    assert weight is not None
    rows = weight.detach()
    groups: dict[int, list[int]] = {kept: [kept] for kept in (1, 2, 4)}
    for e in (0, 3, 5):
        groups[max(groups, key=lambda kept: float(torch.cosine_similarity(rows[e], rows[kept], 0)))].append(e)
    assert max(len(members) for members in groups.values()) > 1
    for place, (kept, members) in enumerate(groups.items()):
        experts = merged.layers[0].moe.experts
        gate, up = experts.gate_up_EDG[place].T.chunk(2)
        got = torch.cat([gate, up, experts.down_EFD[place]], 1)
        torch.testing.assert_close(got, naive_mean(model, 0, members, loads[0]))
        row = merged.routers()[0].weight
        assert row is not None
        assert torch.equal(row[place], rows[kept])


def test_aligned_finds_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.randn(20, 6, generator=generator)
    assert torch.equal(aligned(units[torch.from_numpy(np.random.default_rng(0).permutation(20))], units), units)


def test_idle_experts_can_be_merged() -> None:
    model = Transformer(BASE)
    merged = merge_experts(model, torch.tensor([[1.0, 0, 0, 0, 0, 0]] * 2), 2)
    assert all(bool(w.isfinite().all()) for w in merged.parameters())


# ---- a smaller model is a model


def test_trains_saves_and_writes(run: RunConfig, corpus: Corpus, tmp_path: Path) -> None:
    config = BASE.replace(context=32)
    training = Training(config, run.replace(budget=2e7), corpus=corpus)
    while not training.done:
        training.step()
    smaller = keep_experts(training.model, KEPT)
    on = Training(smaller.config, run.replace(budget=2e7, seed=1), corpus=corpus)
    on.model.load_state_dict(smaller.state_dict())
    before = on.evaluate()
    while not on.done:
        on.step()
    after = on.evaluate()
    assert before is not None
    assert after is not None
    assert after < before
    on.save(tmp_path / "smaller.safetensors")
    again = Training(smaller.config, on.run_config, corpus=corpus, checkpoint_path=tmp_path / "smaller.safetensors")
    assert again.evaluate() == after
    assert len(generate(again.model, torch.tensor([[1, 2]]), 4)[0]) >= 4
