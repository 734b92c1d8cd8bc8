"""Weights turned off: masks against loops, torch's own pruning and torchao's Wanda; and they stay off."""

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune
from torchao.sparsity import WandaSparsifier

from sparsity_lab.accounting import count_parameters, flops_by_part, flops_skipping_zeros
from sparsity_lab.analysis.pruning import (
    Batches,
    Masks,
    Scores,
    heads,
    input_norms,
    magnitudes,
    mean_loss,
    n_of_m,
    neurons,
    nonzeros,
    prunable,
    smallest,
    train_pruning,
    turn_off,
    unread,
    wanda,
)
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer, generate
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.trainer import Training

SHAPES = {
    "attention": ModelConfig(d_model=8, n_heads=2, d_expert=12, context=16, n_experts=4, top_k=2, n_shared_experts=1),
    "shared keys": ModelConfig(d_model=16, n_heads=4, n_kv_heads=2, d_expert=8, context=16, n_dense_layers=1),
    "latent": ModelConfig(d_model=8, n_heads=2, kv_lora_rank=4, q_lora_rank=4, d_expert=8, context=16, n_experts=3),
    "others": ModelConfig(d_model=8, n_heads=2, d_expert=8, context=16, n_experts=4, top_k=2, moe_every=2, mtp_depth=1),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def model(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(0)
    return Transformer(request.param)


def some_text(model: Transformer, rows: int = 4) -> Batches:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(256, (2, rows, model.config.context + 1), generator=generator)
    return [(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def rows_of(name: str, t: Tensor) -> list[list[tuple[float, tuple[int, ...]]]]:
    """(number, its place) of each row: all that is summed to one number; inputs are the middle axis of experts."""
    if t.ndim == 2:
        return [[(float(t[o, i]), (o, i)) for i in range(t.shape[1])] for o in range(t.shape[0])]
    E, I, O = t.shape
    return [[(float(t[e, i, o]), (e, i, o)) for i in range(I)] for e in range(E) for o in range(O)]


def naive(scores: Scores, sparsity: float, within: str) -> Masks:
    """Sorts in Python, group by group."""
    masks = {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    rows = {name: rows_of(name, s) for name, s in scores.items()}
    groups: list[list[tuple[float, str, tuple[int, ...]]]] = []
    if within == "model":
        groups = [[(s, name, place) for name in rows for row in rows[name] for s, place in row]]
    for name in rows if within != "model" else ():
        named = [[(s, name, place) for s, place in row] for row in rows[name]]
        if within == "row":
            groups += named
        else:
            matrices = scores[name].shape[0] if scores[name].ndim == 3 else 1
            n = len(named) // matrices
            groups += [list(itertools.chain(*named[i * n : (i + 1) * n])) for i in range(matrices)]
    for group in groups:
        for _, name, place in sorted(group)[: round(sparsity * len(group))]:
            masks[name][place] = False
    return masks


def assert_same(masks: Masks, expected: Masks) -> None:
    assert masks.keys() == expected.keys()
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, expected[name]), name


# ---- masks


@pytest.mark.parametrize("within", ["model", "matrix", "row"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_smallest_against_sorting(model: Transformer, sparsity: float, within: str) -> None:
    scores = magnitudes(model)
    assert_same(smallest(scores, sparsity, within), naive(scores, sparsity, within))  # type: ignore[arg-type]


def test_against_torchs_own_pruning(model: Transformer) -> None:
    """`global_unstructured` of the whole model, `l1_unstructured` of a matrix."""
    scores = magnitudes(model)
    modules = dict(model.named_modules())
    pairs = [(modules[name.rpartition(".")[0]], name.rpartition(".")[2]) for name in scores]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.37)
    theirs = {name: getattr(module, f"{own}_mask").bool() for (module, own), name in zip(pairs, scores, strict=True)}
    assert_same(smallest(scores, 0.37), theirs)
    for module, own in pairs:
        prune.remove(module, own)
    (name, s), *_ = scores.items()
    plain = nn.Linear(s.shape[1], s.shape[0])
    prune.l1_unstructured(plain, "weight", 0.6, importance_scores=s)
    assert torch.equal(smallest(scores, 0.6, "matrix")[name], plain.weight_mask.bool())


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_n_of_m_law(n: int, more: int, groups: int, rows: int, stacked: bool, seed: int) -> None:
    """Exactly N of each M stay, and none that went is larger than one that stayed; ties too."""
    m = n + more
    shape = (2, groups * m, rows) if stacked else (rows, groups * m)
    s = torch.randint(4, shape, generator=torch.Generator().manual_seed(seed)).float()
    (mask,) = n_of_m({"w": s}, n, m).values()
    if stacked:
        s, mask = s.transpose(1, 2), mask.transpose(1, 2)
    for scores, kept in zip(s.reshape(-1, m), mask.reshape(-1, m), strict=True):
        assert kept.sum() == n
        assert n == m or scores[kept].min() >= scores[~kept].max()


@given(st.floats(0, 1, exclude_max=True), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 99))
def test_sparsity_is_reached_exactly(sparsity: float, widths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.randint(3, (4, n), generator=generator).float() for i, n in enumerate(widths)}
    total = 4 * sum(widths)
    assert sum(int((~mask).sum()) for mask in smallest(scores, sparsity).values()) == round(sparsity * total)
    for mask, n in zip(smallest(scores, sparsity, "row").values(), widths, strict=True):
        assert ((~mask).sum(1) == round(sparsity * n)).all()


def test_mistakes(model: Transformer) -> None:
    scores = magnitudes(model)
    for bad in (1, -0.1, math.nan, True, "half"):
        with pytest.raises(ValueError, match="must be at least 0 and below 1"):
            smallest(scores, bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="within='column' is not known: use one of model, matrix, row"):
        smallest(scores, 0.5, "column")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"m=7 must divide the inputs of every matrix, and .* has"):
        n_of_m(scores, 2, 7)
    with pytest.raises(ValueError, match="n=5 must be from 1 to m=4"):
        n_of_m(scores, 5)


# ---- Wanda


def test_input_norms_against_looking_inside() -> None:
    """Every input of a layer with attention, experts and a shared expert, computed step by step."""
    torch.manual_seed(0)
    model = Transformer(SHAPES["attention"], "naive")
    squares: dict[str, Tensor] = {}

    def add(name: str, x: Tensor, expert: int | None = None, experts: int = 1) -> None:
        found = squares.setdefault(name, torch.zeros((experts, x.shape[-1]) if expert is not None else x.shape[-1]))
        (found if expert is None else found[expert]).add_(x.detach().flatten(0, -2).square().sum(0))

    def inside(experts: nn.Module, e: int, x: Tensor) -> Tensor:
        gate, up = (x @ experts.gate_up_EDG[e]).chunk(2, -1)  # type: ignore[index]
        return F.silu(gate) * up

    from sparsity_lab.models.attention import attend, norm_rope_plain

    for x_BT, _ in some_text(model):
        x = F.embedding(x_BT, model.embedding)
        for i, layer in enumerate(model.layers):
            a, at = layer.attention, f"layers.{i}"
            y = layer.norm(x, layer.attention_norm)
            add(f"{at}.attention.qkv", y)
            qkv = norm_rope_plain(y @ a.qkv.T, a.n_heads, a.q_norm, a.k_norm, model.turns_TC)
            z = attend(qkv, a.n_heads)
            add(f"{at}.attention.out", z)
            x = x + z @ a.out.T
            h = layer.norm(x, layer.moe_norm).flatten(0, 1)
            routing = layer.moe.router(h)
            for e in range(4):
                mine = h[(routing.experts_NK == e).any(1)]
                add(f"{at}.moe.experts.gate_up_EDG", mine, e, 4)
                add(f"{at}.moe.experts.down_EFD", inside(layer.moe.experts, e, mine), e, 4)
            add(f"{at}.moe.shared.gate_up_EDG", h, 0)
            add(f"{at}.moe.shared.down_EFD", inside(layer.moe.shared, 0, h), 0)
            x = x + layer.moe(h.view_as(x))[0]
    norms = input_norms(model, some_text(model))
    assert norms.keys() == squares.keys()
    for name, norm in norms.items():
        torch.testing.assert_close(norm, squares[name].sqrt(), rtol=1e-4, atol=1e-5)
        w, expected = prunable(model)[name], []
        expected = w.abs() * (norm if w.ndim == 2 else norm[:, :, None])
        torch.testing.assert_close(wanda(model, some_text(model))[name], expected)


def test_input_norms_of_every_shape(model: Transformer) -> None:
    """All matrices are seen, whatever computes the experts, and looking changes nothing."""
    before = {name: w.clone() for name, w in model.state_dict().items()}
    norms = input_norms(model, some_text(model))
    assert {name: norm.shape for name, norm in norms.items()} == {
        name: w.shape[:2] if w.ndim == 3 else w.shape[1:] for name, w in prunable(model).items()
    }
    for name, norm in norms.items():
        assert (norm.amax(-1) > 0).any(), name
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def test_an_expert_nobody_chose_is_judged_by_magnitude() -> None:
    torch.manual_seed(0)
    model = Transformer(SHAPES["attention"].replace(n_experts=32, top_k=1))
    text = [(x[:1, :4], y[:1, :4]) for x, y in some_text(model)]
    scores = wanda(model, text)
    name = "layers.0.moe.experts.down_EFD"
    unseen = input_norms(model, text)[name].amax(1) == 0
    assert unseen.any()
    assert torch.equal(scores[name][unseen], magnitudes(model)[name][unseen])


def _theirs(w: Tensor, x: Tensor, block: int) -> Tensor:
    """torchao's mask for a matrix that reads ``x``; of every block of inputs it prunes half, so that with a block as
    long as a row it is Wanda at 50 %."""
    model = nn.Sequential(nn.Linear(*reversed(w.shape), bias=False))
    model[0].weight.data.copy_(w)  # type: ignore[union-attr,operator]
    sparsifier = WandaSparsifier(semi_structured_block_size=block)
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    model(x)
    sparsifier.step()
    return model[0].parametrizations.weight[0].mask.bool()  # type: ignore[union-attr,index,no-any-return]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", [4, 16])
def test_wanda_against_torchao(block: int) -> None:
    """The matrix into attention, with the text that it reads, inputs of very different size. torchao 0.18 multiplies by
    the *square* of the norm, where the paper's eq. 1 has the norm: a row whose squares are the norms makes up for it.
    """
    torch.manual_seed(0)
    model = Transformer(SHAPES["shared keys"])
    with torch.no_grad():
        model.layers[0].attention_norm.mul_(torch.linspace(0.1, 10, 16))
    (x_BT, y_BT), *_ = some_text(model)
    x_ND = model.layers[0].norm(F.embedding(x_BT, model.embedding), model.layers[0].attention_norm).flatten(0, 1)
    name = "layers.0.attention.qkv"
    w = prunable(model)[name]

    def ours(scores: Scores) -> Tensor:
        return (n_of_m(scores) if block == 4 else smallest(scores, 0.5, "row"))[name]

    paper = _theirs(w, torch.linalg.vector_norm(x_ND, dim=0).detach().sqrt()[None], block)
    assert torch.equal(ours(wanda(model, [(x_BT, y_BT)])), paper)
    squared = {name: w.abs() * input_norms(model, [(x_BT, y_BT)])[name].square()}
    assert torch.equal(ours(squared), _theirs(w, x_ND.detach(), block))
    assert not torch.equal(paper, ours(magnitudes(model)))


# ---- whole neurons and heads


def test_neurons_against_cutting_them_out(model: Transformer) -> None:
    """A masked network is the narrower one made of the units that stay."""
    scores = magnitudes(model)
    masks = neurons(scores, 0.25)
    turn_off(model, masks)
    for layer in model.layers:
        experts = layer.moe.experts
        E, F_, D = experts.down_EFD.shape
        x_ND = torch.randn(5, D)
        for e in range(E):
            keep = (experts.down_EFD[e] != 0).any(1)
            assert (~keep).sum() == round(0.25 * F_)
            gate, up = experts.gate_up_EDG[e].chunk(2, -1)
            narrow = (F.silu(x_ND @ gate[:, keep]) * (x_ND @ up[:, keep])) @ experts.down_EFD[e][keep]
            torch.testing.assert_close(experts.one(e, x_ND), narrow)
    name = next(n for n in masks if n.endswith("down_EFD"))
    norms = scores[name][0].square().sum(1).sqrt().tolist()
    kept = masks[name][0].any(1).tolist()
    assert min(n for n, k in zip(norms, kept, strict=True) if k) > max(
        n for n, k in zip(norms, kept, strict=True) if not k
    )


def test_heads_against_silencing_them(model: Transformer) -> None:
    """What a head would have written is all that is missing; its queries, keys and values are zeros too."""
    text, H, n = some_text(model)[0][0], model.config.n_heads, len(model.layers) * model.config.n_heads
    scores = magnitudes(model)
    masks = heads(model, scores, 0.5)
    silent = Transformer(model.config)
    silent.load_state_dict(model.state_dict())
    gone, norms = [], []
    with torch.no_grad():
        for i, layer in enumerate(silent.layers):
            out = layer.attention.out.view(model.config.d_model, H, -1)
            gone += [not masks[f"layers.{i}.attention.out"].view_as(out)[:, h].any() for h in range(H)]
            norms += [float(out[:, h].norm()) for h in range(H)]
            out[:, torch.tensor(gone[-H:])] = 0
    assert sum(gone) == n // 2
    assert max(x for x, g in zip(norms, gone, strict=True) if g) < min(
        x for x, g in zip(norms, gone, strict=True) if not g
    )
    turn_off(model, masks)
    torch.testing.assert_close(model(text), silent(text))
    assert sum(int((~m).sum()) for name, m in masks.items() if not name.endswith(".out")) > 0


def test_shared_keys_stay_with_the_last_head() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(d_model=16, n_heads=4, n_kv_heads=2, n_layers=1, context=8))
    with torch.no_grad():  # heads 0, 1 and 2 write little: keys of 0 and 1 are needed no more, those of 2 and 3 are
        model.layers[0].attention.out.view(16, 4, 4)[:, :3] *= 1e-3
    mask = heads(model, magnitudes(model), 0.75)["layers.0.attention.qkv"].all(1)
    C = 4
    by_head = mask.view(-1, C)[:, 0].tolist()
    assert by_head == [False, False, False, True] + [False, True] * 2


# ---- counting


def test_nonzeros_of_a_whole_model(model: Transformer) -> None:
    counts = count_parameters(model.config)
    found = nonzeros(model)
    assert found == {part: getattr(counts, part) for part in found}
    assert sum(found.values()) == counts.total
    assert flops_skipping_zeros(model.config, found) == sum(flops_by_part(model.config).values())


def test_what_skipping_zeros_saves(model: Transformer) -> None:
    turn_off(model, smallest(magnitudes(model), 0.75, "row"))
    parts, left = flops_by_part(model.config), nonzeros(model)
    shares = {
        p: left[p] / getattr(count_parameters(model.config), p)
        for p in left
        if getattr(count_parameters(model.config), p)
    }
    assert shares["attention"] == pytest.approx(0.25)
    assert shares["head"] == 1
    pruned = sum(parts[p] for p in ("projections", "dense", "shared", "routed"))
    rest = sum(parts.values()) - pruned
    assert flops_skipping_zeros(model.config, left) == pytest.approx(0.25 * pruned + rest)


# ---- training on, saving, writing


@pytest.fixture
def training(model_config: ModelConfig, run: RunConfig, corpus: Corpus) -> Training:
    return Training(model_config, run, corpus=corpus)


@pytest.fixture
def model_config() -> ModelConfig:
    return ModelConfig(d_model=8, n_heads=1, d_expert=16, context=32, n_experts=4)


def zeros(model: Transformer) -> dict[str, Tensor]:
    return {name: w == 0 for name, w in prunable(model).items()}


def test_zeros_stay_while_the_rest_learns(training: Training) -> None:
    """Also with moments from before, and weight decay."""
    for _ in range(5):
        training.step()
    assert training.run_config.weight_decay > 0
    training.prune(smallest(magnitudes(training.model), 0.6))
    before, start = zeros(training.model), mean_loss(training.model, unread(training, 1_000))
    weights = {name: w.clone() for name, w in prunable(training.model).items()}
    while not training.done:
        training.step()
    assert all(torch.equal(now, before[name]) for name, now in zeros(training.model).items())
    assert not any(torch.equal(w, weights[name]) for name, w in prunable(training.model).items())
    assert mean_loss(training.model, unread(training, 1_000)) < start
    assert len(generate(training.model, torch.tensor([[1, 2]]), 4)[0]) >= 4


def test_what_is_off_does_not_count_when_gradients_are_clipped(training: Training) -> None:
    training.prune(smallest(magnitudes(training.model), 0.5))
    training.step()
    moments = {name: training.optimizer.state[w]["exp_avg"] for name, w in training.model.named_parameters()}
    for name, mask in training.masks.items():
        assert not moments[name][~mask].any(), name
        assert moments[name][mask].any(), name


def test_a_later_mask_turns_nothing_on(training: Training) -> None:
    training.prune(smallest(magnitudes(training.model), 0.6))
    before = zeros(training.model)
    training.prune(smallest({n: -w.abs() for n, w in prunable(training.model).items()}, 0.3))
    training.step()
    assert all(bool((now | ~before[name]).all()) for name, now in zeros(training.model).items())


def test_round_trip(training: Training, model_config: ModelConfig, tmp_path: Path) -> None:
    """A pruned run that was stopped ends where the other ends, to the last bit."""
    path = tmp_path / "pruned.safetensors"
    for _ in range(5):
        training.step()
    training.prune(smallest(magnitudes(training.model), 0.6))
    training.step()
    training.save(path)
    other = Training(model_config, training.run_config, corpus=training.corpus, checkpoint_path=path)
    assert_same(other.masks, training.masks)
    while not training.done:
        assert training.step().loss == other.step().loss
    for name, w in other.model.named_parameters():
        assert torch.equal(w, training.model.get_parameter(name)), name


def test_text_to_choose_by_is_not_read(model_config: ModelConfig, run: RunConfig, corpus: Corpus) -> None:
    training = Training(model_config, run.replace(budget=2e7), corpus=corpus)
    steps, B = training.plan.steps, training.run_config.sequences
    assert (steps + 10) * B < training.windows.n_windows, "less than an epoch"
    batches = unread(training, 500)
    assert 500 <= sum(x.numel() for x, _ in batches) < 500 + B * 32
    read = {bytes(row.tolist()) for step in range(steps) for row in training.windows.batch(step, B)[0]}
    assert len(read) == steps * B
    assert not read & {bytes(row.tolist()) for x, _ in batches for row in x}


def test_mean_loss_is_the_trainers(training: Training) -> None:
    from sparsity_lab.training.batches import validation_batches

    batches = validation_batches(training.corpus.val, 32, 7, training.run_config.eval_tokens)
    assert mean_loss(training.model, batches) == pytest.approx(training.evaluate(), rel=1e-6)


# ---- gradually


@pytest.mark.parametrize("times", [1, 4])
def test_training_while_pruning(training: Training, times: int) -> None:
    asked: list[tuple[int, float]] = []

    def choose(model: Transformer, sparsity: float) -> Masks:
        asked.append((training.steps_done, sparsity))
        return smallest(magnitudes(model), sparsity)

    steps = list(train_pruning(training, choose, 0.75, 0.2, 0.6, times))
    n = training.plan.steps
    assert len(steps) == n
    assert [step for step, _ in asked] == [round(n * (0.2 + 0.4 * i / times)) for i in range(1, times + 1)]
    by_equation_1 = [0.75 + (0 - 0.75) * (1 - i / times) ** 3 for i in range(1, times + 1)]
    assert [sparsity for _, sparsity in asked] == pytest.approx(by_equation_1)
    assert asked[-1] == (round(0.6 * n), 0.75)
    weights = prunable(training.model)
    off = sum(int((w == 0).sum()) for w in weights.values())
    assert off == round(0.75 * sum(w.numel() for w in weights.values()))


def test_impossible_times(training: Training) -> None:
    for start, end, times in ((0.5, 0.4, 1), (-0.1, 0.5, 1), (0.1, 1.0, 1), (0.1, 0.5, 0)):
        with pytest.raises(ValueError, match="need 0 ≤ start ≤ end < 1 and times ≥ 1"):
            next(train_pruning(training, lambda *_: {}, 0.5, start, end, times))
