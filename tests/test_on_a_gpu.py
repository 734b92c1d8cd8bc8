"""What only an NVIDIA GPU can show. Such a machine may have little installed, so this file imports nothing but torch
and the rooms that compute."""

import pytest
import torch

from sparsity_lab.analysis.sparse_formats import FORMATS
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer, generate
from sparsity_lab.models.experts import Experts
from sparsity_lab.models.megablocks import why_not
from sparsity_lab.models.router import route

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["naive", "grouped"])
def test_a_model_has_the_loss_it_has_on_the_cpu(backend: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_experts=16, top_k=2), backend, dtype)
    x = torch.randint(256, (4, 128))
    loss, _ = model.loss(x, x)
    on_gpu, aux_loss = model.cuda().loss(x.cuda(), x.cuda())
    (on_gpu + aux_loss).backward()
    assert on_gpu.item() == pytest.approx(loss.item(), rel=0.01)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.skipif(why_not() is not None, reason="needs MegaBlocks")
def test_megablocks_gives_what_the_loop_gives() -> None:
    torch.manual_seed(0)
    layer = Experts(8, 128, ModelConfig(d_model=128, n_heads=1, d_expert=128, n_experts=8, top_k=2)).cuda()
    routing = route(torch.randn(256, 8, device="cuda"), 2)
    x = torch.randn(256, 128, device="cuda", dtype=torch.bfloat16)
    torch.testing.assert_close(layer.megablocks(x, routing), layer.naive(x, routing), rtol=5e-2, atol=5e-2)


def test_a_text_is_the_one_that_the_cpu_writes() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=20, context=8, d_model=8, n_heads=1, n_experts=4)).eval()
    with torch.no_grad():  # logits far apart, so that rounding decides nothing
        model.head.mul_(100)
        model.embedding.mul_(50)
    prompt = torch.zeros(2, 1, dtype=torch.int64)
    on_cpu = generate(model, prompt, 20, temperature=0)
    assert torch.equal(generate(model.cuda(), prompt, 20, temperature=0).cpu(), on_cpu)


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="needs Ampere")
def test_two_of_four_gives_the_dense_product() -> None:
    w_MD = torch.randn(128, 128, device="cuda", dtype=torch.float16)
    w_MD = w_MD * torch.tensor([True, True, False, False], device="cuda").repeat(128, 32)
    x_ND = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    torch.testing.assert_close(FORMATS["2:4"].product(w_MD)(x_ND), x_ND @ w_MD.t(), rtol=1e-2, atol=1e-1)
