"""What attention remembers of the tokens it has read, so that the next token costs one token's work."""

import torch
from torch import Tensor

from sparsity_lab.config import ModelConfig


class KVCache:
    """Keys and values of every layer, room for ``config.context`` tokens taken once."""

    def __init__(self, config: ModelConfig, batch_size: int, device: torch.device | str, dtype: torch.dtype):
        shape = (config.n_layers, batch_size, config.kv_heads, config.context, config.head_dim)
        self.keys_LBHTC = torch.zeros(shape, device=device, dtype=dtype)
        self.values_LBHTC = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0  # tokens held; the model moves it once every layer has written

    def append(self, layer: int, k_BHTC: Tensor, v_BHTC: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values; gives all it holds, (B, heads, tokens so far, head_dim)."""
        end = self.length + k_BHTC.shape[2]
        room = self.keys_LBHTC.shape[3]
        if end > room:
            raise ValueError(f"the cache holds {room} tokens, asked to hold {end}: start a new one with a shorter text")
        self.keys_LBHTC[layer, :, :, self.length : end] = k_BHTC
        self.values_LBHTC[layer, :, :, self.length : end] = v_BHTC
        return self.keys_LBHTC[layer, :, :, :end], self.values_LBHTC[layer, :, :, :end]
