"""Fast twins against plain ones, values and gradients; the whole model against an independent one; writing text."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer, generate, routes
from sparsity_lab.models.attention import norm_rope, norm_rope_plain, rotations
from sparsity_lab.models.cache import new_cache
from sparsity_lab.models.experts import Experts, grouped_compiled
from sparsity_lab.models.ops import linear, linear_cross_entropy, linear_plain, rms_norm, rms_norm_plain
from sparsity_lab.models.router import Routing, route, route_plain

Twins = Callable[..., None]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


# ---- ops


@pytest.mark.parametrize("shape", [(1, 4, 3), (50, 24, 7), (2048, 64, 192), (1500, 128, 256)])  # the last use oneDNN
def test_linear(assert_twins: Twins, shape: tuple[int, int, int]) -> None:
    n, d, m = shape
    assert_twins(linear, linear_plain, normal(n, d), normal(m, d))


@given(n=st.integers(1, 40), d=st.integers(2, 40))
def test_rms_norm(assert_twins: Twins, n: int, d: int) -> None:
    assert_twins(rms_norm, rms_norm_plain, normal(n, d) * 3, normal(d))
    torch.testing.assert_close(rms_norm(normal(n, d), torch.ones(d)), F.rms_norm(normal(n, d), (d,), eps=1e-6))


def test_cross_entropy_of_a_certain_model_is_finite() -> None:
    x = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    loss = linear_cross_entropy(x, torch.eye(2), torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(1000.0)
    assert x.grad is not None
    assert x.grad.isfinite().all()


# ---- attention


@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 150),
    kv_heads=st.integers(1, 3),
    shared=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6, 8]),
)
@example(batch=2, tokens=65, kv_heads=2, shared=1, head_dim=16)
@settings(max_examples=25)
def test_norm_rope(assert_twins: Twins, batch: int, tokens: int, kv_heads: int, shared: int, head_dim: int) -> None:
    heads = kv_heads * shared
    turns = rotations(ModelConfig(d_model=heads * head_dim, n_heads=heads, context=200))[:tokens]
    inputs = normal(batch, tokens, (heads + 2 * kv_heads) * head_dim), normal(head_dim), normal(head_dim, seed=9)
    assert_twins(
        lambda qkv, q, k: norm_rope(qkv, heads, q, k, turns),
        lambda qkv, q, k: norm_rope_plain(qkv, heads, q, k, turns),
        *inputs,
    )


def test_rope_is_relative() -> None:
    config = ModelConfig(d_model=8, n_heads=1, context=64)
    q, k, ones = normal(8), normal(8, seed=3), torch.ones(8)
    qkv = torch.cat([q, k, k]).expand(1, 64, 24).contiguous()
    q_T, k_T, _ = norm_rope_plain(qkv, 1, ones, ones, rotations(config))
    scores = q_T[0] @ k_T[0].T
    torch.testing.assert_close(scores[10, 3], scores[57, 50])
    assert not torch.isclose(scores[10, 3], scores[10, 4])


# ---- router


def as_tuple(routing: Routing) -> tuple[Tensor, ...]:
    return routing.weights_NK, routing.balance, routing.z


@given(n=st.integers(1, 60), experts=st.integers(2, 20), data=st.data())
def test_route(assert_twins: Twins, n: int, experts: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, experts))
    logits = normal(n, experts) * 2
    assert_twins(
        lambda x: as_tuple(route(x, k)),
        lambda x: as_tuple(route_plain(x, ModelConfig(n_experts=x.shape[1], top_k=k))),
        logits,
    )
    fast, plain = route(logits, k), route_plain(logits, ModelConfig(n_experts=logits.shape[1], top_k=k))
    assert torch.equal(fast.experts_NK, plain.experts_NK)
    assert torch.equal(fast.counts_E, plain.counts_E)
    assert fast.counts_E.sum() == n * k
    torch.testing.assert_close(fast.probs_NE, plain.probs_NE)


def test_balance_loss_is_one_for_an_even_load_and_experts_for_a_collapsed_one() -> None:
    even = torch.eye(4).repeat(8, 1) * 50
    assert route(even, 1).balance.item() == pytest.approx(1.0, abs=1e-4)
    collapsed = torch.tensor([50.0, 0, 0, 0]).expand(32, 4).contiguous()
    assert route(collapsed, 1).balance.item() == pytest.approx(4.0, abs=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_balance_loss_is_transformers_per_choice(k: int) -> None:
    """Theirs sums the shares of the K choices, so it is K times ours."""
    logits = normal(100, 8)
    theirs = load_balancing_loss_func((logits,), num_experts=8, top_k=k)
    assert route(logits, k).balance.item() == pytest.approx(float(theirs) / k, rel=1e-5)


def test_z_loss() -> None:
    assert route(torch.zeros(5, 8), 1).z.item() == pytest.approx(torch.tensor(8.0).log().item() ** 2)


# ---- experts


def check_experts(assert_twins: Twins, d: int, f: int, experts_NK: Tensor, n_experts: int) -> None:
    n, k = experts_NK.shape
    experts = Experts(n_experts, f, ModelConfig(d_model=d, n_heads=1, d_expert=f, n_experts=n_experts))
    counts = torch.bincount(experts_NK.flatten(), minlength=n_experts)

    def run(work: str) -> Callable[..., Tensor]:
        def forward(x: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
            del experts.gate_up_EDG, experts.down_EFD
            experts.gate_up_EDG, experts.down_EFD = gate_up, down  # type: ignore[assignment]
            zero = torch.zeros(())
            result: Tensor = getattr(experts, work)(x, Routing(weights, experts_NK, counts, x, zero, zero))
            return result

        return forward

    weights = normal(n, k).softmax(-1)
    inputs = normal(n, d), weights, normal(n_experts, d, 2 * f) * d**-0.5, normal(n_experts, f, d) * f**-0.5
    assert_twins(run("grouped"), run("naive"), *inputs)
    if d % 4 == f % 4 == 0:  # what grouped_mm takes
        assert_twins(lambda x, w, *weights: grouped_compiled(x, w, experts_NK, counts, *weights), run("naive"), *inputs)


@given(
    n=st.integers(1, 50), d=st.sampled_from([2, 6, 8, 24]), f=st.integers(1, 12), e=st.integers(1, 8), data=st.data()
)
def test_grouped_is_naive(assert_twins: Twins, n: int, d: int, f: int, e: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, e))
    chosen = torch.stack([torch.randperm(e, generator=torch.Generator().manual_seed(i))[:k] for i in range(n)])
    check_experts(assert_twins, d, f, chosen, e)


@pytest.mark.parametrize("library", ["grouped_mm", "onednn"] if routes.has_onednn() else ["grouped_mm"])
@pytest.mark.parametrize(("d", "f", "e"), [(64, 192, 2), (128, 512, 4), (24, 72, 16)])
def test_large_groups_and_empty_experts(
    assert_twins: Twins, d: int, f: int, e: int, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "in_use", routes.Routes(experts=(library,) * routes.CLASSES))
    chosen = torch.randint(e, (2048, 1), generator=torch.Generator().manual_seed(0))
    check_experts(assert_twins, d, f, chosen, e)
    check_experts(assert_twins, d, f, torch.full((600, 1), e - 1), e)  # one expert has all the tokens


# ---- the whole model


@given(config=st.from_type(ModelConfig), batch=st.integers(1, 3))
@settings(max_examples=25)
def test_backends_agree(config: ModelConfig, batch: int) -> None:
    models = []
    for backend in ("naive", "grouped"):
        torch.manual_seed(0)
        models.append(Transformer(config, backend))
    x = torch.randint(config.vocab_size, (batch, config.context), generator=torch.Generator().manual_seed(1))
    for model in models:
        loss, aux_loss = model.loss(x, x.roll(-1, 1))
        (loss + aux_loss).backward()
    if config.router == "expert_choice":  # among equal tokens, rounding would decide which one an expert takes
        scores = [router.last.probs_NE.sort(0).values for router in models[0].routers() if router.last is not None]
        assume(all(bool((score.diff(dim=0) > 1e-5).all()) for score in scores))
    for (name, mine), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        scale = max(1e-3, float(mine.grad.abs().max()))  # a gradient that is zero is so but for rounding
        # two numbers wide, a norm divides by what is nearly zero, and rounding grows
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-2, atol=1e-2 * scale, msg=name)
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-3, atol=1e-4)


def pairs_to_halves(head_dim: int) -> Tensor:
    """Ours turns neighbours, theirs the two halves of a head: theirs[i] is ours[order[i]]."""
    return torch.arange(head_dim).view(-1, 2).T.flatten()


@pytest.mark.parametrize("top_k", [2, 4])
def test_logits_are_qwen3s(top_k: int) -> None:
    """The whole forward pass against an implementation that others wrote, on the same weights."""
    config = ModelConfig(
        vocab_size=50, context=32, d_model=32, n_layers=2, n_heads=2, d_expert=24, n_experts=6, top_k=top_k
    )
    torch.manual_seed(0)
    ours = Transformer(config)
    theirs = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            moe_intermediate_size=24,
            num_experts=6,
            num_experts_per_tok=top_k,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            attention_bias=False,
            tie_word_embeddings=False,
            rms_norm_eps=1e-6,
            rope_theta=10_000.0,
            attn_implementation="eager",
        )
    ).eval()
    order = pairs_to_halves(16)
    rows = torch.cat([head * 16 + order for head in range(2)])
    new = {
        "model.embed_tokens.weight": ours.embedding,
        "model.norm.weight": ours.final_norm,
        "lm_head.weight": ours.head,
    }
    for i, layer in enumerate(ours.layers):
        name = f"model.layers.{i}."
        q, k, v = layer.attention.qkv.chunk(3)  # type: ignore[union-attr]
        new |= {
            name + "input_layernorm.weight": layer.attention_norm,
            name + "post_attention_layernorm.weight": layer.moe_norm,
            name + "self_attn.q_proj.weight": q[rows],
            name + "self_attn.k_proj.weight": k[rows],
            name + "self_attn.v_proj.weight": v,
            name + "self_attn.o_proj.weight": layer.attention.out,
            name + "self_attn.q_norm.weight": layer.attention.q_norm[order],
            name + "self_attn.k_norm.weight": layer.attention.k_norm[order],
            name + "mlp.gate.weight": layer.moe.router.weight,
            name + "mlp.experts.gate_up_proj": layer.moe.experts.gate_up_EDG.transpose(1, 2),
            name + "mlp.experts.down_proj": layer.moe.experts.down_EFD.transpose(1, 2),
        }
    theirs.load_state_dict({name: weight.detach().clone() for name, weight in new.items()}, strict=True)
    x = torch.randint(50, (3, 32))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-5)


def test_causal() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=4, context=20, d_model=16, n_heads=1))
    x = torch.randint(256, (1, 20))
    changed = x.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 256
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[0, :12], after[0, :12])
    assert not torch.allclose(before[0, 12], after[0, 12])


@pytest.mark.parametrize("n_experts", [1, 4])
def test_overfits_a_batch(n_experts: int) -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=n_experts, context=16, d_model=16, n_heads=1, d_expert=48))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.randint(256, (2, 17))
    for _ in range(150):
        loss, aux_loss = model.loss(x[:, :-1], x[:, 1:])
        optimizer.zero_grad()
        (loss + aux_loss).backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_starts_from_blind_guessing() -> None:
    torch.manual_seed(0)
    x = torch.randint(256, (4, 128))
    loss, _ = Transformer(ModelConfig(n_experts=16)).loss(x, x.roll(1, 1))
    assert loss.item() == pytest.approx(torch.tensor(256.0).log().item(), abs=0.05)


def test_bfloat16_is_close() -> None:
    x = torch.randint(256, (2, 32))
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        loss, aux_loss = Transformer(ModelConfig(n_experts=4, context=32), dtype=dtype).loss(x, x)
        (loss + aux_loss).backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_routing_statistics() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=8, top_k=2, context=32))
    assert model.routing() == []
    model(torch.randint(256, (2, 32)))
    stats = model.routing()
    assert len(stats) == 2
    for layer in stats:
        assert sum(layer.load) == pytest.approx(1)
        assert layer.max_load == pytest.approx(max(layer.load) * 8)
        assert layer.dead == layer.load.count(0.0)
    assert Transformer(ModelConfig()).routing() == []


# ---- cache and generation


@given(cuts=st.lists(st.integers(1, 23), max_size=5), batch=st.integers(1, 3), experts=st.sampled_from([1, 4]))
@settings(max_examples=25)
def test_chunks_with_a_cache_are_the_whole(cuts: list[int], batch: int, experts: int) -> None:
    torch.manual_seed(0)
    config = ModelConfig(context=24, d_model=16, n_heads=2, n_experts=experts)
    model = Transformer(config).eval()
    x = torch.randint(256, (batch, 24))
    with torch.no_grad():
        cache = new_cache(config, batch)
        edges = [0, *sorted(set(cuts)), 24]
        parts = [model(x[:, a:b], cache) for a, b in itertools.pairwise(edges)]
        torch.testing.assert_close(torch.cat(parts, 1), model(x), rtol=1e-3, atol=1e-4)
        with pytest.raises(ValueError, match="the cache holds 24 tokens, asked to hold 25"):
            model(x[:, :1], cache)


def test_generation() -> None:
    torch.manual_seed(0)
    config = ModelConfig(context=16, d_model=16, n_heads=1, n_experts=4)
    model = Transformer(config)
    prompt = torch.randint(256, (2, 3))
    text = generate(model, prompt, 40, seed=1)
    assert text.shape == (2, 43)
    assert torch.equal(text[:, :3], prompt)
    assert torch.equal(text, generate(model, prompt, 40, seed=1))
    assert not torch.equal(text, generate(model, prompt, 40, seed=2))
    greedy = generate(model, prompt, 5, temperature=0)
    for length in range(3, 8):  # without a cache, token by token
        assert torch.equal(model(greedy[:, :length])[:, -1].argmax(-1), greedy[:, length])
    assert generate(model, prompt, 40, stop=lambda: True).shape == (2, 3)
    assert generate(model, torch.randint(256, (1, 50)), 2).shape == (1, 52)  # a prompt longer than the context
    with pytest.raises(ValueError, match="length ≥ 1"):
        generate(model, prompt[:, :0], 5)
    with pytest.raises(ValueError, match="temperature=-1"):
        generate(model, prompt, 5, temperature=-1)
