"""Figures of costs: what is drawn is what the accounting says."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.accounting import count_parameters, flops_by_part
from sparsity_lab.accounting.cost import Work
from sparsity_lab.accounting.devices import device
from sparsity_lab.accounting.fits import Split, serving
from sparsity_lab.accounting.formats import published_format
from sparsity_lab.accounting.presets import PRESETS, preset
from sparsity_lab.config import ModelConfig
from sparsity_lab.figures import costs
from sparsity_lab.figures.style import ROLES


@given(config=st.from_type(ModelConfig))
def test_parts_leave_nothing_out(config: ModelConfig) -> None:
    weights, flops = costs.weights_by_part(config), costs.flops_parts(config)
    assert weights.keys() == flops.keys() == costs.PARTS.keys()
    assert sum(weights.values()) == count_parameters(config).total
    assert sum(weights.values()) - weights["inactive"] == count_parameters(config).active
    assert sum(flops.values()) == sum(flops_by_part(config).values())


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-8b", "gpt2"])
def test_parts_of_published_models(name: str) -> None:
    config = PRESETS[name].config
    parts = costs.weights_by_part(config)
    assert sum(parts.values()) == count_parameters(config).total
    assert (parts["inactive"] > 0) == config.has_router


def test_stacked() -> None:
    bars = {"a": costs.weights_by_part(ModelConfig()), "b": costs.weights_by_part(ModelConfig(n_experts=4))}
    figure = costs.stacked(bars, "weights")
    assert len(figure.data) == len(costs.PARTS), "always the same traces, so that a slider can move them"
    assert [sum(trace.x[i] for trace in figure.data) for i in (0, 1)] == [
        sum(parts.values()) for parts in bars.values()
    ]
    assert {trace.name for trace in figure.data if not trace.showlegend} == {"attention scores"}
    shares = costs.stacked(bars, "share", share=True)
    assert [sum(trace.x[i] for trace in shares.data) for i in (0, 1)] == pytest.approx([1, 1])
    looks = {(trace.marker.color, trace.marker.pattern.shape) for trace in figure.data}
    assert len(looks) == len(costs.PARTS)


def test_flops_by_context() -> None:
    figure = costs.flops_by_context(preset("deepseek-v3").config, [128, 4096])
    total = [sum(trace.y[i] for trace in figure.data) for i in (0, 1)]
    assert total == [sum(flops_by_part(preset("deepseek-v3").config, n).values()) for n in (128, 4096)]


def test_compute_and_memory() -> None:
    models = {f"{s:.4g}": ModelConfig.on_dial(32, s) for s in (0.0, 0.5, 0.9375)}
    memory, flops = costs.compute_and_memory(models, 256).data
    assert memory.y[0] == flops.y[0] == 1
    assert memory.y[2] > 2 > flops.y[2]


def test_roofline() -> None:
    machine = device("h100")
    figure = costs.roofline({"slow": Work(1.0, 1.0), "fast": Work(1e6, 1.0)}, machine, "bf16", dense=["slow"])
    roof, slow, fast = figure.data
    assert max(roof.y) == fast.y[0] == machine.peak("bf16")
    assert slow.y[0] == machine.bandwidth
    assert np.all(np.diff(roof.y) >= 0)
    assert slow.marker.symbol != fast.marker.symbol
    assert (slow.marker.color, fast.marker.color) == (ROLES["dense"].colour, ROLES["this"].colour)


def test_dollars() -> None:
    figure = costs.dollars({"a": 5.576e6, "b": 1.2e9})
    (bars,) = figure.data
    assert list(bars.text) == ["$ 5.58 M", "$ 1.2 B"]
    assert figure.layout.xaxis.type is None, "bars need an axis that begins at zero"
    assert figure.layout.xaxis.range[0] == 0


def test_caches() -> None:
    figure = costs.caches({"MHA": 8e9, "MLA 512": 1e9}, 80e9)
    (dots,) = figure.data
    assert (dots.type, list(dots.x)) == ("scatter", [8e9, 1e9]), "a bar on a logarithmic axis begins nowhere"
    assert list(dots.text) == ["8.00 GB", "1.00 GB"]
    assert dots.marker.color[0] != dots.marker.color[1]
    assert figure.layout.shapes[0].x0 == 80e9


def test_pareto() -> None:
    points = pd.DataFrame({"kind": ["MHA", "MLA 4", "MLA 8"], "bytes": [64, 8, 16], "loss": [2, 2.2, 2.1], "half": 0.1})
    for chosen in ("MLA 4", "MLA 8"):
        figure = costs.pareto(points, chosen)
        sizes = {trace.name: trace.marker.size for trace in figure.data}
        assert max(sizes, key=sizes.__getitem__) == chosen
        assert [trace.y[0] for trace in figure.data] == [2, 2.2, 2.1]


def test_against_length() -> None:
    figure = costs.against_length({"a": [1, 2], "b": [3, 4]}, [10, 100], "seconds")
    assert [list(trace.y) for trace in figure.data] == [[1, 2], [3, 4]]
    assert len({(trace.line.dash, trace.marker.symbol) for trace in figure.data}) == 2


@pytest.mark.parametrize("users", [1, 16, 64])
def test_what_fits_and_what_does_not(users: int) -> None:
    model, room = preset("deepseek-v3").shape, 0.9 * device("h200").memory
    held = serving(model, Split(tensor=8), published_format(model.settings, model.n_layers), "bf16", 32_768, users)
    figure = costs.fit(costs.weights_by_part(model), held, room)
    assert len(figure.data) == len(costs.PARTS) + len(costs.HELD) + 1, "always the same traces"
    above, below, end = figure.data[: len(costs.PARTS)], figure.data[len(costs.PARTS) : -1], figure.data[-1]
    assert sum(trace.x[0] for trace in above) == 671_026_404_352
    assert sum(trace.x[0] for trace in below) == pytest.approx(held.total / 1e9)
    assert end.x[0] == room / 1e9
    assert (sum(trace.x[0] for trace in below) > end.x[0]) == (users == 64), "the bar passes the line"
    assert max(end.x[0], held.total / 1e9) < figure.layout.xaxis2.range[1]
