"""A model writes text here, one token at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsity_lab.models.cache import new_cache
from sparsity_lab.models.transformer import Transformer


@torch.no_grad()
def generate(
    model: Transformer,
    prompt_BT: Tensor,
    n_tokens: int,
    *,
    temperature: float = 0.8,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Samples ``n_tokens`` after ``prompt_BT``, int64 (batch, length ≥ 1); returns prompt and sample, (batch, length).

    Temperature 0 takes the likeliest token. A text that outgrows the context continues from its last half: the cache is
    filled again, so the cost per token stays flat. ``stop`` is asked before every token. Raises ValueError for an empty
    prompt or a negative temperature.
    """
    if prompt_BT.ndim != 2 or prompt_BT.shape[1] < 1:
        raise ValueError(f"prompt must be (batch, length ≥ 1) token ids, got shape {tuple(prompt_BT.shape)}")
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must be 0 (likeliest token) or more")

    config, device = model.config, model.device
    generator = torch.Generator(device).manual_seed(seed)
    text_BT = prompt_BT.to(device)
    unread_BT, cache = text_BT[:, -config.context :], new_cache(config, len(text_BT), device, model.dtype)

    for _ in range(n_tokens):
        if stop():
            break
        if int(cache.lengths_B[0]) + unread_BT.shape[1] > config.context:
            unread_BT = text_BT[:, -max(1, config.context // 2) :]
            cache = new_cache(config, len(text_BT), device, model.dtype)

        logits_BV = model(unread_BT, cache)[:, -1]
        if temperature == 0:
            unread_BT = logits_BV.argmax(-1, keepdim=True)
        else:
            unread_BT = torch.multinomial((logits_BV / temperature).softmax(-1), 1, generator=generator)
        text_BT = torch.cat([text_BT, unread_BT], 1)
    return text_BT
