"""Every hand-written backward against finite differences, in float64, and what the plain twins themselves rest on."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer, attention, experts, ops
from sparsity_lab.models.attention import Attention, attend, rotations
from sparsity_lab.models.experts import Experts, MoE
from sparsity_lab.models.router import Router, Routing, route, route_plain

Twins = Callable[..., None]
FEW = settings(max_examples=15)


def double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7 * sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


# ---- Finite differences


@FEW
@given(n=st.integers(1, 4), d=st.integers(1, 6), seed=st.integers(0, 99))
def test_rows(n: int, d: int, seed: int) -> None:
    assert gradcheck(ops._RMSNorm.apply, (double(n, d, seed=seed), double(d, seed=seed + 2)))


@FEW
@given(
    batch=st.integers(1, 2),
    tokens=st.integers(1, 4),
    kv_heads=st.integers(1, 2),
    shared=st.integers(1, 2),
    half=st.integers(1, 2),
)
def test_attention(batch: int, tokens: int, kv_heads: int, shared: int, half: int) -> None:
    head_dim, heads = 2 * half, kv_heads * shared
    turns = rotations(ModelConfig(d_model=heads * head_dim, n_heads=heads, context=8))[:tokens].double()
    inputs = double(batch, tokens, (heads + 2 * kv_heads) * head_dim), double(head_dim), double(head_dim, seed=1)
    all_turns = torch.view_as_complex(turns).repeat(1, heads + kv_heads)
    assert gradcheck(lambda qkv, q, k: attention._NormRope.apply(qkv, heads, q, k, all_turns), inputs)


@FEW
@given(n=st.integers(1, 4), e=st.integers(2, 6), data=st.data())
def test_routing(n: int, e: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, e))

    def parts(logits: Tensor) -> tuple[Tensor, ...]:
        routing = route(logits, k)
        return routing.weights_NK, routing.balance, routing.z

    # Logits far apart, so that no difference changes the order.
    order = torch.stack([torch.randperm(e, generator=torch.Generator().manual_seed(i)) for i in range(n)])
    assert gradcheck(parts, (order.double() * 0.7).requires_grad_())


def few_tokens(n: int, k: int, e: int) -> Tensor:
    return torch.stack([torch.randperm(e, generator=torch.Generator().manual_seed(i))[:k] for i in range(n)])


@FEW
@given(n=st.integers(1, 5), d=st.integers(1, 3), f=st.integers(1, 3), e=st.integers(1, 4), data=st.data())
def test_experts(n: int, d: int, f: int, e: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, e))
    chosen = few_tokens(n, k, e)
    counts = torch.bincount(chosen.flatten(), minlength=e)
    x, weights, gate_up, down = double(n, d), double(n, k, seed=1), double(e, d, 2 * f), double(e, f, d)
    assert gradcheck(
        lambda x, w, gate_up, down: experts._Grouped.apply(x, w, chosen, counts, gate_up, down),
        (x, weights, gate_up, down),
    )


# ---- Experts


def empty(choice: Tensor, n_experts: int, weights: Tensor) -> Routing:
    zero = torch.zeros(())
    return Routing(weights, choice, torch.bincount(choice.flatten(), minlength=n_experts), weights, zero, zero)


@pytest.mark.parametrize("n", [3, 33, 700])
@pytest.mark.parametrize(("d", "f"), [(8, 12), (64, 192), (6, 5)])
def test_bfloat16_experts(n: int, d: int, f: int) -> None:
    torch.manual_seed(0)
    layer = Experts(5, f, ModelConfig(d_model=d, n_heads=1))
    choice = torch.randint(4, (n, 1))  # the last expert gets no token
    routing = empty(choice, 5, torch.rand(n, 1))
    x = torch.randn(n, d)
    exact = layer.naive(x, routing).detach()
    half = layer.grouped(x.bfloat16(), routing)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.03 * float(exact.abs().max()))


def test_an_expert_is_swiglu() -> None:
    torch.manual_seed(0)
    layer = Experts(2, 5, ModelConfig(d_model=4, n_heads=1))
    x = torch.randn(7, 4)
    gate, up = layer.gate_up_EDG[1, :, :5], layer.gate_up_EDG[1, :, 5:]
    z = x @ gate
    expected = (z * torch.sigmoid(z) * (x @ up)) @ layer.down_EFD[1]
    torch.testing.assert_close(layer.one(1, x), expected)


@pytest.mark.parametrize("backend", ["naive", "grouped"])
def test_shared_experts_work_on_every_token(backend: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(d_model=8, n_heads=1, d_expert=6, n_experts=4, top_k=2, n_shared_experts=2)
    layer = MoE(config, backend)
    x = torch.randn(2, 5, 8)
    assert layer.shared is not None
    with_shared, _ = layer(x)
    shared = layer.shared.one(0, x.flatten(0, 1)).view_as(x)
    layer.shared = None
    alone, _ = layer(x)
    torch.testing.assert_close(with_shared, alone + shared)
    assert shared.abs().min() > 0


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_router_learns_from_the_answers(top_k: int) -> None:
    """Without any auxiliary loss a gradient reaches it, also when one expert is active on a token."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=8, n_heads=1, n_experts=4, top_k=top_k, balance_loss=0, z_loss=0)
    layer = MoE(config, "grouped")
    y, aux_loss = layer(torch.randn(1, 20, 8))
    assert aux_loss is not None
    assert aux_loss.item() == 0
    y.square().sum().backward()
    assert layer.router is not None
    assert layer.router.weight.grad is not None
    assert layer.router.weight.grad.abs().sum() > 0


# ---- Router


@given(n=st.integers(1, 50), e=st.integers(2, 12), data=st.data())
def test_switch_and_z_loss_by_their_formulas(n: int, e: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, e))
    logits = np.random.default_rng(n).normal(size=(n, e)).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    chosen = np.argsort(-p, axis=1)[:, :k]
    f = np.bincount(chosen.ravel(), minlength=e) / (n * k)
    balance = e * (f * p.mean(0)).sum()
    z = np.mean(np.log(np.exp(logits.astype(np.float64)).sum(1)) ** 2)
    weights = np.take_along_axis(p, chosen, 1)
    weights = weights / weights.sum(1, keepdims=True) if k > 1 else weights
    for routing in (
        route(torch.tensor(logits), k),
        route_plain(torch.tensor(logits), ModelConfig(n_experts=len(logits[0]), top_k=k)),
    ):
        assert routing.balance.item() == pytest.approx(balance, rel=1e-4)
        assert routing.z.item() == pytest.approx(z, rel=1e-4)
        np.testing.assert_array_equal(routing.experts_NK, chosen)
        np.testing.assert_allclose(routing.weights_NK, weights, rtol=1e-4)
        np.testing.assert_array_equal(routing.counts_E, np.bincount(chosen.ravel(), minlength=e))


def test_auxiliary_loss_is_weighted() -> None:
    layer = Router(ModelConfig(n_experts=4, d_model=8, n_heads=1, balance_loss=0.5, z_loss=0.25), plain=False)
    routing = layer(torch.randn(9, 8))
    expected = 0.5 * routing.balance + 0.25 * routing.z
    torch.testing.assert_close(layer.aux_loss(routing), expected)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    for k in (1, 2, 3):
        routing = route(logits, k)
        (routing.weights_NK.sum() + routing.balance + routing.z).backward()
        assert routing.weights_NK.isfinite().all()
        assert routing.z.item() == pytest.approx((200.0**2 + np.log(3) ** 2) / 2, rel=1e-4)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_statistics_of_a_known_load() -> None:
    layer = Router(ModelConfig(n_experts=4, d_model=4, n_heads=1), plain=False)
    assert layer.stats() is None
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4) * 50)
    layer(torch.eye(4)[[0, 0, 0, 1]])
    stats = layer.stats()
    assert stats is not None
    assert stats.load == pytest.approx([0.75, 0.25, 0, 0])
    assert stats.max_load == pytest.approx(3)
    assert stats.dead == 2


# ---- Attention


@settings(max_examples=20)
@given(tokens=st.integers(1, 40), heads=st.integers(1, 3), seed=st.integers(0, 99))
def test_attention_by_its_formula(tokens: int, heads: int, seed: int) -> None:
    qkv = [double(2, tokens, 4 * heads, seed=seed + i).detach() for i in range(3)]
    q, k, v = (x.view(2, tokens, heads, 4).numpy() for x in qkv)
    scores = np.einsum("bihc,bjhc->bhij", q, k) / 2
    scores[:, :, ~np.tri(tokens, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhij,bjhc->bihc", weights, v).reshape(2, tokens, -1)
    np.testing.assert_allclose(attend((qkv[0], qkv[1], qkv[2]), heads), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("tokens", [1, 64, 513])
def test_a_layer_of_attention_whichever_way(assert_twins: Twins, tokens: int, window: int | None) -> None:
    config = ModelConfig(d_model=8, n_heads=2, context=1024, window=window)
    turns = rotations(config)[:tokens]
    layers = []
    for plain in (False, True):
        torch.manual_seed(0)
        layers.append(Attention(config, plain))
    x = torch.randn(1, tokens, 8)
    assert_twins(lambda x: layers[0](x, turns), lambda x: layers[1](x, turns), x)


def test_rotations_turn_by_the_papers_angles() -> None:
    config = ModelConfig(d_model=6, n_heads=1, context=50, rope_base=100.0)
    turns = rotations(config)
    assert turns.shape == (50, 3, 2)
    angles = np.outer(np.arange(50), 100.0 ** (-np.array([0, 2, 4]) / 6))
    np.testing.assert_allclose(turns, np.stack([np.cos(angles), np.sin(angles)], -1), atol=1e-5)


# ---- The whole model


def test_same_seed_same_weights_whichever_backend() -> None:
    config = ModelConfig(n_experts=4, top_k=2, n_shared_experts=1)
    models = []
    for backend, dtype in (("naive", torch.float32), ("grouped", torch.float32), ("grouped", torch.bfloat16)):
        torch.manual_seed(5)
        models.append(Transformer(config, backend, dtype).state_dict())
    assert models[0].keys() == models[1].keys() == models[2].keys()
    for name, weight in models[0].items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, models[1][name])
        assert torch.equal(weight, models[2][name])


def test_loss_is_the_cross_entropy_of_the_logits() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=4, context=16, d_model=8, n_heads=1))
    with torch.no_grad():
        model.head.mul_(30)
    x, y = torch.randint(256, (2, 3, 16))
    loss, aux_loss = model.loss(x, y)
    expected = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    torch.testing.assert_close(loss, expected)
    routers = [layer.moe.router for layer in model.layers]
    torch.testing.assert_close(aux_loss, sum(r.aux_loss(r.last) for r in routers))
    assert Transformer(ModelConfig(context=16)).loss(x, y)[1].item() == 0, "a dense model has no router to balance"


def test_sequences_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=4, context=16, d_model=8, n_heads=1))
    x = torch.randint(256, (3, 16))
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="17 tokens do not fit the model's context=16"):
        model(torch.zeros(1, 17, dtype=torch.int64))
