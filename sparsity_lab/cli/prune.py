"""Turn off weights or experts of a checkpoint, and see what that costs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsity_lab import analysis  # a room is imported when one of its names is used
from sparsity_lab.accounting import flops_by_part, flops_skipping_zeros
from sparsity_lab.config import ModelConfig, RunConfig, one_of

if TYPE_CHECKING:
    from sparsity_lab.analysis.pruning import Batches, Masks
    from sparsity_lab.models import Transformer
    from sparsity_lab.training import Training

OF_WEIGHTS = ("magnitude", "magnitude-layer", "wanda", "2:4", "heads", "neurons")
OF_EXPERTS = ("experts-load", "experts-loss", "merge")
METHODS = OF_WEIGHTS + OF_EXPERTS

CALIBRATION = 8_192  # tokens of text that the run did not read, to choose by


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a file that `train --checkpoint` wrote")
    methods = f"{', '.join(OF_WEIGHTS)}; for whole experts {', '.join(OF_EXPERTS)}"
    parser.add_argument("--method", required=True, help=methods)
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of them that goes (default 0.5)")
    parser.add_argument("--out", metavar="FILE", help="write the pruned checkpoint here")


def run(options: argparse.Namespace) -> None:
    """Prunes the model of a checkpoint and, with ``--out``, writes a checkpoint of the same run there. A run that
    resumes from it trains around the zeros.

    The JSON has the held-out ``loss_before`` and ``loss_after``, in nats per byte; the ``weights`` before and
    ``nonzeros`` after, by part of the model; forward ``flops`` per token before, and those of kernels that skip zeros
    after, as ``flops_skipping_zeros``; ``n_experts`` after.
    """
    path, method, sparsity = Path(options.checkpoint), options.method, options.sparsity
    out = Path(options.out) if options.out else None
    one_of("method", method, METHODS)
    if not 0 <= sparsity < 1:  # before torch is loaded
        raise ValueError(f"sparsity={sparsity} must be at least 0 and below 1: at 1 nothing would be left; try 0.5")
    if method == "2:4" and sparsity != 0.5:
        raise ValueError(f"sparsity={sparsity:g}: 2:4 keeps two of four, use 0.5")

    from sparsity_lab.training import Training, checkpoint

    pruning = analysis.pruning
    state = checkpoint.peek(path)
    if state is None:
        raise ValueError(f"{path} is no Sparsity Lab checkpoint: name a file that `train --checkpoint` wrote")
    if out is not None:
        checkpoint.check_path(out)
    model, config = ModelConfig.from_dict(state["model"]), RunConfig.from_dict(state["run"])
    training = Training(model, config)
    training.resume(path)
    weights, before = pruning.nonzeros(training.model), training.evaluate()
    if before is None:
        raise ValueError(f"{path} is of a run that diverged: name another checkpoint")

    batches = pruning.unread(training, CALIBRATION)
    if method in OF_WEIGHTS:
        training.prune(_masks(training.model, method, sparsity, batches))
    else:
        training = _continued(training, _without_experts(training.model, method, sparsity, batches))
    after = training.evaluate()
    if out is not None:
        training.save(out)

    left = pruning.nonzeros(training.model)
    data = {
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
    print(json.dumps(data) if options.json else _text(data))


def _masks(model: "Transformer", method: str, sparsity: float, batches: "Batches") -> "Masks":
    """Returns the masks of a method of `OF_WEIGHTS`. All but those by magnitude choose by Wanda's scores."""
    pruning = analysis.pruning
    if method.startswith("magnitude"):
        return pruning.smallest(pruning.magnitudes(model), sparsity, "model" if method == "magnitude" else "matrix")
    scores = pruning.wanda(model, batches)
    if method == "2:4":
        return pruning.n_of_m(scores)
    if method == "wanda":
        return pruning.smallest(scores, sparsity, "row")
    return pruning.neurons(scores, sparsity) if method == "neurons" else pruning.heads(model, scores, sparsity)


def _without_experts(model: "Transformer", method: str, sparsity: float, batches: "Batches") -> "Transformer":
    """Returns the smaller model of a method of `OF_EXPERTS`: every layer loses round(sparsity·E) experts."""
    experts = analysis.expert_pruning
    n = model.config.n_experts - round(sparsity * model.config.n_experts)
    experts.smaller_config(model.config, n)  # raises what is wrong before the work begins
    if method == "experts-loss":
        return experts.keep_experts(model, experts.most(experts.expert_losses(model, batches), n))
    loads_LE = experts.expert_loads(model, batches)
    if method == "merge":
        return experts.merge_experts(model, loads_LE, n)
    return experts.keep_experts(model, experts.most(loads_LE, n))


def _continued(training: "Training", smaller: "Transformer") -> "Training":
    """Returns the same run with a smaller model, for which AdamW has no moments yet."""
    new = type(training)(smaller.config, training.run_config, corpus=training.corpus)
    new.model.load_state_dict(smaller.state_dict())
    new.masks = {name: new.model.get_parameter(name).detach() != 0 for name in training.masks}
    new.steps_done = new.plan.steps if training.done else min(training.steps_done, new.plan.steps)
    new.seconds, new.losses = training.seconds, training.losses
    return new


def _text(data: dict[str, Any]) -> str:
    import pandas as pd

    table = pd.DataFrame({"not 0 before": data["weights"], "not 0 after": data["nonzeros"]})
    table = table[table["not 0 before"] > 0]
    table.loc["all"] = table.sum()
    table["left"] = table["not 0 after"] / table["not 0 before"]
    rows = table.to_string(formatters=["{:,}".format, "{:,}".format, "{:.1%}".format])

    losses = f"{data['loss_before']:.4f} → {data['loss_after']:.4f}"
    heading = f"{data['method']}, sparsity {data['sparsity']:g}: held-out loss {losses} nats per byte"
    flops = f"{data['flops']:,}, or {data['flops_skipping_zeros']:,.0f} if kernels skipped zeros"
    written = f"\nwritten to {data['out']}" if data["out"] else ""
    return f"{heading}\n\n{rows}\n\nforward FLOPs per token: {flops}{written}"
