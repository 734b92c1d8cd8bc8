"""What is told of a run, step by step, and what is kept of it: its `Record`, the name that its configs give it, and its
row in a table of runs."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal, Self, TypedDict

from sparsity_lab import schema
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.units import flops, power

CURVE_POINTS = 512


@dataclass(frozen=True)
class Step:
    """One training step, just done."""

    step: int  # from 1
    steps: int  # of the whole run
    tokens: int  # read so far
    flops: int  # used so far
    loss: float  # training cross-entropy of this batch, nats per token
    learning_rate: float
    seconds: float  # of training so far, without pauses

    @property
    def seconds_left(self) -> float:
        return self.seconds / self.step * (self.steps - self.step)


class TextName(TypedDict):
    """The corpus of a run."""

    name: str
    fingerprint: str  # of a `Corpus`; empty if the run failed


class LossCurve(TypedDict):
    """The training loss, in nats per token: means of neighbouring steps, each at the FLOPs where its steps end."""

    flops: list[float]
    loss: list[float]


Status = Literal["finished", "stopped", "diverged", "failed"]


@dataclass(frozen=True)
class Record:
    """What is kept of a run. ``val_loss`` is in nats per token (per byte, for the corpora here); None if the run
    diverged or was stopped before it could be measured."""

    status: Status
    val_loss: float | None
    val_bits: float | None  # bits per token
    flops: int
    tokens: int
    steps: int
    params_total: int
    params_active: int
    sparsity: float
    seconds: float
    seed: int
    model: dict[str, Any]
    run: dict[str, Any]
    corpus: TextName
    device: str
    versions: dict[str, str]
    curve: LossCurve
    error: str = ""  # what a failed run died of
    routes: dict[str, list[str]] | None = None  # the libraries that multiplied (`models.routes`), on a CPU
    compiled: bool = False  # whether the steps were compiled code (`training.compiled`)
    cpu_seconds: float | None = None  # of the training process: unlike ``seconds``, without what other work cost it
    scores: dict[str, float] | None = None  # shares of right answers by task (`task_scores.score_tasks`), if asked for

    @classmethod
    def from_json(cls, text: str | bytes, name: str | None = None) -> Self:
        """The inverse of `to_json`. Raises ValueError for what `to_json` can't have written, in this version, and if
        ``name`` is not the run's `run_id`."""
        record = cls(**schema.from_json(text, cls))
        model, run = record.model_config, record.run_config
        if len(record.curve["flops"]) != len(record.curve["loss"]):
            raise ValueError("curve has not as many losses as FLOPs")
        if (record.sparsity, record.seed) != (model.sparsity, run.seed):
            raise ValueError(f"sparsity={record.sparsity} and seed={record.seed} are not those of its configs")
        if name not in (None, found := run_id(model, run)):
            raise ValueError(f"it is of the run {found}")
        return record

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def ended(self) -> bool:
        """Whether the run came to its end: it was trained and measured, or it diverged. If not, it is worth another
        try."""
        return self.status == "diverged" or (self.status == "finished" and self.val_loss is not None)

    @property
    def model_config(self) -> ModelConfig:
        """Raises ValueError for a config of another version, as `run_config` does."""
        return ModelConfig.from_dict(self.model)

    @property
    def run_config(self) -> RunConfig:
        return RunConfig.from_dict(self.run)

    @property
    def id(self) -> str:
        """The `run_id` of the run that left this record."""
        return run_id(self.model_config, self.run_config)

    @property
    def label(self) -> str:
        """The run's name in legends and tables."""
        return run_label(self.model_config, self.run_config)

    def row(self, name: str | None = None) -> dict[str, Any]:
        """The record as a row of a table of runs, with the columns `COLUMNS`: everything that is one number or word,
        and the shape. The run's `run_id`, as ``name``, spares building the configs."""
        chosen = self.run.get("batch_size") and self.run.get("learning_rate")
        run = self.run if chosen else resolve(self.model_config, self.run_config).to_dict()
        found = {"id": name or self.id} | {column: getattr(self, column) for column in OF_RECORD}
        found |= {column: self.model.get(field, getattr(ModelConfig, field)) for column, field in OF_MODEL.items()}
        found |= {column: run.get(column, getattr(RunConfig, column)) for column in OF_RUN}
        return found | {"fingerprint": self.corpus["fingerprint"]} | {column: getattr(self, column) for column in LATER}

    def summary(self) -> str:
        """A sentence that says how the run ended."""
        kind = "Dense" if self.sparsity == 0 else f"Sparsity {self.sparsity:.3g}"
        if self.status == "failed":
            return f"{kind}: failed; {self.error}"
        if self.status == "diverged":
            return f"{kind}: diverged after {self.steps:,} steps; lower the learning rate."
        measured = self.val_loss is not None
        loss = f"held-out loss {self.val_loss:.3f} nats per byte" if measured else "held-out loss not measured"
        return f"{kind}: {self.status} after {flops(self.flops)}, {loss}."


def run_id(model: ModelConfig, run: RunConfig) -> str:
    """Sixteen hex digits that name a run: a hash of what its two configs, the lab's choices made, say beyond the
    defaults. So a field that a later version adds, its default doing what was done before, renames no run."""
    text = json.dumps([_beyond_defaults(model), _beyond_defaults(resolve(model, run))], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _beyond_defaults(config: ModelConfig | RunConfig) -> dict[str, Any]:
    fields = config.__dataclass_fields__
    return {name: value for name, value in vars(config).items() if value != fields[name].default}


def run_label(model: ModelConfig, run: RunConfig) -> str:
    """A run's name in legends and tables."""
    kind = "dense" if model.sparsity == 0 else f"S {model.sparsity:.3g}"
    held = "" if model.d_expert == 3 * model.d_model else ", total held"
    budget = power(float(f"{run.budget:.0e}"))
    depth = "" if model.n_layers == ModelConfig().n_layers else f", {model.n_layers} layer{'s'[: model.n_layers > 1]}"
    order = "" if run.order_seed is None else f", order {run.order_seed}"
    return f"{kind}, width {model.d_model}{depth}, {budget}, seed {run.seed}{order}{held}"


def decimate(losses: list[float], step_flops: int, points: int = CURVE_POINTS) -> LossCurve:
    """Returns means of neighbouring steps, at most ``points`` of them, each at the FLOPs where its steps end. The last
    loss of a diverged run, which is not a number, is left out."""
    losses = [loss for loss in losses if math.isfinite(loss)]
    width = max(1, math.ceil(len(losses) / points))
    groups = [losses[i : i + width] for i in range(0, len(losses), width)]
    flops = [float(end * step_flops) for end in accumulate(map(len, groups))]
    return {"flops": flops, "loss": [round(sum(group) / len(group), 5) for group in groups]}


OF_RECORD = ("status", "val_loss", "sparsity", "flops", "seed", "params_total", "params_active", "tokens", "steps",
             "seconds")  # fmt: skip
SHAPE = ("n_layers", "n_experts", "top_k", "n_shared_experts", "d_expert")
OF_MODEL = {"width": "d_model"} | {name: name for name in SHAPE}
OF_RUN = ("budget", "batch_size", "learning_rate")
LATER = ("compiled", "cpu_seconds")  # fields that older records lack
COLUMNS = ("id", *OF_RECORD, *OF_MODEL, *OF_RUN, "fingerprint", *LATER)
