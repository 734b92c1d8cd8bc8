"""The page's engine in Node against torch and numpy: random numbers, weights, batches, gradients, steps."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sparsity_lab.accounting import plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.pages import training
from sparsity_lab.training import Training
from tests.pages.engine import engine_text, floats, in_node, made_corpus

STEPS = 24
TOLERANCE = 1e-4
ODD = {"d_model": 6, "n_heads": 3, "n_layers": 3, "n_experts": 3, "d_expert": 5, "context": 21}  # nothing is round
# In one run of some twenty, two scores are so close that rounding decides on an expert, also between torch's backends.
CASES = {
    "dense": (training.model(16, 1, 0.0), 0),
    "two experts": (training.model(32, 1, 0.5), 2**31 - 1),
    "sparse": (training.model(16, 1, 0.9375), 2),
    "two layers, sparse": (training.model(32, 2, 0.96875), 3),
    "odd": (ModelConfig(**ODD), 5),
}
BOTH = """
const training = begin(input), model = training.model, value = arrays(model, "value");
const { tokens, targets } = training.batch(0), first = model.loss(tokens, targets);
model.backward();
const gradient = arrays(model, "gradient"), losses = [];
const batches = input.batches.map((step) => [...training.batch(step).tokens]);
for (let i = 0; i < input.count; i++) losses.push(training.step());
console.log(JSON.stringify({ value, first, gradient, batches, losses, heldOut: training.evaluate() }));
"""


class Pair(NamedTuple):
    """A training by torch before its first step, and what the engine says of the same."""

    torch: Training
    engine: dict[str, Any]
    batches: list[int]  # numbers of the steps whose batches the engine gives


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest) -> Pair:
    model, seed = CASES[request.param]
    run = resolve(model, RunConfig(budget=3e9, seed=seed, backend="naive", device="cpu"))
    lab = Training(model, run, corpus=made_corpus())
    ends = lab.windows.n_windows // run.sequences  # the step in which the second epoch begins
    asked = [0, 1, ends - 1, ends, ends + 1]
    given = {
        "config": model.to_dict(),
        "run": run.to_dict(),
        "steps": lab.plan.steps,
        "text": engine_text(made_corpus()),
    }
    return Pair(lab, in_node(BOTH, **given, count=STEPS, batches=asked), asked)


def close(ours: str, theirs: torch.Tensor, tolerance: float) -> bool:
    """Whether numbers are equal within ``tolerance`` times the largest of them."""
    difference = (floats(ours) - theirs.detach().flatten()).abs().max()
    return bool(difference <= tolerance * theirs.detach().abs().max())


def test_a_run_is_the_labs(pair: Pair) -> None:
    lab, engine = pair.torch, pair.engine
    named = dict(lab.model.named_parameters())
    assert set(engine["value"]) == set(named)
    for name, weight in named.items():
        assert close(engine["value"][name], weight, 1e-6), name

    for step, tokens in zip(pair.batches, engine["batches"], strict=True):
        assert tokens == lab.windows.batch(step, lab.run_config.sequences)[0].flatten().tolist(), step

    loss, auxiliary = lab.model.loss(*lab.windows.batch(0, lab.run_config.sequences))
    assert engine["first"]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert engine["first"]["auxiliary"] == pytest.approx(auxiliary.item(), abs=1e-5)
    (loss + auxiliary).backward()  # type: ignore[no-untyped-call]
    for name, weight in named.items():
        assert weight.grad is not None
        assert close(engine["gradient"][name], weight.grad, TOLERANCE), name

    lab.optimizer.zero_grad()
    assert engine["losses"] == pytest.approx([lab.step().loss for _ in range(STEPS)], abs=TOLERANCE)
    assert engine["heldOut"] == pytest.approx(lab.evaluate(), abs=TOLERANCE)


def test_random_numbers() -> None:
    script = """console.log(JSON.stringify(input.asked.map(([seed, count]) => {
      const uniform = new Twister(seed), normal = new Twister(seed);
      return [Array.from({ length: count }, () => uniform.uniform()), [...normal.normal(count)]];
    })))"""
    asked = [(seed, count) for seed in (0, 1, 4321, 2**31 - 1) for count in (16, 17, 31, 32, 624, 1_000)]
    for (seed, count), (uniform, normal) in zip(asked, in_node(script, asked=asked), strict=True):
        assert uniform == torch.rand(count, generator=torch.Generator().manual_seed(seed)).tolist()
        drawn = torch.randn(count, generator=torch.Generator().manual_seed(seed)).tolist()
        assert normal == pytest.approx(drawn, abs=2e-6)


def test_by_hand_numbers() -> None:
    """Known values: the first draws of the Mersenne Twister from 5489 (in every C++ library), and from four numbers
    (in the authors' file mt19937ar.out)."""
    script = """const draw = (seed) => { const t = new Twister(seed); return [t.next(), t.next(), t.next()]; };
    console.log(JSON.stringify([draw(5489), draw([0x123, 0x234, 0x345, 0x456])]))"""
    assert in_node(script) == [[3499211612, 581869302, 3890346734], [1067595299, 955945823, 477289528]]


def test_permutations() -> None:
    script = "console.log(JSON.stringify(input.asked.map(([key, n]) => [...permutation(key, n)])))"
    asked = [([seed, epoch], n) for seed in (0, 7, 2**31 - 1) for epoch in (0, 3) for n in (1, 2, 3, 33, 1_000)]
    for (key, n), order in zip(asked, in_node(script, asked=asked), strict=True):
        assert order == np.random.RandomState(key).permutation(n).tolist()


def test_gradients_are_slopes() -> None:
    """By differences, without torch: each weight is moved along its gradient, by so little that no token changes its
    expert."""
    script = """
    const training = begin(input), model = training.model, slopes = {};
    for (let i = 0; i < 3; i++) training.step();
    const { tokens, targets } = training.batch(0);
    const total = () => { const { loss, auxiliary } = model.loss(tokens, targets); return loss + auxiliary; };
    total();
    model.backward();
    const gradients = new Map([...model.parameters].map(([name, p]) => [name, p.gradient.slice()]));
    for (const [name, { value }] of model.parameters) {
      const gradient = gradients.get(name), norm = Math.hypot(...gradient), kept = value.slice();
      const along = (size) => {
        kept.forEach((w, i) => { value[i] = w + size * gradient[i] / norm; });
        return total();
      };
      slopes[name] = [norm, (along(input.size) - along(-input.size)) / (2 * input.size)];
      value.set(kept);
    }
    console.log(JSON.stringify(slopes));"""
    model = ModelConfig(**ODD)
    run = resolve(model, RunConfig(budget=1e8, seed=1))
    given = {
        "config": model.to_dict(),
        "run": run.to_dict(),
        "steps": plan(model, run).steps,
        "text": engine_text(made_corpus()),
    }
    for name, (norm, slope) in in_node(script, **given, size=1e-4).items():
        assert slope == pytest.approx(norm, rel=0.01, abs=2e-5), name


def test_the_page_offers_only_what_the_engine_builds() -> None:
    offered = training.models()
    assert len(offered) == len(training.WIDTHS) * len(training.DEPTHS) * (1 + len(training.SPARSITIES))
    for key, model in offered.items():
        read = {name: model["config"][name] for name in ("d_model", "n_heads", "n_layers", "n_experts", "d_expert")}
        assert ModelConfig(**read).to_dict() == model["config"], key
        for budget, steps in zip(training.BUDGETS, model["steps"], strict=True):
            assert steps * model["flops"] == plan(ModelConfig(**read), RunConfig(budget=budget)).flops
