"""One new token over a long cache: latent attention against multi-head attention of the same heads, and against
Hugging Face's DeepSeek-V3, which makes keys and values of the whole cache anew; and a prefill.

One thread, float32, one layer of the shape of DeepSeek-V2-Lite. Time is wall time, because memory decides.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.agreement import assert_alike
from benchmarks.timing import Row, Times, at_least, at_most, ratio, take_turns
from sparsity_lab.accounting import flops_by_part
from sparsity_lab.accounting.memory import attention_twins, cache_bytes
from sparsity_lab.accounting.presets import preset
from sparsity_lab.config import ModelConfig
from sparsity_lab.models.attention import Attention, rotations
from sparsity_lab.models.cache import Cache, new_cache
from sparsity_lab.models.mla import LatentAttention
from tests.models.deepseek import attention_weights

SHAPE = preset("deepseek-v2-lite").config.replace(n_layers=1, n_dense_layers=0, context=20_000, qk_norm="head")
SECONDS = 8.0
PREFILL = 2048
Pass = Callable[[], object]


@dataclass
class Decoder:
    """An attention layer with a full cache."""

    config: ModelConfig
    layer: nn.Module
    cache: Cache
    length: int

    def step(self) -> Tensor:
        batch = self.cache.batch_size
        positions_BT = self.cache.begin(batch, 1)
        y_BTD: Tensor = self.layer(self.x_BTD, self.turns_TC[positions_BT[0]], self.cache)
        self.cache.commit()
        self.cache.truncate(self.length)
        return y_BTD

    def __post_init__(self) -> None:
        held = next(iter(self.cache.tensors.values()))
        self.turns_TC = rotations(self.config).to(held.device)
        self.x_BTD = torch.randn(self.cache.batch_size, 1, self.config.d_model).to(held)


def decoder(
    config: ModelConfig, batch: int, length: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Decoder:
    """Its cache holds noise: what it takes to read does not depend on what stands there."""
    layer = (LatentAttention if config.is_mla else Attention)(config, plain=False).to(device, dtype)
    cache = new_cache(config, batch, device, dtype, room=length + 1)
    for tensor in cache.tensors.values():
        tensor.normal_()
    cache.lengths_B += length
    return Decoder(config, layer, cache, length)


def transformers_step(ours: Decoder) -> Pass:
    """The same step by Hugging Face's attention on the same weights and latents. Raises AssertionError if it gives
    other numbers."""
    from transformers import DeepseekV3Config, DynamicCache
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

    c = ours.config
    settings = DeepseekV3Config(
        hidden_size=c.d_model, num_attention_heads=c.n_heads, num_key_value_heads=c.n_heads, q_lora_rank=None,
        kv_lora_rank=c.kv_lora_rank, qk_nope_head_dim=c.nope_dim, qk_rope_head_dim=c.rope_dim, v_head_dim=c.value_dim,
        head_dim=c.rope_dim, max_position_embeddings=c.context,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
    )  # fmt: skip
    settings._attn_implementation = "sdpa"
    module = DeepseekV3Attention(settings, 0).to(ours.x_BTD)
    with torch.no_grad():
        new = attention_weights(module.state_dict())
        ours.layer.load_state_dict(new)
    places = DeepseekV3RotaryEmbedding(settings)(ours.x_BTD, torch.tensor([[ours.length]], device=ours.x_BTD.device))
    latent, key = ours.cache.tensors["latents"][0, :, :, : ours.length].split((c.kv_lora_rank or 0, c.rope_dim), -1)
    key = key.unflatten(-1, (-1, 2)).mT.flatten(-2)  # theirs keeps the pairs that turn as two halves
    cache = DynamicCache()
    cache.update(latent.clone(), key.clone(), 0)

    def step() -> Tensor:
        y_BTD: Tensor = module(ours.x_BTD, position_embeddings=places, attention_mask=None, past_key_values=cache)[0]
        cache.crop(-1)
        return y_BTD

    assert_alike(step(), ours.step())
    return step


@torch.no_grad()
def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mha_config = attention_twins(SHAPE)["mha"]
    medians: dict[tuple[int, int], float] = {}
    for length in (4096, 16_384):
        for batch in (1, 8):
            what = f"decode, {length:,} tokens, batch {batch}"
            mla, mha = decoder(SHAPE, batch, length), decoder(mha_config, batch, length)
            saved = mha.cache.nbytes / mla.cache.nbytes
            theory = cache_bytes(mha_config, length) / cache_bytes(SHAPE, length)
            yield Row(f"{what}: cache of MHA over MLA's", f"= {theory:.2f}", f"{saved:.2f}", saved == theory)
            times = wall({"mla": mla.step, "mha": mha.step}, block=5)
            medians[length, batch] = min(times["mla"])
            yield Row(f"{what}: MHA's time over MLA's, absorbed", "", f"{ratio(times, 'mha', 'mla'):.2f}", None)
            del mha
            if batch == 1:  # its keys and values of more would not fit every machine
                times = wall({"ours": mla.step, "theirs": transformers_step(mla)}, block=1)
                measured = ratio(times, "theirs", "ours")
                text = f"{what}: tokens/s over transformers' DeepSeek-V3"
                yield at_least(text, measured, 2.0) if length == 16_384 else Row(text, "", f"{measured:.2f}", None)
    for batch in (1, 8):
        grown = medians[16_384, batch] / medians[4096, batch]
        more = cache_bytes(SHAPE, 16_384) / cache_bytes(SHAPE, 4096)
        yield at_most(f"decode, batch {batch}: time at 16,384 over time at 4,096 tokens", grown, more * 1.05)
    yield prefill_row()


def prefill_row() -> Row:
    """FLOPs are made equal by the number of MHA's heads' width."""
    mla = SHAPE.replace(context=PREFILL)
    wanted = _attention_flops(mla)
    plain = attention_twins(mla)["mha"]
    twin = min((plain.replace(d_head=c) for c in range(64, 320, 8)), key=lambda c: abs(_attention_flops(c) - wanted))
    x_BTD = torch.randn(1, PREFILL, mla.d_model)

    def whole(config: ModelConfig) -> Pass:
        layer = (LatentAttention if config.is_mla else Attention)(config, plain=False)
        turns_TC = rotations(config)
        return lambda: layer(x_BTD, turns_TC)

    times = wall({"mla": whole(mla), "mha": whole(twin)}, block=3)
    share = _attention_flops(mla) / _attention_flops(twin)
    return at_most(
        f"prefill, {PREFILL:,} tokens: MLA's time over that of MHA of as many FLOPs",
        ratio(times, "mla", "mha") / share,
        1.2,
    )


def _attention_flops(config: ModelConfig) -> int:
    parts = flops_by_part(config)
    return parts["projections"] + parts["attention"]


def wall(functions: dict[str, Pass], block: int) -> Times:
    return take_turns(functions, SECONDS, block, clock=time.perf_counter)
