"""When does sparsity pay? One feed-forward layer in several formats, timed in turn on this machine.

The layer is SwiGLU, y = down(silu(gate(x)) · up(x)), which holds most of a model's weights. A format determines how a
product x @ w.T skips the zeros of w, if it does. Experts skip blocks of hidden numbers, other ones for each token.

Legend: N tokens, D width, F hidden width, G = 2·F gate and up side by side, M and D rows and columns of any matrix.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsity_lab.config import ModelConfig
from sparsity_lab.intervals import median_interval, percentile_interval
from sparsity_lab.models.experts import MoE
from sparsity_lab.models.ops import keep_heap, linear

Array = npt.NDArray[np.float64]
Product = Callable[[Tensor], Tensor]  # x (N, D) → x @ w.T (N, M)
Key = TypeVar("Key")

EXPERTS = "experts"
RESAMPLES = 400


# ---- Formats


def dense(w_MD: Tensor) -> Product:
    """Returns the lab's own product: MKL, or oneDNN where that is faster."""
    return lambda x_ND: linear(x_ND, w_MD)


def compressed(block: int) -> Callable[[Tensor], Product]:
    """Compressed rows of the square blocks that are not zero, with the number of each one's column; block 1 is CSR."""

    def make(w_MD: Tensor) -> Product:
        w = w_MD.to_sparse_csr() if block == 1 else w_MD.to_sparse_bsr((block, block))
        # int32 because MKL wants it, and torch would convert in every call.
        parts = (w.crow_indices().int(), w.col_indices().int(), w.values())
        narrow = torch.sparse_compressed_tensor(*parts, w.shape, layout=w.layout, check_invariants=False)
        return lambda x_ND: (narrow @ x_ND.t()).t()

    return make


def two_of_four(w_MD: Tensor) -> Product:
    """Two zeros in every four neighbours, which NVIDIA's tensor cores skip (Mishra et al. 2021, arXiv 2104.08378)."""
    w = torch.sparse.to_sparse_semi_structured(w_MD)
    return lambda x_ND: F.linear(x_ND, w)


def quantised(x_MD: Tensor, largest: int = 127) -> tuple[Tensor, Tensor]:
    """Rounds to whole numbers up to ``largest``, in int8, and a float scale for each row, (M, D) and (M, 1):
    x ≈ scale · numbers, off by at most scale / 2."""
    scale_M1 = (x_MD.abs().amax(-1, keepdim=True) / largest).clamp(min=torch.finfo(x_MD.dtype).tiny)
    return (x_MD / scale_M1).round().to(torch.int8), scale_M1


@cache
def largest_weight() -> int:
    """Returns the largest int8 weight with which torch's int8 product is right here: 127, or 63 on processors without
    VNNI instructions, where oneDNN adds two products, of a number up to 255 and a weight each, in 16 bits (oneDNN's
    developer guide, "Nuances of int8 computations")."""
    ones = torch.full((32, 32), 127, dtype=torch.int8)
    return 127 if (torch._int_mm(ones, ones.t()) == 32 * 127**2).all() else 63


def int8(w_MD: Tensor) -> Product:
    """A weight is one byte, and nothing is skipped: each row of w (output) has a scale, and each row of x (token) gets
    one in every call, as in LLM.int8() without its outliers (Dettmers et al. 2022, arXiv 2208.07339). D must be above
    1, because torch 2.13's product of a single transposed column is wrong on a CPU."""
    q_MD, scale_M1 = quantised(w_MD, largest_weight())
    q_DM, scale_M = q_MD.t(), scale_M1.view(-1)

    def product(x_ND: Tensor) -> Tensor:
        q_ND, scale_N1 = quantised(x_ND)
        return torch._int_mm(q_ND, q_DM).to(x_ND.dtype).mul_(scale_N1).mul_(scale_M)

    return product


def int8_bound(x_ND: Tensor, w_MD: Tensor) -> Tensor:
    """Computes the largest possible |int8(w)(x) − x @ w.T|, (N, M), without float rounding: x = s·q + a and
    w = t·p + b with |a| ≤ s/2 and |b| ≤ t/2, so Σ_d |x w − s q t p| ≤ t/2 · Σ|x| + s/2 · Σ|w| + D·s·t/4."""
    s_N1, t_1M = quantised(x_ND)[1], quantised(w_MD, largest_weight())[1].t()
    x_N1, w_1M = x_ND.abs().sum(-1, keepdim=True), w_MD.abs().sum(-1, keepdim=True).t()
    return t_1M / 2 * x_N1 + s_N1 / 2 * w_1M + x_ND.shape[-1] * s_N1 * t_1M / 4


@dataclass(frozen=True)
class Format:
    product: Callable[[Tensor], Product]
    block: int | None = None  # zeros come in squares of this side; None: the time does not depend on zeros


FORMATS = {
    "dense": Format(dense),
    "zeros": Format(dense),  # most weights are zero, and a dense product does not look
    "int8": Format(int8),
    "csr": Format(compressed(1), 1),
    "bsr 16": Format(compressed(16), 16),
    "bsr 64": Format(compressed(64), 64),
    "2:4": Format(two_of_four),
}


def mask(rows: int, columns: int, sparsity: float, block: int, generator: torch.Generator) -> Tensor:
    """Draws which weights stay, (rows, columns) bool: a share ``sparsity`` of the squares of side ``block`` is zero.
    Raises ValueError if squares do not fill the matrix."""
    if rows % block or columns % block:
        raise ValueError(f"block={block} must divide both {rows} rows and {columns} columns")
    squares = (rows // block, columns // block)
    n = math.prod(squares)
    keep = torch.randperm(n, generator=generator) >= round(sparsity * n)
    return keep.view(squares).repeat_interleave(block, 0).repeat_interleave(block, 1)


def swiglu(x_ND: Tensor, gate_up: Product, down: Product) -> Tensor:
    gate_NF, up_NF = gate_up(x_ND).chunk(2, -1)
    return down(F.silu(gate_NF) * up_NF)


# ---- Bytes


def weight_bytes(name: str, width: int, hidden: int, sparsity: float = 0.0, tokens: int = 1) -> float:
    """Counts the bytes of weights, float32 unless int8, and of indices that one call of the layer reads, each once.

    With experts, one of which is active for each token, these are the experts that some token chose:
    E·(1 − (1 − 1/E)^N) of E if all are equally likely.
    """
    weights, rows = 3 * width * hidden, 2 * hidden + width
    if name == EXPERTS:
        experts = round(1 / (1 - sparsity))
        return 4 * weights * (1 - (1 - 1 / experts) ** tokens)
    block = FORMATS[name].block
    if name == "int8":
        return weights + 4 * rows
    if block is None:
        return 4 * weights
    kept = weights * (1 - sparsity)
    return 4 * kept + 4 * kept / block**2 + 4 * (rows / block + 2)  # + 2: both matrices have one more end than rows


def multiplies(name: str, width: int, hidden: int, sparsity: float = 0.0, tokens: int = 1) -> float:
    """Counts the multiply-adds that one call of the layer executes, without the router's."""
    skips = name == EXPERTS or FORMATS[name].block is not None
    return 3 * width * hidden * tokens * (1 - sparsity if skips else 1)


# ---- Times


def take_turns(calls: Mapping[Key, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[Key, Array]:
    """Returns the seconds of each call, (rounds,). In each round all have a turn, in random order, so that whatever
    slows the machine for a while slows all of them. An untimed call before each timed one warms the caches."""
    # One thread does the work, and its own time leaves out what others do. Windows counts it in steps of 16 ms.
    fine = device == "cpu" and time.get_clock_info("thread_time").resolution < 1e-6
    clock = time.thread_time if fine else time.perf_counter
    wait: Callable[[], object] = (lambda: None) if device == "cpu" else torch.cuda.synchronize

    random = np.random.default_rng(0)
    keys, times = list(calls), {key: np.zeros(rounds) for key in calls}
    for turn in range(rounds):
        for place in random.permutation(len(keys)):
            call = calls[keys[place]]
            call()
            wait()
            start = clock()
            call()
            wait()
            times[keys[place]][turn] = clock() - start
    return times


@torch.no_grad()
def time_formats(
    width: int, hidden: int, tokens: int, sparsities: Sequence[float], rounds: int = 15, device: str = "cpu"
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Times the layer on ``tokens`` tokens. Returns the times (columns round, format, sparsity, seconds) and, for each
    format that could not be timed here, the reason. A CPU uses one thread and float32; a GPU uses 16-bit numbers.

    Experts are those of the dial's hold="total": E = 1/(1 − S) of them, one active for each token, router included.
    Formats without a block are timed once: 2:4 at 0.5, zeros at the last sparsity, the others at 0.
    Raises ValueError if ``hidden`` can't be cut into that many experts, or into blocks.
    """
    once = {"2:4": 0.5, "zeros": sparsities[-1]}
    stops = {name: sparsities if kind.block else [once.get(name, 0.0)] for name, kind in FORMATS.items()}
    stops[EXPERTS] = sparsities
    layer = _layers(width, hidden, tokens, device)
    calls: dict[tuple[str, float], Callable[[], object]] = {}
    missing: dict[str, str] = {}

    keep_heap()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, sparsity in ((name, sparsity) for name, own in stops.items() for sparsity in own):
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Sparse .* tensor support is in beta state")
                    call = layer(name, sparsity)
                    call()
            except (RuntimeError, NotImplementedError) as error:  # torch lacks it for this device
                missing[name] = str(error).splitlines()[0]
            else:
                calls[name, sparsity] = call
        times = take_turns(calls, rounds, device)
    finally:
        torch.set_num_threads(threads)
    frame = pd.DataFrame(times).rename_axis(index="round", columns=["format", "sparsity"])
    return frame.melt(value_name="seconds", ignore_index=False).reset_index(), missing


def _layers(width: int, hidden: int, tokens: int, device: str) -> Callable[[str, float], Callable[[], Tensor]]:
    """Returns a function that makes the layer in a format at a sparsity: a call without arguments, for one input."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.float16
    x_ND, gate_up_GD, down_DF = (
        torch.randn(shape, generator=generator).to(device, dtype) * shape[1] ** -0.5
        for shape in ((tokens, width), (2 * hidden, width), (width, hidden))
    )

    def layer(name: str, sparsity: float) -> Callable[[], Tensor]:
        if name == EXPERTS:
            config = ModelConfig.of_width(width, d_expert=hidden).with_sparsity(sparsity, "total")
            if not math.isclose(config.sparsity, sparsity):
                raise ValueError(f"sparsity={sparsity} does not cut hidden={hidden} into equal experts")
            moe, x_1ND = MoE(config, "grouped").to(device), x_ND[None]
            return lambda: moe(x_1ND)[0]

        kind, products = FORMATS[name], []
        for w_MD in (gate_up_GD, down_DF):
            rows, columns = w_MD.shape
            if name == "2:4":
                keep_MD = torch.tensor([True, True, False, False]).repeat(rows, columns // 4)
            else:
                keep_MD = mask(rows, columns, sparsity, kind.block or 1, generator)
            products.append(kind.product(w_MD * keep_MD.to(device)))
        return lambda: swiglu(x_ND, *products)

    return layer


def summary(times: pd.DataFrame) -> pd.DataFrame:
    """Summarises the times of each format and sparsity: ``seconds`` with ``low`` and ``high``, and ``ratio`` with
    ``ratio_low`` and ``ratio_high``, its time over that of dense in the same round; medians and 95 % intervals."""
    seconds, ratios = _by_round(times)
    rows = [(*key, *median_interval(seconds[key]), *median_interval(ratios[key])) for key in seconds.columns.tolist()]
    columns = ["format", "sparsity", "seconds", "low", "high", "ratio", "ratio_low", "ratio_high"]
    return pd.DataFrame(rows, columns=columns)


def _by_round(times: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns seconds, and what they are to those of dense in the same round: a row per round and a column per format
    and sparsity, in the order of ``times``."""
    rounds = times.pivot(index="round", columns=["format", "sparsity"], values="seconds")
    seconds = rounds[list(dict.fromkeys(zip(times["format"], times["sparsity"], strict=True)))]
    return seconds, seconds.div(seconds["dense", 0.0], axis=0)


# ---- Break-even


def break_even(sparsity: Array | Sequence[float], ratio: Array | Sequence[float]) -> float:
    """Finds the sparsity from which on a format is faster than dense, given its time over dense's at rising sparsities.

    Between two of them log time is a line over log(1 − S), because time falls as a power of what is left to do. The
    answer is the first if all are faster, and infinity if the last is not. A dip that does not last does not count.
    """
    s, r = np.asarray(sparsity, float), np.asarray(ratio, float)
    if len(s) != len(r) or not len(s) or (np.diff(s) <= 0).any() or s[0] < 0 or s[-1] >= 1 or (r <= 0).any():
        raise ValueError(f"sparsity={s.tolist()} must rise within [0, 1), with a positive ratio each: {r.tolist()}")
    if r[-1] >= 1:
        return math.inf
    slower = np.flatnonzero(r >= 1)
    if not len(slower):
        return float(s[0])
    crossing = [slower[-1] + 1, slower[-1]]
    return float(1 - math.exp(np.interp(0, np.log(r[crossing]), np.log1p(-s[crossing]))))


def break_evens(times: pd.DataFrame) -> pd.DataFrame:
    """Finds the break-even of each format timed at several sparsities: ``at`` (`break_even` of the medians), ``low``
    and ``high`` (95 % of 400 resamples of the rounds) and a text ``says``. Infinite means none up to the last."""
    ratios, random = _by_round(times)[1], np.random.default_rng(0)
    rows = []
    for name in times["format"].unique():
        of_round = ratios[name].sort_index(axis=1)
        stops = of_round.columns.tolist()
        if len(stops) < 2:
            continue

        draws = random.integers(0, len(of_round), (RESAMPLES, len(of_round)))
        found = [break_even(stops, np.median(of_round.to_numpy()[draw], axis=0)) for draw in draws]
        at = break_even(stops, of_round.median().to_numpy())
        low, high = map(float, percentile_interval(found))
        rows.append((name, at, low, high, _in_words(stops, at, low, high)))
    return pd.DataFrame(rows, columns=["format", "at", "low", "high", "says"])


def _in_words(stops: Sequence[float], at: float, low: float, high: float) -> str:
    def one(s: float) -> str:
        return "none" if math.isinf(s) else f"≤ {s:.3g}" if s == stops[0] else f"{s:.3g}"

    if math.isinf(low):
        return f"none up to S = {stops[-1]:.3g}"
    if math.isinf(high):
        return f"undecided ({one(low)} … none)"
    return f"{one(at)} ({one(low)} … {one(high)})" if low < high else one(at)
