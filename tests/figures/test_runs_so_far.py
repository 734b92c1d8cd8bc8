"""The runs so far: a dot for each run with a loss, where it belongs."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.figures.runs_so_far import runs_so_far, runs_so_far_parts
from sparsity_lab.record import Record
from sparsity_lab.runs import measured
from sparsity_lab.runs.store import to_frame
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.widgets.live_figure import LiveFigure


def ended(sparsity: float, loss: float | None, **changes: Any) -> Record:
    model = ModelConfig.on_dial(16, sparsity).replace(n_layers=changes.pop("n_layers", 2))
    record = failed_record((model, RunConfig(budget=1e11, **changes)), "")
    return dataclasses.replace(record, status="finished" if loss else "diverged", val_loss=loss)


def test_dots_are_where_runs_ended() -> None:
    own = to_frame([ended(0.75, 2.5), ended(0.0, 2.75, seed=3, n_layers=1), ended(0.5, None)])
    shipped, mine = runs_so_far(own, measured.near(1e11)).data
    assert (list(mine.x), list(mine.y)) == ([2.0, 0.0], [2.5, 2.75])
    assert list(mine.text) == ["10¹¹ FLOPs, width 16, 2 layers, seed 0", "10¹¹ FLOPs, width 16, 1 layer, seed 3"]
    assert len(shipped.x) == len(measured.near(1e11)) > 10
    np.testing.assert_allclose(shipped.y, measured.near(1e11)["val_loss"])
    assert shipped.marker.size < mine.marker.size, "yours are in front"
    axis = runs_so_far(own, measured.near(1e11)).layout.xaxis
    assert axis.range[0] < min(shipped.x)
    assert max(shipped.x) < axis.range[1]
    labels = dict(zip(axis.tickvals, axis.ticktext, strict=True))
    assert (labels[0], labels[1], labels[4]) == ("0", ".5", ".938")


def test_without_runs_it_is_an_empty_figure() -> None:
    assert [len(trace.x) for trace in runs_so_far(to_frame([]), to_frame([])).data] == [0, 0]


def test_it_moves_as_it_is_drawn() -> None:
    tables = to_frame([]), measured.near(1e11)
    live = LiveFigure(runs_so_far(*tables), runs_so_far_parts(*tables))
    for own, budget in (([ended(0.75, 2.5)], 1e11), ([ended(0.75, 2.5), ended(0.5, 2.0)], 1e12), ([], 1e13)):
        now = to_frame(own), measured.near(budget)
        live.show(runs_so_far_parts(*now))
        for moved, drawn in zip(live.widget.data, runs_so_far(*now).data, strict=True):
            np.testing.assert_allclose(moved.x, drawn.x)
            np.testing.assert_allclose(moved.y, drawn.y)
            assert list(moved.text) == list(drawn.text)


def test_a_table_of_nothing_has_the_columns_it_needs() -> None:
    assert {"val_loss", "sparsity", "budget", "width", "n_layers", "seed"} <= set(to_frame([]).columns)
    assert isinstance(runs_so_far_parts(to_frame([]), pd.DataFrame(to_frame([])))[0]["x"], list)
