"""Layers that differ: caches and FLOPs against transformers' own, and the arithmetic of what a token sees."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from sparsity_lab.accounting import attention_twins, cache_bytes, count_parameters, decode_flops_by_part, flops_by_part
from sparsity_lab.accounting.hf_config import from_hf
from sparsity_lab.accounting.shape import Mixer, Shape, Weights, lab_config, shape_of
from sparsity_lab.config import ModelConfig
from tests.accounting.test_hf_types import small_file

WINDOW = 48
MLA = {"num_key_value_heads": 12, "n_group": 1, "topk_group": 1, "zero_expert_num": 0}
LAYERED = ["gpt_oss", "gemma3_text", "olmo3", "afmoe", "exaone_moe", "llama4_text", "mimo_v2_flash"]


class Live:
    """A small model as transformers builds it, which reads tokens into its own cache."""

    def __init__(self, kind: str, **changes: Any):
        values = small_file(kind) | changes
        self.shape = from_hf(values)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        config._attn_implementation = config._experts_implementation = "eager"
        self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        self.cache = DynamicCache(config=config)
        self.flops: dict[str, int] = {}

    @torch.no_grad()
    def read(self, tokens: int) -> int:
        """Returns the FLOPs by torch's counter."""
        counter = FlopCounterMode(display=False)
        with counter:
            self.model(torch.ones(1, tokens, dtype=torch.int64), past_key_values=self.cache, use_cache=True)
        self.flops = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
        return counter.get_total_flops()

    def kept(self) -> int:
        """The numbers in the cache."""
        total = 0
        for layer in self.cache.layers:
            held = [getattr(layer, name, None) for name in ("keys", "values", "indexer_keys")]
            held += getattr(layer, "compressed_kv", {}).values()  # DeepSeek-V4's, whose values are its keys
            total += sum({id(each): each.numel() for each in held if isinstance(each, torch.Tensor)}.values())
            for name in ("conv_states", "recurrent_states"):
                total += sum(state.numel() for state in getattr(layer, name, {}).values() if state is not None)
        return total


def dense_experts(shape: Shape) -> int:
    """FLOPs per token of the experts that Llama 4's code computes, although they are not active."""
    parts = [(part, times) for layer, times in shape.layers for part in layer.feed_forwards]
    return sum(2 * times * (part.n_experts - part.top_k) * part.expert.matrices for part, times in parts)


@pytest.mark.parametrize("kind", LAYERED)
def test_windows(kind: str) -> None:
    """transformers computes all scores and masks those outside of a window, and keeps one token less than a window,
    for the next token is in it, too."""
    live = Live(
        kind, **({"attention_chunk_size": WINDOW, "no_rope_layer_interval": 3} if kind == "llama4_text" else {})
    )
    windows = [(mixer, times) for mixer, times in live.shape.mixers() if mixer.keeps is not None]
    assert 0 < sum(times for _, times in windows) < live.shape.n_layers
    for tokens in (WINDOW - 8, 2 * WINDOW):
        flops = live.read(tokens) / tokens
        if kind == "llama4_text":
            flops -= dense_experts(live.shape)
        beyond = max(0, tokens - WINDOW)
        masked = sum(2 * times * beyond * mixer.pair for mixer, times in windows)
        assert sum(flops_by_part(live.shape, tokens).values()) == flops - masked
        least = sum(times * mixer.cache for mixer, times in windows) if beyond else 0
        assert cache_bytes(live.shape, tokens, "fp8") == live.kept() + least
        live.cache = DynamicCache(config=live.model.config)


@pytest.mark.parametrize("kind", ["deepseek_v3", "glm4_moe_lite", "deepseek_v32", "longcat_flash"])
def test_latents(kind: str) -> None:
    live = Live(kind, **MLA)
    for tokens, new in ((30, 30), (31, 1)):
        flops = live.read(new)
        expected = sum(decode_flops_by_part(live.shape, tokens - 1, "naive").values())
        assert flops == (expected if new == 1 else new * sum(flops_by_part(live.shape, tokens).values()))
        assert cache_bytes(live.shape, tokens, "fp8") == live.kept()


def test_compressed_attention() -> None:
    """DeepSeek-V4: transformers computes all scores, keeps one token less than a window, and multiplies the scores of
    the indexer's heads number by number. Tokens that do not fill an entry wait in a buffer, which is empty here."""
    live = Live("deepseek_v4", sliding_window=WINDOW, index_topk=4)
    assert live.shape.kinds == {"sliding": 6, "sparse": 2, "compressed": 2}
    tokens, streams = 2 * WINDOW, 3
    flops = live.read(tokens) / tokens
    for mixer, times in live.shape.mixers():
        entries = tokens // mixer.stride
        flops -= 2 * times * ((entries - mixer.seen(tokens)) * mixer.pair - mixer.scan // 21 * entries)
    head = 2 * streams**2 * live.shape.d_model  # makes one stream of several
    assert sum(flops_by_part(live.shape, tokens).values()) == flops - head
    twice = 2 * (WINDOW - 1) * 24  # layers that compress nothing keep a key again, as its value
    assert cache_bytes(live.shape, tokens, "fp8") == live.kept() - twice + 6 * 24
    for new in (0, 3, WINDOW):
        one = cache_bytes(live.shape, new, "fp8")
        assert one == 24 * (6 * new + 2 * (new // 8) + 2 * (new // 16)) + 20 * 2 * (new // 8)


@pytest.mark.parametrize("kind", ["qwen3_next", "kimi_linear", "qwen3_5_text", "bailing_hybrid"])
def test_linear_attention(kind: str) -> None:
    """In one step of decoding. torch's counter leaves out the state, which is updated number by number, and convolves
    a window with one number more than there is to convolve."""
    live = Live(kind, **MLA)
    assert "linear" in live.shape.kinds
    for tokens, new in ((40, 40), (41, 1)):
        flops = live.read(new)
        assert cache_bytes(live.shape, tokens, "fp8") == live.kept()
    state = sum(2 * times * mixer.step for mixer, times in live.shape.mixers())
    expected = sum(decode_flops_by_part(live.shape, 40, "naive").values())
    assert expected == flops - live.flops["aten.convolution"] // 2 + state


@pytest.mark.parametrize("kind", ["jamba", "bamba", "falcon_h1", "nemotron_h", "lfm2"])
def test_states(kind: str) -> None:
    live = Live(kind)
    for tokens in (20, 30):
        live.read(10 if tokens == 30 else 20)
        assert cache_bytes(live.shape, tokens, "fp8") == live.kept()


MIXERS = st.builds(
    Mixer,
    kind=st.sampled_from(["full", "chunked", "sliding"]),
    weights=st.just(Weights()),
    sees=st.none() | st.integers(1, 20),
    keeps=st.none() | st.integers(1, 20),
) | st.builds(
    Mixer,
    kind=st.just("compressed"),
    weights=st.just(Weights()),
    sees=st.none() | st.integers(1, 20),
    stride=st.integers(1, 20),
)


@given(mixer=MIXERS, tokens=st.integers(1, 60))
def test_what_all_tokens_see(mixer: Mixer, tokens: int) -> None:
    each = [mixer.seen(n) for n in range(1, tokens + 1)]
    assert mixer.seen_by_all(tokens) == sum(each)
    assert all(n // mixer.stride >= seen >= (mixer.stride == 1) for n, seen in enumerate(each, 1))


@given(config=st.from_type(ModelConfig))
def test_the_labs_models_come_back_from_their_shape(config: ModelConfig) -> None:
    shape = shape_of(config)
    assert shape.sparsity == pytest.approx(config.sparsity)
    for name in ("n_layers", "n_experts", "top_k", "n_heads", "kv_lora_rank", "is_mla", "has_router"):
        assert getattr(shape, name) == getattr(config, name), name


def test_a_shape_that_the_lab_can_train() -> None:
    values = small_file("qwen3_moe") | {"attention_bias": False}
    config = lab_config(from_hf(values))
    assert config is not None
    assert count_parameters(config) == count_parameters(from_hf(values))
    assert lab_config(from_hf(values | {"attention_bias": True})) is None, "the lab's attention has no biases"
    assert lab_config(from_hf(values | {"mlp_only_layers": [3]})) is None, "nor such a pattern"


def test_twins_of_layers_that_differ() -> None:
    shape = from_hf(small_file("gpt_oss"))
    full = attention_twins(shape)["mha"]
    assert cache_bytes(full, 1000, "fp8") == 2 * 12 * 24 * (3 * 1000 + 3 * WINDOW)
    assert cache_bytes(shape, 1000, "fp8") == cache_bytes(full, 1000, "fp8") / 2, "6 of 12 heads have keys and values"
    entries = from_hf(small_file("deepseek_v4"))
    shared = attention_twins(entries)["mqa"]
    assert shared.kinds == {"sliding": 2, "full": 4}, "one mixer in each layer"
    assert cache_bytes(shared, 1000, "fp8") == 2 * 24 * (4 * 1000 + 2 * WINDOW)
    linear = from_hf(small_file("qwen3_next"))
    states = [cache_bytes(each, 0) for each in (linear, *attention_twins(linear).values())]
    assert len(set(states)) == 1, "what is no attention stays"
