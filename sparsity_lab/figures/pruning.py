"""Figures of what turning things off costs: DataFrames in, plotly figures out."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sparsity_lab.figures.style import DENSE, GREY, GRID, LOOKS, SPARSE, smooth, styled

LEAST = 1e-4  # nats; what rises less, or falls, is drawn here on a logarithmic axis
RISE = {
    "title": "held-out loss, nats a byte more",
    "type": "log",
    "tickvals": [LEAST, 1e-3, 1e-2, 0.1, 1.0, 10.0],
    "ticktext": ["≤ 0.0001", "0.001", "0.01", "0.1", "1", "10"],
}


def losses(values: pd.DataFrame, x_title: str, share: bool = True, height: int = 440) -> go.Figure:
    """How much the loss rises, a line each, with intervals. ``values``: columns line, x, rise, half. ``share``: x is a
    share; else a number, one of few."""
    figure = go.Figure()
    for (line, part), look in zip(values.groupby("line", sort=False), LOOKS, strict=False):
        figure.add_scatter(**_line(str(line), part, look, "%{x:.0%}" if share else "%{x}"))
    stops = sorted(values["x"].unique())
    axis = {"tickformat": ".0%"} if share else {"type": "log", "tickvals": stops, "ticktext": [f"{x:g}" for x in stops]}
    return styled(
        figure,
        height,
        margin={"l": 70, "r": 20, "t": 80, "b": 50},
        xaxis={"title": x_title} | axis,
        yaxis=RISE,
    )


def _line(name: str, part: pd.DataFrame, look: tuple[str, str, str], x_form: str) -> dict[str, object]:
    colour, dash, symbol = look
    return {
        "x": list(part["x"]),
        "y": list(part["rise"].clip(lower=LEAST)),
        "error_y": {"type": "data", "array": list(part["half"]), "thickness": 1.5, "width": 4},
        "customdata": list(part["rise"]),
        "name": name,
        "mode": "lines+markers",
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"symbol": symbol, "size": 9, "color": colour},
        "hovertemplate": "%{customdata:+.4f} ± %{error_y.array:.4f} at " + x_form + "<extra>" + name + "</extra>",
    }


def dial(values: pd.DataFrame, method: str, sparsity: float, left: Mapping[str, float], height: int = 400) -> go.Figure:
    """Where a slider stands: the curve of ``method`` before all others in grey, a ring at ``sparsity``, and beside them
    the share of each part's weights that is ``left``. ``values`` as for `losses`."""
    figure = make_subplots(1, 2, column_widths=[0.66, 0.34], horizontal_spacing=0.14)
    others = values[values["line"] != method]
    x: list[float | None] = []
    y: list[float | None] = []
    for _, part in others.groupby("line", sort=False):
        x, y = [*x, *part["x"], None], [*y, *part["rise"].clip(lower=LEAST), None]
    figure.add_scatter(
        x=x, y=y, mode="lines", line={"color": GRID, "width": 2}, name="other methods", hoverinfo="skip", row=1, col=1
    )
    mine = values[values["line"] == method]
    figure.add_scatter(**_line("this method", mine, LOOKS[0], "%{x:.0%}"), row=1, col=1)
    here = mine[mine["x"] == sparsity]
    figure.add_scatter(
        x=list(here["x"]),
        y=list(here["rise"].clip(lower=LEAST)),
        mode="markers",
        name="here",
        marker={"symbol": "circle-open", "size": 22, "color": DENSE, "line": {"width": 3}},
        hoverinfo="skip",
        row=1,
        col=1,
    )
    figure.add_bar(
        x=list(left),
        y=list(left.values()),
        showlegend=False,
        marker={"color": SPARSE},
        text=[f"{share:.0%}" for share in left.values()],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{x}: %{y:.1%} left<extra></extra>",
        row=1,
        col=2,
    )
    styled(figure, height, margin={"l": 70, "r": 20, "t": 60, "b": 50})
    figure.update_xaxes(title="share of weights turned off", tickformat=".0%", row=1, col=1)
    figure.update_yaxes(RISE, row=1, col=1)
    figure.update_xaxes(showgrid=False, row=1, col=2)
    return figure.update_yaxes(title="weights left", tickformat=".0%", range=[0, 1.12], row=1, col=2)


def healing(runs: pd.DataFrame, height: int = 480) -> go.Figure:
    """Sparsity and training loss on the way. ``runs``: columns line, share (of the run), sparsity, loss."""
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.35, 0.65], vertical_spacing=0.06)
    for (line, part), (colour, dash, _) in zip(runs.groupby("line", sort=False), LOOKS, strict=False):
        style = {"mode": "lines", "name": str(line)}
        look = {"color": colour, "dash": dash, "width": 2}
        x, sparsity = part["share"].to_numpy(), part["sparsity"].to_numpy()
        changes = [0, *(i for i in range(1, len(x)) if sparsity[i] != sparsity[i - 1]), len(x) - 1]
        steps = {"x": x[changes], "y": sparsity[changes], "line": look | {"shape": "hv"}}
        figure.add_scatter(**steps, **style, showlegend=False, row=1, col=1)
        at, loss = smooth(x, part["loss"])
        figure.add_scatter(x=at, y=loss, line=look, **style, row=2, col=1)
    styled(figure, height, margin={"l": 70, "r": 20, "t": 60, "b": 50})
    figure.update_yaxes(title="sparsity", tickformat=".0%", range=[-0.05, 1.05], row=1, col=1)
    figure.update_yaxes(title="training loss, nats a byte", row=2, col=1)
    return figure.update_xaxes(title="share of the budget spent", tickformat=".0%", row=2, col=1)


def load_against_loss(experts: pd.DataFrame, height: int = 400) -> go.Figure:
    """A point an expert: how much it is asked, and how much it would be missed. ``experts``: columns layer, load (in
    multiples of the even share), rise (of the loss without it)."""
    figure = go.Figure()
    for (layer, part), (colour, _, symbol) in zip(experts.groupby("layer"), LOOKS, strict=False):
        figure.add_scatter(
            x=list(part["load"]),
            y=list(part["rise"]),
            mode="markers",
            name=f"layer {layer}",
            marker={"color": colour, "symbol": symbol, "size": 11},
            hovertemplate="load %{x:.2f}, missed by %{y:+.4f}<extra>layer " + str(layer) + "</extra>",
        )
    return styled(
        figure,
        height,
        margin={"l": 80, "r": 20, "t": 40, "b": 50},
        xaxis={"title": "load, 1 is the even share"},
        yaxis={"title": "loss without it, nats a byte more", "zeroline": True, "zerolinecolor": GREY},
    )
