"""Figures of what experts do: which tokens they read, and how many."""

import html
from itertools import groupby

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures import style
from sparsity_lab.figures.style import DOWN, ROLES, heatmap, load_map, styled

# The ninth and later experts repeat the colours with another line.
COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.PINK, style.SKY, style.VERMILION, style.OLIVE, style.GREY)
LINES = ("solid", "double", "dotted", "dashed")
TINT = "2e"  # opacity behind a character
EXPERTS = {"title": "expert"} | DOWN


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
    traces = style.lines_with_intervals(loads, "step", "max_load", None, hover, style.AGAINST, mode="lines")
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
