"""Does it fit? What a split adds up to, ZeRO's own numbers, and what is known to fit."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.devices import device
from sparsity_lab.accounting.fits import Split, largest, longest_context, serving, training
from sparsity_lab.accounting.formats import FORMATS, published_format, weight_format
from sparsity_lab.accounting.memory import cache_bytes
from sparsity_lab.accounting.presets import preset
from sparsity_lab.accounting.train_memory import training_memory
from sparsity_lab.config import ModelConfig

ONE = Split()
V3, LLAMA = preset("deepseek-v3").config, preset("llama-3.1-8b").config


# ---- Splits


@pytest.mark.parametrize(
    ("zero", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)]
)  # arXiv 1910.02054, Figure 1: 7.5e9 weights on 64 GPUs
def test_zero(zero: int, gigabytes: float) -> None:
    config = LLAMA.replace(d_expert=13_000, n_layers=31, n_kv_heads=None)
    scale = 7.5e9 / count_parameters(config).total
    held = training(config, Split(data=64), "bf16", zero, "layers", 1, 1)
    assert scale * (held.total - held.activations) / 1e9 == pytest.approx(gigabytes, abs=0.06)


@given(config=st.from_type(ModelConfig), batch=st.integers(1, 9))
def test_one_gpu_holds_all(config: ModelConfig, batch: int) -> None:
    held, memory = (
        training(config, ONE, "bf16", 3, "scores", config.context, batch),
        training_memory(config, batch * config.context),
    )
    assert held.weights == pytest.approx(memory.weights)
    assert held.gradients == pytest.approx(memory.gradients)
    assert held.optimizer == pytest.approx(memory.optimizer)
    assert held.activations == pytest.approx(memory.activations)
    served = serving(config, ONE, FORMATS["bf16"], "fp32", 7, batch)
    assert served.weights == pytest.approx(2 * count_parameters(config).total)
    assert served.cache == cache_bytes(config, 7, "fp32", batch)


def test_tensor_cuts_matrices_and_heads() -> None:
    count = count_parameters(LLAMA)
    held = {t: serving(LLAMA, Split(tensor=t), FORMATS["bf16"], "bf16", 1_000, 4) for t in (1, 8, 32)}
    for t, each in held.items():
        assert each.weights == pytest.approx(2 * ((count.total - count.norms) / t + count.norms))
    assert held[1].cache == 8 * held[8].cache == 8 * held[32].cache, "8 heads of keys and values"
    assert held[1].activations == 8 * held[8].activations


def test_latents_are_copied() -> None:
    """What all heads share cannot be cut by head; copies of the model each keep their own sequences."""
    alone = serving(V3, ONE, FORMATS["fp8"], "bf16", 1_000, 16)
    tensor, data = (serving(V3, split, FORMATS["fp8"], "bf16", 1_000, 16) for split in (Split(8), Split(data=8)))
    assert tensor.cache == alone.cache == 8 * data.cache
    assert serving(V3, Split(data=8), FORMATS["fp8"], "bf16", 1_000, 17).cache == 3 * data.cache / 2


def test_activations_of_a_server() -> None:
    """What the matrices of one layer give for 8,192 tokens, and scores of the next token for each sequence."""
    per_token = count_parameters(V3).active_with("none") / 61 / 7168
    held = serving(V3, ONE, FORMATS["fp8"], "bf16", 100_000, 16)
    assert held.activations == pytest.approx(2 * 8192 * per_token + 4 * 16 * 129_280)
    few = serving(V3, ONE, FORMATS["fp8"], "bf16", 100, 16)
    assert few.activations == pytest.approx(2 * 1600 * per_token + 4 * 16 * 129_280)


def test_experts_are_spread() -> None:
    """Whole experts, as many on the fullest GPU as it takes; the rest is cut by tensor, or copied."""
    count = count_parameters(V3)
    small = count.norms + count.router
    for split, experts in ((Split(8, expert=8), 8), (Split(8, data=12, expert=96), 256 / 3), (Split(4, 1, 8, 32), 32)):
        held = serving(V3, split, FORMATS["bf16"], "bf16", 1, 1)
        rest = (count.total - count.routed - small) / split.tensor + small
        assert held.weights == pytest.approx(2 * (rest + count.routed / experts)), split


def test_the_fullest_stage() -> None:
    """DeepSeek-V3's dense layers are the first three, so the last stage is the fullest: 16 layers of experts, or 15,
    and a table."""
    count = count_parameters(V3)
    held = serving(V3, Split(pipeline=4), FORMATS["bf16"], "bf16", 1_000, 1)
    layer = (count.attention + count.norms) / 61 + (count.router + count.shared + count.routed) / 58
    stages = [n * layer + table for n, table in ((15, 0), (15, count.head))]
    assert held.weights == pytest.approx(2 * max(stages))
    assert held.cache == pytest.approx(cache_bytes(V3, 1_000) * 15 / 61)


@given(config=st.from_type(ModelConfig), pipeline=st.integers(1, 3), zero=st.integers(0, 3), data=st.integers(1, 3))
def test_no_stage_holds_more_than_the_model(config: ModelConfig, pipeline: int, zero: int, data: int) -> None:
    split = Split(pipeline=min(pipeline, config.n_layers), data=data)
    held = training(config, split, "fp32", zero, "layers", config.context, data)
    count = count_parameters(config)
    bound = 4 * (count.total + count.mtp) * 1.0001
    copies = [data if zero >= stage else 1 for stage in (3, 2, 1)]
    assert held.weights * copies[0] <= bound
    assert held.gradients * copies[1] <= bound
    assert held.optimizer * copies[2] <= 2 * bound
    share = held.weights * copies[0] * split.pipeline
    assert share >= bound / 1.0001 * 0.99, "the fullest stage holds at least its even share"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("n_layers", "first", "last"), [(3, 2, 1), (2, 1, 1)])
def test_tables_stand_at_the_ends(n_layers: int, first: int, last: int, tied: bool) -> None:
    """The first stage looks tokens up, the last one predicts, and in training holds what predicts further tokens. A
    table that serves both ends is held twice."""
    config = ModelConfig(n_layers=n_layers, tied_embeddings=tied, vocab_size=1000, mtp_depth=1)
    count = count_parameters(config)
    layer = (count.attention + count.norms + count.routed) / n_layers
    ends = [first * layer + count.head, last * layer + count.head]
    held = serving(config, Split(pipeline=2), FORMATS["bf16"], "bf16", 1, 1)
    assert held.weights == pytest.approx(2 * max(ends), rel=1e-9)
    trained = training(config, Split(pipeline=2), "bf16", 0, "layers", 128, 1)
    assert trained.weights == pytest.approx(2 * max(ends[0], ends[1] + count.mtp), rel=1e-9)


def test_zero_spreads_experts_over_their_copies_alone() -> None:
    count = count_parameters(V3)
    held = training(V3, Split(data=64, expert=32), "bf16", 3, "layers", 128, 64)
    assert held.weights == pytest.approx(2 * ((count.total - count.routed) / 64 + count.routed / 32 / 2))
    assert held.optimizer == pytest.approx(6 * held.weights)
    cut = training(LLAMA, Split(tensor=8, data=2), "bf16", 0, "scores", 128, 6)
    assert cut.activations == pytest.approx(training_memory(LLAMA.replace(context=128), 3 * 128).activations / 8)


@pytest.mark.parametrize(
    ("name", "stored", "gpu", "gpus", "fits"),
    [
        ("gpt-oss-120b", None, "h100", 1, True),  # "runs within a single 80 GB GPU" (its model card)
        ("gpt-oss-20b", None, "rtx4090", 1, True),
        (
            "llama-3.1-405b",
            "fp8",
            "h100",
            8,
            True,
        ),  # Meta quantised it so that it fits one node (arXiv 2407.21783, 6.2)
        ("llama-3.1-405b", "bf16", "h100", 8, False),
        ("llama-3.1-405b", "bf16", "h100", 16, True),
        ("deepseek-v3", None, "h200", 8, True),  # the usual node for it
        ("deepseek-v3", None, "h100", 8, False),
        ("llama-3.1-70b", "bf16", "h100", 1, False),
        ("llama-3.1-70b", "bf16", "h100", 2, True),
    ],
)
def test_what_is_known_to_fit(name: str, stored: str | None, gpu: str, gpus: int, fits: bool) -> None:
    known = preset(name)
    kind = weight_format(stored) if stored else published_format(known.settings, known.config.n_layers)
    held = serving(known.config, Split(tensor=gpus), kind, "bf16", 4096, 1)
    assert (held.total <= 0.9 * device(gpu).memory) == fits


@pytest.mark.parametrize(
    ("model", "split", "message"),
    [
        ("llama-3.1-8b", Split(tensor=3), "tensor=3 must divide the model's 32 heads"),
        ("llama-3.1-8b", Split(tensor=0), "tensor=0 must be from 1 to 65536"),
        ("llama-3.1-8b", Split(pipeline=33), "pipeline=33 is more than the model's 32 layers"),
        ("llama-3.1-8b", Split(data=2, expert=2), "expert=2: this model has no experts to spread"),
        ("mixtral-8x7b", Split(data=16, expert=16), "expert=16 must be at most the model's 8 experts"),
        ("mixtral-8x7b", Split(tensor=4, expert=8), "expert=8 must .* divide tensor × data = 4"),
        ("switch-base-8", Split(), "n_encoder_layers=12: encoder-decoders are not split"),
    ],
)
def test_bad_splits(model: str, split: Split, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serving(preset(model).config, split, FORMATS["bf16"], "bf16", 1, 1)
    with pytest.raises(ValueError, match=message):
        training(preset(model).config, split, "bf16", 0, "layers", 128, 1)


def test_memory_as_the_driver_reports_it() -> None:
    """nvidia-smi's 81,559 MiB for an H100 of 80 GB, and 143,771 MiB for an H200 of 141 GB."""
    assert [device(name).memory / 2**20 for name in ("h100", "h200")] == [81_559, 143_771]


def test_bad_zero() -> None:
    with pytest.raises(ValueError, match="zero=4 must be 0, 1, 2 or 3"):
        training(LLAMA, ONE, "bf16", 4, "layers", 128, 1)
    assert Split(2, 3, 4, 8).devices == 24


# ---- The largest that fits


@given(limit=st.integers(0, 200), most=st.integers(1, 100))
def test_largest(limit: int, most: int) -> None:
    assert largest(lambda n: n <= limit, most) == min(limit, most)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


@pytest.mark.parametrize(
    ("settings", "context", "longest"),
    [
        ({}, 4096, 4096),
        ({"rope_scaling": None}, 4096, 4096),
        ({"rope_scaling": YARN}, 40_960, 131_072),  # Qwen3, as its card says to run it
        ({"rope_parameters": YARN}, 40_960, 131_072),
        ({"text_config": {"rope_scaling": YARN}}, 40_960, 131_072),
        ({"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}}, 163_840, 163_840),
        ({"rope_scaling": {"type": "yarn", "factor": 32}}, 4096, 131_072),
        ({"rope_scaling": {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 9}}, 4096, 16_384),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096, 8192),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}}, 131_072,
         131_072),
        ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, 4096, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 1e300}}, 4096, 4096),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, 4096, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 2**24}}, 1, 2**24),
        ({"rope_scaling": {"type": "linear", "factor": 2**24 + 1}}, 1, 1),
        ({"rope_scaling": {"type": "linear"}}, 4096, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": None}}, 4096, 8192),
        ({"rope_scaling": {"type": "linear", "factor": True}}, 4096, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}}, 4096, 4096),
        ({"rope_scaling": "yarn"}, 4096, 4096),
    ],
)  # fmt: skip
def test_longest_context(settings: dict[str, Any], context: int, longest: int) -> None:
    assert longest_context(settings, context) == longest


def test_limits_of_a_split() -> None:
    """A layer for each stage, and an expert for each GPU; in float32 the optimizer keeps two moments."""
    held = training(LLAMA, Split(pipeline=32), "fp32", 0, "layers", 128, 1)
    assert held.optimizer == 2 * held.weights == 2 * held.gradients
    mixtral = preset("mixtral-8x7b").config
    spread = serving(mixtral, Split(data=8, expert=8), FORMATS["bf16"], "bf16", 1, 1).weights
    count = count_parameters(mixtral)
    assert spread == pytest.approx(2 * (count.total - count.routed * 7 / 8))
