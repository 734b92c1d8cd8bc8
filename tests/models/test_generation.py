"""Text from a model: the cache changes nothing, the temperature does what it says, and the text may grow past the
context."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer, generate

CONTEXT = 8


def opinionated(n_experts: int = 4, vocab_size: int = 20) -> Transformer:
    """Its logits are far apart, so that rounding decides nothing."""
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(vocab_size=vocab_size, context=CONTEXT, d_model=8, n_heads=1, n_experts=n_experts)
    ).eval()
    with torch.no_grad():
        model.head.mul_(100)
        model.embedding.mul_(50)
    return model


def likeliest(model: Transformer, prompt: Tensor, n_tokens: int) -> Tensor:
    """Greedy decoding without a cache, word by word of the docstring."""
    text = prompt
    window = prompt[:, -CONTEXT:]
    for _ in range(n_tokens):
        if window.shape[1] > CONTEXT:
            window = text[:, -(CONTEXT // 2) :]
        token = model(window)[:, -1].argmax(-1, keepdim=True)
        text, window = torch.cat([text, token], 1), torch.cat([window, token], 1)
    return text


@settings(max_examples=25)
@given(
    length=st.integers(1, 20),
    n_tokens=st.integers(0, 25),
    batch=st.integers(1, 3),
    experts=st.sampled_from([1, 4]),
    seed=st.integers(0, 99),
)
def test_greedy_is_the_reference(length: int, n_tokens: int, batch: int, experts: int, seed: int) -> None:
    model = opinionated(experts)
    prompt = torch.randint(20, (batch, length), generator=torch.Generator().manual_seed(seed))
    text = generate(model, prompt, n_tokens, temperature=0)
    assert torch.equal(text, likeliest(model, prompt, n_tokens))
    assert text.shape == (batch, length + n_tokens)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_is_that_of_the_softmax(temperature: float) -> None:
    model = opinionated(vocab_size=5)
    with torch.no_grad():
        model.head.div_(5)
    prompt = torch.tensor([[3, 1]])
    p = (model(prompt)[0, -1] / temperature).softmax(-1)
    assert p.max() > 0.25, "not flat, or any temperature would do"
    drawn = generate(model, prompt.expand(20_000, 2), 1, temperature=temperature)[:, -1]
    shares = torch.bincount(drawn, minlength=5) / 20_000
    torch.testing.assert_close(shares, p, rtol=0, atol=0.02)


def test_stop_is_asked_before_every_token() -> None:
    model, asked = opinionated(), []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 3

    assert generate(model, torch.zeros(1, 2, dtype=torch.int64), 50, stop=stop).shape == (1, 5)
    assert len(asked) == 4


def test_seeds() -> None:
    model, prompt = opinionated(), torch.zeros(2, 1, dtype=torch.int64)
    torch.manual_seed(1)
    first = generate(model, prompt, 20, temperature=2.0, seed=3)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert torch.equal(first, generate(model, prompt, 20, temperature=2.0, seed=3)), "torch's own seed is no matter"
    assert torch.equal(state, torch.random.get_rng_state()), "and is left alone: training may be under way"
    assert not torch.equal(first, generate(model, prompt, 20, temperature=2.0, seed=4))


def test_nothing_is_left_on_the_model() -> None:
    model = opinionated()
    generate(model, torch.zeros(1, 1, dtype=torch.int64), 5)
    assert all(weight.grad is None for weight in model.parameters())
    assert model(torch.zeros(1, CONTEXT, dtype=torch.int64)).requires_grad


@pytest.mark.parametrize(
    ("prompt", "temperature", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), 1.0, r"prompt must be \(batch, length ≥ 1\) .* got shape \(1, 0\)"),
        (torch.zeros(3, dtype=torch.int64), 1.0, r"got shape \(3,\)"),
        (torch.zeros(1, 1, dtype=torch.int64), -0.1, r"temperature=-0.1 must be 0 \(likeliest token\) or more"),
    ],
)
def test_mistakes(prompt: Tensor, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(opinionated(), prompt, 5, temperature=temperature)


def test_bfloat16() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=4, context=CONTEXT), dtype=torch.bfloat16)
    assert generate(model, torch.zeros(2, 1, dtype=torch.int64), 12).shape == (2, 13)
