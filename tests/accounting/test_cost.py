"""Memory, devices, hours and money: against published facts, live tensors, and by hand."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsity_lab.accounting import (
    CONVENTIONS,
    abnar_flops_per_token,
    causal_flops_per_token,
    count_parameters,
    decode_flops_by_part,
    flops_by_part,
    flops_per_token,
)
from sparsity_lab.accounting.cost import Work, bill, decode_work, experts_touched, training_bill, utilisation
from sparsity_lab.accounting.devices import DEVICES, device
from sparsity_lab.accounting.flops import sequence_length
from sparsity_lab.accounting.memory import (
    bytes_of,
    cache_bytes,
    cache_elements_per_layer,
)
from sparsity_lab.accounting.presets import PRESETS, preset
from sparsity_lab.accounting.train_memory import training_memory
from sparsity_lab.config import ModelConfig

DECODERS = [case for case in PRESETS.values() if not case.config.n_encoder_layers]

# ---- FLOPs: other conventions, prefill and decode


@given(config=st.from_type(ModelConfig))
def test_causal_counts_the_scores_that_the_mask_leaves(config: ModelConfig) -> None:
    full, causal = flops_by_part(config), flops_by_part(config, causal=True)
    T = config.context
    assert T * causal["attention"] == full["attention"] * sum(range(1, T + 1)) / T
    assert {**full, "attention": 0} == {**causal, "attention": 0}
    assert causal_flops_per_token(config) == 3 * sum(causal.values())


@given(config=st.from_type(ModelConfig), tokens=st.integers(1, 50))
def test_decoding_every_token_is_a_causal_prefill(config: ModelConfig, tokens: int) -> None:
    assume(not config.is_mla)  # its absorbed form has other products
    decoded = sum(sum(decode_flops_by_part(config, position).values()) for position in range(tokens))
    causal = tokens * sum(flops_by_part(config, tokens, causal=True).values())
    assert decoded == causal


@given(position=st.integers(1, 100_000))
def test_absorbed_decoding_is_cheaper_than_naive(position: int) -> None:
    config = preset("deepseek-v3").config
    naive, absorbed = (decode_flops_by_part(config, position, mla=form) for form in ("naive", "absorbed"))
    assert sum(absorbed.values()) < sum(naive.values())
    heads, rank = 128, 512
    assert absorbed["attention"] == 61 * 2 * (position + 1) * heads * (rank + 64 + rank)
    assert naive["attention"] == 61 * 2 * (position + 1) * heads * (128 + 64 + 128)
    again = naive["projections"] - absorbed["projections"]
    assert again == 61 * 2 * position * rank * heads * (128 + 128), "keys and values of all earlier tokens, made anew"


def test_a_wrong_form_of_decoding() -> None:
    with pytest.raises(ValueError, match="mla='fast' is not known: use absorbed or naive"):
        decode_flops_by_part(preset("deepseek-v3").config, 1, mla="fast")  # type: ignore[arg-type]


def test_encoder_decoders_are_refused() -> None:
    for count in (flops_by_part, *(CONVENTIONS[name] for name in ("executed", "causal", "6ND"))):
        with pytest.raises(ValueError, match="has 12 encoder layers: FLOPs of encoder-decoders are not counted"):
            count(preset("switch-base-8").config)
    with pytest.raises(ValueError, match=r"abnar_app_c.* is a formula for models whose layers are all alike"):
        abnar_flops_per_token(preset("switch-base-8").config)


@given(
    d=st.sampled_from([64, 512, 2048]),
    layers=st.integers(1, 40),
    experts=st.integers(2, 64),
    active=st.integers(1, 8),
    granularity=st.sampled_from([1, 2]),
)
def test_abnar_appendix_c(d: int, layers: int, experts: int, active: int, granularity: int) -> None:
    """Against the equation as it stands in the paper, at its context and vocabulary."""
    config = ModelConfig(
        d_model=d, n_layers=layers, n_heads=1, d_expert=4 * d // granularity, n_experts=max(experts, active),
        top_k=active, context=2048, vocab_size=50_432,
    )  # fmt: skip
    layer = 4 * 6 * d**2 + 2 * 6 * 2048 * d + 14 * d * config.n_experts + 72 * active * d**2 / granularity
    assert abnar_flops_per_token(config) == layers * layer + 6 * 50_432 * d


@pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
def test_conventions_agree_roughly_at_short_context(case: object) -> None:
    """They count the same products; at a short context all that differs is small."""
    config = case.config  # type: ignore[attr-defined]
    executed = flops_per_token(config, 16)
    assert CONVENTIONS["6ND"](config) == pytest.approx(executed, rel=0.03)
    assert CONVENTIONS["causal"](config, context=16) <= executed


def test_length_of_sequences() -> None:
    assert sequence_length(preset("llama-4-scout").config) == 8192
    assert sequence_length(preset("gpt2").config) == 1024
    assert sequence_length(preset("gpt2").config, "1Ki") == 1024
    for asked in (0, 1.5, 2000, "2k"):
        with pytest.raises(ValueError, match=r"^context=.* must be a whole number from 1 to 1024, the model's longest"):
            sequence_length(preset("gpt2").config, asked)


# ---- Memory


def test_cache_by_deepseek_v2_table_1() -> None:
    shape = {"d_model": 512, "n_heads": 8, "d_head": 64}
    assert cache_elements_per_layer(ModelConfig(**shape)) == 2 * 8 * 64  # type: ignore[arg-type]
    assert cache_elements_per_layer(ModelConfig(**shape, n_kv_heads=2)) == 2 * 2 * 64  # type: ignore[arg-type]
    assert cache_elements_per_layer(ModelConfig(**shape, n_kv_heads=1)) == 2 * 64  # type: ignore[arg-type]
    mla = ModelConfig(**shape, kv_lora_rank=4 * 64)  # type: ignore[arg-type]
    assert cache_elements_per_layer(mla) == 9 * 64 / 2
    assert cache_bytes(mla, 1, "int8") == mla.n_layers * (288 + 4), "a scale for each latent"


def test_types() -> None:
    assert [bytes_of(t) for t in ("float32", "fp32", "BF16", "fp8", "int4")] == [4, 4, 2, 1, 0.5]
    with pytest.raises(ValueError, match="dtype='fp7' is not known: use one of float32"):
        bytes_of("fp7")


# ---- Cost


def test_the_bill_of_deepseek_v3() -> None:
    """arXiv 2412.19437, Table 1: 2.788M H800 hours at $ 2 are $ 5.576M, for 14.8T tokens at 37B active weights."""
    h800, flops = device("h800"), 6 * 37e9 * 14.8e12
    reached = utilisation(flops, 2.788e6, h800, "fp8")
    assert reached == pytest.approx(0.217, abs=1e-3)
    paid = bill(flops, h800, reached, "fp8")
    assert paid.device_hours == pytest.approx(2.788e6)
    assert paid.dollars == pytest.approx(5.576e6)
    assert paid.megawatt_hours == pytest.approx(2.788 * h800.watts), "a million hours at one watt are a MWh"
    assert paid.days_on(2048) == pytest.approx(2.788e6 / 2048 / 24)
    ours = training_bill(preset("deepseek-v3").config, 14.8e12, h800, 0.217, "fp8")
    assert ours.device_hours == pytest.approx(2.788e6, rel=0.015)


def test_v2_against_the_dense_67b() -> None:
    """arXiv 2405.04434, section 3.2.3: 300.6k against 172.8k H800 hours a trillion tokens, 42.5 % less. FLOPs alone
    would save more: the sparse model reaches a smaller share of the peak."""
    sparse, dense = (CONVENTIONS["executed"](preset(n).config, context=4096) for n in ("deepseek-v2", "deepseek-67b"))
    assert sparse / dense < 172.8 / 300.6


@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan])
def test_bad_utilisation(value: float) -> None:
    with pytest.raises(ValueError, match=r"utilisation=.* must be above 0 and at most 1"):
        bill(1e20, device("h100"), value, "bf16")


def test_bad_devices() -> None:
    with pytest.raises(ValueError, match="device='h1000' is not known: use one of t4"):
        device("h1000")
    with pytest.raises(ValueError, match="dtype='fp8': v100 has figures for float16, float32 only"):
        device("v100").peak("fp8")
    with pytest.raises(ValueError, match="flops=nan must be"):
        bill(math.nan, device("h100"), 0.4, "bf16")
    assert device("H100", price=1.0).price == 1.0


@pytest.mark.parametrize("machine", DEVICES.values(), ids=lambda machine: machine.name)
def test_every_device_makes_sense(machine: object) -> None:
    d = device(machine.name)  # type: ignore[attr-defined]
    assert d.source
    assert d.flops["float32"] == min(d.flops.values()) < d.peak(d.fastest)
    assert 1e10 < d.memory < 1e12
    assert 1e11 < d.bandwidth < 1e13


@given(config=st.from_type(ModelConfig), tokens=st.integers(1, 200))
def test_experts_touched(config: ModelConfig, tokens: int) -> None:
    touched = experts_touched(config, tokens)
    assert min(config.top_k, config.n_experts) - 1e-9 <= touched <= config.n_experts
    assert experts_touched(config, 1) == pytest.approx(config.top_k)


def test_decoding_on_a_roofline() -> None:
    """One user reads every active weight for two FLOPs each: far below a GPU's ridge; many users share the reading."""
    config, h100 = preset("llama-3.1-8b").config, device("h100")
    one = decode_work(config, batch=1, position=1)
    weights = count_parameters(config).active_with("output")
    assert one.bytes == pytest.approx(2 * weights, rel=1e-3)
    assert one.intensity == pytest.approx(1, rel=0.01)
    assert one.is_memory_bound(h100, "bf16")
    assert one.seconds(h100, "bf16") == one.bytes / h100.bandwidth
    many = decode_work(config, batch=512, position=1)
    assert not many.is_memory_bound(h100, "bf16")
    assert many.seconds(h100, "bf16") == many.flops / h100.peak("bf16")
    assert Work(flops=6.0, bytes=2.0).intensity == 3
    with pytest.raises(ValueError, match="batch=0, position=1: both must be at least 1"):
        decode_work(config, 0, 1)


def test_sparsity_saves_compute_but_not_memory() -> None:
    dense = ModelConfig.of_width(32)
    sparse = dense.with_sparsity(0.984375)
    router = flops_by_part(sparse)["router"]
    assert sum(flops_by_part(sparse).values()) - router == sum(flops_by_part(dense).values())
    assert training_memory(sparse, 1).weights > 10 * training_memory(dense, 1).weights
    many = decode_work(sparse, batch=10_000, position=1), decode_work(dense, batch=10_000, position=1)
    assert many[0].bytes > many[1].bytes, "with many users all experts are read"
