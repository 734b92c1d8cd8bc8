"""Turning weights off: scores say which matter least, masks say which stay, and training resumes around the zeros.

    scores = magnitudes(model)                          # or wanda(model, batches)
    masks = smallest(scores, 0.5, within="row")         # or n_of_m, heads, neurons
    turn_off(model, masks)                              # or training.prune(masks), to keep them off while training

The matrices of attention and of the feed-forward parts can be pruned; tables of embeddings, norms, routers and modules
of multi-token prediction stay whole, as in the papers. Sparsity is the share of the *prunable* weights that is 0.

`torch.nn.utils.prune` computes masked weights in a hook of ``forward``, which experts do not have, and renames what it
masks. Here a pruned weight is a 0 in its usual place, so whatever reads a model or a checkpoint reads a pruned one.

Legend: L layers, E experts, F hidden units, D model width, H heads, J heads of keys and values, O rows and I columns of
a matrix that gives O numbers from I.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparsity_lab.config import one_of
from sparsity_lab.models import Transformer
from sparsity_lab.models.attention import Attention
from sparsity_lab.models.mla import LatentAttention
from sparsity_lab.record import Step
from sparsity_lab.training.trainer import Training

Scores = dict[str, Tensor]  # by the weights' names, in their shapes; larger matters more
Masks = dict[str, Tensor]  # bool, in the weights' shapes; True stays
Batches = Sequence[tuple[Tensor, Tensor]]  # tokens and the next ones, int64 (B, T) each
Within = Literal["model", "matrix", "row"]
Choose = Callable[[Transformer, float], Masks]


def prunable(model: Transformer) -> dict[str, Tensor]:
    """Returns the matrices of attention and of feed-forward parts, by name: (O, I), or (E, I, O) for experts."""
    weights = model.layers.named_parameters(prefix="layers")
    return {name: w.detach() for name, w in weights if w.ndim > 1 and ".router." not in name}


def unread(training: Training, n_tokens: int) -> Batches:
    """Returns training text that the run does not read, at least ``n_tokens`` of it unless an epoch is over. Choosing
    weights by it uses neither what was learnt nor what is held out."""
    run, config = training.run_config, training.model_config
    steps = range(training.plan.steps, training.plan.steps - (-n_tokens // (run.sequences * config.context)))
    return [training.windows.batch(step, run.sequences) for step in steps]


@torch.no_grad()
def mean_loss(model: Transformer, batches: Batches) -> float:
    """Returns the mean cross-entropy over ``batches``, in nats per token."""
    was_training = model.training
    model.eval()
    losses = [(model.loss(x.to(model.device), y.to(model.device))[0].item(), x.numel()) for x, y in batches]
    model.train(was_training)
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


# ---- scores


def magnitudes(model: Transformer) -> Scores:
    """Scores weights by their absolute values."""
    return {name: w.abs() for name, w in prunable(model).items()}


def wanda(model: Transformer, batches: Batches) -> Scores:
    """Scores weights by |W|·‖x‖₂, with the norm of each input over ``batches`` (Sun et al. 2023, arXiv 2306.11695,
    eq. 1): a weight matters as much as it contributes. An expert's inputs are those of the tokens that chose it; an
    expert that none chose is judged by magnitudes alone."""
    norms, scores = input_norms(model, batches), magnitudes(model)
    for name, score in scores.items():
        unseen = norms[name].amax(-1, keepdim=True) == 0
        score *= _inputs_last(torch.where(unseen, 1.0, norms[name])[..., None, :], score.ndim)
    return scores


@torch.no_grad()
def input_norms(model: Transformer, batches: Batches) -> dict[str, Tensor]:
    """Computes ‖x‖₂ of every number that a matrix multiplies, over ``batches``: (I,), or (E, I) for stacked experts."""
    twin = Transformer(model.config, "naive").to(model.device)  # its matrices are multiplied one at a time
    twin.load_state_dict(model.state_dict())
    watch = _Inputs(prunable(twin))
    with watch:
        for x_BT, _ in batches:
            twin.hidden(x_BT.to(model.device))
    return {name: squares.sqrt() for name, squares in watch.squares.items()}


class _Inputs(TorchFunctionMode):
    """Sums the squares of what certain weights multiply, and recognises these by their place in memory."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.squares = {n: w.new_zeros(w.shape[-1] if w.ndim == 2 else w.shape[:2]) for n, w in weights.items()}
        self.places: dict[int, Tensor] = {}
        for name, w in weights.items():
            stack = [(w, self.squares[name])] if w.ndim == 2 else zip(w, self.squares[name], strict=True)
            self.places |= {matrix.data_ptr(): squares for matrix, squares in stack}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.linear, Tensor.matmul, Tensor.__matmul__) and args[1].data_ptr() in self.places:
            self.places[args[1].data_ptr()].add_(args[0].flatten(0, -2).square().sum(0))
        return func(*args, **(kwargs or {}))


# ---- masks


def _mask(scores: Tensor, sparsity: float, m: int) -> Tensor:
    """Turns off the round(sparsity·m) smallest scores of every ``m`` neighbours in memory."""
    groups = scores.reshape(-1, m)
    off = groups.topk(round(sparsity * m), largest=False).indices
    return torch.ones_like(groups, dtype=torch.bool).scatter(1, off, False).view_as(scores)


def _mask_rows(scores: Tensor, sparsity: float, m: int) -> Tensor:
    """`_mask` with the inputs of a row as neighbours."""
    return _inputs_last(_mask(_inputs_last(scores, scores.ndim), sparsity, m), scores.ndim)


def smallest(scores: Scores, sparsity: float, within: Within = "model") -> Masks:
    """Prunes round(sparsity·n) of the n scores of the whole model, of each matrix (every expert has its own), or of
    each row, which holds all weights that make one number. Raises ValueError outside [0, 1).

    By magnitude this is the oldest method (Han et al. 2015, arXiv 1506.02626); Wanda compares within rows.
    """
    check_sparsity(sparsity)
    one_of("within", within, get_args(Within))
    if within == "model":
        together = torch.cat([s.flatten() for s in scores.values()])
        parts = _mask(together, sparsity, len(together)).split([s.numel() for s in scores.values()])
        return {name: part.view_as(s) for (name, s), part in zip(scores.items(), parts, strict=True)}
    axes = 1 if within == "row" else 2
    return {n: _mask_rows(s, sparsity, _inputs_last(s, s.ndim).shape[-axes:].numel()) for n, s in scores.items()}


def n_of_m(scores: Scores, n: int = 2, m: int = 4) -> Masks:
    """Keeps the ``n`` largest of every ``m`` neighbouring inputs of a row: N:M sparsity (Mishra et al. 2021, arXiv
    2104.08378: NVIDIA's sparse tensor cores skip 2:4). Raises ValueError if m does not divide the inputs."""
    if not 1 <= n <= m:
        raise ValueError(f"n={n} must be from 1 to m={m}: that many of {m} stay")
    for name, s in scores.items():
        if (inputs := _inputs_last(s, s.ndim).shape[-1]) % m:
            raise ValueError(f"m={m} must divide the inputs of every matrix, and {name} has {inputs}")
    return {name: _mask_rows(s, (m - n) / m, m) for name, s in scores.items()}


def neurons(scores: Scores, sparsity: float) -> Masks:
    """Prunes round(sparsity·F) hidden units of each feed-forward network, expert by expert: those whose output weights
    have scores of the smallest norm. Raises ValueError outside [0, 1)."""
    check_sparsity(sparsity)
    masks = {}
    for name, s_EFD in scores.items():
        if name.endswith("down_EFD"):
            units_EF = s_EFD.norm(dim=2)
            keep_EF = _mask(units_EF, sparsity, units_EF.shape[1])
            masks[name] = keep_EF[:, :, None].expand_as(s_EFD).clone()
            gate_up = name.replace("down_EFD", "gate_up_EDG")
            masks[gate_up] = torch.cat([keep_EF, keep_EF], 1)[:, None].expand_as(scores[gate_up]).clone()
    return masks


def heads(model: Transformer, scores: Scores, sparsity: float) -> Masks:
    """Prunes round(sparsity·L·H) attention heads of the model: those whose output weights have scores of the smallest
    norm. Keys and values that several heads share go with the last of them. Raises ValueError outside [0, 1)."""
    check_sparsity(sparsity)
    H = model.config.n_heads
    named = model.layers.named_modules(prefix="layers")
    modules = {name: module for name, module in named if isinstance(module, Attention | LatentAttention)}
    written = [scores[f"{name}.out"].unflatten(1, (H, -1)).norm(dim=(0, 2)) for name in modules]
    keep_LH = _mask(torch.stack(written), sparsity, len(written) * H)

    masks = {}
    for (name, attention), keep_H in zip(modules.items(), keep_LH, strict=True):
        out_O = keep_H.repeat_interleave(scores[f"{name}.out"].shape[1] // H)
        masks[f"{name}.out"] = out_O.expand_as(scores[f"{name}.out"]).clone()
        if isinstance(attention, LatentAttention):
            rows = {"q_up": keep_H, "kv_up": keep_H}
        else:
            keep_J = keep_H.view(model.config.kv_heads, -1).any(1)
            rows = {"qkv": torch.cat([keep_H, keep_J, keep_J])}
        for part, keep in rows.items():
            s = scores[f"{name}.{part}"]
            masks[f"{name}.{part}"] = keep.repeat_interleave(len(s) // len(keep))[:, None].expand_as(s).clone()
    return masks


@torch.no_grad()
def turn_off(model: Transformer, masks: Masks) -> None:
    """Sets to 0 what the masks turn off. `Training.prune` does the same and keeps it off."""
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)


def nonzeros(model: Transformer) -> dict[str, int]:
    """Counts the weights that are not 0, by part: the fields of `accounting.Parameters` but routed_active and mtp."""
    found = dict.fromkeys(("embedding", "attention", "norms", "router", "dense", "shared", "routed", "head"), 0)
    for name, w in model.named_parameters():
        if not name.startswith("mtp."):
            found[_part(model, name, w)] += int(w.count_nonzero())
    return found


def _part(model: Transformer, name: str, w: Tensor) -> str:
    if w.ndim == 1:
        return "norms"
    if not name.startswith("layers."):
        return "head" if model.config.tied_embeddings else name
    for part in ("attention", "router", "shared"):
        if f".{part}." in name:
            return part
    return "routed" if model.config.is_moe_layer(int(name.split(".")[1])) else "dense"


def _inputs_last(t: Tensor, ndim: int) -> Tensor:
    """Converts between the layout of a weight of ``ndim`` axes and one with inputs last; it is its own inverse."""
    return t.transpose(-1, -2) if ndim == 3 else t


def check_sparsity(sparsity: float) -> None:
    """Raises ValueError unless 0 ≤ sparsity < 1."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity!r} must be at least 0 and below 1: at 1 nothing would be left; try 0.5")


# ---- while training


def train_pruning(
    training: Training, choose: Choose, sparsity: float, start: float = 0.25, end: float = 0.7, times: int = 10
) -> Iterator[Step]:
    """Trains to the end of the run's budget. On the way, ``times`` times from ``start`` to ``end`` (shares of the run),
    ``choose(model, s)`` returns the masks. With ``times=1`` all pruning happens at ``end``.

    The i-th s is sparsity·(1 − (1 − i/times)³) (Zhu and Gupta 2017, arXiv 1710.01878, eq. 1 from s_i = 0): it rises
    fast while many weights are redundant, then slower. FLOPs are those of the dense kernels, which multiply zeros too.
    Raises ValueError for impossible times.
    """
    check_sparsity(sparsity)
    if not 0 <= start <= end < 1 or times < 1:
        raise ValueError(f"start={start:g}, end={end:g}, times={times}: need 0 ≤ start ≤ end < 1 and times ≥ 1")
    steps = training.plan.steps
    parts = [i / times for i in range(1, times + 1)]
    at = {round(steps * (start + (end - start) * part)): sparsity * (1 - (1 - part) ** 3) for part in parts}
    while not training.done:
        if training.steps_done in at:
            training.prune(choose(training.model, at[training.steps_done]))
        yield training.step()
