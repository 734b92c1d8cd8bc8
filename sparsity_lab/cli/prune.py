"""What `sparsity-lab prune` does with a checkpoint: as data for --json, and as text."""

from pathlib import Path
from typing import Any

from sparsity_lab.accounting import flops_by_part, flops_skipping_zeros
from sparsity_lab.analysis.expert_pruning import (
    expert_loads,
    expert_losses,
    keep_experts,
    merge_experts,
    most,
    smaller_config,
)
from sparsity_lab.analysis.pruning import (
    Batches,
    Masks,
    check_sparsity,
    heads,
    magnitudes,
    n_of_m,
    neurons,
    nonzeros,
    smallest,
    unread,
    wanda,
)
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer
from sparsity_lab.training import checkpoint
from sparsity_lab.training.trainer import Training

OF_WEIGHTS = ("magnitude", "magnitude-layer", "wanda", "2:4", "heads", "neurons")
OF_EXPERTS = ("experts-load", "experts-loss", "merge")
METHODS = OF_WEIGHTS + OF_EXPERTS

CALIBRATION = 8_192  # tokens to choose by, of text that the run did not read


def prune(path: Path, method: str, sparsity: float, out: Path | None) -> dict[str, Any]:
    """Prunes the model of a checkpoint and, with ``out``, writes it there as a checkpoint of the same run: whoever goes
    on from it trains around the zeros.

    Gives ``loss_before`` and ``loss_after``, held out, nats a byte; ``weights`` before and ``nonzeros`` after by part
    of the model; forward ``flops`` a token before, and what is left of them for kernels that skip zeros, as
    ``flops_skipping_zeros``; ``n_experts`` after. Raises ValueError for a file that is no checkpoint, a method that is
    not known, what the method can't do, and a run that diverged.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known: use one of {', '.join(METHODS)}")
    state = checkpoint.peek(path)
    if state is None:
        raise ValueError(f"{path} is no Sparsity Lab checkpoint: name a file that `train --checkpoint` wrote")
    if out is not None:
        checkpoint.check_path(out)
    model, run = ModelConfig.from_dict(state["model"]), RunConfig.from_dict(state["run"])
    training = Training(model, run, checkpoint_path=path)
    weights, before = nonzeros(training.model), training.evaluate()
    if before is None:
        raise ValueError(f"{path} is of a run that diverged: name another checkpoint")
    batches = unread(training, CALIBRATION)
    if method in OF_WEIGHTS:
        training.prune(masks_of(training.model, method, sparsity, batches))
    else:
        training = _continued(training, without_experts(training.model, method, sparsity, batches))
    after = training.evaluate()
    if out is not None:
        training.save(out)
    left = nonzeros(training.model)
    return {
        "method": method,
        "sparsity": sparsity,
        "loss_before": before,
        "loss_after": after,
        "weights": weights,
        "nonzeros": left,
        "flops": sum(flops_by_part(model).values()),
        "flops_skipping_zeros": flops_skipping_zeros(training.model_config, left),
        "n_experts": training.model_config.n_experts,
        "out": None if out is None else str(out),
    }


def _continued(training: Training, smaller: Transformer) -> Training:
    """The same run with a smaller model; AdamW knows nothing of it yet."""
    new = Training(smaller.config, training.run_config, corpus=training.corpus)
    new.model.load_state_dict(smaller.state_dict())
    new.masks = {name: new.model.get_parameter(name).detach() != 0 for name in training.masks}
    new.steps_done = new.plan.steps if training.done else min(training.steps_done, new.plan.steps)
    new.seconds, new.losses = training.seconds, training.losses
    return new


def text(data: dict[str, Any]) -> str:
    """``data``: as `prune` gives it."""
    losses = f"{data['loss_before']:.4f} → {data['loss_after']:.4f}"
    rows = [(part, weights, data["nonzeros"][part]) for part, weights in data["weights"].items() if weights]
    rows.append(("all", sum(data["weights"].values()), sum(data["nonzeros"].values())))
    return "\n".join(
        [
            f"{data['method']}, sparsity {data['sparsity']:g}: held-out loss {losses} nats a byte",
            "",
            f"{'':<12}{'not 0 before':>14}{'not 0 after':>14}{'left':>8}",
            *(f"{part:<12}{weights:>14,}{left:>14,}{left / weights:>8.1%}" for part, weights, left in rows),
            "",
            f"forward FLOPs a token: {data['flops']:,}; if kernels skipped zeros {data['flops_skipping_zeros']:,.0f}",
            *([f"written to {data['out']}"] if data["out"] else []),
        ]
    )


def masks_of(model: Transformer, method: str, sparsity: float, batches: Batches) -> Masks:
    """The masks of a method of `OF_WEIGHTS`; all but the magnitudes' and 2:4's choose by Wanda's scores."""
    if method == "2:4":
        if sparsity != 0.5:
            raise ValueError(f"sparsity={sparsity:g}: 2:4 keeps two of four, use 0.5")
        return n_of_m(wanda(model, batches))
    if method.startswith("magnitude"):
        return smallest(magnitudes(model), sparsity, "model" if method == "magnitude" else "matrix")
    scores = wanda(model, batches)
    if method == "wanda":
        return smallest(scores, sparsity, "row")
    return neurons(scores, sparsity) if method == "neurons" else heads(model, scores, sparsity)


def without_experts(model: Transformer, method: str, sparsity: float, batches: Batches) -> Transformer:
    """The smaller model of a method of `OF_EXPERTS`: round(sparsity·E) experts a layer go."""
    check_sparsity(sparsity)
    n = model.config.n_experts - round(sparsity * model.config.n_experts)
    smaller_config(model.config, n)  # says what is wrong before the work
    if method == "experts-loss":
        return keep_experts(model, most(expert_losses(model, batches), n))
    loads_LE = expert_loads(model, batches)
    return merge_experts(model, loads_LE, n) if method == "merge" else keep_experts(model, most(loads_LE, n))
