"""A budget of FLOPs in, a trained model and its record out.

    for event in train(ModelConfig(n_experts=16), RunConfig(budget=1e11)):
        ...  # Step, Step, …, Record

The run stops at the last whole step within its budget. For one seed, thread count and machine it gives the same numbers
every time, also when it was stopped and went on from its checkpoint.
"""

import inspect
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import sparsity_lab
from sparsity_lab.accounting import count_parameters, flops_per_step, plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.models import Transformer
from sparsity_lab.models.ops import keep_heap
from sparsity_lab.models.router import Router, RoutingStats
from sparsity_lab.record import Record
from sparsity_lab.training import checkpoint
from sparsity_lab.training.batches import Windows, validation_batches
from sparsity_lab.training.corpus import Corpus, load_corpus
from sparsity_lab.training.distributed import Workers

CURVE_POINTS = 512


@dataclass(frozen=True)
class Step:
    """One training step, just done."""

    step: int  # from 1
    steps: int  # of the whole run
    tokens: int  # read so far
    flops: int  # used so far
    loss: float  # training cross-entropy of this batch, nats a token
    learning_rate: float
    seconds: float  # of training so far, without pauses
    routing: Callable[[], list[RoutingStats]] = field(repr=False)  # of this batch; costs only when called

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        return self.seconds / self.step * (self.steps - self.step)


Event = Step | Record


class Training:
    """One run: build it, call `step` until `done`, then `evaluate` and `record`. `train` does just that.

    With ``checkpoint_path`` the run saves itself there every ``checkpoint_seconds`` and, if the file is already there,
    goes on from it, with as many processes as there are now. Raises ValueError if the budget does not pay for one step,
    or if the checkpoint is of another run.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        run_config: RunConfig,
        *,
        corpus: Corpus | None = None,
        checkpoint_path: Path | str | None = None,
        checkpoint_seconds: float = 30.0,
        workers: Workers | None = None,
    ):
        run_config = resolve(model_config, run_config)
        self.plan = plan(model_config, run_config)
        self.corpus = corpus or load_corpus(run_config.corpus)
        if self.corpus.vocab_size > model_config.vocab_size:
            raise ValueError(
                f"vocab_size={model_config.vocab_size} is too small for the corpus: use {self.corpus.vocab_size}"
            )
        self.model_config, self.run_config = model_config, run_config
        self.device = choose_device(run_config.device)
        torch.set_num_threads(run_config.threads)
        keep_heap()
        torch.manual_seed(run_config.seed)
        self.model = Transformer(model_config, run_config.backend, getattr(torch, run_config.dtype)).to(self.device)
        self.workers = workers
        if workers is not None:
            workers.prepare(self.model)
        self.routers = [m for m in self.model.modules() if isinstance(m, Router)] if model_config.bias_rate else []
        self.optimizer = _adamw(self.model, self.run_config)
        self.windows = Windows(self.corpus.train, model_config.context, run_config.seed)
        self.steps_done = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.diverged = False
        self.masks: dict[str, torch.Tensor] = {}  # of weights, by name; where they are False the weights stay 0
        self._checkpoint_path = Path(checkpoint_path) if checkpoint_path else None
        if self._checkpoint_path:
            checkpoint.check_path(self._checkpoint_path)
        self._checkpoint_seconds = checkpoint_seconds
        self._saved_at = time.monotonic()
        if self._checkpoint_path and self._agreed(self._checkpoint_path.exists()):
            self._resume(self._checkpoint_path)

    @property
    def done(self) -> bool:
        return self.diverged or self.steps_done == self.plan.steps

    def step(self) -> Step:
        """Trains on the next batch."""
        start = time.perf_counter()
        run = self.run_config
        rate = learning_rate_at(self.steps_done, self.plan.steps, run)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x_BT, y_BT = self.windows.batch(self.steps_done, run.sequences)
        if self.workers is not None:
            x_BT, y_BT = self.workers.share(x_BT), self.workers.share(y_BT)
        self.model.train()
        loss, aux_loss = self.model.loss(x_BT.to(self.device), y_BT.to(self.device))
        (loss + aux_loss).backward()
        for name, mask in self.masks.items():
            gradient = self.model.get_parameter(name).grad
            if gradient is not None:  # what is off must not count when gradients are clipped
                gradient.mul_(mask)
        if self.workers is None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), run.grad_clip)
        else:
            self.workers.average_gradients(self.model)
            self.workers.clip(self.model, run.grad_clip)
        self.optimizer.step()
        self.prune({})
        for router in self.routers:
            router.update_bias()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.item() if self.workers is None else self.workers.mean(loss.item()))
        self.diverged = not math.isfinite(self.losses[-1])
        self.steps_done += 1
        self.seconds += time.perf_counter() - start
        if self._checkpoint_path and self._agreed(time.monotonic() - self._saved_at >= self._checkpoint_seconds):
            self.save(self._checkpoint_path)
        return Step(
            step=self.steps_done,
            steps=self.plan.steps,
            tokens=self.steps_done * run.sequences * self.model_config.context,
            flops=self.steps_done * flops_per_step(self.model_config, run.sequences),
            loss=self.losses[-1],
            learning_rate=rate,
            seconds=self.seconds,
            routing=self.model.routing,
        )

    @torch.no_grad()
    def prune(self, masks: dict[str, torch.Tensor]) -> None:
        """Weights are 0 from now on where their mask is False (bool, of their shape, made by `analysis.pruning`),
        also in a run that goes on from the checkpoint. What is off stays off, whatever a later mask says."""
        self.masks |= {name: mask & self.masks.get(name, mask) for name, mask in masks.items()}
        for name, mask in self.masks.items():
            self.model.get_parameter(name).mul_(mask)

    @torch.no_grad()
    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> float | None:
        """Mean cross-entropy on the held-out text, nats a token; None if ``stop`` said so or the run diverged."""
        if self.diverged:
            return None
        self.model.eval()
        total, count = 0.0, 0
        for x_BT, y_BT in validation_batches(
            self.corpus.val, self.model_config.context, 16, self.run_config.eval_tokens
        ):
            if stop():
                return None
            loss, _ = self.model.loss(x_BT.to(self.device), y_BT.to(self.device))
            total, count = total + loss.item() * x_BT.numel(), count + x_BT.numel()
        self.diverged = not math.isfinite(total)  # the weights may have broken in the last step
        return None if self.diverged else total / count

    def record(self, val_loss: float | None, curve_points: int = CURVE_POINTS) -> Record:
        """What is kept of the run as it stands."""
        model, run = self.model_config, self.run_config
        params = count_parameters(model)
        status = "diverged" if self.diverged else "finished" if self.done else "stopped"
        return Record(
            status=status,
            val_loss=val_loss,
            val_bits=None if val_loss is None else val_loss / math.log(2),
            flops=self.steps_done * flops_per_step(model, run.sequences),
            tokens=self.steps_done * run.sequences * model.context,
            steps=self.steps_done,
            params_total=params.total,
            params_active=params.active,
            sparsity=model.sparsity,
            seconds=round(self.seconds, 3),
            seed=run.seed,
            model=model.to_dict(),
            run=run.to_dict(),
            corpus={"name": self.corpus.name, "fingerprint": self.corpus.fingerprint},
            device=device_name(self.device),
            versions={
                "sparsity_lab": sparsity_lab.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            curve=decimate(self.losses, flops_per_step(model, run.sequences), curve_points),
        )

    def save(self, path: Path | str) -> None:
        """Writes all that `Training` needs to go on, in one safetensors file, atomically. Of several processes all have
        to call it."""
        state = {"step": self.steps_done, "seconds": self.seconds, "losses": self.losses, **self._identity()}
        if self.masks:  # their zeros are in the weights
            state["pruned"] = list(self.masks)
        checkpoint.save(Path(path), self.model, self.optimizer, state, self.workers)
        self._saved_at = time.monotonic()

    def _resume(self, path: Path) -> None:
        state = checkpoint.load(path, self.model, self.optimizer, self._identity(), self.workers)
        self.steps_done, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.diverged = bool(self.losses) and not math.isfinite(self.losses[-1])
        self.masks = {name: self.model.get_parameter(name).detach() != 0 for name in state.get("pruned", [])}

    def _agreed(self, decision: bool) -> bool:
        """The same for all processes, whose clocks differ."""
        return decision if self.workers is None else self.workers.agree(decision)

    def _identity(self) -> dict[str, Any]:
        return {
            "model": self.model_config.to_dict(),
            "run": self.run_config.to_dict(),
            "corpus": self.corpus.fingerprint,
        }


def train(
    model_config: ModelConfig,
    run_config: RunConfig,
    *,
    corpus: Corpus | None = None,
    checkpoint_path: Path | str | None = None,
    checkpoint_seconds: float = 30.0,
) -> Iterator[Event]:
    """Trains within the budget: a `Step` after every step, a `Record` at the end. Arguments as for `Training`."""
    training = Training(
        model_config,
        run_config,
        corpus=corpus,
        checkpoint_path=checkpoint_path,
        checkpoint_seconds=checkpoint_seconds,
    )
    while not training.done:
        yield training.step()
    yield training.record(training.evaluate())


def learning_rate_at(step: int, steps: int, run: RunConfig) -> float:
    """Peak rate with a linear warm-up over ``run.warmup`` of the steps and a linear decay over the last ``run.decay``
    (Hägele et al. 2024, arXiv 2405.18392: as good as a cosine, and the plateau does not depend on the length)."""
    assert run.learning_rate is not None
    up = (step + 1) / (run.warmup * steps + 1)
    down = (steps - step) / (run.decay * steps + 1)
    return run.learning_rate * min(1.0, up, down)


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one. Raises ValueError for ``cuda`` without one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' but torch finds no CUDA GPU: use device='auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()


def decimate(losses: list[float], flops_a_step: int, points: int = CURVE_POINTS) -> dict[str, list[float]]:
    """Means of neighbouring steps, at most ``points`` of them, each at the FLOPs where its steps end; a diverged run's
    last loss, which is no number, is left out."""
    losses = [loss for loss in losses if math.isfinite(loss)]
    width = max(1, math.ceil(len(losses) / points))
    groups = [losses[i : i + width] for i in range(0, len(losses), width)]
    ends = [min(i + width, len(losses)) for i in range(0, len(losses), width)]
    return {
        "flops": [float(end * flops_a_step) for end in ends],
        "loss": [round(sum(g) / len(g), 5) for g in groups],
    }


class AdamW(torch.optim.AdamW):
    """Torch's own, without what its methods are wrapped in: that imports the compiler, some 100 MB and a second or two,
    only to tell it to stay out."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def _adamw(model: Transformer, run: RunConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only, as usual: a norm's gain is no direction to shrink."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": run.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=run.learning_rate or 0.0, betas=(0.9, 0.95), fused=True)
