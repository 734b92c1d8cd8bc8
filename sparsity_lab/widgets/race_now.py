"""What the race shows at a moment: the runs in front, earlier ones, and what was measured or is expected."""

from dataclasses import dataclass
from typing import Any

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.figures.race import GHOSTS, SIDES, End, Line
from sparsity_lab.record import Record, decimate, run_label
from sparsity_lab.runs import measured as shipped
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.widgets.settings import Settings

ALONG = (0.25, 0.5, 1.0, 2.0, 3.0)  # times the budget: where the expected loss is drawn


@dataclass(frozen=True)
class RaceNow:
    """The state from which the race is drawn."""

    settings: Settings  # of the dials
    lanes: list[Lane]  # in front: what is trained now, or was last
    records: list[Record]  # of all runs on show, the latest last
    trains: bool = False  # whether the lanes are being trained
    asks: bool = False  # whether a guess is awaited, so that nothing may give the answer away

    @property
    def moved(self) -> bool:
        """Whether the dials show other runs now than those in front, which have ended."""
        settings = self.settings
        same = {(lane.model, lane.run.budget, lane.run.seed, lane.run.corpus) for lane in self.lanes}
        asked = {(model, settings.budget, settings.seed, settings.corpus) for model, _ in settings.pairs}
        return bool(self.lanes) and not self.trains and not asked <= same

    def lines(self) -> list[Line]:
        """Returns the lines to draw; once the dials have moved, the runs that were in front are earlier ones."""
        front = [] if self.moved else self.lanes
        return [*self._earlier(front), *self._measured(), *_live(front)]

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of `figures.race.race`: the runs in front, or what is known of those on the dials."""
        front = [] if self.moved else self.lanes
        pairs = [(lane.model, lane.run) for lane in front] or self.settings.pairs
        ends = [
            End(role, run_label(lane.model, lane.run), lane.record.flops, lane.record.val_loss)
            for role, lane in _roles(front)
            if lane.record is not None and lane.record.val_loss is not None
        ]
        budget = pairs[0][1].budget
        bands = [] if self.asks else [_expected(role, *pair) for role, pair in zip(SIDES[::-1], pairs, strict=False)]
        expected = [] if ends else [end for band in bands for end in band if end.flops == budget]
        return {"lines": self.lines(), "budget": budget, "ends": ends, "expected": expected, "bands": bands}

    def _earlier(self, front: list[Lane]) -> list[Line]:
        """Returns the lines of earlier runs on this corpus, the latest last."""
        in_front, lines = {run_label(lane.model, lane.run) for lane in front}, list[Line]()
        for record in reversed(self.records):  # perhaps thousands, and labels take time
            if record.run["corpus"] == self.settings.corpus and (label := record.label) not in in_front:
                lines.append((label, "ghost", record.curve["flops"], record.curve["loss"]))
            if len(lines) == GHOSTS:
                break
        return lines[::-1]

    def _measured(self) -> list[Line]:
        """Returns the lines of the runs that ship with the suite and are nearest to what the dials show."""
        lines = list[Line]()
        for role, pair in zip(("measured", "measured dense"), self.settings.pairs, strict=False):
            if not self.asks and (record := shipped.nearest(*pair)) is not None:
                lines.append((f"measured: {record.label}", role, record.curve["flops"], record.curve["loss"]))
        return lines[::-1]


def _roles(lanes: list[Lane]) -> list[tuple[str, Lane]]:
    """Returns the lanes with their roles: the model on the dial comes first."""
    return list(zip(SIDES[::-1], lanes, strict=False))


def _live(lanes: list[Lane]) -> list[Line]:
    lines = list[Line]()
    for role, lane in _roles(lanes):
        if lane.record is not None:
            curve = lane.record.curve
        elif lane.last is not None:
            curve = decimate(lane.losses, lane.last.flops // lane.last.step)
        else:
            continue
        lines.append((run_label(lane.model, lane.run), role, curve["flops"], curve["loss"]))
    return lines


def _expected(role: str, model: ModelConfig, run: RunConfig) -> list[End]:
    """Returns the losses that the law expects along the budgets, as far as it knows them."""
    name = "dense" if model.sparsity == 0 else f"S {model.sparsity:.3g}"
    try:
        found = [(run.budget * n, shipped.expected(model, run.replace(budget=run.budget * n))) for n in ALONG]
    except ValueError:  # one of the budgets does not pay for a step
        return []
    return [End(role, name, at, loss.value, loss.low, loss.high) for at, loss in found if loss is not None]
