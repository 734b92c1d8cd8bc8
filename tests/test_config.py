"""The configs: what they accept, what they say when they don't, and the laws of the dial."""

import dataclasses
import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsity_lab.config import MAX_EXPERTS, Hold, ModelConfig, RunConfig

CONFIGS = [ModelConfig, RunConfig]
HOLDS = st.sampled_from(["active", "total"])

# ---- JSON


@given(config=st.from_type(ModelConfig) | st.from_type(RunConfig))
def test_json_there_and_back(config: ModelConfig | RunConfig) -> None:
    assert type(config).from_json(config.to_json()) == config
    assert type(config).from_dict(config.to_dict()) == config
    assert json.loads(config.to_json()) == config.to_dict()


@pytest.mark.parametrize("kind", CONFIGS)
def test_unknown_field(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} has no field 'sparsty'; its fields are .*seed|.*top_k"):
        kind.from_json('{"sparsty": 0.5}')
    with pytest.raises(TypeError):
        kind(sparsty=0.5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("text", ["", "{", "nonsense", "[]", "null", "5", '"text"', '[["seed", 1]]'])
def test_bad_json(kind: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}: (not valid JSON|.* is no JSON object).*looks like"):
        kind.from_json(text)


def test_missing_fields_are_defaults_and_whole_floats_become_integers() -> None:
    config = ModelConfig.from_json('{"n_experts": 16.0, "z_loss": 1}')
    assert config == ModelConfig(n_experts=16, z_loss=1.0)
    assert type(config.n_experts) is int
    assert type(config.z_loss) is float


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().top_k = 2  # type: ignore[misc]


# ---- Mistakes


NUMBERS = [
    (kind, field.name)
    for kind in CONFIGS
    for field in dataclasses.fields(kind)
    if field.type in (int, float, int | None, float | None)
]
TEXTS = [(kind, field.name) for kind in CONFIGS for field in dataclasses.fields(kind) if field.type is str]


FLAGS = [(kind, field.name) for kind in CONFIGS for field in dataclasses.fields(kind) if field.type is bool]


def test_every_field_is_a_number_a_text_or_a_flag() -> None:
    assert len(NUMBERS) + len(TEXTS) + len(FLAGS) == sum(len(dataclasses.fields(kind)) for kind in CONFIGS)


@pytest.mark.parametrize(("kind", "name"), FLAGS)
def test_bad_flags(kind: Any, name: str) -> None:
    for value in (0, 1, None, "True"):
        with pytest.raises(ValueError, match=f"^{name}=.* must be True or False"):
            kind(**{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 4, "n_kv_heads": 3}, "n_kv_heads=3 must divide n_heads=4"),
        ({"d_head": 7}, "d_head=7 must be even"),
        ({"n_dense_layers": 3}, "n_dense_layers=3 is more than n_layers=2"),
        ({"n_experts": 4, "n_dense_layers": 2}, "n_experts=4, but none of n_layers=2 has experts"),
        ({"n_experts": 4, "moe_every": 3}, "n_experts=4, but none of n_layers=2 has experts"),
        ({"q_lora_rank": 8}, "q_lora_rank=8 belongs to MLA: set kv_lora_rank too"),
        ({"kv_lora_rank": 8, "qk_rope_head_dim": 3}, "qk_rope_head_dim=3 must be even"),
        ({"kv_lora_rank": 8, "n_kv_heads": 1}, "n_kv_heads=1 and kv_lora_rank=8: use one of them"),
        ({"kv_lora_rank": 0}, "kv_lora_rank=0 is out of range"),
        ({"n_experts": 6, "n_groups": 4}, "n_groups=4 must divide n_experts=6"),
        ({"n_experts": 6, "n_groups": 3, "top_groups": 4}, "top_groups=4 must be from 1 to n_groups=3"),
        ({"n_experts": 6, "n_groups": 3, "top_groups": 1, "top_k": 3}, "hold at least top_k=3 experts"),
        ({"mtp_depth": 5, "context": 5}, "mtp_depth=5 must be below context=5"),
        ({"router": "best"}, "router='best' is not known: use one of softmax, sigmoid, expert_choice, hash, random"),
        ({"qk_norm": "some"}, "qk_norm='some' is not known: use one of head, full, none"),
    ],
)
def test_shapes_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changes)


@given(config=st.from_type(ModelConfig))
def test_moe_layers_by_arithmetic_and_by_counting(config: ModelConfig) -> None:
    assert config.n_moe_layers == sum(config.is_moe_layer(layer) for layer in range(config.n_layers))


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_bad_numbers(kind: Any, name: str) -> None:
    for value in (math.nan, math.inf, -math.inf, -1, 1e30, True, False, "2", [2], {}):
        with pytest.raises(ValueError, match=f"^{name}=") as error:
            kind(**{name: value})
        shown = f"{value:g}" if value in (-1, 1e30) else repr(value)
        assert str(error.value).startswith(f"{name}={shown} ")


@pytest.mark.parametrize(("kind", "name"), [(ModelConfig, "n_experts"), (RunConfig, "seed"), (RunConfig, "budget")])
def test_integers_too_large_for_a_float(kind: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}="):
        kind(**{name: 10**400})


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_none_only_where_it_means_something(kind: Any, name: str) -> None:
    optional = {field.name for field in dataclasses.fields(kind) if field.default is None}
    assert optional <= {
        "batch_size", "learning_rate", "n_kv_heads", "d_head", "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "d_dense", "window", "full_attention_every", "top_groups", "order_seed",
    }  # fmt: skip
    if name in optional:
        assert getattr(kind(**{name: None}), name) is None
    else:
        with pytest.raises(ValueError, match=f"^{name}=None must be"):
            kind(**{name: None})


@pytest.mark.parametrize(("kind", "name"), TEXTS)
def test_bad_texts(kind: Any, name: str) -> None:
    for value in (5, None, True, ["cpu"], ""):
        with pytest.raises(ValueError, match=f"^{name}="):
            kind(**{name: value})


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: ModelConfig(n_experts=2, top_k=4), "top_k=4 needs n_experts ≥ 4, got 2"),
        (lambda: ModelConfig(n_experts=2.5), "n_experts=2.5 must be a whole number, e.g. 2"),
        (lambda: ModelConfig(n_experts=0), "n_experts=0 is out of range: use 1 to 4096"),
        (lambda: ModelConfig(n_experts=4097), "n_experts=4097 is out of range: use 1 to 4096"),
        (lambda: ModelConfig(d_model=12, n_heads=4), "n_heads=4 must split d_model=12 into heads of even width"),
        (lambda: ModelConfig(d_model=33, n_heads=1), "n_heads=1 must split d_model=33 into heads of even width"),
        (lambda: RunConfig(warmup=0.6, decay=0.5), "warmup=0.6 and decay=0.5 are shares of one run: keep the sum ≤ 1"),
        (lambda: RunConfig(corpus=" "), "corpus='' must be a name or a path"),
        (lambda: RunConfig(dtype="float16"), "dtype='float16' is not known: use one of float32, bfloat16"),
        (lambda: RunConfig(device="gpu"), "device='gpu' is not known: use one of auto, cpu, cuda"),
        (lambda: RunConfig(backend="slow"), "backend='slow' is not known: use one of grouped, megablocks, naive"),
        (lambda: RunConfig(seed=2**31), r"seed=2.14748e\+09 is out of range"),
        (lambda: RunConfig(budget=0), "budget=0 is out of range: use 1 to"),
        (lambda: ModelConfig().replace(top_k=2), "top_k=2 needs n_experts ≥ 2, got 1"),
        (lambda: ModelConfig.of_width(30), "width=30 must be a positive multiple of 4"),
        (lambda: ModelConfig.of_width(0), "width=0 must be a positive multiple of 4"),
        (lambda: ModelConfig.of_width(True), "width=True must be a positive multiple of 4"),
        (lambda: ModelConfig.of_width("16"), "width='16' must be a positive multiple of 4"),  # type: ignore[arg-type]
        (lambda: ModelConfig.on_dial(16, 0.5, "both"), "hold='both' is not known: use one of active, total"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(mistake: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        mistake()


@pytest.mark.parametrize("hold", ["active", "total"])
@pytest.mark.parametrize("value", [1, 1.0, math.nan, -0.001, 1.5, 1e9, math.inf, True, False, "0.5", None])
def test_impossible_sparsity(value: Any, hold: Hold) -> None:
    with pytest.raises(ValueError, match=f"^sparsity={value!r} must be at least 0 and below 1: at 1 no expert"):
        ModelConfig().with_sparsity(value, hold)


def test_more_sparsity_than_experts() -> None:
    with pytest.raises(ValueError, match=r"sparsity=0.9999 needs 10000 experts .* more than 4096; .* at most 0.999756"):
        ModelConfig().with_sparsity(0.9999)
    assert ModelConfig().with_sparsity(1 - 1 / 4096).n_experts == 4096


def test_limits_are_allowed() -> None:
    ModelConfig(n_experts=4096, top_k=4096, balance_loss=0, z_loss=10, rope_base=1e9, d_model=2, n_heads=1)
    RunConfig(warmup=0.5, decay=0.5, seed=2**31 - 1, budget=1, batch_size=65_536, learning_rate=10)
    RunConfig(warmup=0, decay=1, threads=1, grad_clip=1e-6)


# ---- The dial


@st.composite
def dials(draw: st.DrawFn) -> tuple[ModelConfig, float]:
    """A model, and a sparsity between two numbers of experts, often few."""
    experts = draw(st.integers(1, 64))
    top_k = draw(st.integers(1, min(8, experts)))
    model = ModelConfig(d_expert=draw(st.integers(1, 500)), n_experts=experts, top_k=top_k)
    near = draw(st.integers(top_k, top_k + 5) | st.integers(top_k, MAX_EXPERTS - 1))
    wanted = near + draw(st.integers(0, 100)) / 100  # not st.floats, which loves the ends
    return model, 1 - top_k / wanted


def achievable(model: ModelConfig, hold: Hold) -> list[float]:
    pool = model.n_experts * model.d_expert
    experts = range(model.top_k, MAX_EXPERTS + 1)
    return [(e - model.top_k) / e for e in experts if hold == "active" or pool % e == 0]


@given(dial=dials(), hold=HOLDS)
def test_what_is_held_is_held(dial: tuple[ModelConfig, float], hold: Hold) -> None:
    model, sparsity = dial
    result = model.with_sparsity(sparsity, hold)
    assert 0 <= result.sparsity < 1
    assert result.top_k == model.top_k
    if hold == "active":
        assert result.d_expert == model.d_expert
    else:
        assert result.n_experts * result.d_expert == model.n_experts * model.d_expert
    assert result.replace(n_experts=model.n_experts, d_expert=model.d_expert) == model, "nothing else may change"


@given(dial=dials(), hold=HOLDS)
@example(dial=(ModelConfig(), 0.3), hold="active")  # between 0 and 1/2: E = 1/0.7 = 1.43 is nearer to 1, S is not
@example(dial=(ModelConfig(n_experts=3, top_k=3), 0.1225), hold="active")
def test_nearest_achievable_sparsity(dial: tuple[ModelConfig, float], hold: Hold) -> None:
    model, sparsity = dial
    result = model.with_sparsity(sparsity, hold).sparsity
    assert abs(result - sparsity) <= np.abs(np.array(achievable(model, hold)) - sparsity).min() + 1e-12


@given(dial=dials(), hold=HOLDS)
def test_dialling_again_changes_nothing(dial: tuple[ModelConfig, float], hold: Hold) -> None:
    model, sparsity = dial
    once = model.with_sparsity(sparsity, hold)
    assert once.with_sparsity(once.sparsity, hold) == once


@given(dial=dials(), other=st.floats(0, 0.99))
def test_more_sparsity_is_never_fewer_experts(dial: tuple[ModelConfig, float], other: float) -> None:
    model, sparsity = dial
    low, high = sorted([sparsity, other])
    assert model.with_sparsity(low).n_experts <= model.with_sparsity(high).n_experts


@given(dial=dials(), hold=HOLDS)
def test_stops_are_hit_exactly(dial: tuple[ModelConfig, float], hold: Hold) -> None:
    model, _ = dial
    stops = model.sparsities(hold)
    assert all(a < b for a, b in pairwise(stops))
    assert all(0 <= stop < 1 for stop in stops)
    assert [model.with_sparsity(stop, hold).sparsity for stop in stops] == stops


def test_stops_double_the_experts() -> None:
    stops = [0, 1 / 2, 3 / 4, 7 / 8, 15 / 16, 31 / 32, 63 / 64, 127 / 128, 255 / 256]
    assert ModelConfig().sparsities() == stops
    assert ModelConfig(n_experts=4, top_k=4).sparsities() == stops[:7]
    assert ModelConfig(n_experts=512, top_k=300).sparsities() == [0]
    assert ModelConfig(d_expert=48).sparsities("total") == [0, 1 / 2, 3 / 4, 7 / 8, 15 / 16], "48 = 16 · 3"


@pytest.mark.parametrize("width", [4, 8, 12, 16, 24, 32, 48, 64, 96, 128])
def test_the_two_holds_meet_at_sixteen_experts(width: int) -> None:
    active, total = (ModelConfig.on_dial(width, 0.9375, hold) for hold in ("active", "total"))
    assert active == total
    assert (active.n_experts, active.top_k, active.d_expert) == (16, 1, 3 * width)
    dense, wide = (ModelConfig.on_dial(width, 0.0, hold) for hold in ("active", "total"))
    assert (dense.n_experts, dense.d_expert) == (1, 3 * width)
    assert (wide.n_experts, wide.d_expert) == (1, 48 * width)
    assert dense.sparsity == wide.sparsity == 0
    assert not dense.has_router
    assert active.has_router


@given(width=st.integers(1, 256).map(lambda n: 4 * n))
def test_default_heads_are_about_sixteen_wide(width: int) -> None:
    config = ModelConfig.of_width(width)
    assert config.d_model == config.head_dim * config.n_heads == width
    assert config.head_dim % 2 == 0
    assert config.head_dim >= min(width, 16)
    if width % 16 == 0:
        assert config.head_dim == 16


# ---- Batches


def test_batch_grows_with_the_budget() -> None:
    budgets = [10 ** (e / 4) for e in range(24, 60)]
    sizes = [RunConfig(budget=budget).sequences for budget in budgets]
    assert sizes == sorted(sizes)
    assert all(size in (2, 4, 8, 16, 32, 64) for size in sizes)
    assert [RunConfig(budget=b).sequences for b in (1e10, 1e11, 1e12, 1e13)] == [2, 4, 8, 16]
    assert RunConfig(budget=1e12, batch_size=7).sequences == 7


@pytest.mark.parametrize("width", [10**9, 4 * 10**40])
def test_a_width_beyond_all_bounds_is_refused_at_once(width: int) -> None:
    with pytest.raises(ValueError, match=r"^width=\d.* is out of range: use 4 to 65,536"):
        ModelConfig.of_width(width)


@pytest.mark.parametrize("value", [[[1]], {"a": 1}, "x" * 10_000, json.loads("[" * 400 + "]" * 400)])
def test_a_value_of_any_size_makes_a_short_message(value: Any) -> None:
    for name in ("d_model", "router", "route_scale", "tied_embeddings"):
        with pytest.raises(ValueError, match=f"^{name}=") as error:
            ModelConfig.from_dict({name: value})
        assert len(str(error.value)) < 200
