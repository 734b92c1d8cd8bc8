"""Figures of what experts do: DataFrames and arrays in, plotly figures and HTML out."""

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.style import DENSE, FIFTH, FOURTH, GREY, SIXTH, SPARSE, THIRD, styled

# Told apart by colour-blind readers (Okabe and Ito); the seventh and later experts repeat them with another line.
COLOURS = (SPARSE, DENSE, THIRD, FOURTH, SIXTH, FIFTH, "#b0a300", GREY)
LINES = ("solid", "double", "dotted", "dashed")
TINT = "2e"  # opacity behind a character


def preferences(lift: pd.DataFrame, across: str = "kind of token", height: int = 420) -> go.Figure:
    """Heat map of how many times as often as on average an expert meets what is named in the columns (`across` says
    what that is), on a logarithmic scale: white is indifference, a gap is not known."""
    with np.errstate(divide="ignore"):
        z = np.clip(np.log2(lift.to_numpy()), -3, 3)
    ticks = [-3, -2, -1, 0, 1, 2, 3]
    trace = {
        "type": "heatmap",
        "z": z,
        "x": list(lift.columns),
        "y": [str(expert) for expert in lift.index],
        "zmin": -3,
        "zmax": 3,
        "colorscale": "RdBu",
        "reversescale": True,
        "customdata": lift.to_numpy(),
        "colorbar": {
            "title": {"text": "× as often<br>as average"},
            "tickvals": ticks,
            "ticktext": [f"{2.0**t:g}" for t in ticks],
        },
        "hovertemplate": "expert %{y}, " + across + " %{x}: %{customdata:.2f} × as often<extra></extra>",
    }
    return styled(
        go.Figure(data=[trace]),
        height,
        xaxis={"title": across, "showgrid": False},
        yaxis={"title": "expert", "showgrid": False, "autorange": "reversed", "type": "category"},
    )


def pairs(matrix: np.ndarray, title: str, height: int = 380) -> go.Figure:
    """Heat map expert × expert, of similarity."""
    trace = {"type": "heatmap", "z": matrix, "colorscale": "Cividis", "colorbar": {"title": {"text": title}}}
    return styled(
        go.Figure(data=[trace]),
        height,
        xaxis={"title": "expert", "showgrid": False},
        yaxis={"title": "expert", "showgrid": False, "autorange": "reversed"},
    )


def blocks(counts: np.ndarray, width: int, block: int, height: int = 380) -> go.Figure:
    """MegaBlocks' view of a layer: the hidden numbers of all experts side by side, sorted tokens below each other; only
    the blocks in which a token meets its own expert are computed. ``counts``: tokens of each expert, (E,)."""
    rows = -(-counts // block)  # blocks of tokens, rounded up: the last one is padded
    across = -(-width // block)
    z = np.zeros((int(rows.sum()), across * len(counts)))
    start = 0
    for expert, n in enumerate(rows):
        z[start : start + n, expert * across : (expert + 1) * across] = expert + 1
        start += n
    trace = {
        "type": "heatmap",
        "z": np.where(z > 0, z, np.nan),
        "colorscale": "Cividis",
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "block row %{y}, column %{x}: expert %{z}<extra></extra>",
    }
    return styled(
        go.Figure(data=[trace]),
        height,
        xaxis={"title": f"hidden numbers of all experts, in blocks of {block}", "range": [-0.5, z.shape[1] - 0.5]},
        yaxis={"title": f"sorted tokens, in blocks of {block}", "range": [max(len(z), 1) - 0.5, -0.5]},
    )


def load_over_time(loads: pd.DataFrame, height: int = 360) -> go.Figure:
    """Busiest expert's load in multiples of the even share. ``loads``: columns line, step, max_load."""
    figure = go.Figure()
    looks = ((DENSE, "dash"), (SPARSE, "solid"), (THIRD, "dot"), (FOURTH, "dashdot"))
    for (line, part), (colour, dash) in zip(loads.groupby("line", sort=False), looks, strict=False):
        figure.add_scatter(
            x=part["step"],
            y=part["max_load"],
            name=str(line),
            mode="lines",
            line={"color": colour, "dash": dash, "width": 2},
            hovertemplate="%{y:.2f} × the even share at step %{x}<extra>" + str(line) + "</extra>",
        )
    figure.add_hline(y=1, line={"color": GREY, "dash": "dot"})
    return styled(
        figure,
        height,
        xaxis={"title": "training step"},
        yaxis={"title": "busiest expert's load<br>(× the even share)", "rangemode": "tozero"},
    )


def loads_by_expert(loads: np.ndarray, height: int = 300) -> go.Figure:
    """Heat map expert × training step of the load in multiples of the even share. ``loads``: shares, (steps, experts);
    neighbouring steps are averaged, to at most 100 columns."""
    pieces = np.array_split(np.arange(len(loads)), min(100, len(loads)))
    trace = {
        "type": "heatmap",
        "z": np.stack([loads[piece].mean(0) for piece in pieces], axis=1) * loads.shape[1],
        "x": [int(piece[-1]) + 1 for piece in pieces],
        "zmin": 0,
        "zmax": 3,
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "load,<br>× even"}, "thickness": 12},
        "hovertemplate": "expert %{y}, to step %{x}: %{z:.2f} × the even share<extra></extra>",
    }
    return styled(
        go.Figure(data=[trace]),
        height,
        xaxis={"title": "training step", "showgrid": False},
        yaxis={"title": "expert", "showgrid": False, "autorange": "reversed"},
    )


def coloured(text: bytes, experts: np.ndarray) -> str:
    """HTML: each character underlined by the expert that read it; hovering names it. Legible in light and dark."""
    spans, start = [], 0
    characters = text.decode("latin-1")
    for end in range(1, len(characters) + 1):
        if end == len(characters) or experts[end] != experts[start]:
            spans.append(_span(characters[start:end], int(experts[start])))
            start = end
    legend = " ".join(_span(f" {e} ", int(e)) for e in np.unique(experts))
    return (
        f'<div role="figure" aria-label="text, each character marked by the expert that read it">expert: {legend}'
        f'<pre style="line-height:1.9;white-space:pre-wrap">{"".join(spans)}</pre></div>'
    )


def _span(characters: str, expert: int) -> str:
    colour, line = COLOURS[expert % len(COLOURS)], LINES[expert // len(COLOURS) % len(LINES)]
    style = f"border-bottom:3px {line} {colour};background:{colour}{TINT}"
    return f'<span style="{style}" title="expert {expert}">{html.escape(characters)}</span>'
