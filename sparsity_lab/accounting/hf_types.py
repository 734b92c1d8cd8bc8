"""The types of models that are understood: for each model_type of a ``config.json``, the reader of its layers.

A reader turns `FileSettings` into a `Shape`. Tests build every type with transformers, and compare.
"""

from collections.abc import Mapping

from sparsity_lab.accounting.hf_deepseek import (
    deepseek_experts,
    read_deepseek,
    read_deepseek_v4,
    read_indexed,
    read_longcat,
)
from sparsity_lab.accounting.hf_dense import (
    exaone4_kinds,
    read_cohere,
    read_gemma,
    read_gemma3,
    read_gpt2,
    read_gpt_bigcode,
    read_gptj,
    read_llama,
    read_mla_dense,
    read_phi,
    read_qwen2,
    read_qwen3,
    read_smollm3,
    read_stablelm,
)
from sparsity_lab.accounting.hf_experts import (
    read_afmoe,
    read_aria,
    read_dbrx,
    read_dots1,
    read_ernie4_5_moe,
    read_exaone_moe,
    read_glm4_moe,
    read_glm4_moe_lite,
    read_gpt_oss,
    read_granitemoe,
    read_hunyuan_moe,
    read_hy_v3,
    read_llama4,
    read_mellum,
    read_mimo_v2,
    read_minimax_m2,
    read_qwen2_moe,
    read_qwen3_moe,
    read_switch,
)
from sparsity_lab.accounting.hf_layers import (
    FULL,
    SLIDING,
    Reader,
    bias_all,
    bias_qkv,
    count_layers,
    dense_decoder,
    each,
    expert_decoder,
    read_experts,
    read_windows,
)
from sparsity_lab.accounting.hf_recurrent import (
    read_bailing,
    read_bamba,
    read_falcon_h1,
    read_granitemoehybrid,
    read_jamba,
    read_kimi_linear,
    read_lfm2,
    read_mamba,
    read_minimax,
    read_nemotron_h,
    read_olmo_hybrid,
    read_pure_mamba2,
    read_qwen3_next,
)

TYPES: Mapping[str, Reader] = {
    # Dense
    "llama": read_llama,
    "mistral": dense_decoder,
    "ministral3": dense_decoder,
    "ministral": lambda s: dense_decoder(s, read_windows(s, lambda i: SLIDING)),
    "qwen2": read_qwen2,
    "qwen2_vl_text": read_qwen2,
    "qwen2_5_vl_text": read_qwen2,
    "qwen3": read_qwen3,
    "qwen3_vl_text": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_all(s), qk_norm="head"),
    "phi3": dense_decoder,
    "smollm3": read_smollm3,
    "granite": read_llama,
    "granite_swa": lambda s: dense_decoder(
        s, read_windows(s, each(4, True)), bias=bias_all(s), mlp_bias=s.flag("mlp_bias"), sinks=True
    ),
    "hyperclovax": lambda s: dense_decoder(
        s,
        [FULL] * count_layers(s),
        bias=bias_all(s),
        mlp_bias=s.flag("mlp_bias"),
        norms=4 if s.flag("use_post_norm") else 2,
    ),
    "helium": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_qkv(s), mlp_bias=s.flag("mlp_bias")),
    "internlm3": read_llama,
    "iquestcoder": read_llama,
    "ernie4_5": lambda s: dense_decoder(
        s, [FULL] * count_layers(s), bias=bias_all(s, "use_bias"), mlp_bias=s.flag("use_bias")
    ),
    "cwm": lambda s: dense_decoder(s, read_windows(s, each(4, True)), mlp_bias=s.flag("mlp_bias")),
    "olmo": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_all(s), norm=0),
    "olmo2": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_all(s), qk_norm="full"),
    "olmo3": lambda s: dense_decoder(s, read_windows(s, each(4)), bias=bias_all(s), qk_norm="full"),
    "seed_oss": lambda s: dense_decoder(
        s,
        [FULL] * count_layers(s),
        bias=bias_qkv(s),
        mlp_bias=s.flag("mlp_bias"),
        others=s.whole("hidden_size") if s.flag("attention_out_bias") else 0,
    ),
    "gemma": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_all(s)),
    "gemma2": lambda s: read_gemma(s, read_windows(s, each(2)), norms=4),
    "gemma3_text": read_gemma3,
    "vaultgemma": lambda s: read_gemma(s, read_windows(s, each(2))),
    "glm": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_qkv(s)),
    "glm4": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_qkv(s), norms=4),
    "exaone4": lambda s: dense_decoder(s, exaone4_kinds(s), qk_norm="head"),
    "arcee": lambda s: dense_decoder(
        s, [FULL] * count_layers(s), bias=bias_all(s), gated=False, mlp_bias=s.flag("mlp_bias")
    ),
    "nanochat": lambda s: dense_decoder(s, [FULL] * count_layers(s), bias=bias_all(s), gated=False, norm=0),
    "jais2": lambda s: dense_decoder(
        s, [FULL] * count_layers(s), bias=bias_all(s), gated=False, mlp_bias=s.flag("mlp_bias"), norm=2
    ),
    "cohere": read_cohere,
    "cohere2": lambda s: dense_decoder(
        s, read_windows(s, each(s.maybe("sliding_window_pattern") or 4)), bias=bias_all(s), norms=1
    ),
    "starcoder2": lambda s: dense_decoder(
        s, bias=bias_all(s, "use_bias"), gated=False, mlp_bias=s.flag("use_bias"), norm=2
    ),
    "stablelm": read_stablelm,
    "persimmon": lambda s: dense_decoder(
        s, bias="all", gated=False, mlp_bias=True, norm=2, qk_norm="head_bias" if s.flag("qk_layernorm") else "none"
    ),
    "phi": read_phi,
    "gpt_neox": lambda s: dense_decoder(s, bias=bias_all(s), gated=False, mlp_bias=True, norm=2),
    "hunyuan_v1_dense": lambda s: dense_decoder(s, bias=bias_all(s), qk_norm="head"),
    "gpt2": read_gpt2,
    "gpt_bigcode": read_gpt_bigcode,
    "gptj": read_gptj,
    "codegen": read_gptj,
    "youtu": read_mla_dense,
    "minicpm3": read_mla_dense,
    # Experts
    "mixtral": lambda s: expert_decoder(s, read_experts(s, "num_local_experts", "intermediate_size")),
    "olmoe": lambda s: expert_decoder(
        s, read_experts(s, "num_experts", "intermediate_size"), bias=bias_all(s), qk_norm="full"
    ),
    "flex_olmo": lambda s: expert_decoder(
        s, read_experts(s, "num_experts", "intermediate_size"), bias=bias_all(s), qk_norm="full"
    ),
    "minimax_m2": read_minimax_m2,
    "phimoe": lambda s: expert_decoder(
        s,
        read_experts(s, "num_local_experts", "intermediate_size"),
        bias=bias_all(s),
        norm=2,
        head_bias=s.flag("lm_head_bias"),
    ),
    "granitemoe": read_granitemoe,
    "granitemoeshared": lambda s: read_granitemoe(s, True),
    "granitemoe_swa": lambda s: read_granitemoe(s, True, read_windows(s, each(4, True)), True),
    "qwen2_moe": read_qwen2_moe,
    "qwen3_moe": read_qwen3_moe,
    "qwen3_vl_moe_text": read_qwen3_moe,
    "gpt_oss": read_gpt_oss,
    "dbrx": read_dbrx,
    "deepseek_v2": lambda s: read_deepseek(s, "softmax"),
    "deepseek_v3": read_deepseek,
    "kimi_k2": read_deepseek,
    "mistral4": read_deepseek,
    "deepseek_v32": read_indexed,
    "deepseek_v4": read_deepseek_v4,
    "glm_moe_dsa": read_indexed,
    "longcat_flash": read_longcat,
    "glm4_moe": read_glm4_moe,
    "glm4v_moe_text": read_glm4_moe,
    "glm4_moe_lite": read_glm4_moe_lite,
    "solar_open": lambda s: expert_decoder(s, deepseek_experts(s), bias=bias_qkv(s)),
    "dots1": read_dots1,
    "ernie4_5_moe": read_ernie4_5_moe,
    "exaone_moe": read_exaone_moe,
    "hunyuan_v1_moe": read_hunyuan_moe,
    "hy_v3": read_hy_v3,
    "mimo_v2_flash": read_mimo_v2,
    "afmoe": read_afmoe,
    "mellum": read_mellum,
    "aria_text": read_aria,
    "llama4_text": read_llama4,
    # Recurrences
    "qwen3_next": read_qwen3_next,
    "qwen3_5_text": lambda s: read_qwen3_next(s, sparse=False),
    "qwen3_5_moe_text": read_qwen3_next,
    "olmo_hybrid": read_olmo_hybrid,
    "kimi_linear": read_kimi_linear,
    "bailing_hybrid": read_bailing,
    "minimax": read_minimax,
    "mamba": read_mamba,
    "falcon_mamba": read_mamba,
    "mamba2": read_pure_mamba2,
    "jamba": read_jamba,
    "bamba": read_bamba,
    "granitemoehybrid": read_granitemoehybrid,
    "falcon_h1": read_falcon_h1,
    "nemotron_h": read_nemotron_h,
    "lfm2": read_lfm2,
    "lfm2_moe": read_lfm2,
    # Encoder-decoders
    "switch_transformers": read_switch,
}
