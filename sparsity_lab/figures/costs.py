"""Figures of what models cost, from configs: weights at work and asleep, FLOPs, memory, rooflines, bills."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.accounting import count_parameters, flops_by_part
from sparsity_lab.accounting.cost import Work
from sparsity_lab.accounting.devices import Device
from sparsity_lab.accounting.memory import training_memory
from sparsity_lab.config import ModelConfig
from sparsity_lab.figures.style import DENSE, FOURTH, GREY, LOOKS, SIXTH, SPARSE, TEXT, THIRD, styled
from sparsity_lab.units import money, size

# Colours after Okabe and Ito; patterns say the same to those who see no colours.
PARTS = {  # part of a model: label, colour, pattern
    "tables": ("embeddings and head", GREY, ""),
    "attention": ("attention", THIRD, ""),
    "scores": ("attention scores", SIXTH, "."),
    "router": ("router", FOURTH, "x"),
    "dense": ("dense and shared feed-forward", DENSE, ""),
    "routed": ("experts at work", SPARSE, ""),
    "sleeping": ("experts asleep", SPARSE, "/"),
}
LONG = 150  # left margin for names of models


def weights_by_part(config: ModelConfig) -> dict[str, int]:
    """Weights of each of `PARTS`; the keys of parts a model lacks have 0."""
    count = count_parameters(config)
    feed_forward = {"dense": count.dense + count.shared, "routed": count.routed_active, "sleeping": count.inactive}
    if not config.has_router:  # the one network of a dense model is no expert
        feed_forward = {"dense": count.dense + count.shared + count.routed, "routed": 0, "sleeping": 0}
    return {
        "tables": count.embedding + count.head,
        "attention": count.attention + count.norms,
        "scores": 0,
        "router": count.router,
        **feed_forward,
    }


def flops_parts(config: ModelConfig, context: int | None = None) -> dict[str, int]:
    """Forward FLOPs a token of each of `PARTS`."""
    flops = flops_by_part(config, context)
    routed = flops["routed"] if config.has_router else 0
    return {
        "tables": flops["head"],
        "attention": flops["projections"],
        "scores": flops["attention"],
        "router": flops["router"],
        "dense": flops["dense"] + flops["shared"] + flops["routed"] - routed,
        "routed": routed,
        "sleeping": 0,
    }


def stacked(
    bars: Mapping[str, Mapping[str, float]], axis: str, height: int | None = None, share: bool = False
) -> go.Figure:
    """Horizontal bars, one a name, stacked by the parts of `PARTS`; all traces are there, those of zeros without a name
    in the legend. ``share`` draws each bar as parts of one."""
    figure = go.Figure()
    totals = {name: sum(parts.values()) if share else 1 for name, parts in bars.items()}
    for key, (label, colour, pattern) in PARTS.items():
        values = [parts[key] / totals[name] for name, parts in bars.items()]
        figure.add_bar(
            y=list(bars),
            x=values,
            name=label,
            orientation="h",
            showlegend=any(values),
            marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "size": 6}},
            hovertemplate=("%{x:.1%}" if share else "%{x:.4s}") + f" {label}<extra>%{{y}}</extra>",
        )
    return styled(
        figure,
        height or 130 + 34 * len(bars),
        barmode="stack",
        margin={"l": LONG, "r": 20, "t": 60, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        xaxis={"title": axis} | ({"tickformat": ".0%", "range": [0, 1]} if share else {"rangemode": "tozero"}),
        yaxis={"autorange": "reversed", "showgrid": False},
    )


def flops_by_context(config: ModelConfig, contexts: Sequence[int], height: int = 380) -> go.Figure:
    """Forward FLOPs a token against the length of the text, stacked by part."""
    figure = go.Figure()
    parts = [flops_parts(config, context) for context in contexts]
    for key, (label, colour, pattern) in PARTS.items():
        values = [p[key] for p in parts]
        if any(values):
            figure.add_scatter(
                x=list(contexts),
                y=values,
                name=label,
                mode="lines",
                stackgroup="flops",
                line={"color": colour, "width": 1},
                fillpattern={"shape": pattern, "fgcolor": "white", "size": 6},
                hovertemplate="%{y:.3s}<extra>" + label + "</extra>",
            )
    return styled(
        figure,
        height,
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
        xaxis={"title": "tokens of context", "type": "log", "dtick": 1, "exponentformat": "power"},
        yaxis={"title": "forward FLOPs a token", "rangemode": "tozero"},
    )


def compute_and_memory(models: Mapping[str, ModelConfig], tokens: int, height: int = 360) -> go.Figure:
    """What grows with sparsity and what does not: FLOPs a token and bytes of training, as multiples of the first."""
    names, configs = list(models), list(models.values())
    flops = [sum(flops_by_part(c).values()) for c in configs]
    memory = [training_memory(c, tokens).total for c in configs]
    figure = go.Figure()
    for label, values, colour, dash, symbol in (
        ("memory of training", memory, DENSE, "dash", "square"),
        ("FLOPs a token", flops, SPARSE, "solid", "circle"),
    ):
        figure.add_scatter(
            x=names,
            y=[value / values[0] for value in values],
            name=label,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 9},
            hovertemplate="%{y:.3g} ×<extra>" + label + "</extra>",
        )
    return styled(
        figure,
        height,
        xaxis={"title": "sparsity S", "type": "category"},
        yaxis={"title": "multiples of the dense model's", "type": "log", "dtick": 1},
    )


def roofline(work: Mapping[str, Work], device: Device, dtype: str, height: int = 420) -> go.Figure:
    """Attainable FLOP/s against arithmetic intensity, and where pieces of work lie under the roof."""
    peak = device.peak(dtype)
    ridge = peak / device.bandwidth
    x = np.geomspace(0.1, max(1e5, ridge * 10), 200)
    figure = go.Figure()
    figure.add_scatter(
        x=x,
        y=np.minimum(peak, x * device.bandwidth),
        name=f"roof of {device.name}",
        mode="lines",
        line={"color": TEXT, "width": 2},
        hoverinfo="skip",
    )
    for (name, piece), (colour, _, symbol) in zip(work.items(), cycle(LOOKS), strict=False):
        figure.add_scatter(
            x=[piece.intensity],
            y=[min(peak, piece.intensity * device.bandwidth)],
            name=name,
            mode="markers",
            marker={"symbol": symbol, "size": 13, "color": colour},
            hovertemplate=f"{name}<br>%{{x:.3g}} FLOPs a byte<br>at most %{{y:.3s}}FLOP/s<extra></extra>",
        )
    return styled(
        figure,
        height,
        margin={"l": 70, "r": 20, "t": 50, "b": 50},
        xaxis={
            "title": "arithmetic intensity (FLOPs a byte moved)",
            "type": "log",
            "dtick": 1,
            "exponentformat": "power",
        },
        yaxis={"title": "FLOP/s at most", "type": "log", "dtick": 1, "exponentformat": "power"},
    )


def dollars(bills: Mapping[str, float], height: int = 260) -> go.Figure:
    """Horizontal bars of money, on a logarithmic axis: bills differ by powers of ten."""
    figure = go.Figure()
    figure.add_bar(
        y=list(bills),
        x=list(bills.values()),
        orientation="h",
        marker={"color": [SPARSE, DENSE, THIRD][: len(bills)]},
        text=[money(value) for value in bills.values()],
        textposition="auto",
        insidetextfont={"color": "black"},  # plotly's own choice, white, is too faint on blue and on green
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    top = max(bills.values())
    return styled(
        figure,
        height,
        margin={"l": 210, "r": 20, "t": 20, "b": 50},
        showlegend=False,
        xaxis={"title": "dollars", "type": "log", "range": [np.log10(top) - 4, np.log10(top) + 0.3], "dtick": 1,
               "tickprefix": "$ "},
        yaxis={"autorange": "reversed", "showgrid": False},
    )  # fmt: skip


def caches(bytes_: Mapping[str, float], memory: float, height: int = 280) -> go.Figure:
    """Horizontal bars of bytes on a logarithmic axis, and a line where the memory of a device ends."""
    figure = go.Figure()
    figure.add_bar(
        y=list(bytes_),
        x=list(bytes_.values()),
        orientation="h",
        name="cache",
        marker={"color": [SPARSE if "MLA" in name else GREY for name in bytes_]},
        text=[size(value) for value in bytes_.values()],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    figure.add_vline(x=memory, line={"color": DENSE, "dash": "dash", "width": 3})
    figure.add_annotation(  # an annotation on a logarithmic axis stands at a logarithm, a shape does not
        x=float(np.log10(memory)), y=1, yref="paper", yanchor="bottom", showarrow=False,
        text=f"memory of one processor: {size(memory)}",
    )  # fmt: skip
    return styled(
        figure,
        height,
        margin={"l": 100, "r": 20, "t": 40, "b": 50},
        xaxis={"title": "bytes", "type": "log", "range": [6, 14], "dtick": 2, "exponentformat": "power"},
        yaxis={"autorange": "reversed", "showgrid": False},
    )


def pareto(points: pd.DataFrame, chosen: str, height: int = 400) -> go.Figure:
    """Loss against bytes of cache, with intervals. ``points``: columns kind, bytes, loss, half; the row of the kind
    ``chosen`` is drawn large."""
    figure = go.Figure()
    for row in points.itertuples():
        mla = str(row.kind).startswith("MLA")
        figure.add_scatter(
            x=[row.bytes],
            y=[row.loss],
            error_y={"type": "data", "array": [row.half], "thickness": 1.5, "width": 4},
            mode="markers+text",
            name=str(row.kind),
            text=[str(row.kind)],
            textposition="middle right",
            marker={
                "symbol": "circle" if mla else "square",
                "size": 20 if row.kind == chosen else 10,
                "color": SPARSE if mla else GREY,
            },
            hovertemplate="%{y:.3f} nats a byte, %{x:.0f} bytes a token<extra>" + str(row.kind) + "</extra>",
        )
    low, high = points["bytes"].min(), points["bytes"].max()
    return styled(
        figure,
        height,
        showlegend=False,
        xaxis={
            "title": "bytes of cache a token",
            "type": "log",
            "range": [float(np.log10(low / 1.3)), float(np.log10(high * 1.8))],
            "tickvals": sorted(set(points["bytes"])),
        },
        yaxis={"title": "held-out loss (nats a byte)"},
    )


def against_length(
    lines: Mapping[str, Sequence[float]], lengths: Sequence[int], axis: str, height: int = 380
) -> go.Figure:
    """Lines over the length of a text, both axes logarithmic."""
    figure = go.Figure()
    for (name, values), (colour, dash, symbol) in zip(lines.items(), LOOKS, strict=False):
        figure.add_scatter(
            x=list(lengths),
            y=list(values),
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 8},
            hovertemplate="%{y:.3s} at %{x:,} tokens<extra>" + name + "</extra>",
        )
    return styled(
        figure,
        height,
        xaxis={"title": "tokens before it", "type": "log", "dtick": "D2"},
        yaxis={"title": axis, "type": "log", "dtick": 1, "exponentformat": "power"},
    )
