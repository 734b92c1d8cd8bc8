"""What a careful person writes in an afternoon: the same model and step in plain torch, to be faster than.

Everything torch has a function for is torch's: linear layers, RMSNorm (of queries and keys too), attention, grouped
products, cross-entropy, the fused optimizer. Weights are sorted out by expert with argsort and brought back with
index_add. What differs is free: rotary positions turn the halves of a head, which is the faster way in plain torch, and
a dense model has one expert and no router.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_lab.config import ModelConfig

BALANCE = 0.05  # weight of the load-balance loss
BYTES = 4_000_000  # of the corpus


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        d = config.d_model
        self.n_heads = config.n_heads
        self.q_norm, self.k_norm = nn.RMSNorm(config.head_dim), nn.RMSNorm(config.head_dim)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, T, D))
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the two halves of each head."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class MoE(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        d, f, experts = config.d_model, config.d_expert, config.n_experts
        self.n_experts, self.top_k = experts, config.top_k
        self.router = nn.Linear(d, experts, bias=False)
        self.gate_up = nn.Parameter(torch.randn(experts, d, 2 * f) * d**-0.5)
        self.down = nn.Parameter(torch.randn(experts, f, d) * 0.3 * f**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the load-balance loss."""
        tokens = x.flatten(0, 1)
        probs = self.router(tokens).softmax(-1)
        weights, experts = probs.topk(self.top_k, -1)
        if self.top_k > 1:
            weights = weights / weights.sum(-1, keepdim=True)
        counts = torch.bincount(experts.flatten(), minlength=self.n_experts)
        balance = self.n_experts * (counts / experts.numel() * probs.mean(0)).sum()
        order = experts.flatten().argsort(stable=True)
        token = order // self.top_k
        ends = counts.cumsum(0).to(torch.int32)
        gate, up = F.grouped_mm(tokens.index_select(0, token), self.gate_up, offs=ends).chunk(2, -1)
        y = F.grouped_mm(F.silu(gate) * up, self.down, offs=ends) * weights.flatten()[order, None]
        return torch.zeros_like(tokens).index_add(0, token, y).view_as(x), balance


class Block(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(config.d_model), Attention(config)
        self.norm2, self.moe = nn.RMSNorm(config.d_model), MoE(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.attention(self.norm1(x), cos, sin)
        y, balance = self.moe(self.norm2(x))
        return x + y, balance


class Model(nn.Module):
    """The loss of a batch: cross-entropy, and the load-balance losses' sum."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        half = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = torch.outer(torch.arange(config.context).float(), config.rope_base**-half)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        h, total = self.embedding(x), torch.zeros((), device=x.device)
        for block in self.blocks:
            h, balance = block(h, self.cos, self.sin)
            total = total + balance
        return F.cross_entropy(self.head(self.norm(h)).flatten(0, 1), y.flatten()), total


def training_step(
    config: ModelConfig, text: np.ndarray, sequences: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """A function that trains one step on the next ``sequences`` windows of ``text``, uint8 (bytes,). Weights are in
    ``dtype``."""
    torch.manual_seed(0)
    model = Model(config).to(device, dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    data = torch.from_numpy(np.array(text[:BYTES], dtype=np.int64))
    T = config.context
    order = torch.randperm((len(data) - 1) // T) * T
    done = 0

    def step() -> None:
        nonlocal done
        starts = order[torch.arange(done * sequences, (done + 1) * sequences) % len(order)].tolist()
        done += 1
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, done / 100)
        x = torch.stack([data[i : i + T] for i in starts]).to(device)
        y = torch.stack([data[i + 1 : i + T + 1] for i in starts]).to(device)
        loss, balance = model(x, y)
        (loss + BALANCE * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
