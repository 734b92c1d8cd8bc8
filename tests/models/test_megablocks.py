"""The real MegaBlocks, on our weights and routing: the numbers of the naive loop, outputs and gradients."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsity_lab import config as config_module
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import megablocks
from sparsity_lab.models.experts import Experts
from sparsity_lab.models.router import Routing
from sparsity_lab.training.trainer import Training
from sparsity_lab.widgets import controls
from sparsity_lab.widgets.dashboard import MagicDial
from tests.pools import ThreadPool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")


def test_it_is_here() -> None:
    """On Linux `make test` installs it: nothing below is skipped there."""
    assert megablocks.why_not() is None
    kind, _ = megablocks._dropless()
    assert any(base.__module__ == "megablocks.layers.dmoe" for base in kind.__mro__)


def test_nothing_global_stays() -> None:
    megablocks._dropless()
    for name in megablocks.supplied():
        assert name not in sys.modules


def routing_of(experts_NK: torch.Tensor, n_experts: int) -> Routing:
    """A routing with these choices and random weights."""
    weights_NK = torch.rand(experts_NK.shape).softmax(-1).requires_grad_()
    counts_E = torch.bincount(experts_NK.flatten(), minlength=n_experts)
    nothing = torch.zeros(())
    return Routing(weights_NK, experts_NK, counts_E, torch.zeros(1), nothing, nothing)


@settings(max_examples=40)
@given(
    tokens=st.integers(1, 70),
    experts=st.integers(2, 9),
    top_k=st.integers(1, 4),
    width=st.sampled_from([4, 6, 16]),
    hidden=st.sampled_from([1, 8, 24]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    crowd=st.booleans(),
    seed=st.integers(0, 99),
)
@example(tokens=9, experts=8, top_k=1, width=16, hidden=24, dtype=torch.float32, crowd=True, seed=0)
@example(tokens=2, experts=9, top_k=1, width=16, hidden=24, dtype=torch.bfloat16, crowd=False, seed=0)
def test_all_backends_agree(
    tokens: int, experts: int, top_k: int, width: int, hidden: int, dtype: torch.dtype, crowd: bool, seed: int
) -> None:
    """With empty experts, and with all tokens at one (``crowd``)."""
    torch.manual_seed(seed)
    top_k = min(top_k, experts)
    shape = ModelConfig(d_model=width, n_heads=1, d_expert=hidden, n_experts=experts, top_k=top_k)
    layer = Experts(experts, hidden, shape)
    choices = torch.arange(top_k).expand(tokens, top_k) if crowd else torch.rand(tokens, experts).topk(top_k)[1]
    routing = routing_of(choices.contiguous(), experts)
    x = torch.randn(tokens, width, requires_grad=True)
    g = torch.randn(tokens, width).to(dtype)
    results = []
    for backend in (layer.naive, layer.grouped, layer.megablocks):
        y = backend(x.to(dtype), routing)
        results.append([y, *torch.autograd.grad(y, [x, routing.weights_NK, *layer.parameters()], g)])
    tolerance = 1e-4 if dtype == torch.float32 else 6e-2
    for other in results[1:]:
        for got, wanted in zip(other, results[0], strict=True):
            scale = max(1e-3, float(wanted.detach().abs().max()))
            torch.testing.assert_close(got.float(), wanted.float(), rtol=tolerance, atol=tolerance * scale)


KERNELS = """
import torch
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import megablocks
from sparsity_lab.models.experts import Experts
from sparsity_lab.models.router import route_plain

kind, _ = megablocks._dropless()
assert kind.__module__ == "megablocks.layers.dmoe", "with its own kernels"
import megablocks.backend.kernels as kernels
from triton.runtime.autotuner import Autotuner

calls = 0
for name, kernel in list(vars(kernels).items()):
    if isinstance(kernel, Autotuner):
        kernel.configs = kernel.configs[:1]  # it would time them on a GPU
        run = kernel.run
        def counted(*args, run=run, **kwargs):
            global calls
            calls += 1
            return run(*args, **kwargs)
        kernel.run = counted
# two of four; one of six; one that nobody chooses; a width that is no power of two
for experts, top_k, tokens, width in ((4, 2, 24, 16), (6, 1, 24, 16), (3, 2, 9, 16), (2, 1, 20, 20)):
    torch.manual_seed(0)
    shape = ModelConfig(d_model=width, n_heads=1, d_expert=12, n_experts=experts, top_k=top_k)
    layer, x = Experts(experts, 12, shape), torch.randn(tokens, width, requires_grad=True)
    logits = torch.randn(tokens, experts)
    logits[:, -1] -= 9.0 * (experts == 3)
    logits.requires_grad_()
    routing = route_plain(logits, ModelConfig(n_experts=experts, top_k=top_k))
    results = []
    for backend in (layer.megablocks, layer.naive):
        y = backend(x, routing)
        inputs = [x, logits, *layer.parameters()]
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)])
    for got, wanted in zip(*results):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
print(calls, "kernel calls")
"""


def test_its_own_triton_kernels_by_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    done = subprocess.run([sys.executable, "-c", KERNELS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 6, "gather and scatter, forward and backward"


def test_trains_as_grouped_does(model: ModelConfig, run: RunConfig) -> None:
    losses = {}
    for backend in ("grouped", "megablocks"):
        training = Training(model, run.replace(backend=backend, budget=3e7))
        while not training.done:
            training.step()
        losses[backend] = torch.tensor(list(training.losses))
    assert len(losses["grouped"]) > 10
    torch.testing.assert_close(losses["megablocks"], losses["grouped"], rtol=1e-3, atol=1e-3)


def test_where_it_is_not(monkeypatch: pytest.MonkeyPatch, run: RunConfig, model: ModelConfig) -> None:
    """The choice says so, and everything else goes on."""
    megablocks.why_not.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "megablocks" else find(name, *a))
    monkeypatch.setattr(controls, "pool", ThreadPool)  # whose workers see what this test has hidden
    try:
        assert "MegaBlocks is not installed" in str(megablocks.why_not())
        dial = MagicDial(calibrate=False, corpus=run.corpus, budget=1e10)
        assert ("megablocks (not installed)", "megablocks") in dial.dials.backend.options
        dial.dials.backend.value = "megablocks"
        assert dial.dials.backend.value == "grouped"
        assert "MegaBlocks is not installed" in dial.dials.problem
        training = Training(model, run.replace(backend="megablocks"))
        with pytest.raises(ValueError, match="backend='megablocks': MegaBlocks is not installed"):
            training.step()
    finally:
        megablocks.why_not.cache_clear()


def test_backends_of_the_config() -> None:
    assert config_module.BACKENDS == ("grouped", "megablocks", "naive")
    with pytest.raises(ValueError, match="backend='triton' is not known: use one of grouped, megablocks, naive"):
        RunConfig(backend="triton")
