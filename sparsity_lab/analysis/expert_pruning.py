"""Turning whole experts off, or merging them: what is left is an ordinary, smaller model.

    loads = expert_loads(model, batches)                # or expert_losses(model, batches)
    smaller = keep_experts(model, most(loads, 8))       # or merge_experts(model, loads, 8)

Removing an expert is like setting its logit in the router to −∞: the softmax and the choice are over the others.

Legend: L layers with experts, E experts, e experts that are left, F hidden units, D model width.
"""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sparsity_lab.analysis.pruning import Batches, mean_loss
from sparsity_lab.analysis.routing import routed_layers
from sparsity_lab.config import ModelConfig
from sparsity_lab.models import Transformer
from sparsity_lab.models.experts import MoE


@torch.no_grad()
def expert_loads(model: Transformer, batches: Batches) -> Tensor:
    """Returns the share of the choices in ``batches`` that each expert got, (L, E); rows sum to 1."""
    counts_LE = torch.zeros(len(model.routers()), model.config.n_experts)
    for x_BT, _ in batches:
        model.hidden(x_BT.to(model.device))
        counts_LE += torch.stack([router.last.counts_E.cpu() for router in model.routers() if router.last is not None])
    return counts_LE / counts_LE.sum(1, keepdim=True)


@torch.no_grad()
def expert_losses(model: Transformer, batches: Batches) -> Tensor:
    """Returns by how many nats per token the mean loss over ``batches`` rises without each expert, (L, E): each is
    removed once and put back. Raises ValueError as `smaller_config` does."""
    E = model.config.n_experts
    config = smaller_config(model.config, E - 1)
    whole, rises_LE = mean_loss(model, batches), []
    for index, moe in routed_layers(model).items():
        layer, rises_E = model.layers[index], []
        try:
            for expert in range(E):
                layer.moe = MoE(config, model.backend).to(model.device)
                layer.moe.load_state_dict(_some(moe, torch.tensor([e for e in range(E) if e != expert])))
                rises_E.append(mean_loss(model, batches) - whole)
        finally:
            layer.moe = moe
        rises_LE.append(rises_E)
    return torch.tensor(rises_LE)


def most(scores_LE: Tensor, n: int) -> Tensor:
    """Returns the ``n`` experts of each layer that score highest, (L, n), in their order."""
    return scores_LE.topk(n, -1).indices.sort(-1).values


def smaller_config(config: ModelConfig, n_experts: int) -> ModelConfig:
    """Returns the config of the model with fewer experts, and without modules of multi-token prediction, which serve
    training alone. Raises ValueError if the rest could not be an ordinary model: for a router that learns nothing or
    whose experts choose, for groups of experts, and for fewer than two experts (one alone has no router)."""
    if config.router not in ("softmax", "sigmoid"):
        raise ValueError(f"router={config.router!r} can't lose an expert: only softmax and sigmoid choose again")
    if not config.has_router:
        raise ValueError("n_experts=1: the model has no experts to remove")
    if config.n_groups > 1:
        raise ValueError(f"n_groups={config.n_groups}: experts can't leave their groups; use a model with n_groups=1")
    least = max(2, config.top_k)
    if not least <= n_experts <= config.n_experts:
        raise ValueError(
            f"n_experts={n_experts} must be from {least} to {config.n_experts} (a router needs two, and each token "
            f"top_k={config.top_k}); lower the sparsity"
        )
    return config.replace(n_experts=n_experts, mtp_depth=0)


def keep_experts(model: Transformer, kept_Le: Tensor) -> Transformer:
    """Returns the model with only these experts in each layer, indices (L, e). Errors as for `smaller_config`."""
    config = smaller_config(model.config, kept_Le.shape[1])
    smaller = Transformer(config, model.backend, model.dtype).to(model.device)
    weights = {name: w for name, w in model.state_dict().items() if not name.startswith("mtp.")}
    for (index, moe), kept_e in zip(routed_layers(model).items(), kept_Le, strict=True):
        weights |= {f"layers.{index}.moe.{name}": w for name, w in _some(moe, kept_e).items()}
    smaller.load_state_dict(weights)
    return smaller


@torch.no_grad()
def merge_experts(model: Transformer, loads_LE: Tensor, n: int) -> Transformer:
    """Returns the model with ``n`` experts per layer, each a mean of some of the old ones.

    After M-SMoE (Li et al. 2023, arXiv 2310.01334): the ``n`` with the highest load stay; each of the others joins the
    one it resembles most, puts its hidden units in that one's order (`aligned`), and weights are averaged by load. Two
    things are simpler than in the paper. Experts are alike if their rows of the router point the same way; the paper
    compares their logits on a text. And the router keeps only the rows of those that stay; in the paper it chooses
    among all, and tokens of a merged expert follow it. Raises ValueError as `smaller_config` does.
    """
    kept_Le = most(loads_LE, n)
    merged = keep_experts(model, kept_Le)
    pairs = zip(routed_layers(model).values(), routed_layers(merged).values(), strict=True)

    for (old, new), loads_E, kept_e in zip(pairs, loads_LE, kept_Le, strict=True):
        assert old.router is not None
        assert old.router.weight is not None
        rows_ED = F.normalize(old.router.weight)
        joins_E = (rows_ED @ rows_ED[kept_e].T).argmax(1)
        joins_E[kept_e] = torch.arange(n)
        for place, kept in enumerate(kept_e.tolist()):
            members = (joins_E == place).nonzero()[:, 0].tolist()
            units_F = torch.stack([aligned(_units(old, member), _units(old, kept)) for member in members])
            shares = loads_E[members].clamp(min=1e-9).to(units_F)  # idle experts count alike
            gate_FD, up_FD, down_FD = torch.einsum("m,mfx->fx", shares / shares.sum(), units_F).chunk(3, 1)
            new.experts.gate_up_EDG[place] = torch.cat([gate_FD, up_FD]).T
            new.experts.down_EFD[place] = down_FD
    return merged


def aligned(units: Tensor, like: Tensor) -> Tensor:
    """Returns the rows of ``units`` in the order that matches ``like`` best, by the sum of products. It means nothing
    to a network but much to a mean of two (weight matching of Ainsworth et al. 2022, arXiv 2209.04836, section 3.2)."""
    _, order = linear_sum_assignment((like @ units.T).cpu().numpy(), maximize=True)
    return units[order]


def _units(moe: MoE, expert: int) -> Tensor:
    """Returns all weights of an expert's hidden units, a row each: gate, up and down, (F, 3·D)."""
    gate_up_DG, down_FD = moe.experts.gate_up_EDG[expert].detach(), moe.experts.down_EFD[expert].detach()
    return torch.cat([*gate_up_DG.T.chunk(2), down_FD], 1)


def _some(moe: MoE, experts: Tensor) -> dict[str, Tensor]:
    """Returns the weights of ``moe`` with only these experts and their rows of the router."""
    return {name: w if name.startswith("shared.") else w[experts] for name, w in moe.state_dict().items()}
