"""The kit of every figure: the template, colours by name, roles and looks, and the pieces that several figures share.

Colours are after Okabe and Ito, which colour-blind readers can tell apart; lines differ in their dashes and points in
their symbols too. Backgrounds are transparent and text is mid-grey, so one figure is legible in JupyterLab's light and
dark themes. Traces are plain dictionaries until `styled` makes a figure of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly import io

from sparsity_lab.units import power

BLUE, ORANGE, GREEN, PINK = "#2b8fd6", "#e69f00", "#009e73", "#cc79a7"
VERMILION, SKY, BROWN, OLIVE = "#d55e00", "#56b4e9", "#8c564b", "#b0a300"
GREY, PALE, GRID, CLEAR = "#7f8790", "rgba(128,128,128,0.55)", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"

LOSS = "held-out loss (nats per byte)"
SPARSITY = "sparsity S (each step to the right: half as many active experts)"
Trace = dict[str, Any]
Half = str | tuple[str, str] | None  # the column of half an interval's width, or the columns of its low and high end

DOWN: Trace = {"autorange": "reversed", "showgrid": False}  # an axis of names, the first on top
ALONE: Trace = {"mode": "markers", "marker_size": 11, "error_y_width": 8, "error_y_thickness": 2}  # no line joins them


class Look(NamedTuple):
    """How a line and its points are drawn."""

    colour: str
    dash: str = "solid"
    symbol: str = "circle"
    width: float = 2

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "dash": self.dash, "width": self.width}


ROLES = {
    "this": Look(BLUE, width=3),
    "dense": Look(ORANGE, "dash", "square", 3),
    "measured": Look(BLUE, "dot", width=1.5),
    "measured dense": Look(ORANGE, "dot", "square", 1.5),
    "ghost": Look(PALE, width=1.5),  # earlier runs, other methods
    "reference": Look(GREY, "dot"),  # chance, an even share, no difference
}
LOOKS = (  # lines that are told apart
    Look(BLUE, "solid", "circle"),
    Look(ORANGE, "dash", "square"),
    Look(GREEN, "dot", "diamond"),
    Look(PINK, "dashdot", "cross"),
    Look(VERMILION, "longdash", "triangle-up"),
    Look(GREY, "longdashdot", "x"),
    Look(SKY, "solid", "triangle-down"),
    Look(BROWN, "dash", "pentagon"),
)
OTHERS = (LOOKS[0], *LOOKS[2:])  # lines of which none is the dense model's
AGAINST = (LOOKS[1], LOOKS[0], *LOOKS[2:])  # the first is what the others are compared with, say the dense model
ORDERED = (  # lines in an order: from dense to sparsest, from the smallest budget to the largest
    Look(ORANGE, symbol="square"),
    Look(PINK, symbol="diamond"),
    Look(BLUE, symbol="circle"),
    Look(GREEN, symbol="triangle-up"),
    Look(VERMILION, symbol="x"),
    Look(SKY, symbol="cross"),
)

TEMPLATE = "sparsity_lab"
AXIS = {"gridcolor": GRID, "linecolor": GRID, "tickcolor": GRID, "zerolinecolor": GREY, "showline": True,
        "zeroline": False, "automargin": True, "ticks": "outside", "title": {"standoff": 15}}  # fmt: skip
HATCHING = {"fgcolor": "white", "size": 6, "solidity": 0.2, "fillmode": "overlay"}
COLOURED = {"colorscale": "Cividis", "colorbar": {"thickness": 12, "outlinewidth": 0, "ticks": ""}}
io.templates[TEMPLATE] = go.layout.Template(
    layout={
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": GREY, "size": 13},
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {"align": "left"},
        "xaxis": AXIS,
        "yaxis": AXIS,
    },
    data={
        "scatter": [{"marker": {"size": 9}, "error_y": {"thickness": 1.5, "width": 4}, "fillpattern": HATCHING}],
        "bar": [{"marker": {"pattern": HATCHING, "line": {"color": "#e5ecf6", "width": 0.5}}}],
        **{kind: [COLOURED] for kind in ("heatmap", "contour", "surface")},
    },
)


def styled(data: go.Figure | Iterable[Trace], height: int, **layout: Any) -> go.Figure:
    """Returns the figure, or one of these traces, in the suite's look."""
    figure = data if isinstance(data, go.Figure) else go.Figure(list(data))
    return figure.update_layout(template=TEMPLATE, height=height, autosize=True, **layout)


def line(x: Any, y: Any, name: str, look: Look, hover: str, mode: str = "lines+markers", **more: Any) -> Trace:
    """Returns a line with its points, or either alone. ``hover`` is a template of plotly, ``more`` is of the trace."""
    hidden = {"hovertemplate": f"{hover}<extra>{name}</extra>"} if hover else {"hoverinfo": "skip"}
    drawn = {"line": look.line, "marker": {"color": look.colour, "symbol": look.symbol}}
    return {"type": "scatter", "x": x, "y": y, "name": name, "mode": mode} | drawn | hidden | more


def lines_with_intervals(
    frame: pd.DataFrame,
    x: str,
    y: str,
    half: Half,
    hover: str,
    looks: Sequence[Look] = LOOKS,
    by: str = "line",
    named: Callable[[Any], str] = str,
    **more: Any,
) -> list[Trace]:
    """Returns a line for each value of the column ``by``, in the order in which the frame has them, ``named`` after it.
    The column details, if there is one, is what ``hover`` calls customdata. ``more`` is as in `line`."""
    traces = []
    for (key, part), look in zip(frame.groupby(by, sort=False), cycle(looks), strict=False):
        extra: Trace = {"customdata": part["details"]} if "details" in part else {}
        if isinstance(half, str):
            extra["error_y"] = {"type": "data", "array": part[half]}
        elif half is not None:
            low, high = half
            extra["error_y"] = {"type": "data", "array": part[high] - part[y], "arrayminus": part[y] - part[low]}
        traces.append(line(part[x], part[y], named(key), look, hover, **extra | more))
    return traces


def labelled_bars(values: Mapping[str, float], texts: Iterable[str], colours: Sequence[str], **more: Any) -> Trace:
    """Returns horizontal bars with a text on each."""
    bars = {"type": "bar", "orientation": "h", "y": list(values), "x": list(values.values()), "text": list(texts)}
    return bars | {"marker": {"color": list(colours)}, "hovertemplate": "%{y}: %{text}<extra></extra>"} | more


def heatmap(z: Any, hover: str, scale: str = "", **more: Any) -> Trace:
    """Returns a map of colours; ``scale`` is the title of its colour bar."""
    bar = {"title": {"text": scale}}
    return {"type": "heatmap", "z": z, "hovertemplate": f"{hover}<extra></extra>", "colorbar": bar} | more


def load_map(load: Any, hover: str, **more: Any) -> Trace:
    """Returns a map of experts' loads in multiples of the even share, all on one scale, up to 3."""
    return heatmap(load, hover + ": %{z:.2f} × the even share", "load,<br>× even", zmin=0, zmax=3, **more)


def log_axis(title: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    """Returns a logarithmic axis with ticks at powers of ten, unless ``more`` has others, say those of `fine_ticks`."""
    return {"title": title, "type": "log", "dtick": 1, "exponentformat": "power"} | more


def fine_ticks(values: Iterable[float]) -> dict[str, Any]:
    """Returns ticks for a logarithmic axis of these values, each written in full: 0.5, 20, 5,000 or 2×10⁶.

    They stand at 1, 2 and 5 times powers of ten; closer where the values are, and at the powers alone where they span
    more than three.
    """
    known = np.asarray([value for value in values if 0 < value < np.inf])
    if not len(known):
        return {}
    low, high = np.log10([known.min(), known.max()])
    digits = (1, 1.5, 2, 3, 4, 5, 7) if high - low < 0.5 else (1, 2, 5) if high - low <= 3 else (1,)
    exponents = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    places = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
    written = "{:,g}".format if known.min() >= 1e-4 and known.max() < 1e5 else power
    return {"tickvals": places, "ticktext": list(map(written, places))}


def share_axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": title, "tickformat": ".0%"} | more


def stops(values: Iterable[float], form: str) -> dict[str, Any]:
    """Returns ticks at these values alone, written in the format ``form``."""
    places = sorted(set(values))
    return {"tickvals": places, "ticktext": [format(place, form) for place in places]}


def sparsity_axis(sparsities: Iterable[float], title: str = SPARSITY) -> dict[str, Any]:
    """Returns the axis of `halvings`, with the sparsities themselves at its ticks."""
    ticks = stops(sparsities, ".4g")
    return ticks | {"title": title, "tickvals": halvings(ticks["tickvals"])}


def halvings(sparsity: Any) -> Any:
    """Returns −log₂(1 − S): each step halves the share that is active, and S = 1 lies at infinity."""
    return -np.log2(1 - np.asarray(sparsity, float))


def sparsity_name(sparsity: float) -> str:
    return "dense" if sparsity == 0 else f"S = {sparsity:.3g}"
