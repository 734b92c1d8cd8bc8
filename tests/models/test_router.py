"""Ways to route: DeepSeek-V3's router and block against Hugging Face's, and what each kind promises."""

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

from sparsity_lab.accounting import count_parameters
from sparsity_lab.analysis.routing import trace_routing
from sparsity_lab.config import BACKENDS, ModelConfig, RunConfig
from sparsity_lab.models import Transformer, generate
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.router import Router, route_by_experts
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.trainer import Training

HERE = [name for name in BACKENDS if name != "megablocks" or sys.platform == "linux"]

V3 = ModelConfig(
    d_model=16, n_heads=1, d_expert=8, n_experts=12, top_k=4, n_shared_experts=2, router="sigmoid", n_groups=4,
    top_groups=2, route_scale=2.5, bias_rate=0.001,
)  # fmt: skip


def deepseek_v3(config: ModelConfig) -> DeepseekV3MoE:
    block = DeepseekV3MoE(
        DeepseekV3Config(
            hidden_size=config.d_model, moe_intermediate_size=config.d_expert, n_routed_experts=config.n_experts,
            num_experts_per_tok=config.top_k, n_shared_experts=config.n_shared_experts, n_group=config.n_groups,
            topk_group=config.top_groups or config.n_groups, routed_scaling_factor=config.route_scale,
            norm_topk_prob=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in block.parameters():
            weight.normal_(std=0.3)
        block.gate.e_score_correction_bias.normal_(std=0.3)
    return block


@pytest.mark.parametrize("backend", ["naive", "grouped"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"n_groups": 1, "top_groups": None}, {"top_k": 2, "route_scale": 1.0}, {"n_groups": 3, "top_groups": 2}],
)
def test_block_is_deepseek_v3s(changes: dict[str, float], backend: str) -> None:
    """Output, and gradients of the input and of every weight."""
    torch.manual_seed(0)
    config = V3.replace(**changes)
    block, ours = deepseek_v3(config), MoE(config, backend)
    assert ours.router is not None
    assert ours.router.weight is not None
    assert ours.router.bias_E is not None
    assert ours.shared is not None
    with torch.no_grad():
        ours.router.weight.copy_(block.gate.weight)
        ours.router.bias_E.copy_(block.gate.e_score_correction_bias)
        ours.experts.gate_up_EDG.copy_(block.experts.gate_up_proj.transpose(1, 2))
        ours.experts.down_EFD.copy_(block.experts.down_proj.transpose(1, 2))
        shared = block.shared_experts
        ours.shared.gate_up_EDG.copy_(torch.cat([shared.gate_proj.weight, shared.up_proj.weight]).T[None])
        ours.shared.down_EFD.copy_(shared.down_proj.weight.T[None])
    x = torch.randn(3, 40, config.d_model, requires_grad=True)
    mine, other = ours(x)[0], block(x)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    g = torch.randn_like(mine)
    mine_dx, mine_dw, mine_dgate = torch.autograd.grad(mine, [x, ours.experts.gate_up_EDG, ours.router.weight], g)
    dx, dw, dgate = torch.autograd.grad(other, [x, block.experts.gate_up_proj, block.gate.weight], g)
    torch.testing.assert_close(mine_dx, dx, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mine_dw, dw.transpose(1, 2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mine_dgate, dgate, rtol=1e-3, atol=1e-4)


@settings(max_examples=30)
@given(tokens=st.integers(1, 50), groups=st.sampled_from([2, 3, 4]), seed=st.integers(0, 99))
def test_groups_limit_the_choice(tokens: int, groups: int, seed: int) -> None:
    torch.manual_seed(seed)
    config = V3.replace(n_groups=groups, top_groups=2, top_k=3)
    routing = Router(config, plain=True)(torch.randn(tokens, 16))
    of = routing.experts_NK // (config.n_experts // groups)
    assert all(len(row.unique()) <= 2 for row in of)
    torch.testing.assert_close(routing.weights_NK.sum(-1), torch.full((tokens,), 2.5))
    assert int(routing.counts_E.sum()) == tokens * 3


@settings(max_examples=20)
@given(tokens=st.integers(1, 20), groups=st.sampled_from([4, 6, 12]), seed=st.integers(0, 99))
def test_groups_that_are_whole_anyway_change_nothing(tokens: int, groups: int, seed: int) -> None:
    """Without a limit that bites: groups of one expert, as many as are chosen; or all groups."""
    torch.manual_seed(seed)
    config = V3.replace(n_groups=groups, top_groups=4 if groups == 12 else groups)
    plain = V3.replace(n_groups=1, top_groups=None)
    x, grouped, free = torch.randn(tokens, 16), Router(config, plain=True), Router(plain, plain=True)
    free.load_state_dict(grouped.state_dict())
    assert free(x).experts_NK.sort(-1).values.tolist() == grouped(x).experts_NK.sort(-1).values.tolist()


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("changes", [{}, {"top_groups": None}, {"bias_rate": 0.0}, {"route_scale": 1.0}])
def test_whatever_is_asked_for_no_fast_path_leaves_it_out(router: str, changes: dict[str, float]) -> None:
    torch.manual_seed(0)
    config = V3.replace(router=router, **changes)
    fast, plain = Router(config, plain=False), Router(config, plain=True)
    if fast.bias_E is not None:
        fast.bias_E.normal_()
    plain.load_state_dict(fast.state_dict())
    mine, wanted = fast(x := torch.randn(40, 16)), plain(x)
    for name in ("experts_NK", "weights_NK", "counts_E", "probs_NE", "balance", "z"):
        torch.testing.assert_close(getattr(mine, name), getattr(wanted, name))


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_balance_is_summed_token_by_token(router: str) -> None:
    """DeepSeek-V3 (arXiv 2412.19437), equations 17 to 20, without α and over the whole batch."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_heads=1, n_experts=6, top_k=2, router=router)
    gate, x = Router(config, plain=True), torch.randn(20, 16)
    routing = gate(x)
    logits = (x @ gate.weight.T).tolist() if gate.weight is not None else []
    scores = [[math.exp(v) if router == "softmax" else 1 / (1 + math.exp(-v)) for v in row] for row in logits]
    probs = [[score / sum(row) for score in row] for row in scores]
    chosen = [sorted(range(6), key=lambda e: -row[e])[:2] for row in scores]
    load = [6 / (2 * 20) * sum(e in picked for picked in chosen) for e in range(6)]
    wanted = sum(f * sum(row[e] for row in probs) / 20 for e, f in enumerate(load))
    assert routing.balance.item() == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(routing.probs_NE, torch.tensor(probs))
    assert routing.z.item() == pytest.approx(sum(math.log(sum(map(math.exp, row))) ** 2 for row in logits) / 20)


def test_the_bias_chooses_but_does_not_weigh() -> None:
    config = ModelConfig(d_model=4, n_heads=1, n_experts=3, top_k=1, router="sigmoid", bias_rate=0.1)
    router = Router(config, plain=False)
    assert router.weight is not None
    assert router.bias_E is not None
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[2.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]))
    x = torch.tensor([[1.0, 0, 0, 0]] * 6)
    first = router(x)
    assert first.experts_NK.flatten().tolist() == [0] * 6
    router.update_bias()
    torch.testing.assert_close(router.bias_E, torch.tensor([-0.1, 0.1, 0.1]))
    then = router(x)
    assert then.experts_NK.flatten().tolist() == [1] * 6
    torch.testing.assert_close(then.weights_NK, torch.tensor(1.0).sigmoid().expand(6, 1))


def test_without_a_rate_there_is_no_bias() -> None:
    router = Router(ModelConfig(n_experts=4), plain=False)
    assert router.bias_E is None
    router.update_bias()


def test_the_bias_evens_the_load(corpus: Corpus, run: RunConfig) -> None:
    """Without any auxiliary loss, and where the same router without a bias leaves experts idle."""
    busiest = {}
    for rate in (0.0, 0.01):
        model = ModelConfig(
            d_model=16, n_heads=1, d_expert=16, context=32, n_experts=8, router="sigmoid", bias_rate=rate,
            balance_loss=0, z_loss=0,
        )  # fmt: skip
        training = Training(model, run.replace(budget=4e8), corpus=corpus)
        loads = []
        while not training.done:
            training.step()
            if training.steps_done > training.plan.steps // 2:
                loads.append([routing.load for routing in training.model.routing()])
        mean = torch.tensor(loads).mean(0)  # over steps, layer by layer
        busiest[rate] = float(mean.max() * 8)
    # An even load is 1. With four seeds, the bias left 4 to 16 % of what lies above it.
    assert busiest[0.01] - 1 < (busiest[0.0] - 1) / 3


def test_hash_routing(model: ModelConfig, run: RunConfig, corpus: Corpus) -> None:
    """A token's experts are always the same ones, and nothing is learnt or counted for it."""
    hashed = model.replace(router="hash", top_k=2)
    layer = MoE(hashed, "grouped")
    tokens = torch.tensor([[5, 7, 5]])
    _, aux_loss = layer(torch.randn(1, 3, 8), tokens)
    assert aux_loss is not None
    assert float(aux_loss) == 0
    assert layer.router is not None
    assert layer.router.last is not None
    chosen = layer.router.last.experts_NK
    assert chosen[0].tolist() == chosen[2].tolist() != chosen[1].tolist()
    assert len(set(chosen[0].tolist())) == 2
    assert count_parameters(hashed).router == 0
    training = Training(hashed, run.replace(budget=2e7), corpus=corpus)
    first = training.step().loss
    while not training.done:
        last = training.step().loss
    assert last < first


# ---- Expert choice


@settings(max_examples=25)
@given(experts=st.integers(2, 6), each=st.integers(1, 4), data=st.data(), backend=st.sampled_from(HERE))
def test_expert_choice_is_the_papers_einsums(experts: int, each: int, data: st.DataObject, backend: str) -> None:
    """Zhou et al. 2022, equations 1 to 3, with one-hot matrices: output and gradients."""
    torch.manual_seed(experts)
    top_k = data.draw(st.integers(1, experts))
    config = ModelConfig(
        d_model=8, n_heads=1, d_expert=6, n_experts=experts, top_k=top_k, router="expert_choice", route_scale=2.0
    )
    layer = MoE(config, backend)
    x = torch.randn(1, experts * each, 8, requires_grad=True)
    assert layer.router is not None
    shares_NE = (x[0] @ layer.router.weight.T).softmax(-1)  # type: ignore[union-attr]
    weights_EC, tokens_EC = shares_NE.T.topk(each * top_k)
    chosen_ECN = torch.nn.functional.one_hot(tokens_EC, experts * each).float()
    answers_ECD = torch.stack([layer.experts.one(e, rows) for e, rows in enumerate(chosen_ECN @ x[0])])
    wanted = 2 * torch.einsum("ecn,ec,ecd->nd", chosen_ECN, weights_EC, answers_ECD)[None]
    got = layer(x)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    g = torch.randn_like(got)
    inputs = [x, *layer.parameters()]
    for mine, other in zip(torch.autograd.grad(got, inputs, g), torch.autograd.grad(wanted, inputs, g), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@given(tokens=st.integers(1, 40), experts=st.integers(2, 9), data=st.data())
def test_experts_that_choose_are_equally_busy(tokens: int, experts: int, data: st.DataObject) -> None:
    """Also where the numbers don't divide: N·K choices, no expert more than one ahead, no token twice at an expert."""
    torch.manual_seed(tokens)
    top_k = data.draw(st.integers(1, experts))
    config = ModelConfig(n_experts=experts, top_k=top_k, router="expert_choice")
    routing = route_by_experts(torch.randn(tokens, experts), config)
    assert routing.tokens_S is not None
    assert int(routing.counts_E.sum()) == len(routing.tokens_S) == tokens * top_k
    assert int(routing.counts_E.max() - routing.counts_E.min()) <= 1
    assert torch.equal(torch.bincount(routing.experts_NK.flatten(), minlength=experts), routing.counts_E)
    pairs = routing.tokens_S * experts + routing.experts_NK.flatten()
    assert len(pairs.unique()) == len(pairs)
    if tokens * top_k % experts == 0:
        assert routing.balance.item() == pytest.approx(1, abs=1e-5)


def test_a_token_alone_gets_its_own_best_experts() -> None:
    """So that text can be written, one token at a time."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=8, n_heads=1, n_experts=8, top_k=3, router="expert_choice", context=16)
    for logits in torch.randn(20, 1, 8):
        routing = route_by_experts(logits, config)
        wanted = logits.softmax(-1).topk(3)
        order = routing.weights_NK.flatten().argsort(descending=True)
        assert routing.experts_NK.flatten()[order].tolist() == wanted.indices[0].tolist()
        torch.testing.assert_close(routing.weights_NK.flatten()[order], wanted.values[0])
    text = generate(Transformer(config).eval(), torch.tensor([[1, 2]]), 20)
    assert text.shape == (1, 22)


def test_experts_that_choose_see_later_tokens() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=4, context=20, d_model=16, n_heads=1, router="expert_choice"))
    x = torch.randint(256, (1, 20))
    changed = x.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 256
    assert not torch.allclose(model(x)[0, :12], model(changed)[0, :12])
    with pytest.raises(ValueError, match="router='expert_choice': tokens choose no experts"):
        trace_routing(model, b"a" * 100)


# ---- Random routing


def test_random_routing_is_uniform_and_fresh() -> None:
    torch.manual_seed(0)
    router = Router(ModelConfig(n_experts=10, top_k=3, router="random"), plain=False)
    same = torch.ones(2_000, 32)
    first, second = router(same), router(same)
    assert not torch.equal(first.experts_NK, second.experts_NK), "the next batch is drawn anew"
    pairs = torch.zeros(10, 10)
    for routing in (first, second):
        assert (routing.experts_NK.sort(1).values.diff(dim=1) > 0).all(), "different experts"
        torch.testing.assert_close(routing.weights_NK, torch.full((2_000, 3), 1 / 3))
        pairs.index_put_((routing.experts_NK[:, 0], routing.experts_NK[:, 1]), torch.ones(2_000), accumulate=True)
    off = pairs[~torch.eye(10, dtype=torch.bool)].numpy()
    assert stats.chisquare(off).pvalue > 0.01, "each ordered pair of experts is equally likely"


@pytest.mark.parametrize("router", ["expert_choice", "random"])
@pytest.mark.parametrize("backend", [name for name in HERE if name != "grouped"])
def test_trains_alike_whichever_backend(
    router: str, backend: str, model: ModelConfig, run: RunConfig, corpus: Corpus
) -> None:
    losses = {}
    for name in ("grouped", backend):
        training = Training(model.replace(router=router, top_k=2), run.replace(backend=name, budget=2e7), corpus=corpus)
        while not training.done:
            training.step()
        losses[name] = torch.tensor(training.losses)
    assert losses["grouped"][-1] < losses["grouped"][0]
    torch.testing.assert_close(losses[backend], losses["grouped"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("router", ["expert_choice", "random"])
def test_resumes_as_if_never_stopped(
    router: str, model: ModelConfig, run: RunConfig, corpus: Corpus, tmp_path: Path
) -> None:
    model, path = model.replace(router=router, top_k=2), tmp_path / "run.safetensors"
    unbroken, broken = Training(model, run, corpus=corpus), Training(model, run, corpus=corpus)
    for _ in range(8):
        unbroken.step()
    for _ in range(4):
        broken.step()
    broken.save(path)
    again = Training(model, run, corpus=corpus, checkpoint_path=path)
    for _ in range(4):
        again.step()
    assert again.losses == unbroken.losses
    assert count_parameters(model).router == (0 if router == "random" else 2 * 4 * 8)


def test_the_bias_is_in_the_checkpoint(corpus: Corpus, run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    model = ModelConfig(d_model=8, n_heads=1, d_expert=16, context=32, n_experts=4, bias_rate=0.01)
    unbroken = Training(model, run, corpus=corpus)
    for _ in range(12):
        unbroken.step()
    broken = Training(model, run, corpus=corpus)
    for _ in range(6):
        broken.step()
    broken.save(path)
    again = Training(model, run, corpus=corpus, checkpoint_path=path)
    assert torch.equal(again.model.routers()[0].bias_E, broken.model.routers()[0].bias_E)  # type: ignore[arg-type]
    for _ in range(6):
        again.step()
    assert list(again.losses) == list(unbroken.losses)
