"""Sliders in front of a formula: move one, and figure and text follow at once. No training."""

import html
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go

from sparsity_lab.widgets.accessibility import Aid, answer_at_once
from sparsity_lab.widgets.live_figure import LiveFigure, parts_of
from sparsity_lab.widgets.stops import STOPS, SWITCH, stops_table


class Explorer(ipw.VBox):
    """Sliders, a figure and a text. Display it as the last expression of a cell. Where there is no browser, its output
    holds the figure and the text as they stand.

    ``draw`` and ``describe`` get the values of ``controls`` by name. They return a figure and a text that
    says what the figure shows. If one raises ValueError, its text is shown under the controls and the last figure
    stays.
    """

    def __init__(self, draw: Callable[..., go.Figure], describe: Callable[..., str], **controls: ipw.ValueWidget):
        self.controls: Mapping[str, Any] = controls
        self._draw, self._describe = draw, describe
        first = draw(**self.values)
        self._live = LiveFigure(first, parts_of(first))
        self.figure = self._live.widget
        self._text = describe(**self.values)
        self.summary, self.problem = ipw.HTML(_prose(self._text)), ipw.HTML()

        super().__init__([ipw.VBox(list(controls.values())), self.problem, self.figure, self.summary, Aid()])
        self.add_class("sparsity-lab-explorer")
        answer_at_once(self)
        for control in controls.values():
            control.observe(self._moved, names="value")

    @property
    def values(self) -> dict[str, Any]:
        """The values at which the controls stand."""
        return {name: control.value for name, control in self.controls.items()}

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """Returns the widget, which JupyterLab prefers, beside figure and text for those who can't show it; where
        `SWITCH` asks for them, also the figure and text of every stop."""
        twin = {
            "application/vnd.plotly.v1+json": json.loads(self.figure.to_json()),
            "text/html": self.summary.value,
            "text/plain": self._text,
        }
        if most := os.environ.get(SWITCH):
            twin[STOPS] = stops_table(self.controls, self._draw, self._describe, self._live.shown, int(most))
        return super()._repr_mimebundle_(**options) | twin

    def _moved(self, _: Any = None) -> None:
        try:
            figure, text = self._draw(**self.values), self._describe(**self.values)
        except ValueError as error:
            self.problem.value = f'<b role="alert">{html.escape(str(error))}</b>'
            return

        self.problem.value = ""
        self._live.show(parts_of(figure))
        self._text = text
        self.summary.value = _prose(text)


def _prose(text: str) -> str:
    return f'<div role="status" style="line-height:1.5">{html.escape(text)}</div>'


def choice(label: str, options: Mapping[str, Any] | list[Any], value: Any) -> ipw.SelectionSlider:
    """Makes a slider over stops, given as names and values or as values alone. It starts at the stop nearest to
    ``value``."""
    stops = list(options.items()) if isinstance(options, Mapping) else [(_name(o), o) for o in options]
    if value not in [stop for _, stop in stops]:
        value = min((stop for _, stop in stops), key=lambda stop: abs(stop - value))
    return ipw.SelectionSlider(options=stops, value=value, **_looks(label))


def pick(label: str, options: list[str], value: str) -> ipw.Dropdown:
    """Makes a menu."""
    return ipw.Dropdown(options=options, value=value, **_looks(label))


def slide(label: str, value: float, low: float, high: float, step: float, form: str = ".3g") -> ipw.FloatSlider:
    """Makes a slider over a range. It starts at ``value``, or at the end of the range that is nearest to it."""
    start = min(max(value, low), high)
    return ipw.FloatSlider(value=start, min=low, max=high, step=step, readout_format=form, **_looks(label))


def _looks(label: str) -> dict[str, Any]:
    return {"description": label, "style": {"description_width": "150px"}, "layout": {"width": "440px"}}


def _name(option: Any) -> str:
    return f"{option:,.6g}" if isinstance(option, (int, float)) else str(option)
