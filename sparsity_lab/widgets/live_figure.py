"""The plot that moves: one FigureWidget, which is sent only what changed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

Part = dict[str, Any]


class LiveFigure:
    """A figure on a page, of these ``parts``: its traces and, last, its layout. Display ``widget``; each one costs the
    browser 5 MB."""

    def __init__(self, figure: go.Figure, parts: Sequence[Part]) -> None:
        self.shown = parts
        self.widget = go.FigureWidget(figure)
        self.widget._config = {"responsive": True, "displayModeBar": False}  # plotly has no public name for it
        # A page that is opened or reloaded later asks for the state of the widget. plotly leaves there what the figure
        # began with; let it be what the figure has become.
        now = {"_widget_data": self.widget._data, "_widget_layout": self.widget._layout_obj._props}
        self.widget._trait_values |= now

    def show(self, parts: Sequence[Part]) -> None:
        """Shows another figure by what differs: plotly takes a tenth of a second to check all of it."""
        *before, layout = self.shown
        traces, count = parts[:-1], len(before)
        if len(traces) < count:
            self.widget.data = self.widget.data[: len(traces)]
        elif len(traces) > count:
            self.widget.add_traces(traces[count:])
        before = [*before[: len(traces)], *traces[count:], layout]
        with self.widget.batch_update():
            for part, old, new in zip((*self.widget.data, self.widget.layout), before, parts, strict=True):
                if found := changes(old, new):
                    part.update(found)
        self.shown = parts


def parts_of(figure: go.Figure) -> list[Part]:
    """Returns the traces of a figure and its layout. A whole figure would pack its arrays as bytes."""
    return [part.to_plotly_json() for part in (*figure.data, figure.layout)]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what has to be set, at any depth, to make ``old`` like ``new``; None for what ``new`` lacks."""
    found: dict[str, Any] = dict.fromkeys(key for key in old if key not in new)
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := changes(before, value):
                found[key] = inner
        elif not np.array_equal(np.asarray(before, object), np.asarray(value, object)):
            found[key] = value
    return found
