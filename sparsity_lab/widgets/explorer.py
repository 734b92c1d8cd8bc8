"""Sliders in front of a formula: move one, and figure and text follow at once. No training."""

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw
import numpy as np
import plotly.graph_objects as go

from sparsity_lab.widgets.accessibility import Aid, answer_at_once


class Explorer(ipw.VBox):
    """Sliders, a figure and a text. Display it as the last expression of a cell; ``draw`` called with the same values
    is its static twin.

    ``draw`` and ``describe`` get the values of ``controls`` by name. They return a figure, always with the same number
    of traces, and a text that says what the figure shows. If one raises ValueError, its text is shown under the
    controls and the last figure stays.
    """

    def __init__(self, draw: Callable[..., go.Figure], describe: Callable[..., str], **controls: ipw.ValueWidget):
        self.controls: Mapping[str, Any] = controls
        self._draw, self._describe = draw, describe
        first = draw(**self.values)
        self._shown = _parts(first)
        self.figure = go.FigureWidget(first)
        self.figure._config = {"responsive": True, "displayModeBar": False}  # plotly has no public name for it
        self.summary, self.problem = ipw.HTML(self._prose(describe(**self.values))), ipw.HTML()

        super().__init__([ipw.VBox(list(controls.values())), self.problem, self.figure, self.summary, Aid()])
        self.add_class("sparsity-lab-explorer")
        answer_at_once(self)
        for control in controls.values():
            control.observe(self._moved, names="value")

    @property
    def values(self) -> dict[str, Any]:
        """The values at which the controls stand."""
        return {name: control.value for name, control in self.controls.items()}

    def _moved(self, _: Any = None) -> None:
        try:
            figure, text = self._draw(**self.values), self._describe(**self.values)
        except ValueError as error:
            self.problem.value = f'<b role="alert">{html.escape(str(error))}</b>'
            return

        self.problem.value = ""
        new = _parts(figure)
        with self.figure.batch_update():  # only what changed: plotly takes a tenth of a second to check all of a figure
            for part, old, now in zip((*self.figure.data, self.figure.layout), self._shown, new, strict=True):
                part.update(changes(old, now))
        self._shown = new
        self.summary.value = self._prose(text)

    @staticmethod
    def _prose(text: str) -> str:
        return f'<div role="status" style="line-height:1.5">{html.escape(text)}</div>'


def _parts(figure: go.Figure) -> list[dict[str, Any]]:
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
