"""The runs so far: in the order that was asked for, under the names that a learner gave them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import Record
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.widgets.runs_table import SHOWN_RUNS, RunsTable
from sparsity_lab.widgets.session import Session

RUNS = [(0.75, 16, 2.5), (0.0, 32, 2.25), (0.9375, 8, None), (0.5, 24, 2.0)]  # sparsity, width, loss


def record(sparsity: float, width: int, loss: float | None, seed: int = 0) -> Record:
    made = failed_record((ModelConfig.on_dial(width, sparsity), RunConfig(seed=seed)), "")
    return replace(made, status="finished" if loss else "diverged", val_loss=loss)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    session = Session(tmp_path)
    session.records = [record(*run) for run in RUNS]
    return session


@pytest.fixture
def table(session: Session) -> RunsTable:
    table = RunsTable(session)
    table.show(1e11)
    return table


def rows(table: RunsTable) -> list[str]:
    first = re.findall(r"<tr><td[^>]*>([^<]*)</td>", table.table.value)
    return [name for name in first if name]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("latest first", [3, 2, 1, 0]),
        ("lowest loss first", [3, 1, 0, 2]),
        ("sparsest first", [2, 0, 3, 1]),
        ("largest first", None),
    ],
)
def test_orders(table: RunsTable, session: Session, order: str, wanted: list[int] | None) -> None:
    if wanted is None:
        wanted = sorted(range(len(RUNS)), key=lambda i: -session.records[i].params_total)
    table.order.value = order
    shown = [record.label + (" (diverged)" if record.val_loss is None else "") for record in session.records]
    assert rows(table) == [shown[i] for i in wanted]
    assert list(table.order.options) == ["latest first", "lowest loss first", "sparsest first", "largest first"]


def test_numbers_stand_beside_the_names(table: RunsTable, session: Session) -> None:
    for each, (_, _, loss) in zip(session.records, RUNS, strict=True):
        assert f"{each.params_total:,}" in table.table.value
        assert (f"{loss:.3f}" if loss else "–") in table.table.value


def test_a_name_stands_in_for_the_label(table: RunsTable, session: Session) -> None:
    other = session.records[1]
    assert table.which.value == session.records[-1].id, "the latest is offered first"
    table.which.value = other.id
    table.name.value = "<b>mine</b>"
    assert session.names == {other.id: "<b>mine</b>"}
    assert "&lt;b&gt;mine&lt;/b&gt;" in table.table.value
    assert "<b>mine" not in table.table.value
    assert other.label not in rows(table)
    assert table.which.value == other.id, "it stays chosen"
    table.which.value = session.records[0].id
    assert table.name.value == ""
    table.which.value = other.id
    assert table.name.value == "<b>mine</b>"
    assert session.names == {other.id: "<b>mine</b>"}, "looking renames nothing"
    table.name.value = ""
    assert session.names == {}
    assert other.label in rows(table)


def test_many_runs_are_counted(table: RunsTable, session: Session) -> None:
    session.records = [record(0.5, 16, 2.0 + seed / 100, seed) for seed in range(30)]
    table.show(1e11)
    assert len(rows(table)) == SHOWN_RUNS
    assert f"{30 - SHOWN_RUNS} more" in table.table.value
    assert "seed 29" in rows(table)[0]
    table.order.value = "lowest loss first"
    assert "seed 0" in rows(table)[0]
    assert len(table.which.options) == 30


def test_the_figure_waits_until_it_is_looked_at(table: RunsTable, session: Session) -> None:
    assert table._figure is None
    table.show_figure()
    figure = table._figure
    assert figure is not None
    _, own = figure.widget.data
    assert sorted(own.y) == [2.0, 2.25, 2.5]
    session.records = [*session.records, record(0.75, 32, 1.5)]
    table.show(1e11)
    assert sorted(figure.widget.data[1].y) == [1.5, 2.0, 2.25, 2.5]
    before = list(figure.widget.data[0].y)
    table.show(1e12)
    assert list(figure.widget.data[0].y) != before, "the shipped runs follow the budget"
    table.show(None)
    assert [len(trace.x) for trace in figure.widget.data] == [0, 4], "where they would give something away"
    table.show_figure()
    assert table._figure is figure


def test_it_is_sent_only_when_it_changes(table: RunsTable, session: Session) -> None:
    sent: list[Any] = []
    table.table.observe(sent.append, "value")
    table.which.observe(sent.append, "options")
    for _ in range(3):
        table.show(1e11)
    assert sent == []
    session.records = []
    table.show(1e11)
    assert "No runs yet" in table.table.value
    assert table.which.options == ()
