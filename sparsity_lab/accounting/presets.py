"""Published models as configs, with what their makers said about them."""

from dataclasses import dataclass
from pathlib import Path

from sparsity_lab.accounting.hf_config import BY_BIAS, load_hf_config
from sparsity_lab.accounting.parameters import Embeddings
from sparsity_lab.config import ModelConfig


@dataclass(frozen=True)
class Preset:
    """``total`` and ``active`` are the published numbers of weights, in units of 10⁹ and as exactly as published;
    ``embeddings`` is the convention under which ``active`` is theirs."""

    name: str
    config: ModelConfig
    source: str  # the shape, and after a semicolon the published numbers
    total: float
    active: float
    embeddings: Embeddings = "both"
    tokens: float | None = None  # training tokens, where published
    note: str = ""


def _hf(repository: str, paper: str) -> str:
    return f"https://huggingface.co/{repository}/blob/main/config.json; {paper}"


def _deepseek(**shape: object) -> ModelConfig:
    mla = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_norm": "none"}
    return ModelConfig(**(mla | shape))  # type: ignore[arg-type]


def _llama(**shape: object) -> ModelConfig:
    return ModelConfig(**({"qk_norm": "none", "rope_base": 500_000, "vocab_size": 128_256} | shape))  # type: ignore[arg-type]


_V3 = _deepseek(
    vocab_size=129_280, context=163_840, d_model=7168, n_layers=61, n_heads=128, q_lora_rank=1536,
    n_dense_layers=3, d_dense=18_432, d_expert=2048, n_experts=256, top_k=8, n_shared_experts=1,
    n_groups=8, top_groups=4, route_scale=2.5, **BY_BIAS,
)  # fmt: skip
_LLAMA_4 = {
    "context": 10_485_760, "d_model": 5120, "n_layers": 48, "n_heads": 40, "n_kv_heads": 8,
    "d_expert": 8192, "d_dense": 16_384, "top_k": 1, "n_shared_experts": 1, "vocab_size": 202_048, "qk_norm": "none",
    "rope_base": 500_000,
}  # fmt: skip
_LLAMA_4_NOTE = "The text part; published with the vision encoder. Chunked attention is counted in full."
_QWEN_3 = {"vocab_size": 151_936, "context": 40_960, "d_head": 128, "n_experts": 128, "top_k": 8, "rope_base": 1e6}
_GPT_OSS = {
    "vocab_size": 201_088, "context": 131_072, "d_model": 2880, "n_heads": 64, "n_kv_heads": 8, "d_head": 64,
    "d_expert": 2880, "top_k": 4, "qk_norm": "none", "attention_bias": "all", "attention_sinks": True,
    "ffn_bias": True, "rope_base": 150_000, "window": 128, "full_attention_every": 2,
}  # fmt: skip
_GLM = {"vocab_size": 151_552, "context": 131_072, "n_heads": 96, "n_kv_heads": 8, "d_head": 128, "top_k": 8,
        "n_shared_experts": 1, "attention_bias": "qkv", "rope_base": 1e6, **BY_BIAS}  # fmt: skip

_LIST = (
    Preset(
        "deepseek-v2-lite",
        _deepseek(
            vocab_size=102_400, context=163_840, d_model=2048, n_layers=27, n_heads=16,
            n_dense_layers=1, d_dense=10_944, d_expert=1408, n_experts=64, top_k=6, n_shared_experts=2,
        ),
        _hf("deepseek-ai/DeepSeek-V2-Lite", "arXiv 2405.04434, appendix B"),
        15.7, 2.4, "output", 5.7e12,
    ),
    Preset(
        "deepseek-v2",
        _deepseek(
            vocab_size=102_400, context=163_840, d_model=5120, n_layers=60, n_heads=128, q_lora_rank=1536,
            n_dense_layers=1, d_dense=12_288, d_expert=1536, n_experts=160, top_k=6, n_shared_experts=2,
            n_groups=8, top_groups=3, route_scale=16,
        ),
        _hf("deepseek-ai/DeepSeek-V2", "arXiv 2405.04434"),
        236, 21, "output", 8.1e12,
        "Its router multiplies plain softmax shares by 16; in ours, built from this, chosen shares first sum to 1.",
    ),
    Preset(
        "deepseek-v3", _V3, _hf("deepseek-ai/DeepSeek-V3", "arXiv 2412.19437"),
        671, 37, "output", 14.8e12,
        "37 lies between the conventions. The head for multi-token prediction, used in training, is not counted.",
    ),
    Preset(
        "deepseek-r1", _V3, _hf("deepseek-ai/DeepSeek-R1", "arXiv 2501.12948"), 671, 37, "output", None,
        "DeepSeek-V3, trained further.",
    ),
    Preset(
        "kimi-k2",
        _deepseek(
            vocab_size=163_840, context=131_072, d_model=7168, n_layers=61, n_heads=64, q_lora_rank=1536,
            n_dense_layers=1, d_dense=18_432, d_expert=2048, n_experts=384, top_k=8, n_shared_experts=1,
            rope_base=50_000, route_scale=2.827, **BY_BIAS,
        ),
        _hf("moonshotai/Kimi-K2-Instruct", "arXiv 2507.20534"),
        1040, 32.6, "both", 15.5e12, "Its published shape adds up to 1.03 × 10¹² weights, not quite 1.04.",
    ),
    Preset(
        "mixtral-8x7b",
        ModelConfig(
            vocab_size=32_000, context=32_768, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8,
            d_expert=14_336, n_experts=8, top_k=2, qk_norm="none", rope_base=1e6,
        ),
        _hf("mistralai/Mixtral-8x7B-v0.1", "https://mistral.ai/news/mixtral-of-experts"),
        46.7, 12.9,
    ),
    Preset(
        "mixtral-8x22b",
        ModelConfig(
            vocab_size=32_000, context=65_536, d_model=6144, n_layers=56, n_heads=48, n_kv_heads=8,
            d_expert=16_384, n_experts=8, top_k=2, qk_norm="none", rope_base=1e6,
        ),
        _hf("mistralai/Mixtral-8x22B-v0.1", "https://mistral.ai/news/mixtral-8x22b"),
        141, 39,
    ),
    Preset(
        "olmoe-1b-7b",
        ModelConfig(
            vocab_size=50_304, context=4096, d_model=2048, n_layers=16, n_heads=16,
            d_expert=1024, n_experts=64, top_k=8, qk_norm="full",
        ),
        _hf("allenai/OLMoE-1B-7B-0924", "arXiv 2409.02060"),
        6.9, 1.3, "both", 5.1e12,
    ),
    Preset(
        "qwen3-30b-a3b",
        ModelConfig(d_model=2048, n_layers=48, n_heads=32, n_kv_heads=4, d_expert=768, **_QWEN_3),  # type: ignore[arg-type]
        _hf("Qwen/Qwen3-30B-A3B", "arXiv 2505.09388"),
        30.5, 3.3, "both", 36e12,
    ),
    Preset(
        "qwen3-235b-a22b",
        ModelConfig(d_model=4096, n_layers=94, n_heads=64, n_kv_heads=4, d_expert=1536, **_QWEN_3),  # type: ignore[arg-type]
        _hf("Qwen/Qwen3-235B-A22B", "arXiv 2505.09388"),
        235, 22, "both", 36e12,
    ),
    Preset(
        "gpt-oss-20b",
        ModelConfig(n_layers=24, n_experts=32, **_GPT_OSS),  # type: ignore[arg-type]
        _hf("openai/gpt-oss-20b", "arXiv 2508.10925, Table 1"),
        20.91, 3.61, "output",
    ),
    Preset(
        "gpt-oss-120b",
        ModelConfig(n_layers=36, n_experts=128, **_GPT_OSS),  # type: ignore[arg-type]
        _hf("openai/gpt-oss-120b", "arXiv 2508.10925, Table 1"),
        116.83, 5.13, "output",
    ),
    Preset(
        "glm-4.5",
        ModelConfig(
            d_model=5120, n_layers=92, n_dense_layers=3, d_dense=12_288, d_expert=1536, n_experts=160,
            qk_norm="head", route_scale=2.5, **_GLM,
        ),
        _hf("zai-org/GLM-4.5", "arXiv 2508.06471, Table 1"),
        355, 32, "none", 23e12,
        "Published with the layer for multi-token prediction, which is not counted here, and without embeddings.",
    ),
    Preset(
        "glm-4.5-air",
        ModelConfig(
            d_model=4096, n_layers=46, n_dense_layers=1, d_dense=10_944, d_expert=1408, n_experts=128,
            qk_norm="none", **_GLM,
        ),
        _hf("zai-org/GLM-4.5-Air", "arXiv 2508.06471, Table 1"),
        106, 12, "none", 23e12,
        "Published with the layer for multi-token prediction, which is not counted here, and without embeddings.",
    ),
    Preset(
        "dbrx",
        ModelConfig(
            vocab_size=100_352, context=32_768, d_model=6144, n_layers=40, n_heads=48, n_kv_heads=8,
            d_expert=10_752, n_experts=16, top_k=4, qk_norm="none", rope_base=500_000,
        ),
        _hf("databricks/dbrx-base", "https://www.databricks.com/blog/introducing-dbrx-new-state-art-open-llm"),
        132, 36, "both", 12e12,
    ),
    Preset(
        "llama-4-scout", ModelConfig(n_experts=16, **_LLAMA_4),  # type: ignore[arg-type]
        _hf("meta-llama/Llama-4-Scout-17B-16E", "https://ai.meta.com/blog/llama-4-multimodal-intelligence/"),
        109, 17, "both", 40e12, _LLAMA_4_NOTE,
    ),
    Preset(
        "llama-4-maverick",
        ModelConfig(n_experts=128, moe_every=2, **(_LLAMA_4 | {"context": 1_048_576})),  # type: ignore[arg-type]
        _hf("meta-llama/Llama-4-Maverick-17B-128E", "https://ai.meta.com/blog/llama-4-multimodal-intelligence/"),
        400, 17, "both", 22e12, _LLAMA_4_NOTE,
    ),
    Preset(
        "switch-base-8",
        ModelConfig(
            vocab_size=32_128, context=512, d_model=768, n_layers=12, n_encoder_layers=12, n_heads=12,
            d_expert=3072, d_dense=3072, n_experts=8, top_k=1, moe_every=2, ffn="plain", qk_norm="none",
            tied_embeddings=True,
        ),
        _hf("google/switch-base-8", "arXiv 2101.03961, whose Switch-Base has 128 experts; size as of the checkpoint"),
        0.62, 0.223, "both", None,
        "An encoder-decoder. Works on a token like the dense T5-Base, whose size is given as active.",
    ),
    Preset(
        "gpt2",
        ModelConfig(
            vocab_size=50_257, context=1024, d_model=768, n_layers=12, n_heads=12, d_expert=3072, qk_norm="none",
            ffn="plain", ffn_bias=True, attention_bias="all", norm="layer", learned_positions=True,
            tied_embeddings=True,
        ),
        _hf("openai-community/gpt2", "Radford et al. 2019, Table 2, as corrected with the release"),
        0.124, 0.124,
    ),
    Preset(
        "llama-3.1-8b",
        _llama(context=131_072, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_expert=14_336),
        _hf("meta-llama/Llama-3.1-8B", "arXiv 2407.21783"), 8.03, 8.03, "both", 15.6e12,
    ),
    Preset(
        "llama-3.1-70b",
        _llama(context=131_072, d_model=8192, n_layers=80, n_heads=64, n_kv_heads=8, d_expert=28_672),
        _hf("meta-llama/Llama-3.1-70B", "arXiv 2407.21783"), 70.6, 70.6, "both", 15.6e12,
    ),
    Preset(
        "llama-3.1-405b",
        _llama(context=131_072, d_model=16_384, n_layers=126, n_heads=128, n_kv_heads=8, d_expert=53_248),
        _hf("meta-llama/Llama-3.1-405B", "arXiv 2407.21783"), 405, 405, "both", 15.6e12,
    ),
    Preset(
        "deepseek-67b",
        _llama(
            vocab_size=102_400, context=4096, d_model=8192, n_layers=95, n_heads=64, n_kv_heads=8, d_expert=22_016,
            rope_base=10_000,
        ),
        _hf("deepseek-ai/deepseek-llm-67b-base", "arXiv 2401.02954"), 67, 67, "both", 2e12,
    ),
)  # fmt: skip

PRESETS = {preset.name: preset for preset in _LIST}


def preset(name: str) -> Preset:
    """Raises ValueError, with the names that there are, for an unknown one."""
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: use one of {', '.join(PRESETS)}, or the path of a config.json")
    return PRESETS[name]


def named_model(name: str) -> tuple[str, ModelConfig]:
    """A name and the config of a preset, of a Hugging Face ``config.json``, or of a folder that holds one."""
    if name in PRESETS:
        return name, PRESETS[name].config
    path = Path(name)
    if path.exists() or path.suffix == ".json" or len(path.parts) > 1:
        return str(path), load_hf_config(path)
    return name, preset(name).config
