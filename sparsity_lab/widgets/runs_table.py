"""The runs so far: dots of loss against sparsity with the shipped ones behind them, and a table to sort and to name."""

import html
import math
import threading
from typing import Any

import ipywidgets as ipw
import pandas as pd

from sparsity_lab.figures.runs_so_far import runs_so_far, runs_so_far_parts
from sparsity_lab.record import Record
from sparsity_lab.runs import measured
from sparsity_lab.runs.store import to_frame
from sparsity_lab.widgets.html import html_table, measured_label
from sparsity_lab.widgets.live_figure import LiveFigure
from sparsity_lab.widgets.session import Session

SHOWN_RUNS = 8
ORDERS = {
    "latest first": lambda record: 0,
    "lowest loss first": lambda record: math.inf if record.val_loss is None else record.val_loss,
    "sparsest first": lambda record: -record.sparsity,
    "largest first": lambda record: -record.params_total,
}


class RunsTable(ipw.VBox):
    """The runs that dashboards show. The figure is made when it is first looked at, for it costs the browser 5 MB."""

    def __init__(self, session: Session):
        self._session = session
        self._lock = threading.RLock()  # reports come from another thread than a learner's moves
        self._budget: float | None = None
        self._shown: Any = None  # the table is sent again only when it changes
        self._figure: LiveFigure | None = None
        self.order = ipw.Dropdown(options=list(ORDERS), description="sort", layout={"width": "230px"})
        self.which = ipw.Dropdown(description="name", layout={"width": "100%"})
        self.name = ipw.Text(placeholder="a name of your own for it", continuous_update=False, layout={"width": "100%"})
        for control in (self.order, self.which):
            control.style.description_width = "44px"
        self.table = ipw.HTML()
        self.table.add_class("sparsity-lab-runs")
        self._plot = ipw.VBox()
        super().__init__([self._plot, ipw.VBox([self.order, self.table, self.which, self.name])])
        self.add_class("sl-runs-split")
        self.order.observe(lambda _: self.show(self._budget), "value")
        self.which.observe(self._chosen, "value")
        self.name.observe(self._named, "value")

    def show(self, budget: float | None) -> None:
        """Shows the session's runs as they are now, and those that ship at the measured budget nearest to this one, or
        none of these for None."""
        records, names = self._session.records, dict(self._session.names)
        self._budget = budget
        state = ([id(record) for record in records], names, self.order.value, budget)
        with self._lock:
            if state != self._shown:
                self._show(state, records, names)

    def _show(self, state: Any, records: list[Record], names: dict[str, str]) -> None:
        self._shown = state
        latest = records[::-1]
        self.table.value = self._html(sorted(latest, key=ORDERS[self.order.value])[:SHOWN_RUNS], names)
        chosen, ids = self.which.value, [record.id for record in latest]
        options = tuple((names.get(record.id, record.label), record.id) for record in latest)
        if options != self.which.options:
            self.which.options = options
            if ids:
                self.which.value = chosen if chosen in ids else ids[0]
        if self._figure is not None:
            self._figure.show(runs_so_far_parts(*self._tables()))

    def show_figure(self) -> None:
        """Draws the dots, if that has not been done."""
        if self._figure is None:
            tables = self._tables()
            self._figure = LiveFigure(runs_so_far(*tables), runs_so_far_parts(*tables))
            self._plot.children = [self._figure.widget]

    def _tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        shipped = measured.runs().head(0) if self._budget is None else measured.near(self._budget)
        return to_frame(self._session.records), shipped

    def _html(self, records: list[Record], names: dict[str, str]) -> str:
        header = ["run", "loss", "parameters"]
        rows = [
            [
                names.get(record.id, record.label) + ("" if record.status == "finished" else f" ({record.status})"),
                measured_label(record), f"{record.params_total:,}",
            ]
            for record in records
        ]  # fmt: skip
        more = len(self._session.records) - len(records)
        left = f"<div>{more} more, by another order</div>" if more > 0 else ""
        return html_table(header, rows) + left if rows else html.escape("No runs yet: press Train.")

    def _chosen(self, _change: Any) -> None:
        self.name.value = self._session.names.get(self.which.value or "", "")

    def _named(self, change: Any) -> None:
        if self.which.value and change.new != self._session.names.get(self.which.value, ""):
            self._session.rename(self.which.value, change.new)
            self.show(self._budget)
