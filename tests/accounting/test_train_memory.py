"""Memory of training: activations against the tensors that torch saves, to the byte, and the rest by hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.presets import preset
from sparsity_lab.accounting.train_memory import Recompute, activation_bytes, training_memory
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import attention, experts, transformer
from sparsity_lab.models.ops import rms_norm_plain

# ---- The oracle: what torch saves


class Kept:
    """A tensor that a node of the graph has saved. It dies with the node."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


@contextmanager
def saved_tensors(model: torch.nn.Module, tokens_BT: Tensor) -> Iterator[Callable[[], int]]:
    """Gives a function that returns the bytes which the living graph has saved at most at any one time, each storage
    counted once, without the weights and the tokens."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), tokens_BT)}
    alive, most = WeakSet[Kept](), 0

    def measure() -> int:
        nonlocal most
        storages = {s.data_ptr(): s.nbytes() for s in (kept.tensor.untyped_storage() for kept in alive)}
        most = max(most, sum(n for pointer, n in storages.items() if pointer not in own))
        return most

    def pack(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        alive.add(kept)
        if backward:
            measure()
        return kept

    backward: list[bool] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        yield lambda: backward.append(True) or measure()  # type: ignore[func-returns-value]


def saved_bytes(config: ModelConfig, dtype: torch.dtype, recompute: Recompute, batch: int) -> int:
    """Runs the plain model, and the backward pass too if that is when most is held."""
    torch.manual_seed(0)
    model = transformer.Transformer(config, "naive", dtype)
    for name, weight in model.named_parameters():
        if name.endswith(("_EDG", "_EFD")):  # a cast copy would exist only of experts that somebody chose
            weight.data = weight.data.to(dtype)
    if recompute == "layers":
        for layer in (m for m in model.modules() if isinstance(m, transformer.DecoderLayer)):
            run = layer.forward
            layer.forward = lambda *inputs, run=run: checkpoint(run, *inputs, use_reentrant=True)  # type: ignore[method-assign]

    tokens_BT = torch.randint(config.vocab_size, (batch, config.context))
    kernel = SDPBackend.MATH if recompute == "nothing" else SDPBackend.FLASH_ATTENTION
    with sdpa_kernel(kernel), saved_tensors(model, tokens_BT) as measure:
        loss, aux_loss = model.loss(tokens_BT, tokens_BT)
        most = measure()
        if recompute == "layers":
            (loss + aux_loss).backward()
            most = measure()
    return most


def check(counted: ModelConfig, built: ModelConfig, dtype: torch.dtype, recompute: Recompute) -> None:
    measured = saved_bytes(built, dtype, recompute, batch=5) - saved_bytes(built, dtype, recompute, batch=2)
    name = str(dtype).removeprefix("torch.")
    assert 3 * activation_bytes(counted, name, recompute) == measured


# ---- The tests

HEADS = {"d_model": 24, "n_heads": 4, "d_head": 6}
MLA = {**HEADS, "kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 10}
MOE = {"n_experts": 6, "top_k": 2}
CASES = {
    "mha": HEADS,
    "gqa": {**HEADS, "n_kv_heads": 2},
    "mqa": {**HEADS, "n_kv_heads": 1},
    "mla": MLA,
    "q-lora": {**MLA, "q_lora_rank": 14},
    "window": {**HEADS, "window": 5},
    "moe": {**HEADS, **MOE},
    "top-1": {**HEADS, **MOE, "top_k": 1},
    "shared": {**HEADS, **MOE, "n_shared_experts": 2},
    "sigmoid": {**MLA, **MOE, "router": "sigmoid", "n_shared_experts": 1, "bias_rate": 0.1, "n_groups": 3},
    "expert choice": {**HEADS, **MOE, "router": "expert_choice"},
    "hash": {**HEADS, **MOE, "router": "hash", "n_shared_experts": 1},
    "random": {**HEADS, **MOE, "router": "random"},
    "some layers dense": {**HEADS, **MOE, "n_layers": 5, "n_dense_layers": 1, "moe_every": 2, "d_dense": 40},
    "multi-token": {**MLA, **MOE, "mtp_depth": 2},
}  # fmt: skip
DTYPES = [torch.float32, torch.bfloat16]


def small(**fields: object) -> ModelConfig:
    return ModelConfig(**{"context": 12, "vocab_size": 32, "n_layers": 3, "d_expert": 20, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("recompute", ["nothing", "scores"])
@pytest.mark.parametrize("fields", CASES.values(), ids=list(CASES))
def test_activations_are_what_torch_saves(fields: dict[str, object], recompute: Recompute, dtype: torch.dtype) -> None:
    check(small(**fields), small(**fields), dtype, recompute)


@settings(max_examples=40)
@given(
    config=st.from_type(ModelConfig),
    window=st.none() | st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    recompute=st.sampled_from(["nothing", "scores"]),
)
def test_activations_of_any_model(
    config: ModelConfig, window: int | None, dtype: torch.dtype, recompute: Recompute
) -> None:
    config = config.replace(window=window)
    assume(config.context - config.mtp_depth > 1)  # of a single token less is copied,
    if recompute == "nothing":
        assume(config.n_heads > 1)  # and by the explicit kernel of a single head
    elif config.is_mla:  # the flash kernel for processors wants values as wide as keys
        config = config.replace(v_head_dim=config.nope_dim + config.rope_dim)
    check(config, config, dtype, recompute)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fields", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("vocab_size", [8, 2_000])
def test_checkpointing_holds_one_layer_or_the_loss(
    vocab_size: int, fields: dict[str, object], dtype: torch.dtype
) -> None:
    """The most that is held, over the whole backward pass: with a small vocabulary it is while a layer is computed
    anew, with a large one while the loss passes its gradients back."""
    config = small(**{**fields, "vocab_size": vocab_size})
    check(config, config, dtype, "layers")


def _full_norm(x: Tensor, w_C: Tensor) -> Tensor:
    return rms_norm_plain(x.flatten(-2), w_C.repeat(x.shape[-2])).unflatten(-1, x.shape[-2:])


def _layer_norm(x: Tensor, w_D: Tensor) -> Tensor:
    return F.layer_norm(x, w_D.shape, w_D, w_D)


def _gelu(self: experts.Experts, expert: int, x_ND: Tensor) -> Tensor:
    up_DF = self.gate_up_EDG[expert].chunk(2, -1)[0]
    return F.gelu(x_ND @ up_DF.to(x_ND.dtype)) @ self.down_EFD[expert].to(x_ND.dtype)


ONLY_COUNTED = [
    ({"qk_norm": "none"}, attention, "rms_norm_plain", lambda x, w_C: x),
    ({"qk_norm": "full"}, attention, "rms_norm_plain", _full_norm),
    ({"norm": "layer"}, transformer, "rms_norm_plain", _layer_norm),
    ({"ffn": "plain"}, experts.Experts, "one", _gelu),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("recompute", ["nothing", "scores"])
@pytest.mark.parametrize("shape", ["mha", "gqa", "mla", "some layers dense"])
@pytest.mark.parametrize(("fields", "place", "name", "function"), ONLY_COUNTED, ids=lambda case: str(case)[:20])
def test_activations_of_what_is_only_counted(
    fields: dict[str, object],
    place: object,
    name: str,
    function: object,
    shape: str,
    recompute: Recompute,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models that the lab counts but does not build: one piece of the plain model is exchanged."""
    monkeypatch.setattr(place, name, function)
    check(small(**CASES[shape], **fields), small(**CASES[shape]), dtype, recompute)


@pytest.mark.parametrize(("dtype", "per_weight"), [("bfloat16", 12), ("fp16", 12), ("float32", 8)])
def test_states_by_zero(dtype: str, per_weight: int) -> None:
    """16 bytes per weight for mixed precision (ZeRO, arXiv 1910.02054, section 3.1) and for float32."""
    config = ModelConfig(n_experts=16, mtp_depth=1)
    count = count_parameters(config)
    weights = count.total + count.mtp
    memory = training_memory(config, 4 * config.context, dtype, "layers")
    assert memory.optimizer == per_weight * weights
    assert memory.weights == memory.gradients == (16 - per_weight) / 2 * weights
    assert memory.activations == 4 * activation_bytes(config, dtype, "layers")
    assert memory.total == 16 * weights + memory.activations


def test_scores_of_long_sequences() -> None:
    """They grow with the square of the length; without them, a sequence costs the same per token whatever its length
    (Korthikanti et al. 2022, arXiv 2205.05198, section 4)."""
    config = preset("llama-3.1-8b").config.replace(context=1_000)
    double = config.replace(context=2_000)
    assert activation_bytes(config, context=2_000, recompute="nothing") == activation_bytes(double, recompute="nothing")
    assert activation_bytes(double) == 2 * activation_bytes(config)
    more = activation_bytes(double, recompute="nothing") - 2 * activation_bytes(config, recompute="nothing")
    assert more == config.n_layers * config.n_heads * (2_000**2 - 2 * 1_000**2) * 4
    assert activation_bytes(config, recompute="layers") < activation_bytes(config) / 5


def test_what_is_not_counted() -> None:
    with pytest.raises(ValueError, match="n_encoder_layers=12: activations of encoder-decoders are not counted"):
        activation_bytes(preset("switch-base-8").config)
    with pytest.raises(
        ValueError, match="dtype='fp8' is not known: use one of float32, bfloat16, float16, fp32, bf16, fp16"
    ):
        training_memory(ModelConfig(), 1, "fp8")
    with pytest.raises(ValueError, match="recompute='all' is not known: use one of nothing, scores, layers"):
        activation_bytes(ModelConfig(), recompute="all")  # type: ignore[arg-type]
