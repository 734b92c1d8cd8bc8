"""A budget of FLOPs goes in; a trained model and its record come out.

    for event in train(ModelConfig(n_experts=16), RunConfig(budget=1e11)):
        ...  # Step, Step, …, Record

The run stops at the last whole step within its budget. For one seed, thread count and machine it gives the same numbers
every time, even if it was stopped and resumed from its checkpoint.
"""

import inspect
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sparsity_lab
from sparsity_lab.accounting import count_parameters, flops_per_step, plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.files import StrangeFile, set_aside
from sparsity_lab.models import Transformer, routes
from sparsity_lab.models.ops import keep_heap
from sparsity_lab.models.router import Router
from sparsity_lab.record import CURVE_POINTS, Record, Status, Step, decimate, run_id
from sparsity_lab.training import checkpoint
from sparsity_lab.training.batches import Windows, validation_batches
from sparsity_lab.training.compiled import available, should_compile
from sparsity_lab.training.compiled import loss as compiled_loss
from sparsity_lab.training.corpus import Corpus, load_corpus
from sparsity_lab.training.distributed import Workers

Event = Step | Record

LOSSES_AT_ONCE = 16  # steps of a GPU between two looks at their losses, for which it has to be waited for


class Training:
    """One run: build it, call `step` until `done`, then `evaluate` and `record`. `train` does just that.

    With ``checkpoint_path``, the run saves itself there every ``checkpoint_seconds``. If the file is already there, the
    run resumes from it, with as many processes as there are now. If it can't, because the file is torn, of another
    version or of another text, the file is set aside; ``notice`` then says so, as a warning does, and the run starts
    anew. Another run's checkpoint, and what has not the name of one, stays and raises ValueError.
    ``compiled`` has compiled code make the steps, if it can be made. A run that resumes goes on as it began, with the
    libraries that it began with. Raises ValueError if the budget does not pay for one step.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        run_config: RunConfig,
        *,
        corpus: Corpus | None = None,
        checkpoint_path: Path | str | None = None,
        checkpoint_seconds: float = 30.0,
        compiled: bool = False,
        workers: Workers | None = None,
    ):
        run_config = resolve(model_config, run_config)
        self.model_config, self.run_config = model_config, run_config
        self.plan = plan(model_config, run_config)
        self.corpus = corpus or load_corpus(run_config.corpus)
        if model_config.vocab_size < 256:  # tokens are bytes
            raise ValueError(f"vocab_size={model_config.vocab_size} is too small for the corpus: use 256")

        self.device = choose_device(run_config.device)
        torch.set_num_threads(run_config.threads)
        keep_heap()
        self.routes = routes.here() if self.device.type == "cpu" else None
        alone = workers is None  # several processes exchange gradients and loads within a step
        self.compiled = compiled and alone and available(model_config, run_config)
        torch.manual_seed(run_config.seed)
        self.model = Transformer(model_config, run_config.backend, getattr(torch, run_config.dtype)).to(self.device)
        self.workers = workers
        if workers is not None:  # before the optimizer, because it may replace weights by this process's share
            workers.prepare(self.model)
        self.routers = [m for m in self.model.modules() if isinstance(m, Router)] if model_config.bias_rate else []
        self.parameters = list(self.model.parameters())
        self.optimizer = _adamw(self.model, run_config)
        self.windows = Windows(self.corpus.train, model_config.context, run_config.order)

        self.steps_done, self.seconds, self.cpu_seconds, self.diverged = 0, 0.0, 0.0, False
        self.losses: list[float] = []  # of the steps, as far as they were read
        self._unread: list[torch.Tensor] = []  # of the steps after those
        self.notice = ""  # of what the learner should know
        self.masks: dict[str, torch.Tensor] = {}  # by name of the weight; where they are False the weight stays 0

        self._checkpoint_path = Path(checkpoint_path) if checkpoint_path else None
        self._checkpoint_seconds, self._saved_at = checkpoint_seconds, time.monotonic()
        if self._checkpoint_path:
            checkpoint.check_path(self._checkpoint_path)
            if self._agreed(self._checkpoint_path.exists()):
                self._resume_or_begin(self._checkpoint_path)

    @property
    def done(self) -> bool:
        return self.diverged or self.steps_done == self.plan.steps

    def step(self) -> Step:
        """Trains on the next batch."""
        start, cpu_start = time.perf_counter(), time.process_time()
        run = self.run_config
        rate = learning_rate_at(self.steps_done, self.plan.steps, run)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        x_BT, y_BT = self.windows.batch(self.steps_done, run.sequences)
        if self.workers is not None:
            x_BT, y_BT = self.workers.share(x_BT), self.workers.share(y_BT)
        self._use_routes()
        if not self.model.training:
            self.model.train()  # because an evaluation may have come before
        loss_of = partial(compiled_loss, self.model) if self.compiled else self.model.loss
        loss, aux_loss = loss_of(*self._on_device(x_BT, y_BT))
        (loss + aux_loss).backward()

        for name, mask in self.masks.items():
            gradient = self.model.get_parameter(name).grad
            if gradient is not None:  # pruned weights must not count when gradients are clipped
                gradient.mul_(mask)
        if self.workers is None:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
            self.optimizer.grad_scale = (norm / run.grad_clip).clamp_(min=1)  # it divides by that while it reads them
        else:
            self.workers.average_and_clip(self.model, run.grad_clip)
        self.optimizer.step()
        self.prune({})  # because the optimizer may have moved what is pruned: its moments are older than the masks
        for router in self.routers:
            router.update_bias()
        self.optimizer.zero_grad(set_to_none=True)

        self._unread.append(loss.detach())
        self.steps_done += 1
        if self.device.type == "cpu" or self.steps_done % LOSSES_AT_ONCE == 1 or self.done:
            self.read_losses()
        self.seconds += time.perf_counter() - start
        self.cpu_seconds += time.process_time() - cpu_start
        if self._checkpoint_path and self._agreed(time.monotonic() - self._saved_at >= self._checkpoint_seconds):
            self.save(self._checkpoint_path)

        return Step(
            step=self.steps_done,
            steps=self.plan.steps,
            tokens=self.steps_done * run.sequences * self.model_config.context,
            flops=self.steps_done * flops_per_step(self.model_config, run.sequences),
            loss=self.losses[-1],  # on a GPU, the last one that was read
            learning_rate=rate,
            seconds=self.seconds,
        )

    def read_losses(self) -> None:
        """Waits for the steps under way, and takes over their losses and whether one of them diverged. A step does so
        by itself on a CPU; on a GPU only every `LOSSES_AT_ONCE` steps, so that the next is prepared meanwhile."""
        new = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for number, loss in enumerate(new, start=1):
            self.losses.append(loss if self.workers is None else self.workers.mean(loss))
            self.diverged = not math.isfinite(self.losses[-1])
            if self.diverged:
                self.steps_done -= len(new) - number  # those after it mean nothing
                return

    def _on_device(self, *batch: torch.Tensor) -> list[torch.Tensor]:
        return [x_BT.to(self.device, non_blocking=True) for x_BT in batch]

    @torch.no_grad()
    def prune(self, masks: dict[str, torch.Tensor]) -> None:
        """Keeps weights at 0 from now on where their mask is False (bool, of their shape, made by `analysis.pruning`),
        also after the run resumes from a checkpoint. A pruned weight stays pruned, whatever a later mask says."""
        self.masks |= {name: mask & self.masks.get(name, mask) for name, mask in masks.items()}
        for name, mask in self.masks.items():
            self.model.get_parameter(name).mul_(mask)

    @torch.no_grad()
    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> float | None:
        """Returns the mean cross-entropy on held-out text, nats per token; None if ``stop`` or divergence ended it."""
        self.read_losses()
        if self.diverged:
            return None

        self._use_routes()
        self.model.eval()
        total, count = torch.zeros((), dtype=torch.float64, device=self.device), 0
        batches = validation_batches(self.corpus.val, self.model_config.context, 16, self.run_config.eval_tokens)
        for x_BT, y_BT in batches:
            if stop():
                return None
            loss, _ = self.model.loss(*self._on_device(x_BT, y_BT))
            total, count = total + loss.double() * x_BT.numel(), count + x_BT.numel()

        mean = total.item() / count
        self.diverged = not math.isfinite(mean)  # the weights may have broken in the last step
        return None if self.diverged else mean

    def _use_routes(self) -> None:
        if self.routes is not None:
            routes.use(self.routes)

    def record(self, val_loss: float | None, curve_points: int = CURVE_POINTS) -> Record:
        """Returns what is kept of the run, as it stands now."""
        self.read_losses()
        model, run, params = self.model_config, self.run_config, count_parameters(self.model_config)
        step_flops = flops_per_step(model, run.sequences)
        lab, python = sparsity_lab.__version__, platform.python_version()
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else ""
        library = str(torch.__version__)  # as it is, it would import torch wherever the record is unpickled
        measured = self.done and val_loss is not None
        status: Status = "diverged" if self.diverged else "finished" if measured else "stopped"

        return Record(
            status=status,
            val_loss=val_loss,
            val_bits=None if val_loss is None else val_loss / math.log(2),
            flops=self.steps_done * step_flops,
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
            device=gpu or platform.processor() or platform.machine(),
            versions={"sparsity_lab": lab, "torch": library, "python": python},
            curve=decimate(self.losses, step_flops, curve_points),
            routes=self.routes.to_dict() if self.routes else None,
            compiled=self.compiled,
            cpu_seconds=round(self.cpu_seconds, 3),
        )

    def save(self, path: Path | str) -> None:
        """Writes all that `Training` needs to resume, in one file, atomically. Every process has to call it."""
        self.read_losses()
        state = {"step": self.steps_done, "losses": self.losses, **self._identity()}
        state |= {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        state |= {"routes": self.routes.to_dict() if self.routes else None, "compiled": self.compiled}
        if self.masks:  # by name alone, because their zeros are in the weights
            state["pruned"] = list(self.masks)
        checkpoint.save(Path(path), self.model, self.optimizer, state, self.workers)
        self._saved_at = time.monotonic()

    def resume(self, path: Path | str) -> None:
        """Goes back to where the run was saved. Raises ValueError, and changes nothing, if the file is no checkpoint of
        this run."""
        state = checkpoint.load(Path(path), self.model, self.optimizer, self._identity(), self.workers)
        self.steps_done, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.cpu_seconds = state.get("cpu_seconds", 0.0)
        self.diverged = bool(self.losses) and not math.isfinite(self.losses[-1])
        self.masks = {name: self.model.get_parameter(name).detach() != 0 for name in state.get("pruned", [])}
        self.compiled = state.get("compiled", False) and available(self.model_config, self.run_config)
        if self.routes is not None and state.get("routes"):
            self.routes = routes.Routes.from_dict(state["routes"])

    def _resume_or_begin(self, path: Path) -> None:
        fault = ""
        try:
            self.resume(path)
        except ValueError as error:
            fault = str(error)
        if not self._agreed(bool(fault)):
            if fault:  # the first process could read it
                raise ValueError(fault)
            return
        if not self._agreed(self._may_be_moved(path)):
            raise ValueError(f"{fault}: delete it or name another file")
        if self.workers is None or self.workers.rank == 0:
            self.notice = f"{fault}. It is kept as {set_aside(path).name}, and the run starts anew."
            warnings.warn(self.notice, StrangeFile, stacklevel=3)

    def _may_be_moved(self, path: Path) -> bool:
        """Tells whether what lies there is, or was, this run's: what somebody has named by mistake must stay."""
        if path.stem == run_id(self.model_config, self.run_config):  # as the lab itself names it
            return True
        state = checkpoint.peek(path)
        if state is None:
            return path.suffix == ".safetensors"
        return all(state[key] == mine for key, mine in self._identity().items() if key != "corpus")

    def _agreed(self, decision: bool) -> bool:
        """Makes all processes decide as the first one does, because their clocks differ."""
        return decision if self.workers is None else self.workers.agree(decision)

    def _identity(self) -> dict[str, Any]:
        model, run = self.model_config.to_dict(), self.run_config.to_dict()
        return {"model": model, "run": run, "corpus": self.corpus.fingerprint}


def train(model_config: ModelConfig, run_config: RunConfig, **options: Any) -> Iterator[Event]:
    """Trains within the budget: yields a `Step` after each, and a `Record`. ``options`` are those of `Training`; unless
    they say otherwise, a long run is compiled (`should_compile`)."""
    options = {"compiled": should_compile(model_config, run_config)} | options
    training = Training(model_config, run_config, **options)
    while not training.done:
        yield training.step()
    yield training.record(training.evaluate())


def learning_rate_at(step: int, steps: int, run: RunConfig) -> float:
    """Returns a rate that warms up linearly over ``run.warmup`` of the steps and decays linearly over the last
    ``run.decay`` (Hägele et al. 2024, arXiv 2405.18392: as good as a cosine, with a plateau for any length of run)."""
    assert run.learning_rate is not None
    up = (step + 1) / (run.warmup * steps + 1)
    down = (steps - step) / (run.decay * steps + 1)
    return run.learning_rate * min(1.0, up, down)


def choose_device(name: str) -> torch.device:
    """Takes, for ``auto``, the GPU if there is one. Raises ValueError for ``cuda`` without one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' but torch finds no CUDA GPU: use device='auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class AdamW(torch.optim.AdamW):
    """Torch's own AdamW without the wrappers of its methods. They import the compiler, which takes some 100 MB and a
    second or two, only to tell it to stay out. ``grad_scale`` is what it divides gradients by."""

    grad_scale: torch.Tensor | None = None
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def _adamw(model: Transformer, run: RunConfig) -> AdamW:
    """Applies weight decay to matrices only, as usual, because a norm's gain is a scale and need not be small."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": run.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=run.learning_rate or 0.0, betas=(0.9, 0.95), fused=True)
