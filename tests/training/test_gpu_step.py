"""A training step as it would run on a GPU, without one: what can be known of it from shapes, types and devices.

torch's meta device stands in. Its tensors have no values, so whatever asks for one (`item`, `tolist`, `bool`,
`nonzero`, a mask as an index) raises; on a GPU, the host would wait there until all that was launched has been
computed. Tensors are not on the CPU, so the code for a GPU runs. `Gpu` checks in addition what meta lets pass.
(FakeTensors on a device "cuda" would do the same, but where torch was built without CUDA they have no gradients.)

No test here sees what a kernel of torch's does inside: `grouped_mm` itself waits in float32, and on GPUs before the
H100. The loop ``naive`` waits for each expert, and MegaBlocks for the sizes of its groups, so neither is here.
"""

import importlib
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsity_lab.config import ROUTERS, Hold, ModelConfig, RunConfig
from sparsity_lab.files import DATA
from sparsity_lab.models import experts, megablocks
from sparsity_lab.models.experts import Experts
from sparsity_lab.models.ops import apply
from sparsity_lab.models.router import Routing
from sparsity_lab.runs.grid import read_grid
from sparsity_lab.training import trainer
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.trainer import LOSSES_AT_ONCE, Training
from sparsity_lab.widgets.settings import WIDTHS
from tests.conftest import small_models

aten = torch.ops.aten
DTYPES = ("float32", "bfloat16")


class Gpu(TorchDispatchMode):
    """Watches each operation for what a GPU would wait for, or refuse, and the meta device would not."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._grouped_mm.default:
            self.products += 1
            return grouped_product(*args, **kwargs)
        if func in (aten._to_copy.default, aten.copy_.default):
            source = args[1] if func is aten.copy_.default else args[0]
            target = args[0].device if func is aten.copy_.default else kwargs.get("device") or source.device
            waits = source.device.type != target.type and not (kwargs.get("non_blocking") or True in args[2:])
            assert not waits, "the host waits for a copy that is not non_blocking"
        else:
            tensors = [arg for arg in tree_leaves((args, kwargs)) if isinstance(arg, Tensor) and arg.ndim]
            assert len({tensor.device for tensor in tensors}) < 2, "tensors on two devices"
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "the host waits for the length of a mask"
        if func is aten.repeat_interleave.Tensor:
            assert kwargs.get("output_size") is not None, "the host waits for the number of repetitions"
        return func(*args, **kwargs)


def grouped_product(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    """The rules of the CUDA kernel (`_grouped_mm_validate_inputs`), and the shape of what it returns."""
    assert a.dtype == b.dtype
    assert a.dtype in (torch.bfloat16, torch.float32)
    assert offs.dtype == torch.int32
    assert offs.ndim == 1
    for operand in (a, b):
        (rows, row), (columns, column) = list(zip(operand.shape, operand.stride(), strict=True))[-2:]
        leading = row if column == 1 else column
        assert 1 in (row, column)
        assert leading >= max(1, columns if column == 1 else rows)
        assert leading * operand.itemsize % 16 == 0, "not a multiple of 16 bytes"
    if b.ndim == 3:
        assert a.shape[1] == b.shape[1]
        assert len(offs) == len(b)
        return a.new_empty(len(a), b.shape[2])
    return a.new_empty(len(offs), len(a), b.shape[1])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Training goes to the meta device, on which torch's fast optimizer and norm run as on a GPU."""
    monkeypatch.setattr(trainer, "choose_device", lambda name: torch.device("meta"))
    for module, name in (
        (_foreach_utils, "_get_foreach_kernels_supported_devices"),
        (importlib.import_module("torch.optim.optimizer"), "_get_fused_kernels_supported_devices"),
    ):
        monkeypatch.setattr(module, name, lambda: ["cuda", "meta"])
    return Gpu()


def begun(model: ModelConfig, run: RunConfig, corpus: Corpus) -> Training:
    """A run whose first step, after which the losses are read, is over."""
    training = Training(model, run, corpus=corpus)
    training.steps_done, training.losses = 1, [5.0]
    return training


SHAPES = {
    "dense": {},
    "experts": {"n_experts": 16},
    "two of them": {"n_experts": 16, "top_k": 2, "n_shared_experts": 1, "n_dense_layers": 1},
    "narrow": {"n_experts": 64, "top_k": 4, "d_expert": 27},
    "odd": {"d_model": 20, "d_expert": 7, "n_experts": 5},
    "groups": {"n_experts": 16, "top_k": 2, "n_groups": 4, "top_groups": 2, "router": "sigmoid", "bias_rate": 1e-3},
    "latent": {"n_experts": 4, "kv_lora_rank": 8, "q_lora_rank": 12, "v_head_dim": 8},
    "further tokens": {"n_experts": 4, "mtp_depth": 2, "tied_embeddings": True},
    "window": {"n_experts": 4, "n_kv_heads": 1, "window": 16},
} | {router: {"n_experts": 10, "top_k": 3, "router": router} for router in ROUTERS}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_step_waits_for_the_gpu(gpu: Gpu, shape: str, dtype: str, corpus: Corpus) -> None:
    """Whole steps of the trainer: batch, forward, loss, backward, clipping, optimizer, the routers' biases."""
    model = ModelConfig(**SHAPES[shape])  # type: ignore[arg-type]
    training = begun(model, RunConfig(budget=1e12, batch_size=2, dtype=dtype), corpus)
    with gpu:
        for _ in range(3):
            training.step()
    layers = model.n_moe_layers + model.mtp_depth
    assert gpu.products == 3 * 6 * layers * model.has_router, "two products forward, four backward"
    assert all(weight.device.type == "meta" and weight.dtype == torch.float32 for weight in training.parameters)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(model=small_models(), dtype=st.sampled_from(DTYPES))
def test_no_step_of_any_model_waits(gpu: Gpu, model: ModelConfig, dtype: str, corpus: Corpus) -> None:
    training = begun(model.replace(vocab_size=256), RunConfig(budget=1e12, batch_size=2, dtype=dtype), corpus)
    with gpu:
        training.step()


def test_losses_are_read_now_and_then(gpu: Gpu, corpus: Corpus) -> None:
    training = begun(ModelConfig(), RunConfig(budget=1e12, batch_size=2), corpus)
    with gpu:
        while training.steps_done < LOSSES_AT_ONCE:
            assert training.step().loss == 5.0, "the last one that was read"
        with pytest.raises(AssertionError, match="waits for a copy"):
            training.step()


def test_a_run_that_diverges_between_two_looks(monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    """It ends with the step that diverged, as on a CPU, whatever was launched after it."""
    training = Training(ModelConfig(), RunConfig(budget=1e12, batch_size=2), corpus=corpus)
    training.step()
    first = training.losses[0]
    training._unread = list(torch.tensor([2.0, torch.nan, 3.0, torch.inf]))
    training.steps_done += 4
    record = training.record(training.evaluate())
    assert (record.status, record.steps, record.curve["loss"]) == ("diverged", 3, [round(first, 5), 2.0])
    assert training.done


X_NK = torch.zeros(3, 2, device="meta")
WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: X_NK.sum().item(),
    "tolist": lambda: X_NK.tolist(),
    "cpu": lambda: X_NK.cpu(),
    "to the GPU": lambda: torch.zeros(3).to("meta"),
    "copy": lambda: X_NK.copy_(torch.zeros(3, 2)),
    "bool": lambda: bool(X_NK.sum()),
    "int": lambda: int(X_NK.sum()),
    "nonzero": lambda: X_NK.nonzero(),
    "mask": lambda: X_NK[X_NK > 0],
    "set by a mask": lambda: X_NK.__setitem__(X_NK > 0, torch.zeros((), device="meta")),
    "bincount": lambda: X_NK.flatten().long().bincount(minlength=4),
    "unique": lambda: X_NK.unique(),
    "repetitions": lambda: X_NK.repeat_interleave(torch.ones(3, device="meta", dtype=torch.int64), 0),
    "split": lambda: X_NK.tensor_split(torch.ones(1, device="meta", dtype=torch.int64).cpu()),
    "index on the CPU": lambda: X_NK[torch.tensor([0, 1])],
}


@pytest.mark.parametrize("name", WAITS)
def test_whatever_waits_is_found(name: str) -> None:
    with Gpu(), pytest.raises((AssertionError, RuntimeError)):
        WAITS[name]()


# ---- grouped_mm wants rows of a multiple of 16 bytes


def experts_of(d_model: int, d_expert: int) -> Experts:
    torch.manual_seed(d_model + d_expert)
    return Experts(3, d_expert, ModelConfig(d_model=d_model, n_heads=1, d_head=2, n_experts=3, top_k=2))


def routed(device: str) -> Routing:
    """Nine tokens, each to two of three experts."""
    weights_NK, nothing = torch.rand(9, 2, device=device), torch.zeros((), device=device)
    experts_NK = torch.tensor([[0, 1], [2, 0], [2, 1]] * 3, device=device)
    counts_E = torch.full((3,), 6, device=device)
    return Routing(weights_NK.requires_grad_(), experts_NK, counts_E, weights_NK, nothing, nothing)


def widths_of_the_lab() -> set[tuple[int, int]]:
    """Each (d_model, d_expert) that the dashboard's dials and the shipped grids can ask for."""
    dials = [
        ModelConfig.on_dial(width, sparsity, hold)
        for hold in get_args(Hold)
        for width in WIDTHS
        for sparsity in ModelConfig.on_dial(width, 0.0, hold).sparsities(hold)
    ]
    grids = [model for path in DATA.glob("*/grid*.toml") for model, _ in read_grid(path)]
    return {(model.d_model, model.d_expert) for model in [*dials, *grids]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_width_fits_grouped_mm(dtype: torch.dtype) -> None:
    """Forward and backward; those that do not fit are widened."""
    widened, found = 0, widths_of_the_lab()
    for d_model, d_expert in [*found, (20, 7), (9, 5)]:
        layer, x = experts_of(d_model, d_expert).to("meta"), torch.zeros(9, d_model, device="meta", dtype=dtype)
        with Gpu() as gpu:
            y = layer.grouped(x.requires_grad_(), routed("meta"))
            y.sum().backward()
        assert gpu.products == 6
        assert y.shape == x.shape
        assert x.grad is not None
        widened += bool(d_model * dtype.itemsize % 16 or d_expert * dtype.itemsize % 16)
    assert len(found) > 20
    assert widened > 2, "or this test shows little"


@given(d_model=st.integers(2, 20), d_expert=st.integers(1, 20), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_widened_experts_are_the_same(d_model: int, d_expert: int, dtype: torch.dtype) -> None:
    """Numbers and gradients of experts with the zeros that a GPU gets beside them."""
    layer, routing = experts_of(d_model, d_expert), routed("cpu")
    x = torch.randn(9, d_model, requires_grad=True)
    g = torch.randn(9, d_model).to(dtype)

    def widened() -> Tensor:
        wide_ND, *weights = experts._aligned(*(w.to(dtype) for w in (x, layer.gate_up_EDG, layer.down_EFD)))
        assert wide_ND.shape[1] * dtype.itemsize % 16 == weights[1].shape[1] * dtype.itemsize % 16 == 0
        chosen = routing.weights_NK.to(dtype), routing.experts_NK, routing.counts_E
        return apply(experts._Grouped, wide_ND, *chosen, *weights)[:, :d_model]

    inputs = [x, routing.weights_NK, *layer.parameters()]
    results = [[y, *torch.autograd.grad(y, inputs, g)] for y in (widened(), layer.grouped(x.to(dtype), routing))]
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(
            got, wanted, rtol=tolerance, atol=tolerance * max(1.0, float(wanted.detach().abs().max()))
        )


def test_megablocks_products_fit() -> None:
    """Its own are replaced by torch's where they are missing: of widths that torch's kernel (whose rules for CUDA the
    meta device checks) refuses, a loop takes care."""
    sizes = torch.tensor([6, 6, 6])
    for d_model, d_expert in [*widths_of_the_lab(), (20, 7), (9, 5)]:
        gate_up, down, x, h = (
            torch.zeros(*size, device="meta", dtype=torch.bfloat16)
            for size in ((3, d_model, 2 * d_expert), (3, d_expert, d_model), (18, d_model), (18, d_expert))
        )
        gate = gate_up.chunk(2, -1)[0].transpose(1, 2)
        assert megablocks._gmm(x, gate, sizes, trans_b=True).shape == h.shape
        assert megablocks._gmm(h, down, sizes).shape == x.shape
