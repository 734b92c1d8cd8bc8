"""Figures of what experts do: which tokens they read, and how many."""

import html
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.figures import style
from sparsity_lab.figures.style import DOWN, ROLES, heatmap, load_map, styled

# The ninth and later experts repeat the colours with another line.
COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PINK, style.SKY, style.VERMILION, style.OLIVE, style.GREY)
LINES = ("solid", "double", "dotted", "dashed")
TINT = "2e"  # opacity behind a character
EXPERTS = {"title": "expert"} | DOWN
KIND_COLOURS = {  # as in widgets/grid.js
    "keyword": style.VERMILION, "name": style.BLUE, "number": style.PINK, "string": style.GREEN,
    "comment": style.BROWN, "operator": style.ORANGE, "blank": style.SKY, "other": style.GREY,
}  # fmt: skip
SHOWN = {"\n": "⏎", " ": "·"}


def preferences(lift: pd.DataFrame, across: str = "kind of token") -> go.Figure:
    """Heat map of how many times as often as on average an expert meets what is named in the columns (``across`` says
    what that is), on a logarithmic scale: white is indifference, a gap is not known."""
    with np.errstate(divide="ignore"):
        z = np.clip(np.log2(lift.to_numpy()), -3, 3)
    more: style.Trace = {"x": list(lift.columns), "y": list(map(str, lift.index)), "customdata": lift.to_numpy()}
    more |= {"zmin": -3, "zmax": 3, "colorscale": "RdBu", "reversescale": True}
    more |= {"colorbar_tickvals": list(range(-3, 4)), "colorbar_ticktext": [f"{2.0**n:g}" for n in range(-3, 4)]}
    hover = f"expert %{{y}}, {across} %{{x}}: %{{customdata:.2f}} × as often"
    trace = heatmap(z, hover, "× as often<br>as average", **more)
    xaxis = {"title": across, "showgrid": False}
    return styled([trace], 420, xaxis=xaxis, yaxis=EXPERTS | {"type": "category"})


def pairs(matrix: np.ndarray, title: str) -> go.Figure:
    """Heat map expert × expert, of similarity."""
    trace = heatmap(matrix, f"experts %{{y}} and %{{x}}: {title} %{{z:.2f}}", title)
    return styled([trace], 380, xaxis={"title": "expert", "showgrid": False}, yaxis=EXPERTS)


def blocks(counts: np.ndarray, width: int, block: int) -> go.Figure:
    """MegaBlocks' view of a layer: the hidden numbers of all experts side by side, sorted tokens below each other; only
    the blocks in which a token meets its own expert are computed. ``counts``: tokens of each expert, (E,)."""
    rows = -(-counts // block)  # blocks of tokens, rounded up: the last one is padded
    across = -(-width // block)
    experts = np.arange(1, len(counts) + 1)
    z = np.where(np.eye(len(counts), dtype=bool), experts, np.nan).repeat(rows, 0).repeat(across, 1)
    trace = heatmap(z, "block row %{y}, column %{x}: expert %{z}", showscale=False, xgap=1, ygap=1)
    xaxis = {"title": f"hidden numbers of all experts, in blocks of {block}", "range": [-0.5, z.shape[1] - 0.5]}
    yaxis = {"title": f"sorted tokens, in blocks of {block}", "range": [max(len(z), 1) - 0.5, -0.5]}
    return styled([trace], 380, xaxis=xaxis, yaxis=yaxis)


def load_over_time(loads: pd.DataFrame) -> go.Figure:
    """Busiest expert's load in multiples of the even share. ``loads``: columns line, step, max_load."""
    hover = "%{y:.2f} × the even share at step %{x}"
    traces = style.lines_with_intervals(loads, "step", "max_load", None, hover, style.OTHERS, mode="lines")
    yaxis = {"title": "busiest expert's load<br>(× the even share)", "rangemode": "tozero"}
    figure = styled(traces, 360, xaxis={"title": "training step"}, yaxis=yaxis)
    return figure.add_hline(y=1, line=ROLES["reference"].line)


def loads_by_expert(loads: np.ndarray, height: int = 300) -> go.Figure:
    """Heat map expert × training step of the load in multiples of the even share. ``loads``: shares, (steps, experts);
    neighbouring steps are averaged, to at most 100 columns."""
    pieces = np.array_split(np.arange(len(loads)), min(100, len(loads)))
    z = np.stack([loads[piece].mean(0) for piece in pieces], axis=1) * loads.shape[1]
    trace = load_map(z, "expert %{y}, to step %{x}", x=[int(piece[-1]) + 1 for piece in pieces])
    return styled([trace], height, xaxis={"title": "training step", "showgrid": False}, yaxis=EXPERTS)


def coloured(text: bytes, experts: np.ndarray) -> str:
    """Returns HTML: each character underlined by the expert that read it; hovering names it."""
    runs = groupby(zip(text.decode("latin-1"), experts, strict=True), key=lambda pair: int(pair[1]))
    spans = [_span("".join(character for character, _ in run), expert) for expert, run in runs]
    legend = " ".join(_span(f" {e} ", int(e)) for e in np.unique(experts))
    return (
        f'<div role="figure" aria-label="text, each character marked by the expert that read it">expert: {legend}'
        f'<pre style="line-height:1.9;white-space:pre-wrap">{"".join(spans)}</pre></div>'
    )


def _span(characters: str, expert: int) -> str:
    colour, line = COLOURS[expert % len(COLOURS)], LINES[expert // len(COLOURS) % len(LINES)]
    css = f"border-bottom:3px {line} {colour};background:{colour}{TINT}"
    return f'<span style="{css}" title="expert {expert}">{html.escape(characters)}</span>'


def readers(line: str, experts_LTK: Sequence[Any], kinds_LE: Sequence[Sequence[str]], n_experts: int) -> go.Figure:
    """Squares where an expert reads a character: characters to the right, the experts of each layer upwards, coloured
    by the kind of token that an expert came to read where ``kinds_LE`` knows it (in the form of `training.reading`)."""
    layers = max(1, len(experts_LTK))
    figure = make_subplots(rows=layers, shared_xaxes=True, vertical_spacing=0.06)
    named = set[str]()
    for layer, experts_TK in enumerate(experts_LTK):
        places = [(place, expert) for place, experts_K in enumerate(experts_TK) for expert in experts_K]
        by_kind = sorted(places, key=lambda at: _kind(kinds_LE, layer, at[1]))
        for kind, of_kind in groupby(by_kind, key=lambda at: _kind(kinds_LE, layer, at[1])):
            x, y = zip(*of_kind, strict=True)
            trace = {
                "type": "scatter", "mode": "markers", "x": x, "y": [expert + 1 for expert in y], "name": kind,
                "legendgroup": kind, "showlegend": kind not in named, "text": [repr(line[place]) for place in x],
                "hovertemplate": f"layer {layer + 1}, expert %{{y}} reads %{{text}}<extra>{kind}</extra>",
                "marker": {"symbol": "square", "size": 9, "color": KIND_COLOURS.get(kind, style.BLUE)},
            }  # fmt: skip
            named.add(kind)
            figure.add_trace(trace, row=layer + 1, col=1)
        title = f"experts of layer {layer + 1}"
        figure.update_yaxes(
            title=title, range=[0.2, n_experts + 0.8], dtick=max(1, n_experts // 4), row=layer + 1, col=1
        )
    ticks = {"tickvals": list(range(len(line))), "ticktext": [SHOWN.get(c, c) for c in line], "tickangle": 0}
    figure.update_xaxes(**ticks, showgrid=False, row=layers, col=1)
    legend = {"title": {"text": "came to read:"}} if any(any(kinds) for kinds in kinds_LE) else {}
    return styled(figure, 130 + 130 * layers, legend=legend, showlegend=bool(legend))


def _kind(kinds_LE: Sequence[Sequence[str]], layer: int, expert: int) -> str:
    kind = kinds_LE[layer][expert] if len(kinds_LE) else ""
    return "blank" if kind in ("indentation", "space", "newline") else kind
