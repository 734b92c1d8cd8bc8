"""The dashboard's picture as a page: the runs that ship with the suite, with sliders, and without Python behind it.

Everything that is a number or a verdict is computed here, by the functions that the dashboard and the notebooks use.
The page's script only picks and draws: the experts with the dashboard's own code, the race in the look of
`figures.race`.
"""

import math
import re
import shutil
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from sparsity_lab import widgets
from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.figures.race import BLIND, SIDES, race_parts
from sparsity_lab.figures.style import ROLES
from sparsity_lab.figures.training import smooth
from sparsity_lab.laws import fair
from sparsity_lab.record import Record
from sparsity_lab.runs import measured
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.runs.repeat import gains
from sparsity_lab.runs.store import RunStore
from sparsity_lab.units import flops
from sparsity_lab.widgets.controls import stop_name
from sparsity_lab.widgets.expert_grid import RECORDED, reads
from sparsity_lab.widgets.html import describe, expected_label, headline, who_won, winner
from sparsity_lab.widgets.link import RULES
from sparsity_lab.widgets.race_now import RaceNow
from sparsity_lab.widgets.settings import Settings

SITE, WIDGETS = Path(__file__).parent / "site", Path(widgets.__file__).parent
TEMPLATES = Environment(loader=PackageLoader("sparsity_lab.pages", "site"), autoescape=True, trim_blocks=True)
TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # without spaces
START = Settings(width=16)  # as notebook 00 starts
SHAPE = ["width", "n_layers"]
Stop = tuple[float, float, int, int]  # sparsity, budget, width, layers
Data = dict[str, Any]

QUESTION = "After the same number of FLOPs, which model predicts text better, that is, which has the lower loss?"
CHOICES = ["sparse", "dense", "too close to call"]  # of `winner`
TOUR = {  # selectors → what is said of what they find
    "#dial [data-control=sparsity]": "The sparsity dial: each stop to the right has more experts, and one of them "
    "works on each character.",
    "#dial-grid": "The experts. Those that are lit work on the marked character of the line; the others sleep. "
    "Press ▶ to read on.",
    "#dial .sl-bar": "The price. The full bar is what works on one character; the hatched bar is what must be stored.",
    "#dial-plot": "The race against the dense twin, at the same FLOPs. Guess first; then you see how both losses fall.",
    "#dial-copy": "Found something? Copy link keeps all sliders: whoever opens the link sees what you see.",
}


class ShippedDial:
    """The shipped runs with one active expert, as a dial whose stops are the sparsities, budgets, widths and depths
    that were trained. Not every combination was."""

    def __init__(self) -> None:
        runs, columns = measured.runs(None), ["sparsity", "budget", *SHAPE]
        self.runs = runs[runs["top_k"] == 1].sort_values("seed")
        self.axes: list[list[Any]] = [sorted(self.runs[column].unique().tolist()) for column in columns]
        records = {record.id: record for record in RunStore(measured.FOLDER).load()}
        self.cells: dict[Any, list[Record]] = {  # by stop
            key: [records[run] for run in part["id"]] for key, part in self.runs.groupby(columns)
        }
        self._curves: dict[tuple[float, ...], int] = {}  # with their places in the page's list

    @property
    def stops(self) -> Iterator[Stop]:
        """All combinations, the last axis fastest."""
        yield from product(*self.axes)

    @cached_property
    def gains(self) -> dict[Stop, tuple[float, float]]:
        """By the stop of a sparse model: how much lower it ends than its dense twin, and half of the 95 % interval."""
        found = dict[Any, Any]()
        for sparsity in self.axes[0][1:]:
            pairs = gains(self.runs[self.runs["sparsity"].isin([0.0, sparsity])], ["budget", *SHAPE])
            found |= {(sparsity, r.budget, r.width, r.n_layers): (r.gain, r.half) for r in pairs.itertuples()}
        return found

    def lanes(self, stop: Stop) -> list[Lane]:
        """Returns the first runs of a stop and of its dense twin as the dashboard has them; none if it was not
        trained."""
        if stop not in self.cells:
            return []
        records = [self.cells[at][0] for at in (stop, twin(stop))]
        return [Lane(*pair, record=record) for pair, record in zip(settings(stop).pairs, records, strict=False)]

    def verdict(self, stop: Stop) -> dict[str, str]:
        """Returns who won (a choice of the guess), the headline and how sure it is: from all seeds, or where there is
        one of each model, as the dashboard judges it."""
        sparse, dense = self.cells[stop], self.cells[twin(stop)]
        gain, half = self.gains[stop]
        if math.isinf(half):
            lanes = self.lanes(stop)
            title, caveat = who_won(lanes)
            return {"won": winner(lanes), "headline": title, "sure": caveat}

        close = abs(gain) <= half
        ahead = "sparse" if gain > 0 else "dense"
        n, m = len(sparse), len(dense)
        seeds = f"{n} seeds each" if n == m else f"{n} sparse and {m} dense runs"
        sure = f"Mean over {seeds}: {_said(gain, half)}"
        title = headline(_mean(sparse), gain, stop[1], close=close)
        return {"won": "too close to call" if close else ahead, "headline": title, "sure": sure}

    def best(self) -> list[str]:
        """Returns a sentence for each sparsity and budget, the budgets fastest: each side at its own best width and
        depth. Empty for dense models and where nothing was measured."""
        shapes, said = fair.best_shapes(self.runs), dict[tuple[float, float], str]()
        for sparsity in self.axes[0][1:]:
            both = fair.fair_gains(shapes, sparsity).merge(fair.leverages(shapes, sparsity), on="budget")
            said |= {(sparsity, row["budget"]): _best_said(row) for _, row in both.iterrows()}
        return [said.get(key, "") for key in product(*self.axes[:2])]

    def nearest(self, stop: Stop) -> Stop:
        """Returns the trained stop that the dashboard takes to be nearest; of another depth, if no other is near."""
        found = settings(stop)
        for depth in sorted(self.axes[3], key=lambda depth: abs(depth - stop[3])):
            record = measured.nearest(found.model.replace(n_layers=depth), found.run)
            if record is not None:
                row = record.row()
                return row["sparsity"], row["budget"], row["width"], row["n_layers"]
        raise AssertionError("two layers were trained at every budget")

    def picture(self, stop: Stop) -> Data:
        """Returns what the race shows at a stop: lines (role and number of the curve), ends, and the frame and the
        labels as `race_parts` places them. If the stop was not trained, the nearest runs and what the law expects."""
        lanes = self.lanes(stop)
        shown = RaceNow(settings(stop), lanes, []).arguments()
        if lanes:
            means = [_mean(self.cells[at]) for at in (stop, twin(stop))]
            shown["ends"] = [end._replace(loss=mean) for end, mean in zip(shown["ends"], means, strict=False)]
            shown["lines"] = [line for line in shown["lines"] if line[1] in SIDES]
        layout = race_parts(**shown)[-1]
        return {
            "lines": [[role, self._curve(x, y)] for _, role, x, y in shown["lines"]],
            "ends": [[end.role, _short(end.loss)] for end in shown["ends"]],
            "expected": [[e.role, _short(e.loss), _short(e.low), _short(e.high)] for e in shown["expected"]],
            "bands": [
                [band[0].role, [[_short(e.flops / stop[1]), _short(e.low), _short(e.high)] for e in band]]
                for band in shown["bands"]
                if band
            ],
            "frame": [_short(value) for value in (layout["yaxis"]["range"][0], *layout["yaxis2"]["range"])],
            "labels": [
                [note["text"], _short(note["y"]), note["yanchor"]]
                for note in layout["annotations"]
                if note["text"] and note["xref"] == "x2"
            ],
        }

    def _curve(self, x: list[float], y: list[float]) -> int:
        """Returns the number of a curve in the page's list: the FLOPs of its first and its last point, between which
        the points lie evenly, and losses in thousandths of a nat."""
        losses = np.rint(1000 * smooth(x, y)[1]).astype(int)
        return self._curves.setdefault((x[0], x[-1], *losses.tolist()), len(self._curves))

    def data(self) -> Data:
        """Returns all that the page knows, as JSON has it."""
        stops = list(self.stops)
        number = {stop: i for i, stop in enumerate(stops)}
        models = [settings(stop).model for stop in stops]
        expected = [measured.expected(model, settings(stop).run) for model, stop in zip(models, stops, strict=True)]
        routes = measured.routes()
        return {
            "axes": self.axes,
            "only": {"hold": START.hold, "corpus": START.corpus},
            "start": [START.sparsity, START.budget, START.width, START.n_layers],
            "names": [
                [stop_name(settings((s, 1e11, 16, 2)).model) for s in self.axes[0]],
                [flops(b) for b in self.axes[1]],
            ],
            "experts": [[m.n_experts, m.top_k] for m in (settings((s, 1e11, 16, 2)).model for s in self.axes[0])],
            "parameters": [[params.total, params.active] for params in map(count_parameters, models)],
            "tokens": [plan(m, settings(stop).run).tokens for m, stop in zip(models, stops, strict=True)],
            "expected": [expected_label(loss) for loss in expected],
            "pictures": [self.picture(stop) for stop in stops],
            "nearest": [number[stop if stop in self.cells else self.nearest(stop)] for stop in stops],
            "seeds": {number[s]: [_short(record.val_loss) for record in of] for s, of in self.cells.items()},
            "verdicts": {number[s]: self.verdict(s) for s in self.cells if s[0]},
            "words": {number[s]: describe(self.lanes(s)) for s in self.cells},
            "best": self.best(),
            "curves": list(self._curves),
            "looks": {role: look._asdict() for role, look in ROLES.items()},
            "blind": BLIND,
            "line": list(routes["line"]),
            "note": RECORDED,
            "routes": {
                depth: {n: reads(of["trained"], of["favourites"]) for n, of in found.items()}
                for depth, found in routes["layers"].items()
            },
        }


def settings(stop: Stop) -> Settings:
    """Returns the settings of the dashboard that show a stop."""
    sparsity, budget, width, n_layers = stop
    return Settings(sparsity=sparsity, budget=budget, width=width, n_layers=n_layers)


def twin(stop: Stop) -> Stop:
    """Returns the stop of the dense twin."""
    return (0.0, *stop[1:])


def _mean(records: list[Record]) -> float:
    return float(np.mean([record.val_loss for record in records]))


def _short(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _said(gain: float, half: float) -> str:
    """Says in the notebooks' words by how much sparse ends lower, and what its 95 % interval decides."""
    way, ends = "lower" if gain > 0 else "higher", f"{abs(gain):.3f} ± {half:.3f}"
    decided = "the interval excludes zero" if abs(gain) > half else "the interval includes zero: not decided"
    return f"sparse ends {ends} nats per byte {way} (95 % interval); {decided}."


def _best_said(row: Any) -> str:
    """Says what `fair_gains` and `leverages` have in a row."""
    shapes = f"dense: {row['dense']}; sparse: {row['sparse']}"
    said = f"Each side at its own best shape ({shapes}): {_said(row['gain'], row['half'])}"
    if math.isnan(row["leverage"]):
        return f"{said} No dense model here gets as low." if row["gain"] > 0 else said
    high = f"{row['high']:.1f}" if math.isfinite(row["high"]) else "no known end"
    times = f"{row['leverage']:.1f} × the FLOPs for the same loss (95 % interval {row['low']:.1f} to {high})"
    return f"{said} The best dense models need {times}."


def write(out: Path) -> str:
    """Writes the scripts and the style of the dial to ``out`` and returns its part of a page, which loads train.js too
    if that is there; empty where there is no data folder."""
    if measured.runs(None).empty:
        return ""
    data = ShippedDial().data() | {"rules": RULES, "choices": CHOICES, "tour": list(TOUR.items())}
    parts = [_inlined(WIDGETS / "grid.js", "render"), _inlined(WIDGETS / "link.js", "readLink, writeLink")]
    parts += [_inlined(SITE / "race.js", "raceSvg"), _inlined(SITE / "dial.js", "")]
    (out / "dial.js").write_text("".join(parts), encoding="utf-8")
    style = [path.read_text(encoding="utf-8") for path in (WIDGETS / "grid.css", SITE / "dial.css")]
    (out / "dial.css").write_text("".join(style), encoding="utf-8")
    shutil.copy(SITE / "tour.js", out)
    trains = (out / "train.js").exists()
    page = TEMPLATES.get_template("dial.html.j2")
    return page.render(data=data, question=QUESTION, choices=CHOICES, trains=trains)


def _inlined(script: Path, names: str) -> str:
    """Returns a module as a part of a classic script, with these names of it: a page from disk can't import files."""
    text = re.sub(r"^export (default \{.*\};)?", "", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return f"const {{ {names} }} = (() => {{\n{text}\nreturn {{ {names} }};\n}})();\n"
