"""A decoder-only language model. Read it from the bottom: the layer, then the model.

Legend: B batch, T tokens of a sequence, D model width, V vocabulary.
"""

from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_lab.config import ModelConfig
from sparsity_lab.models.attention import Attention, rotations
from sparsity_lab.models.cache import Cache
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.mla import LatentAttention
from sparsity_lab.models.ops import linear, linear_cross_entropy, linear_plain, rms_norm, rms_norm_plain
from sparsity_lab.models.router import Router, RoutingStats


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig, backend: str, layer: int):
        super().__init__()
        self.attention_norm = nn.Parameter(torch.ones(config.d_model))
        plain = backend == "naive"
        self.norm = rms_norm_plain if plain else rms_norm
        self.attention = (LatentAttention if config.is_mla else Attention)(config, plain)
        self.moe_norm = nn.Parameter(torch.ones(config.d_model))
        if not config.is_moe_layer(layer):
            one = {"n_experts": 1, "top_k": 1, "n_shared_experts": 0, "n_groups": 1, "top_groups": None}
            config = config.replace(d_expert=config.dense_width, **one)
        self.moe = MoE(config, backend)

    def forward(
        self, x_BTD: Tensor, tokens_BT: Tensor, turns: Tensor, dtype: torch.dtype, cache: Cache | None, layer: int
    ) -> tuple[Tensor, Tensor | None]:
        x_BTD = x_BTD + self.attention(self.norm(x_BTD, self.attention_norm).to(dtype), turns, cache, layer)
        y_BTD, aux_loss = self.moe(self.norm(x_BTD, self.moe_norm).to(dtype), tokens_BT)
        return x_BTD + y_BTD, aux_loss


class MultiToken(nn.Module):
    """Predicts the token after the one that the module before it predicts (DeepSeek-V3, arXiv 2412.19437, section 2.2).
    It joins what is known at a position with the token that comes next, and passes both through a layer of its own. The
    tables of tokens are the model's."""

    def __init__(self, config: ModelConfig, backend: str):
        super().__init__()
        d = config.d_model
        self.state_norm = nn.Parameter(torch.ones(d))
        self.token_norm = nn.Parameter(torch.ones(d))
        self.join = nn.Parameter(torch.randn(d, 2 * d) * (2 * d) ** -0.5)
        self.layer = DecoderLayer(config.mtp_layer, backend, 0)
        self.final_norm = nn.Parameter(torch.ones(d))

    def forward(
        self, x_BTD: Tensor, e_BTD: Tensor, tokens_BT: Tensor, turns: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Takes states and the next tokens' embeddings, (B, T, D); returns states and the router's auxiliary loss."""
        norm = self.layer.norm
        both = torch.cat([norm(x_BTD, self.state_norm), norm(e_BTD, self.token_norm)], -1).to(dtype)
        joined_BTD = linear_plain(both, self.join).float()
        return self.layer(joined_BTD, tokens_BT, turns, dtype, None, 0)


class Transformer(nn.Module):
    """Turns token ids into logits. The residual stream and the weights are float32; products run in ``dtype``.

    ``backend`` is ``"grouped"``, ``"megablocks"``, or ``"naive"``: loops and plain torch, to read and to check the
    others with.
    """

    turns_TC: Tensor

    def __init__(self, config: ModelConfig, backend: str = "grouped", dtype: torch.dtype = torch.float32):
        super().__init__()
        _refuse_what_is_only_counted(config)
        self.config, self.backend, self.dtype = config, backend, dtype
        self.norm = rms_norm_plain if backend == "naive" else rms_norm

        self.embedding = nn.Parameter(torch.randn(config.vocab_size, config.d_model) * 0.02)
        self.layers = nn.ModuleList(DecoderLayer(config, backend, layer) for layer in range(config.n_layers))
        self.final_norm = nn.Parameter(torch.ones(config.d_model))
        if config.tied_embeddings:
            self.head = self.embedding
        else:
            self.head = nn.Parameter(torch.randn(config.vocab_size, config.d_model) * 0.02)
        self.mtp = nn.ModuleList(MultiToken(config, backend) for _ in range(config.mtp_depth))
        self.register_buffer("turns_TC", rotations(config), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def states(
        self, tokens_BT: Tensor, cache: Cache | None = None, counts_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the last layer's states, (B, T, D), and the sum of the routers' auxiliary losses."""
        B, T = tokens_BT.shape
        if self.config.context < T:
            raise ValueError(f"{T} tokens do not fit the model's context={self.config.context}")

        turns = self.turns_TC[:T]
        if cache is not None:
            positions_BT = cache.begin(B, T, counts_B)
            even = bool((positions_BT == positions_BT[:1]).all())
            turns = self.turns_TC[positions_BT[0] if even else positions_BT]

        x_BTD = F.embedding(tokens_BT, self.embedding)
        total_aux = x_BTD.new_zeros(())
        for i, layer in enumerate(self.layers):
            x_BTD, aux_loss = layer(x_BTD, tokens_BT, turns, self.dtype, cache, i)
            if aux_loss is not None:
                total_aux = total_aux + aux_loss
        if cache is not None:
            cache.commit()
        return x_BTD, total_aux

    def hidden(
        self, tokens_BT: Tensor, cache: Cache | None = None, counts_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the last hidden states, normalised, (B, T, D), and the sum of the routers' auxiliary losses."""
        x_BTD, aux_loss = self.states(tokens_BT, cache, counts_B)
        return self.norm(x_BTD, self.final_norm).to(self.dtype), aux_loss

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None, counts_B: Tensor | None = None) -> Tensor:
        """Returns logits (B, T, V), float32. With a cache, ``tokens_BT`` are the tokens after those it holds. In row b
        the first ``counts_B[b]`` are real (default: all), and logits after them mean nothing."""
        return linear(self.hidden(tokens_BT, cache, counts_B)[0], self.head).float()

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean cross-entropy in nats per token, and what to add to it when training: the routers' auxiliary
        loss and the weighted loss of multi-token prediction."""
        x_BTD, aux_loss = self.states(tokens_BT)
        h_BTD = self.norm(x_BTD, self.final_norm).to(self.dtype)
        loss = linear_cross_entropy(h_BTD.flatten(0, 1), self.head, targets_BT.flatten())
        if len(self.mtp) and self.training:
            aux_loss = aux_loss + self._further(x_BTD, targets_BT)
        return loss, aux_loss

    def _further(self, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Returns the loss of the tokens after the next. The k-th module knows the states of the first T − k positions
        and the tokens up to k after each."""
        total, T = x_BTD.new_zeros(()), targets_BT.shape[1]
        for k, module in enumerate(self.mtp, start=1):
            assert isinstance(module, MultiToken)
            known_BT, wanted_BT = targets_BT[:, k - 1 : T - 1], targets_BT[:, k:]
            embedded_BTD = F.embedding(known_BT, self.embedding)
            x_BTD, aux_loss = module(x_BTD[:, : T - k], embedded_BTD, known_BT, self.turns_TC[: T - k], self.dtype)
            h_BTD = self.norm(x_BTD, module.final_norm).to(self.dtype)
            loss = linear_cross_entropy(h_BTD.flatten(0, 1), self.head, wanted_BT.flatten())
            total = total + self.config.mtp_weight / len(self.mtp) * loss
            if aux_loss is not None:
                total = total + aux_loss
        return total

    def routing(self) -> list[RoutingStats]:
        """Returns the routers' load in the last batch, layer by layer; empty for a dense model."""
        return [stats for router in self.routers() if (stats := router.stats()) is not None]

    def routers(self) -> list[Router]:
        """Returns the routers of the layers with experts, from the first, without those of multi-token prediction."""
        return [module for module in self.layers.modules() if isinstance(module, Router)]


ONLY_COUNTED = ("qk_norm", "attention_bias", "attention_sinks", "ffn", "ffn_bias", "norm", "learned_positions",
                "n_encoder_layers", "full_attention_every")  # fmt: skip


def _refuse_what_is_only_counted(config: ModelConfig) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ONLY_COUNTED and value != field.default:
            raise ValueError(f"{field.name}={value!r} can be counted but not built: leave it at {field.default!r}")
