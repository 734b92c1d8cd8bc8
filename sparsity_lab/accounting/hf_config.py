"""Turns a Hugging Face ``config.json`` into a `ModelConfig`. What is not understood is refused by name, not guessed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsity_lab.config import ModelConfig
from sparsity_lab.files import read_bytes

LARGEST = 1_000_000  # bytes; real files have a few thousand

# A setting with one of these words in its name may change what is counted, so it is refused
# unless a reader asked for it.
TELLING = re.compile(
    r"expert|moe|lora|ssm|mamba|conv|linear_attn|linear_attention|recurrent|hyper|index_|indexer|altup|laurel|"
    r"cross_attention|per_layer|shared|gated|mlp_bias|attention_bias|qkv_bias|use_bias|layer_types|latent|sliding_window"
)
HARMLESS = re.compile(  # these only say how the same weights are used, trained or stored
    r"router_(aux|z)_?loss|aux_loss|jitter|output_router|norm_topk|moe_loss|experts_implementation|layer_types|"
    r"expert_capacity|router_ignore|use_grouped_mm|ep_size|moe_normalize|moe_dtype|add_router|moe_layer_type|"
    r"attention_chunk|no_rope|conv_pos"
)


def load_hf_config(path: str | Path) -> ModelConfig:
    """Returns the config that a file describes, or the ``config.json`` of a folder.

    Raises ValueError, which starts with the path, for a file that is missing or no JSON, and as `from_hf` does.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    try:
        values = json.loads(read_bytes(path, LARGEST))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply to be a config.json") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    try:
        return from_hf(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_hf(values: Any) -> ModelConfig:
    """Returns the config that the contents of a ``config.json`` describe.

    Raises ValueError naming the architecture or the setting that is not understood, or the field whose value makes no
    sense.
    """
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object with named settings")
    if isinstance(values.get("text_config"), dict):  # a model of text and images; its text part is counted
        values = values["text_config"]
    kind = values.get("model_type")
    if not isinstance(kind, str):
        raise ValueError("model_type is missing: is this the config.json of a Hugging Face model?")
    if kind not in READERS:
        raise ValueError(f"model_type={kind[:60]!r} is not understood; we know {', '.join(READERS)}")
    settings = _Settings(values)
    config = ModelConfig(**READERS[kind](settings))
    settings.refuse_unread(kind)
    return config.replace(  # what goes without saying is left unsaid
        d_head=None if config.d_head == config.d_model / config.n_heads else config.d_head,
        n_kv_heads=None if config.n_kv_heads == config.n_heads else config.n_kv_heads,
    )


class _Settings:
    """The settings of one file. It remembers which of them a reader asked for."""

    def __init__(self, values: dict[str, Any]):
        self.values = values
        self.read: set[str] = set()

    def get(self, *names: str, default: Any = None) -> Any:
        """Returns the first of ``names`` that is set."""
        self.read.update(names)
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def need(self, *names: str) -> Any:
        """Does as `get` does, but raises ValueError if none is set."""
        value = self.get(*names)
        if value is None:
            raise ValueError(f"{names[0]} is missing")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default=default)
        if not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be true or false")
        return value

    def whole(self, name: str, default: int) -> int:
        """Returns a small count that a reader computes with before the config can check it."""
        value = self.get(name, default=default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 512:
            raise ValueError(f"{name}={str(value)[:40]} must be a whole number from 0 to 512")
        return value

    def only(self, name: str, *understood: Any) -> None:
        """Raises ValueError if a setting has a value that is not among ``understood``. It may be unset."""
        value = self.get(name)
        if value is not None and value not in understood:
            raise ValueError(f"{name}={str(value)[:60]} is not understood; we know {', '.join(map(str, understood))}")

    def refuse_unread(self, kind: str) -> None:
        for name, value in self.values.items():
            telling = TELLING.search(name) and not HARMLESS.search(name)
            if telling and name not in self.read and value not in (None, False, 0, [], {}):
                raise ValueError(f"{name}={str(value)[:60]} is not understood in a {kind} model, so it is not counted")


Fields = dict[str, Any]

# How DeepSeek-V3 (arXiv 2412.19437, section 4.2) and GLM-4.5 (arXiv 2508.06471, section 2.4) balance the load for most
# of their training. Reports say this, config files don't. Kimi-K2, whose router is V3's, is taken to do the same. Their
# loss of 0.0001 is computed for each sequence, the lab's for the batch.
BY_BIAS: Fields = {"router": "sigmoid", "bias_rate": 0.001, "balance_loss": 1e-4, "z_loss": 0.0}


def _needed(s: _Settings, **settings: str) -> Fields:
    """Reads fields of a config from the settings that hold them, which must all be set."""
    return {field: s.need(name) for field, name in settings.items()}


def _decoder(s: _Settings, **fields: Any) -> Fields:
    """Reads what decoders share. Queries and keys have no norm, unless the ``fields`` of one kind of model say so."""
    theta = s.get("rope_theta")
    nested = s.get("rope_parameters")
    if theta is None and isinstance(nested, dict):
        theta = nested.get("rope_theta")

    shape = _needed(
        s,
        vocab_size="vocab_size",
        context="max_position_embeddings",
        d_model="hidden_size",
        n_layers="num_hidden_layers",
        n_heads="num_attention_heads",
    )
    s.only("hidden_act", "silu")
    return {
        **shape,
        "n_kv_heads": s.get("num_key_value_heads", default=shape["n_heads"]),
        "d_head": s.get("head_dim"),
        "rope_base": theta if theta is not None else 10_000,
        "tied_embeddings": s.flag("tie_word_embeddings", False),
        "qk_norm": "none",
        **fields,
    }


def _experts(s: _Settings, count: str = "num_local_experts", width: str = "intermediate_size") -> Fields:
    """Reads the experts; ``count`` and ``width`` are the settings that hold their number and their width."""
    return {
        "d_expert": s.need(width),
        "n_experts": s.need(count, "num_local_experts", "num_experts"),
        "top_k": s.need("num_experts_per_tok"),
    }


def _biases(s: _Settings, layout: str, default: bool = False) -> str:
    return layout if s.flag("attention_bias", default) else "none"


def _llama(s: _Settings) -> Fields:
    return _decoder(s, d_expert=s.need("intermediate_size"), attention_bias=_biases(s, "all"))


def _no_window(s: _Settings) -> Fields:
    s.only("use_sliding_window", False)
    s.get("sliding_window", "max_window_layers")  # set, but not used
    return {"window": None}


def _qwen3_moe(s: _Settings) -> Fields:
    s.only("decoder_sparse_step", 1)
    s.only("mlp_only_layers", [])
    experts = _experts(s, "num_experts", "moe_intermediate_size")
    return _decoder(s, qk_norm="head", attention_bias=_biases(s, "all"), **experts, **_no_window(s))


def _olmoe(s: _Settings) -> Fields:
    s.only("clip_qkv")
    return _decoder(s, qk_norm="full", attention_bias=_biases(s, "all"), **_experts(s, "num_experts"))


def _gpt_oss(s: _Settings) -> Fields:
    s.only("experts_per_token", s.need("num_experts_per_tok"))
    layers = s.whole("num_hidden_layers", 0)
    s.only("layer_types", ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)])
    return _decoder(
        s,
        attention_bias=_biases(s, "all", True),
        attention_sinks=True,
        window=s.get("sliding_window", default=128),
        full_attention_every=2,
        ffn_bias=True,
        **_experts(s),
    )


def _shared_and_dense(s: _Settings, scores: str) -> Fields:
    """Reads experts and router by DeepSeek's names; the first layers are dense. ``scores``: the router's, if unset."""
    s.only("moe_layer_freq", 1)
    s.only("scoring_func", "softmax", "sigmoid")
    s.get("topk_method", "num_nextn_predict_layers")  # the scores tell the method; the head is for training alone
    groups = s.get("n_group", default=1)
    best = s.get("topk_group", default=groups)
    return (BY_BIAS if s.get("scoring_func", default=scores) == "sigmoid" else {}) | {
        "n_groups": groups,
        "top_groups": None if best == groups else best,
        "route_scale": s.get("routed_scaling_factor", default=1.0),
        "n_shared_experts": s.get("n_shared_experts", default=0),
        "n_dense_layers": s.whole("first_k_dense_replace", 0),
        **_needed(s, d_dense="intermediate_size", d_expert="moe_intermediate_size"),
        **_needed(s, n_experts="n_routed_experts", top_k="num_experts_per_tok"),
    }


def _deepseek(s: _Settings, scores: str = "sigmoid") -> Fields:
    s.only("num_key_value_heads", s.need("num_attention_heads"))
    mla = {name: s.need(name) for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    mla |= {"q_lora_rank": s.get("q_lora_rank") or None, "n_kv_heads": None, "d_head": None}
    return _decoder(s, **_shared_and_dense(s, scores), **mla)


def _glm4_moe(s: _Settings) -> Fields:
    norm = "head" if s.flag("use_qk_norm", False) else "none"
    return _decoder(s, qk_norm=norm, attention_bias=_biases(s, "qkv"), **_shared_and_dense(s, "sigmoid"))


def _dbrx(s: _Settings) -> Fields:
    attention, ffn = s.need("attn_config"), s.need("ffn_config")
    if not isinstance(attention, dict) or not isinstance(ffn, dict):
        raise ValueError("attn_config and ffn_config must be JSON objects")
    a, f = _Settings(attention), _Settings(ffn)
    f.only("ffn_act_fn", {"name": "silu"})
    same = {name: name for name in ("vocab_size", "d_model", "n_layers", "n_heads")}
    fields = {
        **_needed(s, context="max_seq_len", **same),
        **_needed(a, n_kv_heads="kv_n_heads"),
        **_needed(f, d_expert="ffn_hidden_size", n_experts="moe_num_experts", top_k="moe_top_k"),
        "rope_base": a.get("rope_theta", default=10_000),
        "tied_embeddings": s.flag("tie_word_embeddings", False),
        "qk_norm": "none",
    }
    f.refuse_unread("dbrx")
    return fields


def _llama4(s: _Settings) -> Fields:
    s.get("use_qk_norm")  # a norm without weights
    layers, every = s.need("num_hidden_layers"), s.whole("interleave_moe_layer_step", 1)
    if s.get("moe_layers") is not None and isinstance(layers, int) and 0 < layers <= 512 and every:
        s.only("moe_layers", list(range(every - 1, layers, every)))
    dense = {"d_dense": s.need("intermediate_size_mlp"), "moe_every": every}
    return _decoder(s, attention_bias=_biases(s, "all"), n_shared_experts=1, **_experts(s), **dense)


def _switch(s: _Settings) -> Fields:
    s.only("feed_forward_proj", "relu")
    s.only("router_bias", False)
    s.only("relative_attention_num_buckets", 32)
    layers, encoder = s.whole("num_decoder_layers", 0) or s.whole("num_layers", 12), s.whole("num_layers", 12)
    sparse, sparse_encoder = s.whole("num_sparse_decoder_layers", 0), s.whole("num_sparse_encoder_layers", 0)
    if not sparse or layers % sparse or encoder * sparse != layers * sparse_encoder:
        raise ValueError(
            f"num_sparse_encoder_layers={sparse_encoder}, num_sparse_decoder_layers={sparse} must be the same whole "
            f"share of the layers in both halves, and not 0"
        )
    return {
        **_needed(s, vocab_size="vocab_size", d_model="d_model", n_heads="num_heads", d_head="d_kv"),
        **_needed(s, d_expert="d_ff", d_dense="d_ff"),
        "context": s.get("n_positions", default=512),
        "n_layers": layers,
        "n_encoder_layers": encoder,
        "n_experts": s.need("num_experts", "num_local_experts"),
        "moe_every": layers // sparse,
        "ffn": "plain",
        "qk_norm": "none",
        "tied_embeddings": s.flag("tie_word_embeddings", True),
    }


def _gpt2(s: _Settings) -> Fields:
    width = s.need("n_embd")
    if s.get("n_inner") is None and not isinstance(width, int):
        raise ValueError(f"n_embd={str(width)[:40]} must be a whole number")
    return {
        **_needed(s, vocab_size="vocab_size", context="n_positions", n_layers="n_layer", n_heads="n_head"),
        "d_model": width,
        "d_expert": s.get("n_inner") or 4 * width,
        "ffn": "plain",
        "ffn_bias": True,
        "attention_bias": "all",
        "norm": "layer",
        "qk_norm": "none",
        "learned_positions": True,
        "tied_embeddings": s.flag("tie_word_embeddings", True),
    }


READERS: dict[str, Callable[[_Settings], Fields]] = {
    "llama": _llama,
    "mistral": lambda s: _decoder(s, d_expert=s.need("intermediate_size"), window=s.get("sliding_window")),
    "qwen2": lambda s: _decoder(s, d_expert=s.need("intermediate_size"), attention_bias="qkv", **_no_window(s)),
    "qwen3": lambda s: _llama(s) | _no_window(s) | {"qk_norm": "head", "d_head": s.get("head_dim", default=128)},
    "gpt2": _gpt2,
    "mixtral": lambda s: _decoder(s, window=s.get("sliding_window"), **_experts(s)),
    "olmoe": _olmoe,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
    "deepseek_v2": lambda s: _deepseek(s, "softmax"),
    "deepseek_v3": _deepseek,
    "kimi_k2": _deepseek,
    "glm4_moe": _glm4_moe,
    "dbrx": _dbrx,
    "llama4_text": _llama4,
    "switch_transformers": _switch,
}
