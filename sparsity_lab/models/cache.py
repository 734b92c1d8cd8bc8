"""Attention remembers here what it needs of the tokens it has read, so that each new token costs one token's work.

Legend: L layers, B sequences, H heads kept (of keys and values; 1 for MLA), S slots, T new tokens, C width of what is
kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsity_lab.config import ModelConfig

FIRST_ROOM = 64  # slots taken at first; the room doubles when it is full


@dataclass(eq=False)
class Cache:
    """Memory of every layer, taken ahead and doubled when it is full, for at most ``config.context`` tokens per
    sequence. `new_cache` makes an empty one.

    Slot s of a sequence holds its token at position ``first_B + s``. Sequences may differ in length: rows of a batch
    are padded on the right, and ``counts_B`` says how many of the tokens are real. With ``config.window``, only what
    the next token can see is kept. ``int8`` stores numbers in 8 bits with one scale for each vector, and gives them
    back as ``dtype``.

    A model calls `begin`, then `append` once per layer, then `commit`. Before `commit`, nothing that was held is lost.
    """

    config: ModelConfig
    dtype: torch.dtype
    int8: bool
    names: tuple[str, ...]  # of what a layer keeps
    tensors: dict[str, Tensor]  # by name, (L, B, H, S, C)
    lengths_B: Tensor  # tokens read
    first_B: Tensor  # position of slot 0
    _slots_BT: Tensor | None = None  # where the new tokens go, between `begin` and `commit`

    @property
    def batch_size(self) -> int:
        return len(self.lengths_B)

    @property
    def room(self) -> int:
        """Slots taken for each sequence."""
        return self.tensors[self.names[0]].shape[3]

    @property
    def held_B(self) -> Tensor:
        """Tokens of each sequence that are kept."""
        held_B = self.lengths_B - self.first_B
        return held_B if self.config.window is None else held_B.clamp(max=self.config.window)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens that are kept, over all layers and sequences."""
        per_token = sum(t.shape[0] * t.shape[2] * t.shape[4] * t.element_size() for t in self.tensors.values())
        return int(self.held_B.sum()) * per_token

    # ---- a forward pass

    def begin(self, batch_size: int, T: int, counts_B: Tensor | None = None) -> Tensor:
        """Makes room for T tokens per sequence and returns their positions, int64 (B, T). Raises ValueError, and
        changes nothing that is held, if they don't fit."""
        if batch_size != self.batch_size:
            raise ValueError(f"the cache holds {self.batch_size} sequences, got tokens for {batch_size}")
        counts_B = torch.full((batch_size,), T) if counts_B is None else counts_B.cpu()
        if counts_B.shape != (batch_size,) or int(counts_B.min()) < 0 or int(counts_B.max()) > T:
            raise ValueError(f"counts_B={counts_B.tolist()} must be {batch_size} numbers from 0 to {T}")
        end = int((self.lengths_B + counts_B).max())
        if end > self.config.context:
            raise ValueError(f"the cache holds {self.config.context} tokens, asked to hold {end}: start a new one")

        self._make_room(T)
        positions_BT = self.lengths_B[:, None] + torch.arange(T)
        self._counts_B, self._slots_BT = counts_B, positions_BT - self.first_B[:, None]
        self._start = int(self._slots_BT[0, 0])
        self._even = bool((self._slots_BT[:, 0] == self._start).all())
        self._used = int(self._slots_BT.max()) + 1
        return positions_BT.clamp(max=self.config.context - 1)  # padding may stick out

    def append(self, layer: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Writes one layer's new tensors, each (B, H, T, C), and returns all it holds, each (B, H, S, C)."""
        held = []
        for name, x_BHTC in zip(self.names, new, strict=True):
            if self.int8:
                scale_BHT1 = x_BHTC.float().abs().amax(-1, keepdim=True).div(127).clamp(min=1e-12)
                self._write(f"{name}_scale", layer, scale_BHT1)
                x_BHTC = (x_BHTC.float() / scale_BHT1).round().to(torch.int8)
            self._write(name, layer, x_BHTC)
            whole = self._read(name, layer)
            held.append((whole * self._read(f"{name}_scale", layer)).to(self.dtype) if self.int8 else whole)
        return tuple(held)

    def mask(self, device: torch.device | str) -> Tensor | None:
        """Returns which slots a new token may look at, bool (B or 1, 1, T, S); None if every token may look at all."""
        assert self._slots_BT is not None, "begin() comes first"
        T, window = self._slots_BT.shape[1], self.config.window
        if T == 1 and self._even and (window is None or self._used <= window):
            return None
        slots_BT = self._slots_BT[:1] if self._even else self._slots_BT
        back_BTS = slots_BT[:, :, None] - torch.arange(self._used)
        seen_BTS = back_BTS >= 0 if window is None else (back_BTS >= 0) & (back_BTS < window)
        return seen_BTS[:, None].to(device)

    @property
    def only_new(self) -> bool:
        """Tells whether the new tokens are the first, and held as they are: then they need not be read back."""
        return self._even and self._start == 0 and not self.int8

    def commit(self) -> None:
        """Counts the new tokens as read."""
        self.lengths_B = self.lengths_B + self._counts_B
        self._slots_BT = None

    def truncate(self, length: int) -> None:
        """Forgets what comes after the first ``length`` tokens of each sequence. Raises ValueError if the length is
        negative, or if a sliding window has dropped what the next token would see."""
        dropped = int(self.first_B.max())
        least = dropped + self.config.window - 1 if self.config.window is not None and dropped else 0
        if length < least:
            raise ValueError(f"length={length} must be at least {least}: what came before has left the window")
        self.lengths_B = self.lengths_B.clamp(max=length)

    # ---- storage

    def _make_room(self, T: int) -> None:
        held = int((self.lengths_B - self.first_B).max())
        window = self.config.window

        if window is not None and held + T > self.room:  # drop what no token will look at again
            drop_B = (self.lengths_B - self.first_B - (window - 1)).clamp(min=0)
            if drop_B.any():
                from_BS = (torch.arange(self.room) + drop_B[:, None]).clamp(max=self.room - 1)
                for name, tensor in self.tensors.items():
                    index = from_BS.to(tensor.device)[None, :, None, :, None].expand_as(tensor)
                    self.tensors[name] = tensor.gather(3, index)
                self.first_B = self.first_B + drop_B
                held = int((self.lengths_B - self.first_B).max())

        if held + T > self.room:
            more = max(held + T, min(2 * self.room, _most_slots(self.config))) - self.room
            for name, tensor in self.tensors.items():
                self.tensors[name] = torch.cat([tensor, tensor.new_zeros(*tensor.shape[:3], more, tensor.shape[4])], 3)

    def _write(self, name: str, layer: int, x_BHTC: Tensor) -> None:
        held_BHSC, T = self.tensors[name][layer], x_BHTC.shape[2]
        assert self._slots_BT is not None, "begin() comes first"
        if self._even:
            held_BHSC[:, :, self._start : self._start + T] = x_BHTC
        else:
            rows = torch.arange(self.batch_size, device=x_BHTC.device)[:, None]
            held_BHSC[rows, :, self._slots_BT.to(x_BHTC.device)] = x_BHTC.transpose(1, 2)

    def _read(self, name: str, layer: int) -> Tensor:
        return self.tensors[name][layer, :, :, : self._used]


def new_cache(
    config: ModelConfig,
    batch_size: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    int8: bool = False,
    room: int = FIRST_ROOM,
) -> Cache:
    """Returns an empty cache of the kind that the config's attention needs.

    It keeps keys and values of each head that has its own: of all heads (MHA), of groups (GQA), or of one (MQA). For
    MLA it keeps the latent and beside it the turned RoPE key that all heads share, and nothing else (DeepSeek-V2, arXiv
    2405.04434, section 2.1).
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if config.kv_lora_rank is not None:
        shapes = {"latents": (1, config.kv_lora_rank + config.rope_dim)}
    else:
        shapes = dict.fromkeys(("keys", "values"), (config.kv_heads, config.head_dim))

    tensors = {}
    for name, (heads, width) in shapes.items():
        shape = (config.n_layers, batch_size, heads, min(room, _most_slots(config)))
        tensors[name] = torch.zeros(*shape, width, device=device, dtype=torch.int8 if int8 else dtype)
        if int8:
            tensors[f"{name}_scale"] = torch.zeros(*shape, 1, device=device, dtype=torch.float32)
    lengths_B, first_B = torch.zeros(2, batch_size, dtype=torch.int64)
    return Cache(config, dtype, int8, tuple(shapes), tensors, lengths_B, first_B)


def _most_slots(config: ModelConfig) -> int:
    return config.context if config.window is None else min(config.context, 2 * config.window)
