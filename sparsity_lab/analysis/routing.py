"""What the experts learnt: who read which token, and whether that depends on the kind of the token.

Legend: N tokens, L layers with experts, E experts, K experts per token, C kinds of token.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.special import rel_entr

from sparsity_lab.models import Transformer
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.transformer import DecoderLayer
from sparsity_lab.training.kinds import KINDS, kinds


@dataclass
class Readings:
    """For each layer with experts, the experts that read each token, the favourite first."""

    kinds_N: np.ndarray
    experts_LNK: np.ndarray
    n_experts: int

    @property
    def favourites_LN(self) -> np.ndarray:
        return self.experts_LNK[:, :, 0]


@torch.no_grad()
def trace_routing(model: Transformer, text: bytes) -> Readings:
    """Runs ``model`` over ``text``, in windows of its context, and records the routing. Raises ValueError for a model
    without routers, for one whose experts choose (a token has no favourite), and for a text shorter than one window."""
    context = model.config.context
    routers = model.routers()
    if not routers:
        raise ValueError("the model has no router: n_experts=1")
    if model.config.router == "expert_choice":
        raise ValueError("router='expert_choice': tokens choose no experts there; use softmax or sigmoid")
    windows = len(text) // context
    if windows < 1:
        raise ValueError(f"text of {len(text)} bytes is shorter than the model's context={context}")

    tokens = np.frombuffer(text, np.uint8)[: windows * context]
    parts = []
    for batch in torch.from_numpy(tokens.astype(np.int64)).view(windows, context).split(32):
        model.hidden(batch.to(model.device))
        parts.append([router.last.experts_NK.cpu().numpy() for router in routers if router.last is not None])
    experts_LNK = np.stack([np.concatenate(layer) for layer in zip(*parts, strict=True)])
    return Readings(kinds(text)[: windows * context], experts_LNK, model.config.n_experts)


def kind_counts(experts_N: np.ndarray, kinds_N: np.ndarray, n_experts: int) -> pd.DataFrame:
    """Counts how often each expert (rows) read each kind (columns)."""
    counts_EC = np.zeros((n_experts, len(KINDS)), np.int64)
    np.add.at(counts_EC, (experts_N, kinds_N), 1)
    return pd.DataFrame(counts_EC, columns=list(KINDS)).rename_axis(index="expert", columns="kind")


def mutual_information(counts_EC: pd.DataFrame) -> float:
    """Computes I(expert; kind) in bits (Cover and Thomas, Elements of Information Theory, eq. 2.28): how much knowing
    the expert tells about the kind. 0 if they are independent, at most the smaller of the two entropies."""
    joint = counts_EC.to_numpy() / counts_EC.to_numpy().sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float(rel_entr(joint, independent).sum() / np.log(2))


@dataclass(frozen=True)
class Specialisation:
    """The mutual information of expert and kind in one layer, beside what chance gives."""

    bits: float
    by_chance: float  # mean over the shifts
    largest: float  # of all shifts
    p_value: float


def specialisation(readings: Readings, layer: int, shifts: int = 99, seed: int = 0) -> Specialisation:
    """Tests by permutation how much an expert would tell about kinds if these had nothing to do with the tokens. The
    kinds are shifted along the text by random distances, round its end, because shuffling them one by one would break
    up their runs, and chance would then look smaller than it is."""
    experts_N, kinds_N = readings.favourites_LN[layer], readings.kinds_N
    bits = mutual_information(kind_counts(experts_N, kinds_N, readings.n_experts))
    generator = np.random.default_rng(seed)
    chance = [
        mutual_information(kind_counts(experts_N, np.roll(kinds_N, distance), readings.n_experts))
        for distance in generator.integers(len(kinds_N) // 20 + 1, len(kinds_N), shifts)
    ]
    at_least = 1 + sum(value >= bits for value in chance)
    return Specialisation(bits, float(np.mean(chance)), max(chance), at_least / (1 + shifts))


def preference(counts_EC: pd.DataFrame) -> pd.DataFrame:
    """Returns how many times more often than average a kind goes to an expert: P(expert | kind) / P(expert), which is 1
    for an expert without preference. Kinds that do not occur are left out."""
    counts = counts_EC.loc[:, counts_EC.sum() > 0]
    of_kind = counts / counts.sum()
    share = counts.sum(axis=1) / counts.to_numpy().sum()
    return of_kind.div(share.where(share > 0), axis=0).fillna(0.0)


def co_activation(readings: Readings, layer: int) -> np.ndarray:
    """Returns for each pair of experts the share of tokens that both read, (E, E); the diagonal is each one's share."""
    chosen_NE = np.zeros((len(readings.kinds_N), readings.n_experts))
    np.put_along_axis(chosen_NE, readings.experts_LNK[layer], 1.0, axis=1)
    return chosen_NE.T @ chosen_NE / len(chosen_NE)


def routed_layers(model: Transformer) -> dict[int, MoE]:
    """Returns the mixtures of experts that have a router, by the index of their layer."""
    layers = enumerate(layer for layer in model.layers if isinstance(layer, DecoderLayer))
    return {index: layer.moe for index, layer in layers if layer.moe.router is not None}


@torch.no_grad()
def similarity(model: Transformer, layer: int) -> np.ndarray:
    """Returns the cosine of the weights of each pair of experts in one layer with experts, (E, E)."""
    experts = list(routed_layers(model).values())[layer].experts
    unit_EX = F.normalize(torch.cat([experts.gate_up_EDG.flatten(1), experts.down_EFD.flatten(1)], 1))
    return (unit_EX @ unit_EX.T).cpu().numpy()


def effective_experts(probs_NE: torch.Tensor) -> float:
    """Returns exp of the router's mean entropy: the number of experts a token hesitates between, from 1 to E."""
    return float(torch.special.entr(probs_NE.float()).sum(-1).mean().exp())


@torch.no_grad()
def vectors(model: Transformer, text: bytes) -> list[dict[str, np.ndarray]]:
    """Collects, for each layer with experts, vectors whose sparsity can be measured, while ``model`` reads up to 32
    windows of ``text``.

    ``shares`` of the router, (N, E); ``gates``, the shares that the choice leaves, (N, E); ``hidden`` numbers
    silu(gate)·up of the active experts, (N·K, F), expert by expert; and the weights of each expert, ``gate_up``,
    (E, D·G), and ``down``, (E, F·D). Raises ValueError as `trace_routing` does.
    """
    moes = routed_layers(model).values()
    inputs: list[torch.Tensor] = []
    hooks = [moe.register_forward_pre_hook(lambda _, given: inputs.append(given[0].flatten(0, 1))) for moe in moes]
    try:
        trace_routing(model, text[: 32 * model.config.context])
    finally:
        for hook in hooks:
            hook.remove()

    found = []
    for moe, x_ND in zip(moes, inputs, strict=True):
        assert moe.router is not None
        routing, experts = moe.router.last, moe.experts
        assert routing is not None
        hidden = []
        for e, gate_up_DG in enumerate(experts.gate_up_EDG.to(x_ND.dtype)):
            gate_SF, up_SF = (x_ND[(routing.experts_NK == e).any(1)] @ gate_up_DG).chunk(2, -1)
            hidden.append(F.silu(gate_SF) * up_SF)
        parts = {
            "shares": routing.probs_NE,
            "gates": torch.zeros_like(routing.probs_NE).scatter(1, routing.experts_NK, routing.weights_NK),
            "hidden": torch.cat(hidden),
            "gate_up": experts.gate_up_EDG.flatten(1),
            "down": experts.down_EFD.flatten(1),
        }
        # Copies, because training changes the weights.
        found.append({name: part.float().cpu().numpy().copy() for name, part in parts.items()})
    return found
