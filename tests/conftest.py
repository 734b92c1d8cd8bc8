"""What every test gets: folders of its own, one thread, a tiny text, and small random configs for hypothesis."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import routes
from sparsity_lab.training.corpus import Corpus, load_corpus
from sparsity_lab.widgets import session as session_module

settings.register_profile("lab", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are shared
settings.load_profile("lab")


@st.composite
def small_models(draw: st.DrawFn) -> ModelConfig:
    heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 6, 8]))
    experts = draw(st.integers(1, 6))
    mla = draw(st.sampled_from([False, False, True]))
    layers, context = draw(st.integers(1, 3)), draw(st.integers(2, 12))
    dense = draw(st.integers(0, layers - 1))
    top_k = draw(st.integers(1, experts))
    groups = draw(st.sampled_from([n for n in range(1, experts + 1) if experts % n == 0]))
    enough = [n for n in range(1, groups + 1) if experts // groups * n >= top_k]
    return ModelConfig(
        vocab_size=draw(st.integers(2, 20)),
        context=context,
        mtp_depth=draw(st.sampled_from([d for d in (0, 0, 1, 2) if d < context])),
        d_model=heads * head_dim,
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=None if mla else draw(st.none() | st.sampled_from([h for h in (1, 2, 3) if heads % h == 0])),
        kv_lora_rank=draw(st.integers(2, 12)) if mla else None,
        q_lora_rank=draw(st.none() | st.integers(2, 12)) if mla else None,
        qk_nope_head_dim=draw(st.none() | st.integers(1, 6)) if mla else None,
        qk_rope_head_dim=draw(st.sampled_from([2, 4])) if mla else None,
        v_head_dim=draw(st.none() | st.integers(1, 6)) if mla else None,
        d_head=draw(st.none() | st.sampled_from([2, 4, 6])),
        n_dense_layers=dense,
        moe_every=draw(st.sampled_from([n for n in (1, 2, 3) if layers // n > dense // n])),
        d_dense=draw(st.none() | st.integers(1, 12)),
        tied_embeddings=draw(st.booleans()),
        router=draw(st.sampled_from(["softmax", "softmax", "sigmoid", "expert_choice", "hash", "random"])),
        route_scale=draw(st.sampled_from([1.0, 2.5])),
        bias_rate=draw(st.sampled_from([0.0, 0.01])),
        d_expert=draw(st.integers(1, 12)),
        n_experts=experts,
        top_k=top_k,
        n_groups=groups,
        top_groups=draw(st.none() | st.sampled_from(enough)),
        n_shared_experts=draw(st.integers(0, 2)),
        balance_loss=draw(st.floats(0, 1)),
        z_loss=draw(st.floats(0, 1)),
        rope_base=draw(st.floats(1, 1e6)),
    )


@st.composite
def runs(draw: st.DrawFn) -> RunConfig:
    warmup = draw(st.floats(0, 1))
    return RunConfig(
        budget=draw(st.floats(1, 1e24)),
        batch_size=draw(st.none() | st.integers(1, 65_536)),
        learning_rate=draw(st.none() | st.floats(1e-8, 10)),
        warmup=warmup,
        decay=draw(st.floats(0, 1 - warmup)),
        weight_decay=draw(st.floats(0, 10)),
        grad_clip=draw(st.floats(1e-6, 1e6)),
        seed=draw(st.integers(0, 2**31 - 1)),
        corpus=draw(st.text(min_size=1).filter(str.strip)),
        eval_tokens=draw(st.integers(1, 2**31)),
        dtype=draw(st.sampled_from(["float32", "bfloat16"])),
        device=draw(st.sampled_from(["auto", "cpu", "cuda"])),
        backend=draw(st.sampled_from(["naive", "grouped"])),
        threads=draw(st.integers(1, 1024)),
    )


st.register_type_strategy(ModelConfig, small_models())
st.register_type_strategy(RunConfig, runs())


@pytest.fixture(scope="session")
def settled_routes() -> str:
    """A routes.json that names both libraries. Each test has a cache of its own, so each process that it starts would
    measure anew, and where the two are about as fast, find other routes than this process."""
    torch.set_num_threads(1)
    large = ["onednn"] * 2 if routes.has_onednn() else ["torch", "grouped_mm"]
    libraries = {"linear": ["torch", *large[:1] * 3], "experts": ["grouped_mm"] * 2 + large[1:] * 2}
    table = {
        kind: [{"route": name, "ms": {}, "multiply_adds": 0} for name in names] for kind, names in libraries.items()
    }
    return json.dumps({routes.machine(): table})


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled_routes: str) -> None:
    """No test sees the user's runs, or another test's, or the kernel's session of another test."""
    monkeypatch.setenv("SPARSITY_LAB_HOME", str(tmp_path / "home"))
    cache = tmp_path.parent / "caches" / tmp_path.name
    cache.mkdir(parents=True)
    (cache / "routes.json").write_text(settled_routes)
    monkeypatch.setenv("SPARSITY_LAB_CACHE", str(cache))
    monkeypatch.setenv("SPARSITY_LAB_COMPILE", "0")  # it takes seconds; the tests of compiled runs turn it on
    session_module.current.cache_clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # dask-jobqueue, once imported, makes it an exit
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 kB of text, from which a model can learn something in a few steps."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("".join(f"line {i} says {i * i}\n" for i in range(2_400)))
    return path


@pytest.fixture
def corpus(corpus_file: Path) -> Corpus:
    return load_corpus(str(corpus_file))


@pytest.fixture
def model() -> ModelConfig:
    """Four experts, one of which is active."""
    return ModelConfig(d_model=8, n_heads=1, d_expert=16, context=32, n_experts=4)


@pytest.fixture
def run(corpus_file: Path) -> RunConfig:
    """Some fifty steps of `model`, a quarter of a second."""
    return RunConfig(budget=1e8, corpus=str(corpus_file), eval_tokens=1_024, device="cpu")


Function = Callable[..., Tensor | tuple[Tensor, ...]]


@pytest.fixture(scope="session")
def assert_twins() -> Callable[..., None]:
    """Asserts that two functions give the same values, and the same gradients of all inputs, of floats."""

    def check(fast: Function, plain: Function, *inputs: Tensor, tolerance: float = 1e-4) -> None:
        results = []
        for function in (fast, plain):
            mine = [x.detach().clone().requires_grad_() for x in inputs]
            outputs = function(*mine)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            # Each output gets its own gradient, so that no error hides in a sum.
            generator = torch.Generator().manual_seed(0)
            weights = [torch.randn(y.shape, generator=generator).to(y.dtype) for y in outputs]
            gradients = torch.autograd.grad(outputs, mine, weights, allow_unused=True)
            zeros = [torch.zeros_like(x) if g is None else g for x, g in zip(mine, gradients, strict=True)]
            results.append([*(y.detach() for y in outputs), *zeros])
        for got, wanted in zip(*results, strict=True):
            atol = tolerance * max(1e-2, float(wanted.abs().max())) if wanted.numel() else 0.0
            torch.testing.assert_close(got, wanted, rtol=tolerance, atol=atol)

    return check
