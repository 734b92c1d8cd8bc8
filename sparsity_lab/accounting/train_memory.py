"""Counts what training holds in memory: weights, gradients, the state of the optimizer, and activations, which are
what the forward pass keeps so that the backward pass can compute gradients.

Activations are those of the plain model (``backend="naive"``), to the byte: tests compare them with the tensors that
torch saves. Each storage counts once. Weights, their copies in another type, the tokens and masks do not count, because
another sequence adds none of them. Gradients of activations, which live for a moment only, are left out too.

Other implementations keep less: a fused norm keeps its input and one number per token instead of two copies (8·width →
4·width), fused SwiGLU keeps no silu(gate), a fused loss no probabilities, and grouped products no product with the
router's weight. Dropout, which no model here has, would keep its masks.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

from sparsity_lab.accounting.memory import SHORT, bytes_of
from sparsity_lab.accounting.parameters import count_parameters
from sparsity_lab.config import ModelConfig, one_of

FLOAT, INDEX = 4, 8  # bytes of a float32, in which norms, routers and the loss compute, and of an int64
TRAINED = ("float32", "bfloat16", "float16")

Recompute = Literal["nothing", "scores", "layers"]
RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)


@dataclass(frozen=True)
class TrainingMemory:
    """The bytes that training holds at once."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    config: ModelConfig, tokens: int, dtype: str = "bfloat16", recompute: Recompute = "scores"
) -> TrainingMemory:
    """Returns the bytes that training with AdamW needs for ``tokens`` tokens at a time, in sequences of the config's
    context.

    In float32, weights, gradients and two moments take 4 bytes each. bfloat16 and float16 stand for mixed precision:
    weights and gradients are in that type, and the optimizer keeps float32 master weights and two moments, 12 bytes per
    weight (ZeRO, arXiv 1910.02054, section 3.1). All weights count, because those that are inactive on a token are
    trained as well, and so do the modules of multi-token prediction. Raises ValueError as `activation_bytes` does.
    """
    activations = tokens / config.context * activation_bytes(config, dtype, recompute)
    size, count = bytes_of(dtype), count_parameters(config)
    weights, optimizer = count.total + count.mtp, 8 if size == FLOAT else 12
    return TrainingMemory(weights * size, weights * size, weights * optimizer, activations)


def activation_bytes(
    config: ModelConfig, dtype: str = "bfloat16", recompute: Recompute = "scores", context: int | None = None
) -> int:
    """Returns the bytes of activations that a sequence of ``context`` tokens (default: the config's) adds. Matrix
    products are in ``dtype``; the residual stream, norms, routers and the loss are in float32.

    The backward pass may compute some of them anew: ``"nothing"`` keeps all, so that attention keeps the probabilities
    of all pairs of tokens, in float32, as torch's explicit kernel does; ``"scores"`` keeps none of those (flash
    attention, or the selective recomputation of Korthikanti et al. 2022, arXiv 2205.05198); ``"layers"`` keeps the
    input of each layer alone (gradient checkpointing). The last counts the most that is held at any one time: while the
    loss, or a layer that has been computed anew, passes its gradients back.

    Raises ValueError for a type that nobody trains in, and for an encoder-decoder, of which a token passes one half.
    """
    one_of("recompute", recompute, RECOMPUTE)
    one_of("dtype", dtype, (*TRAINED, *(short for short, name in SHORT.items() if name in TRAINED)))
    if config.n_encoder_layers:
        raise ValueError(f"n_encoder_layers={config.n_encoder_layers}: activations of encoder-decoders are not counted")
    size, T, d = int(bytes_of(dtype)), context or config.context, config.d_model

    def layer(config: ModelConfig, n: int, is_moe: bool) -> tuple[int, int]:
        kept = n * _layer(config, size, n if recompute == "nothing" else None, is_moe)
        first = n * FLOAT * d if recompute == "layers" else kept
        return first, kept - first

    # What is kept, and what more while it is computed anew, in the order of the forward pass
    pieces = [layer(config, T, config.is_moe_layer(number)) for number in range(config.n_layers)]
    pieces.append((T * _end(config, size), 0))
    for n in range(T - 1, T - config.mtp_depth - 1, -1):  # tokens for which a further module has a target
        joined = 2 * _norm(config, d) - FLOAT * d + 2 * size * d  # states, which are kept elsewhere, and tokens
        targets = INDEX  # a copy
        pieces += [(n * joined, 0), layer(config.mtp_layer, n, True), (n * (_end(config, size) + targets), 0)]

    # The backward pass lets go in the opposite order.
    held = accumulate(kept for kept, _ in pieces)
    return max(below + anew for below, (_, anew) in zip(held, pieces, strict=True))


def _layer(config: ModelConfig, size: int, length: int | None, is_moe: bool) -> int:
    """Counts the bytes per token of one layer. ``length``: tokens whose scores are kept; None: scores are not kept."""
    d = config.d_model
    network = _moe(config, size) if is_moe else size * d + _network(config, size, config.dense_width)
    attention = _latent_attention if config.is_mla else _attention
    return 2 * _norm(config, d) + attention(config, size, length) + network


def _norm(config: ModelConfig, width: int) -> int:
    """Counts what the norm of a vector keeps: its input, and for RMSNorm the input over its size and that size's
    inverse. LayerNorm is torch's own, fused, which keeps the input, the mean and the inverse of the deviation."""
    return FLOAT * (width + 2) if config.norm == "layer" else _rms_norm(width)


def _rms_norm(width: int) -> int:
    return FLOAT * (2 * width + 1)


def _end(config: ModelConfig, size: int) -> int:
    """Counts the last norm, the input of the output table, and the logarithms of the next token's probabilities."""
    return _norm(config, config.d_model) + size * config.d_model + FLOAT * config.vocab_size


def _attention(config: ModelConfig, size: int, length: int | None) -> int:
    """Counts the input, what the norms of queries and keys keep, and what attends (`_attended`).

    Queries, keys and values come from one matrix, side by side. Its output is kept whole if a norm reads it or if the
    values are used where they lie. They are copied if several heads share them, and by the explicit kernel.
    """
    heads, keys, width = config.n_heads, config.n_heads + config.kv_heads, config.head_dim
    normed = config.qk_norm != "none"
    copied = heads != config.kv_heads or length is not None

    kept = size * config.d_model
    if normed:
        vectors = {"head": keys, "full": 2}[config.qk_norm]
        kept += FLOAT * (keys * width + vectors)  # inputs over their size, and its inverse
        if size < FLOAT:
            kept += FLOAT * keys * width  # the inputs, cast
    if not copied or (normed and size == FLOAT):
        kept += size * (keys + config.kv_heads) * width
    values = size * heads * width if copied else 0
    return kept + _attended(config, size, length, width, width, values)


def _latent_attention(config: ModelConfig, size: int, length: int | None) -> int:
    """Counts the input, the latents with their norms, and what attends (`_attended`). The matrix behind the latent
    makes values beside keys; its output is kept whole for the values, unless the explicit kernel copies them."""
    assert config.kv_lora_rank is not None
    rank, key = config.kv_lora_rank, config.nope_dim + config.rope_dim
    kept = size * config.d_model + _rms_norm(rank) + FLOAT * config.rope_dim + size * (rank + config.rope_dim)
    if config.q_lora_rank is not None:
        kept += _rms_norm(config.q_lora_rank) + size * config.q_lora_rank
    values = size * config.n_heads * (config.nope_dim + config.value_dim)
    return kept + _attended(config, size, length, key, config.value_dim, values)


def _attended(config: ModelConfig, size: int, length: int | None, key: int, value: int, values: int) -> int:
    """Counts queries, keys, values and output, and for each head the logarithm of the sum of its exponentials; or, if
    scores are kept, float32 queries, keys and values, the probabilities, and the output."""
    heads = config.n_heads
    output = size * heads * value
    if length is None:
        return 2 * size * heads * key + values + output + FLOAT * heads
    return FLOAT * heads * (2 * key + value + length) + output


def _network(config: ModelConfig, size: int, hidden: int) -> int:
    """Counts gate, up, silu(gate) and their product, or the input and output of another nonlinearity."""
    return size * hidden * (4 if config.ffn == "swiglu" else 2)


def _moe(config: ModelConfig, size: int) -> int:
    """Counts the experts of one layer that are active on a token, and their router."""
    d, K, shared = config.d_model, config.top_k, config.n_shared_experts * config.d_expert
    kept = _network(config, size, shared)
    if not config.has_router:
        return kept + size * d + _network(config, size, config.d_expert)

    # The input is read by the router in float32 and by shared experts. (Routed ones read their own rows of it.)
    learns = config.router_width > 0
    kept += sum(({size} if shared else set()) | ({FLOAT} if learns else set())) * d

    # Each chosen expert keeps its input, its answer times its weight, that weight, the token's and the choice's place,
    # and if the weight is learnt the answer too.
    kept += K * ((3 if learns else 2) * size * d + _network(config, size, config.d_expert) + size + 2 * INDEX)
    if not learns:
        return kept

    kept += FLOAT * (2 * config.n_experts + 1)  # logits, scores, and the logarithm of the sum of exponentials
    if config.router == "expert_choice":
        return kept + K * (size * d + 2 * INDEX)  # answers are gathered once more, by token and expert
    kept += K * INDEX
    if K > 1:
        kept += FLOAT * (K + 1)  # scores of the chosen, and their sum
    return kept + (FLOAT if config.router == "sigmoid" else 0)  # the sum of all scores
