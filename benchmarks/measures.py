"""Measures of sparsity of ten million numbers, as multiples of the speed of sorting them once."""

from collections.abc import Iterator

import numpy as np

from benchmarks.timing import Row, at_least, ratio, take_turns
from sparsity_lab.analysis.sparsity_measures import MEASURES

SIZE = 10**7


def rows() -> Iterator[Row]:
    for dtype in (np.float64, np.float32):
        x = np.random.default_rng(0).standard_normal(SIZE).astype(dtype)
        functions = {"sort": lambda x=x: np.sort(x)} | {n: lambda m=m, x=x: m(x) for n, m in MEASURES.items()}
        times = take_turns(functions, 0, block=1)
        speeds = {name: ratio(times, "sort", name) for name in MEASURES}
        slowest = min(speeds, key=lambda name: speeds[name])
        what = f"measures, 10⁷ numbers, {dtype.__name__}: speed of the slowest / of one np.sort"
        yield at_least(what, speeds[slowest], 0.3, f" ({slowest})")
