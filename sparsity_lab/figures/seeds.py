"""Runs one by one, beside their means: how far models differ, and how far seeds do."""

import pandas as pd
import plotly.graph_objects as go

from sparsity_lab.figures.style import LOSS, ROLES, Trace, styled
from sparsity_lab.units import power


def ends(runs: pd.DataFrame, own: pd.DataFrame | None = None) -> go.Figure:
    """A dot for each run's held-out loss and a line at the mean, dense beside sparse, budget by budget; ``own`` runs in
    front, larger. Both tables are of `runs.store.to_frame`."""
    traces: list[Trace] = []
    for role, sparse in (("dense", False), ("this", True)):
        look, name = ROLES[role], "sparse" if sparse else "dense"
        for table, who, size, opacity in ((runs, "", 9, 0.6), (own, ", yours", 14, 1.0)):
            if table is None:
                continue
            part = table[(table["sparsity"] > 0) == sparse].dropna(subset="val_loss")
            places = [[f"{power(budget)} FLOPs" for budget in part["budget"]], [name] * len(part)]
            trace: Trace = {
                "type": "scatter",
                "mode": "markers",
                "name": name + who,
                "x": places,
                "y": part["val_loss"],
            }
            trace |= {
                "customdata": part["seed"],
                "hovertemplate": f"seed %{{customdata}}: %{{y:.3f}} nats per byte<extra>{name}{who}</extra>",
            }
            traces.append(
                trace | {"marker": {"color": look.colour, "symbol": look.symbol, "size": size, "opacity": opacity}}
            )
        means = runs[(runs["sparsity"] > 0) == sparse].groupby("budget")["val_loss"].mean()
        places = [[f"{power(budget)} FLOPs" for budget in means.index], [name] * len(means)]
        bar = {"symbol": "line-ew", "size": 44, "line": {"width": 3, "color": look.colour}}
        hover = f"mean of {name}: %{{y:.3f}} nats per byte<extra></extra>"
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": places,
                "y": means,
                "marker": bar,
                "hovertemplate": hover,
                "showlegend": False,
            }
        )
    return styled(traces, 380, yaxis={"title": LOSS}, xaxis={"showgrid": False})
