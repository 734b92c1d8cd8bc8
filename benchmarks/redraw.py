"""From a moved slider to the new figure and text, on the kernel's side."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.timing import Row
from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.cost import decode_work
from sparsity_lab.accounting.devices import device
from sparsity_lab.accounting.presets import preset
from sparsity_lab.config import ModelConfig
from sparsity_lab.figures import costs as charts
from sparsity_lab.widgets.explorer import Explorer, choice

MOVES = 100


def rows() -> Iterator[Row]:
    stops = ModelConfig.on_dial(32, 0.0).sparsities()
    weights = Explorer(
        lambda s: charts.stacked({"model": charts.weights_by_part(ModelConfig.on_dial(32, s))}, "weights"),
        lambda s: f"{count_parameters(ModelConfig.on_dial(32, s)).total:,} weights",
        s=choice("S", stops, 0.0),
    )
    names = ("deepseek-v3", "llama-3.1-8b", "llama-3.1-405b", "gpt-oss-120b")
    roof = Explorer(
        lambda users: charts.roofline(
            {name: decode_work(preset(name).config, users, 1024) for name in names}, device("h100"), "bf16"
        ),
        lambda users: f"{users} users",
        users=choice("users", [2**n for n in range(13)], 1),
    )
    for name, explorer in (("weights by part", weights), ("roofline", roof)):
        (control,) = explorer.controls.values()
        values = [value for _, value in control.options]
        times = []
        for move in range(1, MOVES + 1):
            start = time.perf_counter()
            control.value = values[move % len(values)]
            times.append((time.perf_counter() - start) * 1e3)
        p95 = float(np.percentile(times, 95))
        yield Row(f"redraw, {name}: slider to figure, in the kernel", "p95 < 100 ms", f"p95 {p95:.0f} ms", p95 < 100)
