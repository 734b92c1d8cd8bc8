"""The cells of the experts: what the kernel tells the page about them."""

from typing import Any

import pytest

from sparsity_lab.accounting import count_parameters
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import Step
from sparsity_lab.runs import measured
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.widgets.expert_grid import LEARNING, LEARNT, RECORDED, UNTRAINED, ExpertGrid

READS = [[[0], [2], [1]], [[3], [3], [0]]]
KINDS = [["name", "", "space", "keyword"], ["", "number", "string", "other"]]


def lane(**told: Any) -> Lane:
    return Lane(ModelConfig.on_dial(16, 0.75), RunConfig(), **told)


@pytest.mark.parametrize("hold", ["active", "total"])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_stops_are_the_models_of_the_dial(hold: Any, n_layers: int) -> None:
    dense = ModelConfig.on_dial(16, 0.0, hold).replace(n_layers=n_layers)
    models = [dense.with_sparsity(s, hold) for s in dense.sparsities(hold)]
    grid = ExpertGrid()
    grid.show_dial(models)
    assert grid.layers == n_layers
    assert len(grid.stops) == len(models)
    for stop, model in zip(grid.stops, models, strict=True):
        params = count_parameters(model)
        assert stop == {
            "experts": model.n_experts, "active": model.top_k, "total_parameters": params.total,
            "active_parameters": params.active,
        }  # fmt: skip


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_recorded_routing_is_of_as_many_layers(n_layers: int) -> None:
    grid = ExpertGrid()
    grid.show_dial([ModelConfig.on_dial(16, 0.75).replace(n_layers=n_layers)])
    routes = measured.routes()
    assert "".join(grid.line) == routes["line"]
    assert grid.note == RECORDED
    assert grid.recorded.keys() == routes["layers"][str(n_layers)].keys()
    for n, shown in grid.recorded.items():
        entry = routes["layers"][str(n_layers)][n]
        assert shown == {"reads": entry["trained"], "kinds": entry["favourites"]}
        assert len(shown["reads"]) == n_layers


def test_what_was_not_recorded_is_not_played() -> None:
    grid = ExpertGrid()
    grid.show_dial([ModelConfig.on_dial(16, 0.75).replace(n_layers=5)])
    assert grid.recorded == {}
    assert grid.layers == 5


def test_live_is_what_the_lane_says() -> None:
    step = Step(1, 9, tokens=1, flops=1, loss=5.0, learning_rate=0.01, seconds=1.0)
    grid = ExpertGrid()
    for told, kinds, note in (
        (lane(reads=READS), [], UNTRAINED),
        (lane(reads=READS, last=step), [], LEARNING),
        (lane(reads=READS, last=step, favourites=KINDS), KINDS, LEARNT),
    ):
        grid.show_lane(told)
        assert grid.live == {"reads": READS, "kinds": kinds, "experts": 4, "note": note}
    assert len({RECORDED, UNTRAINED, LEARNING, LEARNT}) == 4
    for nothing in (None, lane(), lane(last=step)):
        grid.show_lane(lane(reads=READS))
        grid.show_lane(nothing)
        assert grid.live == {}


def test_the_page_hears_only_of_changes() -> None:
    grid, heard = ExpertGrid(), list[Any]()
    grid.observe(lambda change: heard.append(change["new"]), "live")
    for _ in range(3):
        grid.show_lane(lane(reads=READS))
    assert len(heard) == 1
