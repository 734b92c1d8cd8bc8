"""Several processes train one model: each has its share of the batch and, if asked, of the experts.

Start them with ``torchrun --nproc-per-node 2 -m sparsity_lab train … --parallel experts``. Losses are those of one
process with the whole batch, up to rounding.

Legend: R processes, N tokens of this process, D model width, E experts, K experts per token, S slots: a row for each
(token, choice), M rows received.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Literal, NoReturn, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparsity_lab.config import one_of
from sparsity_lab.models import Transformer
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.router import Router, Routing

Mode = Literal["data", "experts"]


class Workers:
    """This process among the others. With ``data``, every process has the whole model. With ``experts``, each has its
    share of every layer's routed experts, and tokens travel to them (Lepikhin et al. 2020, arXiv 2006.16668)."""

    def __init__(self, mode: Mode):
        """Joins the group that ``torchrun`` made. Raises ValueError if there is none, and for an unknown mode."""
        one_of("parallel", mode, get_args(Mode))
        if "RANK" in os.environ and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        if not dist.is_initialized():
            raise ValueError(f"parallel={mode!r} needs several processes: start them with torchrun")
        self.mode, self.rank, self.size = mode, dist.get_rank(), dist.get_world_size()
        self.local_weights: set[int] = set()  # ids of weights whose rows no other process has

    def leave(self, status: int) -> NoReturn:
        """Ends this process once all others are here too. It skips Python's own shutdown, in which a thread of Gloo
        that lets go of a tensor aborts the process (github.com/pytorch/pytorch/pull/179291)."""
        dist.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def prepare(self, model: Transformer) -> None:
        """Keeps this process's share of a model that every process built from one seed. Raises ValueError if the
        experts can't be shared out evenly, or for a router whose choices depend on the whole batch."""
        router = model.config.router
        if router in ("expert_choice", "random"):
            raise ValueError(f"router={router!r} chooses for the whole batch at once: train it in one process")
        self.local_weights = set()
        for module in model.modules():
            if isinstance(module, Router):
                module.all_reduce = self.sum
        if self.mode == "data":
            return

        if model.config.n_experts % self.size or not model.config.has_router:
            raise ValueError(f"n_experts={model.config.n_experts} can't be spread over {self.size} processes evenly")
        mine = model.config.n_experts // self.size
        for moe in model.modules():
            if isinstance(moe, MoE) and moe.router is not None:
                for name in ("gate_up_EDG", "down_EFD"):
                    whole = getattr(moe.experts, name).detach()
                    setattr(moe.experts, name, nn.Parameter(whole[self.rank * mine : (self.rank + 1) * mine].clone()))
                moe.experts.top_k = 1  # because what arrives is one row for each choice
                moe.route_to = partial(_spread, moe.route_to, self.size)
                self.local_weights |= {id(weight) for weight in moe.experts.parameters()}

    def share(self, batch_B: Tensor) -> Tensor:
        """Returns this process's sequences of a batch. Raises ValueError if they can't be shared out evenly."""
        if len(batch_B) % self.size:
            raise ValueError(f"batch_size={len(batch_B)} can't be spread over {self.size} processes evenly")
        return batch_B[self.rank :: self.size]

    def average_and_clip(self, model: Transformer, largest: float) -> None:
        """Turns the gradients of each process's mean loss, over its share, into those of the mean over all, and clips
        their norm over the whole model, wherever its parts are."""
        squares = torch.zeros(2)  # of weights that all processes share, and of those that only this one has
        for weight in model.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            if id(weight) not in self.local_weights:  # an expert that lives here already got the tokens of all
                dist.all_reduce(weight.grad)
            weight.grad /= self.size
            squares[int(id(weight) in self.local_weights)] += weight.grad.square().sum().cpu()
        norm = (squares[0] + self.sum(squares[1])).sqrt()
        nn.utils.clip_grads_with_norm_(model.parameters(), largest, norm)

    def sum(self, value: Tensor) -> Tensor:
        """Returns the sum over all processes."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def mean(self, value: float) -> float:
        return float(self.sum(torch.tensor(value, dtype=torch.float64))) / self.size

    def agree(self, decision: bool) -> bool:
        """Returns what the first process has decided; all of them have to ask."""
        decided = torch.tensor(int(decision))
        dist.broadcast(decided, 0)
        return bool(decided)

    def whole(self, weight: Tensor, value: Tensor) -> Tensor:
        """Returns, on the first process, ``value`` (a weight, or a moment of its gradient) with the rows that the other
        processes have; elsewhere, and if there are no such rows, ``value`` as it is. All have to ask, in one order."""
        if id(weight) not in self.local_weights or not value.ndim:
            return value
        parts = [torch.empty_like(value) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(value.contiguous(), parts)
        return torch.cat(parts) if parts else value

    def part(self, weight: Tensor, value: Tensor) -> Tensor:
        """Returns this process's part of what `whole` gave the first."""
        split = id(weight) in self.local_weights and value.ndim > 0  # a count of steps is the same everywhere
        return value[self.rank * len(weight) : (self.rank + 1) * len(weight)] if split else value


def _spread(compute: Callable[[Tensor, Routing], Tensor], size: int, x_ND: Tensor, routing: Routing) -> Tensor:
    """Sends each row to the process that has its expert, has it answered there, and brings the answer back."""
    N, K = routing.experts_NK.shape
    order_S = routing.experts_NK.flatten().argsort(stable=True)  # choices n·K + k, sorted by expert

    # first the counts, so that each process knows how many rows will come
    sent_RE = routing.counts_E.view(size, -1)
    got_RE = torch.empty_like(sent_RE)
    dist.all_to_all_single(got_RE, sent_RE.contiguous())
    sent, got = sent_RE.sum(1).tolist(), got_RE.sum(1).tolist()
    rows_MD = _exchange(x_ND.index_select(0, order_S // K), sent, got)

    local_E = torch.arange(got_RE.shape[1], device=x_ND.device)
    expert_M = local_E.repeat(size).repeat_interleave(got_RE.flatten())
    if len(rows_MD):  # each row has one expert, of weight 1: the sender weighs the answers
        ones_M1 = torch.ones(len(rows_MD), 1, device=x_ND.device, dtype=x_ND.dtype)
        nothing = ones_M1.new_zeros(())
        counts_E = got_RE.sum(0)
        rows_MD = compute(rows_MD, Routing(ones_M1, expert_M[:, None], counts_E, ones_M1, nothing, nothing))

    back_SD = _exchange(rows_MD, got, sent)
    answers_NKD = back_SD.index_select(0, order_S.argsort()).view(N, K, -1)
    return (answers_NKD * routing.weights_NK[..., None].to(x_ND.dtype)).sum(1)


def _exchange(x_SD: Tensor, send: list[int], receive: list[int]) -> Tensor:
    """Sends rows to the other processes and receives theirs; gradients travel the other way."""
    from torch.distributed.nn.functional import all_to_all_single  # here, because it imports all of torch's RPC

    out_MD = x_SD.new_empty(sum(receive), x_SD.shape[1])
    return all_to_all_single(out_MD, x_SD.contiguous(), receive, send)
