"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): the keys and values of all heads are made
from one narrow latent, and only the latent is remembered.

Legend: B batch, T new tokens, S tokens held, H heads, D model width, N part of a query and key head without positions,
R part that RoPE turns, V width of a value head, K width of the latent.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_lab.accounting.flops import Decode
from sparsity_lab.config import ModelConfig
from sparsity_lab.models.attention import causal_mask, rotate
from sparsity_lab.models.cache import Cache
from sparsity_lab.models.ops import linear, linear_plain, rms_norm, rms_norm_plain


class LatentAttention(nn.Module):
    """Attention over latents. RoPE does not commute with the matrices around the latent, so positions take a way of
    their own (decoupled RoPE): a part of each query head, and one key that all heads share, are turned and carry
    nothing else.

    With a cache there are two ways to the same numbers. ``naive`` makes keys and values from every latent held.
    ``absorbed`` moves the key matrix to the query and the value matrix behind the weighted sum, so that all heads
    attend to the latents themselves, as if these were one wide shared key and value.
    """

    form: Decode | None = None  # None: whichever takes fewer FLOPs

    def __init__(self, config: ModelConfig, plain: bool):
        super().__init__()
        d, H = config.d_model, config.n_heads
        assert config.kv_lora_rank is not None
        self.n_heads, self.N, self.R, self.V = H, config.nope_dim, config.rope_dim, config.value_dim
        self.K, self.window, self.plain = config.kv_lora_rank, config.window, plain
        self.scale = (self.N + self.R) ** -0.5
        self.linear = linear_plain if plain else linear
        self.norm = rms_norm_plain if plain else rms_norm

        def matrix(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) * columns**-0.5)

        self.q_down, self.q_norm = None, None
        if config.q_lora_rank is not None:
            self.q_down = matrix(config.q_lora_rank, d)
            self.q_norm = nn.Parameter(torch.ones(config.q_lora_rank))
        self.q_up = matrix(H * (self.N + self.R), config.q_lora_rank or d)
        self.kv_down = matrix(self.K + self.R, d)
        self.kv_norm = nn.Parameter(torch.ones(self.K))
        self.kv_up = matrix(H * (self.N + self.V), self.K)
        self.out = nn.Parameter(torch.randn(d, H * self.V) * (2 * H * self.V * config.n_layers) ** -0.5)

    def forward(self, x_BTD: Tensor, turns: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        """(B, T, D) → (B, T, D). ``turns``: `rotations` of the positions, (T, R/2, 2) or (B, T, R/2, 2)."""
        q_BTHN, q_BTHR = self._queries(x_BTD, turns)
        latents_BTX = self._latents(x_BTD, turns)
        if cache is not None:
            (held_B1SX,) = cache.append(layer, latents_BTX[:, None])
        if cache is None or (cache.only_new and self.form is None):
            mask = causal_mask(x_BTD.shape[1], self.window, x_BTD.device)
            y_BTHV = self._naive(q_BTHN, q_BTHR, latents_BTX, mask)
        else:
            form = self.form or self.cheaper(x_BTD.shape[1], held_B1SX.shape[2])
            attend_held = self._absorbed if form == "absorbed" else self._naive
            y_BTHV = attend_held(q_BTHN, q_BTHR, held_B1SX[:, 0], cache.mask(x_BTD.device))
        return self.linear(y_BTHV.flatten(2), self.out)

    def cheaper(self, T: int, S: int) -> Decode:
        """Returns the form with fewer FLOPs for T new tokens when S are held."""
        naive = S * self.K * (self.N + self.V) + T * S * (self.N + self.R + self.V)
        absorbed = T * self.K * (self.N + self.V) + T * S * (2 * self.K + self.R)
        return "absorbed" if absorbed < naive else "naive"

    def _queries(self, x_BTD: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        if self.q_down is not None and self.q_norm is not None:
            x_BTD = self.norm(self.linear(x_BTD, self.q_down).float(), self.q_norm).to(x_BTD.dtype)
        q_BTHX = self.linear(x_BTD, self.q_up).unflatten(-1, (self.n_heads, -1))
        q_BTHN, q_BTHR = q_BTHX.split((self.N, self.R), -1)
        return q_BTHN, rotate(q_BTHR.float(), turns[..., None, :, :]).to(x_BTD.dtype)

    def _latents(self, x_BTD: Tensor, turns: Tensor) -> Tensor:
        """Returns what is remembered, (B, T, K + R): the normalised latent, and the shared key, turned."""
        latent_BTK, key_BTR = self.linear(x_BTD, self.kv_down).float().split((self.K, self.R), -1)
        turned_BTR = rotate(key_BTR, turns)
        return torch.cat([self.norm(latent_BTK, self.kv_norm), turned_BTR], -1).to(x_BTD.dtype)

    def _naive(self, q_BTHN: Tensor, q_BTHR: Tensor, latents_BSX: Tensor, mask: Tensor | None) -> Tensor:
        """Attends to keys (B, S, H, N + R) and values (B, S, H, V) that are made for all heads. Without a mask, each of
        several tokens sees those before it, and a single one sees all that is held."""
        latent_BSK, key_BSR = latents_BSX.split((self.K, self.R), -1)
        kv_BSHX = self.linear(latent_BSK, self.kv_up).unflatten(-1, (self.n_heads, -1))
        k_BSHN, v_BSHV = kv_BSHX.split((self.N, self.V), -1)
        shared_BSHR = key_BSR[:, :, None].expand(-1, -1, self.n_heads, -1)
        parts = torch.cat([q_BTHN, q_BTHR], -1), torch.cat([k_BSHN, shared_BSHR], -1), v_BSHV
        q_BHTX, k_BHSX, v_BHSV = (x.transpose(1, 2) for x in parts)

        widest = max(self.V, self.N + self.R)
        if not self.plain and self.V != self.N + self.R:  # the fast kernels want one width; zeros change nothing
            q_BHTX, k_BHSX, v_BHSV = (F.pad(x, (0, widest - x.shape[-1])) for x in (q_BHTX, k_BHSX, v_BHSV))
        causal = mask is None and q_BHTX.shape[2] > 1
        y_BHTV = F.scaled_dot_product_attention(
            q_BHTX, k_BHSX, v_BHSV, attn_mask=mask, is_causal=causal, scale=self.scale
        )
        return y_BHTV[..., : self.V].transpose(1, 2)

    def _absorbed(self, q_BTHN: Tensor, q_BTHR: Tensor, latents_BSX: Tensor, mask: Tensor | None) -> Tensor:
        """Attends to the latents themselves, with queries that have the key matrix in them."""
        B, T, H, _ = q_BTHN.shape
        up_HXK = self.kv_up.to(q_BTHN.dtype).view(H, self.N + self.V, self.K)
        key_HNK, value_HVK = up_HXK.split((self.N, self.V), 1)

        # each head's matrix times all its queries: one large product per head
        q_HMK = torch.bmm(q_BTHN.permute(2, 0, 1, 3).reshape(H, B * T, self.N), key_HNK)
        q_BHTK = q_HMK.view(H, B, T, self.K).transpose(0, 1)
        q_BHTX = torch.cat([q_BHTK, q_BTHR.transpose(1, 2)], -1)

        scores_BMS = torch.bmm(q_BHTX.reshape(B, H * T, -1), latents_BSX.transpose(1, 2)).float() * self.scale
        if mask is not None:
            scores_BHTS = scores_BMS.view(B, H, T, -1).masked_fill(~mask, float("-inf"))
            scores_BMS = scores_BHTS.view(B, H * T, -1)
        p_BMS = scores_BMS.softmax(-1).to(latents_BSX.dtype)

        y_BMK = torch.bmm(p_BMS, latents_BSX[..., : self.K])
        y_HMK = y_BMK.view(B, H, T, self.K).transpose(0, 1).reshape(H, B * T, self.K)
        y_HMV = torch.bmm(y_HMK, value_HVK.transpose(1, 2))
        return y_HMV.view(H, B, T, self.V).permute(1, 2, 0, 3)
