"""Figures of what models cost, from configs: active and inactive weights, FLOPs, memory, rooflines, bills."""

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.accounting import count_parameters, flops_by_part
from sparsity_lab.accounting.cost import Work
from sparsity_lab.accounting.devices import Device
from sparsity_lab.accounting.fits import Held
from sparsity_lab.accounting.shape import Model
from sparsity_lab.accounting.train_memory import training_memory
from sparsity_lab.config import ModelConfig
from sparsity_lab.figures import style
from sparsity_lab.figures.style import BLUE, DOWN, GREY, LOOKS, ORANGE, Look, line, log_axis, styled
from sparsity_lab.units import money, size

PARTS = {  # part of a model: label, colour, and a pattern that says the same to those who see no colours
    "tables": ("embeddings and head", GREY, ""),
    "attention": ("attention", style.GREEN, ""),
    "scores": ("attention scores", style.SKY, "."),
    "router": ("router", style.PINK, "x"),
    "dense": ("dense and shared feed-forward", ORANGE, ""),
    "routed": ("active experts", BLUE, ""),
    "inactive": ("inactive experts", BLUE, "/"),
}


HELD = {"weights": "", "cache": ".", "activations": "/"}  # by each GPU of a server: a pattern for each


def weights_by_part(config: Model) -> dict[str, int]:
    """Returns the weights of each of `PARTS`; the keys of parts that a model lacks have 0."""
    count = count_parameters(config)
    # The one network of a dense model is no expert.
    routed, inactive = (count.routed_active, count.inactive) if config.has_router else (0, 0)
    dense = count.dense + count.shared + count.routed - routed - inactive
    tables, attention = count.embedding + count.head, count.attention + count.norms
    return dict(zip(PARTS, (tables, attention, 0, count.router, dense, routed, inactive), strict=True))


def flops_parts(config: ModelConfig, context: int | None = None) -> dict[str, int]:
    """Returns the forward FLOPs per token of each of `PARTS`."""
    flops = flops_by_part(config, context)
    routed = flops["routed"] if config.has_router else 0
    dense = flops["dense"] + flops["shared"] + flops["routed"] - routed
    rest = (flops[key] for key in ("head", "projections", "attention", "router"))
    return dict(zip(PARTS, (*rest, dense, routed, 0), strict=True))


def stacked(
    bars: Mapping[str, Mapping[str, float]], axis: str, height: int | None = None, share: bool = False
) -> go.Figure:
    """Horizontal bars, one for each name, stacked by `PARTS`. All traces are there, so that a slider can move them;
    those of zeros have no name in the legend. ``share`` draws each bar as parts of one."""
    totals = {name: sum(parts.values()) if share else 1 for name, parts in bars.items()}
    figure = go.Figure()
    for key, (label, colour, pattern) in PARTS.items():
        values = [parts[key] / totals[name] for name, parts in bars.items()]
        hover = ("%{x:.1%}" if share else "%{x:.4s}") + f" {label}<extra>%{{y}}</extra>"
        look = {"color": colour, "pattern_shape": pattern}
        shown = {"name": label, "showlegend": any(values), "hovertemplate": hover}
        figure.add_bar(y=list(bars), x=values, orientation="h", marker=look, **shown)
    margin, legend = {"l": 150, "t": 60}, {"traceorder": "normal"}
    xaxis = style.share_axis(axis, range=[0, 1]) if share else {"title": axis, "rangemode": "tozero"}
    height = height or 200 + 34 * len(bars)  # a narrow notebook breaks the legend into four rows
    return styled(figure, height, barmode="stack", margin=margin, legend=legend, xaxis=xaxis, yaxis=DOWN)


def fit(parts: Mapping[str, float], held: Held, room: float) -> go.Figure:
    """Above, the weights of a model, stacked by `PARTS`; below, what each GPU holds, in GB, and a line where its usable
    memory of ``room`` bytes ends."""
    most = 1.08 * max(room, held.total) / 1e9
    figure = make_subplots(2, 1, vertical_spacing=0.36)
    figure.add_traces(stacked({"weights": parts}, "").data, 1, 1)
    for (name, pattern), colour in zip(HELD.items(), (GREY, style.SKY, style.OLIVE), strict=True):
        gigabytes = getattr(held, name) / 1e9
        look = {"color": colour, "pattern_shape": pattern}
        place = {"textposition": "inside", "insidetextanchor": "middle", "constraintext": "none", "textangle": 0}
        words = {
            "text": name if gigabytes > most / 8 else "",
            "hovertemplate": f"%{{x:,.4g}} GB: {name}<extra></extra>",
        }
        bar = {"x": [gigabytes], "marker": look, "showlegend": False} | place | words
        figure.add_bar(y=["each GPU"], orientation="h", row=2, col=1, **bar)
    end = {"symbol": "line-ns", "size": 60, "line": {"width": 3, "color": GREY}}
    usable = {"hovertemplate": "%{x:,.4g} GB: usable memory<extra></extra>", "showlegend": False}
    figure.add_scatter(x=[room / 1e9], y=["each GPU"], mode="markers", marker=end, **usable, row=2, col=1)
    below = {"title": "GB per GPU; the line is its usable memory", "range": [0, most]}
    axes = {"xaxis": {"rangemode": "tozero"}, "xaxis2": below, "yaxis2": {"range": [-0.5, 0.5]}}
    return styled(figure, 400, barmode="stack", margin={"l": 90, "t": 80}, legend={"traceorder": "normal"}, **axes)


def flops_by_context(config: ModelConfig, contexts: Sequence[int]) -> go.Figure:
    """Forward FLOPs per token against the length of the text, stacked by part."""
    traces = []
    parts = [flops_parts(config, context) for context in contexts]
    for key, (label, colour, pattern) in PARTS.items():
        values = [p[key] for p in parts]
        area = {"stackgroup": "flops", "fillpattern_shape": pattern}
        hover = "%{y:.3s} forward FLOPs per token at %{x:,} tokens of context"
        if any(values):
            traces.append(line(list(contexts), values, label, Look(colour, width=1), hover, "lines", **area))
    yaxis = {"title": "forward FLOPs per token", "rangemode": "tozero"}
    return styled(traces, 380, margin={"l": 70, "t": 60}, xaxis=log_axis("tokens of context"), yaxis=yaxis)


def compute_and_memory(models: Mapping[str, ModelConfig], tokens: int) -> go.Figure:
    """What grows with sparsity and what does not: FLOPs per token and bytes of training, as multiples of the first."""
    flops = [sum(flops_by_part(config).values()) for config in models.values()]
    memory = [training_memory(config, tokens).total for config in models.values()]
    hover, pink, green = "%{y:.3g} × the dense model's at S = %{x}", LOOKS[3], LOOKS[2]
    traces = [
        line(list(models), [value / values[0] for value in values], label, look, hover)
        for label, values, look in (("memory of training", memory, pink), ("FLOPs per token", flops, green))
    ]
    yaxis = log_axis("multiples of the dense model's", **style.fine_ticks(y for trace in traces for y in trace["y"]))
    return styled(traces, 360, xaxis={"title": "sparsity S", "type": "category"}, yaxis=yaxis)


def roofline(work: Mapping[str, Work], device: Device, dtype: str, dense: Collection[str] = ()) -> go.Figure:
    """Attainable FLOP/s against arithmetic intensity, and where pieces of work lie under the roof; ``dense`` names
    those of dense models."""
    peak = device.peak(dtype)
    x = np.geomspace(0.1, max(1e5, 10 * peak / device.bandwidth), 200)
    roof = np.minimum(peak, x * device.bandwidth)
    traces = [line(x, roof, f"roof of {device.name}", Look(GREY), hover="", mode="lines")]
    for (name, piece), look in zip(work.items(), cycle(LOOKS), strict=False):
        attainable = min(peak, piece.intensity * device.bandwidth)
        hover = f"{name}<br>%{{x:.3g}} FLOPs per byte<br>at most %{{y:.3s}}FLOP/s"
        look = look._replace(colour=ORANGE if name in dense else BLUE)
        traces.append(line([piece.intensity], [attainable], name, look, hover, "markers", marker_size=13))
    xaxis, yaxis = log_axis("arithmetic intensity (FLOPs per byte moved)"), log_axis("FLOP/s at most")
    return styled(traces, 420, margin={"l": 70}, xaxis=xaxis, yaxis=yaxis)


def dollars(bills: Mapping[str, float]) -> go.Figure:
    """Horizontal bars of money. The first is the sparse model's, the others are dense."""
    colours = [BLUE, *[ORANGE] * (len(bills) - 1)]
    bars = style.labelled_bars(bills, map(money, bills.values()), colours, textposition="outside", cliponaxis=False)
    ends = [0, 1.15 * max(bills.values())]  # with room for the last label
    xaxis = {"title": "dollars", "range": ends, "exponentformat": "B", "tickprefix": "$ "}
    return styled([bars], 260, margin={"l": 210, "t": 20}, showlegend=False, xaxis=xaxis, yaxis=DOWN)


def caches(bytes_: Mapping[str, float], memory: float) -> go.Figure:
    """Dots at the bytes of each cache on a logarithmic axis, and a line where the memory of a device ends."""
    colours = [BLUE if "MLA" in name else GREY for name in bytes_]
    texts: style.Trace = {"text": list(map(size, bytes_.values())), "textposition": "middle right", "cliponaxis": False}
    more = texts | {"marker": {"color": colours, "size": 15}}
    dots = line(list(bytes_.values()), list(bytes_), "", Look(GREY), "%{y}: %{text}", "markers+text", **more)
    xaxis, yaxis = log_axis("bytes", range=[6, 14.5], dtick=2), {"autorange": "reversed"}
    figure = styled([dots], 280, margin={"l": 100}, showlegend=False, xaxis=xaxis, yaxis=yaxis)
    figure.add_vline(x=memory, line=style.ROLES["reference"]._replace(width=3).line)
    above = {"y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
    at = float(np.log10(memory))  # an annotation on a logarithmic axis stands at a logarithm, a shape does not
    return figure.add_annotation(x=at, text=f"memory of one processor: {size(memory)}", **above)


def pareto(points: pd.DataFrame, chosen: str) -> go.Figure:
    """Loss against bytes of cache, with intervals. ``points``: columns kind, bytes, loss, half; the row of the kind
    ``chosen`` is drawn large."""
    looks = [Look(BLUE) if kind.startswith("MLA") else Look(GREY, symbol="square") for kind in points["kind"]]
    hover = "%{y:.3f} nats per byte, %{x:.0f} bytes per token"
    texts: style.Trace = {"mode": "markers+text", "textposition": "middle right"}
    traces = style.lines_with_intervals(points, "bytes", "loss", "half", hover, looks, by="kind", **texts)
    for trace in traces:
        trace.update(text=[trace["name"]], marker_size=20 if trace["name"] == chosen else 10)
    low, high = points["bytes"].min(), points["bytes"].max()
    ends = np.log10([low / 1.3, high * 1.8]).tolist()
    xaxis = log_axis("bytes of cache per token", range=ends, **style.stops(points["bytes"], "g"))
    return styled(traces, 400, showlegend=False, xaxis=xaxis, yaxis={"title": style.LOSS})


def against_length(lines: Mapping[str, Sequence[float]], lengths: Sequence[int], axis: str) -> go.Figure:
    """Lines over the length of a text, both axes logarithmic. The others are compared with the first."""
    hover = f"%{{y:.2g}} {axis} at %{{x:,}} tokens"
    looks = cycle(style.OTHERS)
    traces = [line(lengths, y, name, look, hover) for (name, y), look in zip(lines.items(), looks, strict=False)]
    return styled(traces, 380, xaxis=log_axis("tokens", **style.fine_ticks(lengths)), yaxis=log_axis(axis))
