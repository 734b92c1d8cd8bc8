"""Which library multiplies matrices is decided by a measurement on this machine, because no rule holds on all.

On AMD processors, MKL (which torch calls) runs float32 products with AVX2, and oneDNN's AVX-512 is up to twice as fast
from a certain size; on Intel's, oneDNN was slower at every size of this lab. For products of groups of rows, torch has
`grouped_mm`; the other way is a loop over the groups with oneDNN. A plain loop and padding to one batched product were
slower than `grouped_mm` at every size, so they are no candidates. A choice is per class of size: the same routes on the
same machine give the same numbers.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from sparsity_lab.files import cache_dir, read_bytes, write_text

NAMES = {"torch", "grouped_mm", "onednn"}
CLASSES = 4  # of size, each four times as large as the one before
LINEAR, EXPERTS = 2**20, 2**18  # multiply-adds from which the first class starts, in all and per expert
MARGIN = 0.9  # oneDNN is taken if it needs at most this share of the time: a shape that it meets first costs 0.5 ms
ROUNDS = 5  # of timing; the fastest counts
ROWS, GROUPS = 2048, 8  # of a linear layer's input, and of experts with 128 rows each

Pass = Callable[[], object]


@dataclass(frozen=True)
class Routes:
    """The library for each class of size, from the smallest. Smaller products than that are torch's."""

    linear: tuple[str, ...] = ("torch",) * CLASSES
    experts: tuple[str, ...] = ("grouped_mm",) * CLASSES

    def large_linear(self, macs: int) -> bool:
        """Tells whether a product of so many multiply-adds goes to oneDNN."""
        return macs >= LINEAR and self.linear[_class(macs, LINEAR)] == "onednn"

    def large_experts(self, macs: int) -> bool:
        """Tells the same of a product of groups, with so many multiply-adds in each."""
        return macs >= EXPERTS and self.experts[_class(macs, EXPERTS)] == "onednn"

    def to_dict(self) -> dict[str, Any]:
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises ValueError if these are no routes of this version."""
        found = cls(*(tuple(values[kind]) if kind in values else () for kind in ("linear", "experts")))
        if any(len(libraries) != CLASSES or not NAMES.issuperset(libraries) for libraries in vars(found).values()):
            raise ValueError(f"routes={values!r} must name {CLASSES} libraries for linear and for experts")
        return found


def _class(macs: int, first: int) -> int:
    return min(CLASSES - 1, (macs // first).bit_length() - 1 >> 1)


in_use = Routes()  # whose products a forward or backward pass takes now; a training sets it before each


def use(routes: Routes) -> None:
    global in_use
    in_use = routes


def here() -> Routes:
    """Returns the routes for this machine and number of threads, measured at the first call ever (about 0.3 s)."""
    return _routes(table(machine()))


def _routes(table: "Table") -> Routes:
    return Routes.from_dict({kind: [row["route"] for row in rows] for kind, rows in table.items()})


Table = dict[str, list[dict[str, Any]]]  # by kind of product; for each class the multiply-adds, milliseconds and route


@cache
def table(of: str) -> Table:
    """Returns what was measured on a `machine`, from the cache folder; if it is not there, this one is measured."""
    path = cache_dir() / "routes.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(
            path.with_suffix(".lock"), timeout=10
        ):  # several processes that start together take the same routes
            known = _read(path)
            if of not in known:
                known[of] = time_both()
                write_text(path, json.dumps(known, indent=1))
        return known[of]
    except OSError:  # no place to keep it: what is safe everywhere
        return _untimed()


def _read(path: Any) -> dict[str, Table]:
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        known: dict[str, Table] = json.loads(read_bytes(path))
        for each in known.values():
            _routes(each)
            if any(row.keys() != {"route", "ms", "multiply_adds"} for rows in each.values() for row in rows):
                return {}
        return known
    return {}


def machine() -> str:
    """Returns what the measurement holds for: processor, torch and number of threads."""
    return f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


@cache
def processor() -> str:
    """Returns the processor's name, as the system gives it, and the instructions that torch uses of it."""
    name = ""
    with suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    return f"{name or platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def time_both() -> Table:
    """Times both libraries at each class, forward and both backward products."""
    if not has_onednn():
        return _untimed()
    found: Table = {"linear": [], "experts": []}
    for number in range(CLASSES):
        found["linear"].append(_compare("torch", *_linear_passes(4**number)) | {"multiply_adds": LINEAR * 4**number})
        found["experts"].append(
            _compare("grouped_mm", *_expert_passes(4**number)) | {"multiply_adds": EXPERTS * 4**number}
        )
    return found


def _untimed() -> Table:
    kinds = {"linear": ("torch", LINEAR), "experts": ("grouped_mm", EXPERTS)}
    return {
        kind: [{"route": safe, "ms": {}, "multiply_adds": first * 4**number} for number in range(CLASSES)]
        for kind, (safe, first) in kinds.items()
    }


def _compare(safe: str, ours: Pass, onednn: Pass) -> dict[str, Any]:
    best = {safe: float("inf"), "onednn": float("inf")}
    for turn in range(1 + ROUNDS):  # the first is slower: memory is fetched, oneDNN compiles its code
        for name, run in ((safe, ours), ("onednn", onednn)):
            start = time.thread_time()
            run()
            if turn:
                best[name] = min(best[name], time.thread_time() - start)
    route = "onednn" if best["onednn"] < MARGIN * best[safe] else safe
    return {"route": route, "ms": {name: round(1e3 * seconds, 4) for name, seconds in best.items()}}


def _linear_passes(scale: int) -> tuple[Pass, Pass]:
    side = int(scale**0.5)
    x_ND, g_NM, w_DM = torch.ones(ROWS, 16 * side), torch.ones(ROWS, 32 * side), torch.ones(16 * side, 32 * side)

    def run(multiply: Callable[[Tensor, Tensor], Tensor]) -> Pass:
        return lambda: (multiply(x_ND, w_DM), multiply(g_NM, w_DM.t()), multiply(x_ND.t(), g_NM))

    return run(torch.mm), run(multiply_large)


def _expert_passes(scale: int) -> tuple[Pass, Pass]:
    side, rows = int(scale**0.5), 128
    w_EDG, ends_E = torch.ones(GROUPS, 32 * side, 64 * side), torch.arange(1, GROUPS + 1, dtype=torch.int32) * rows
    x_SD, g_SG = torch.ones(GROUPS * rows, 32 * side), torch.ones(GROUPS * rows, 64 * side)

    def grouped() -> None:
        F.grouped_mm(x_SD, w_EDG, offs=ends_E)
        F.grouped_mm(g_SG, w_EDG.transpose(1, 2), offs=ends_E)
        F.grouped_mm(x_SD.t(), g_SG, offs=ends_E)

    def loop() -> None:
        groups = list(zip(x_SD.split(rows), g_SG.split(rows), w_EDG, strict=True))
        torch.cat([multiply_large(x, w) for x, _, w in groups])
        torch.cat([multiply_large(g, w.t()) for _, g, w in groups])
        torch.stack([multiply_large(x.t(), g) for x, g, _ in groups])

    return grouped, loop


# ---- oneDNN's product


@cache
def has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply_large(a_ND: Tensor, b_DM: Tensor) -> Tensor:
    """Returns a @ b by oneDNN, without a gradient; what is small or empty stays torch's."""
    if a_ND.numel() * b_DM.shape[1] < EXPERTS:
        return a_ND @ b_DM
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a_ND, b_DM.t(), None, "none", [], "")
    return product
