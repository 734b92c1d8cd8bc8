"""What an explorer shows at every stop of its controls, for pages that have no Python behind them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product, repeat
from math import prod
from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go
from plotly.utils import PlotlyJSONEncoder

from sparsity_lab.widgets.live_figure import Part, changes, parts_of

STOPS = "application/vnd.sparsity-lab.stops+json"
SWITCH = "SPARSITY_LAB_STOPS"  # in the environment: how many stops an explorer's output holds at most (none without)


@dataclass(frozen=True)
class Stops:
    """The stops of one control: what it says there, and its value."""

    label: str
    kind: str  # "slider" or "menu"
    says: list[str]
    values: list[Any]
    start: int  # the stop where it stands

    @classmethod
    def of(cls, control: Any) -> "Stops":
        if isinstance(control, ipw.FloatSlider):
            count = round((control.max - control.min) / control.step)
            values = sorted({round(control.min + control.step * k, 12) for k in range(count + 1)} | {control.value})
            says = [format(value, control.readout_format) for value in values]
        else:
            options = [o if isinstance(o, tuple) else (str(o), o) for o in control.options]
            says, values = [name for name, _ in options], [value for _, value in options]
        kind = "menu" if isinstance(control, ipw.Dropdown) else "slider"
        return cls(control.description, kind, says, values, values.index(control.value))

    def fewer(self) -> "Stops":
        """Returns about half of the stops, among them both ends and the one where the control stands."""
        kept = sorted({self.start, 0, len(self.values) - 1, *range(self.start % 2, len(self.values), 2)})
        says, values = [self.says[k] for k in kept], [self.values[k] for k in kept]
        return Stops(self.label, self.kind, says, values, kept.index(self.start))


def sampled(every: Sequence[Stops], most: int) -> list[Stops]:
    """Thins out the sliders, the longest first, until there are at most ``most`` combinations, or nothing to leave out:
    menus stay whole, and so do sliders of three stops."""
    few = list(every)
    while prod(len(each.values) for each in few) > most:
        longest = max(few, key=lambda each: len(each.values) if each.kind == "slider" else 0)
        if longest.kind == "menu" or len(longest.values) <= 3:
            break
        few[few.index(longest)] = longest.fewer()
    return few


def stops_table(
    controls: Mapping[str, Any],
    draw: Callable[..., go.Figure],
    describe: Callable[..., str],
    shown: Sequence[Part],
    most: int,
) -> dict[str, Any]:
    """Returns what an explorer shows at every combination of its controls' stops, as JSON's types.

    ``controls``: label, kind, stops and start of each; one for text has none, and is left out. ``sampled``: whether
    stops were left out to stay at ``most``. ``frames``: one per combination, the last control's stops changing fastest;
    each either has ``text`` and, in ``parts``, for each of its traces and then the layout the number of one of the
    ``deltas`` (what `changes` finds against the same part of ``shown``, or against nothing where that has fewer
    traces), or the ``error`` that is shown instead.
    """
    moving = {name: control for name, control in controls.items() if not isinstance(control, ipw.Textarea)}
    written = {name: control.value for name, control in controls.items() if name not in moving}  # stays as it is
    every = [Stops.of(control) for control in moving.values()]
    few = sampled(every, most)
    numbers = {"{}": 0}  # of the deltas, by their JSON

    def frames() -> Iterator[dict[str, Any]]:
        for values in product(*(each.values for each in few)):
            at = written | dict(zip(moving, values, strict=True))
            try:
                parts, text = parts_of(draw(**at)), describe(**at)
            except ValueError as error:
                yield {"error": str(error)}
                continue
            *traces, layout = parts
            traces_before = chain(shown[:-1], repeat({}))  # which may have been fewer
            pairs = [*zip(traces_before, traces, strict=False), (shown[-1], layout)]
            found = (json.dumps(changes(*pair), cls=PlotlyJSONEncoder) for pair in pairs)
            yield {"text": text, "parts": [numbers.setdefault(delta, len(numbers)) for delta in found]}

    drawn = list(frames())
    return {
        "controls": [{"label": e.label, "kind": e.kind, "stops": e.says, "start": e.start} for e in few],
        "sampled": few != every,
        "deltas": [json.loads(delta) for delta in numbers],
        "frames": drawn,
    }
