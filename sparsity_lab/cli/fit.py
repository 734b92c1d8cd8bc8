"""Fit a scaling law to a folder of runs, or to a table of other people's."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsity_lab.units import number

if TYPE_CHECKING:
    import pandas as pd

    from sparsity_lab.laws.fitting import Fit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", metavar="RUNS", help="a folder of run records, or a CSV file with a row per run")
    add(
        "--columns",
        metavar="NAME=COLUMN,…",
        help="a CSV file's columns of loss, params_total, tokens, flops, sparsity, …",
    )
    add("--without-outliers", action="store_true", help="fit once more without the runs that lie far from the law")
    add("--law", default="abnar", help="abnar (default), reduced, or chinchilla, which is fitted at each sparsity")
    add("--top-k", type=int, metavar="K", help="use only runs in which K experts are active on a token")
    add("--n-layers", type=int, metavar="L", help="use only runs of models with L layers")
    add("--near-best", type=float, metavar="F", help="use only runs within a factor F of their budget's best size")
    add("--holdout", type=float, metavar="BUDGET", help="predict the runs of this budget instead of fitting them")
    add("--bootstraps", type=int, default=200, help="resamples for the intervals (default 200)")
    add("--out", metavar="FILE", help="save the fit here as JSON, with all that predictions need")


def run(options: argparse.Namespace) -> None:
    from sparsity_lab.laws import fitting
    from sparsity_lab.laws.isoflop import near_best
    from sparsity_lab.laws.power_law import named
    from sparsity_lab.runs import foreign, store

    path, columns = Path(options.runs), _columns(options.columns)
    if columns and path.is_dir():
        raise ValueError(f"columns={options.columns}: they name the columns of a CSV file, and {path} is none")
    if not path.exists():
        raise ValueError(f"{path} does not exist: name a folder of run records, or a CSV file with a row per run")
    runs = store.load_frame(path) if path.is_dir() else foreign.load_runs(path, columns)
    for name, lacking in (("n_layers", "depth"), ("top_k", "granularity")):
        wanted = getattr(options, name)
        if name not in runs:  # a table of other people's runs need not say
            if wanted is None:
                continue
            raise ValueError(f"{name}={wanted}, but {path} has no such column: name it with --columns {name}=COLUMN")
        kinds = sorted(runs[name].unique()) if wanted is None else [wanted]
        if len(kinds) > 1:
            has, option = f"{name}={' and '.join(map(str, kinds))}", name.replace("_", "-")
            raise ValueError(f"the runs have {has}, and these laws have no {lacking}: add --{option} {kinds[0]}")
        runs = runs[runs[name].isin(kinds)]
    if options.near_best is not None:
        runs = near_best(runs, options.near_best)

    def fitted(runs: "pd.DataFrame") -> "list[Fit]":
        holdout = None
        if options.holdout is not None:
            holdout = runs["budget"] == options.holdout
            if not holdout.any():
                budgets = ", ".join(f"{budget:g}" for budget in sorted(runs["budget"].unique()))
                raise ValueError(f"holdout={options.holdout:g} is the budget of no run: use one of {budgets}")
        if "S" in named(options.law).exponents.values():
            return [fitting.fit(runs, options.law, holdout=holdout, bootstraps=options.bootstraps)]
        # a law without S fits one sparsity at a time
        return fitting.fit_each(runs, options.law, holdout=holdout, bootstraps=options.bootstraps)

    fits = fitted(runs)
    inside = runs[runs["budget"] != options.holdout]  # what was predicted and not fitted is no outlier
    far = [fit.outliers(inside[inside["sparsity"].between(*fit.ranges["S"])]) for fit in fits]
    if options.without_outliers:
        fits = fitted(runs.drop(index=[row for each in far for row in each.index]))
    if options.out:
        fitting.save_fits(options.out, fits)
    if options.json:
        print(json.dumps([fit.report() | {"outliers": _named(each)} for fit, each in zip(fits, far, strict=True)]))
    else:
        print("\n\n".join(fit.summary() for fit in fits))
        outliers = [outlier for each in far for outlier in _named(each)]
        if outliers:
            many, them = (f"{len(outliers)} outliers", "them") if len(outliers) > 1 else ("1 outlier", "it")
            done = "left out" if options.without_outliers else f"add --without-outliers to leave {them} out"
            print(f"\n{many}, over {fitting.FAR:g} robust standard deviations from the law ({done}):")
            print("\n".join(f"  {_sentence(outlier)}" for outlier in outliers))


def _columns(text: str | None) -> dict[str, str]:
    """Reads NAME=COLUMN,NAME=COLUMN."""
    pairs = [pair.partition("=") for pair in (text or "").split(",") if pair.strip()]
    for name, equals, column in pairs:
        if not (name.strip() and equals and column.strip()):
            raise ValueError(f"columns={text!r}: write NAME=COLUMN,NAME=COLUMN, e.g. loss=Loss,params_total=Size")
    return {name.strip(): column.strip() for name, _, column in pairs}


def _named(far: "pd.DataFrame") -> list[dict[str, Any]]:
    names = far["id"].tolist() if "id" in far else (far.index + 1).tolist()  # of a table, its first run is 1
    columns = ["params_total", "tokens", "val_loss", "predicted", "off"]
    rows = far[columns].astype(float).to_numpy().tolist()
    return [{"run": name, **dict(zip(columns, row, strict=True))} for name, row in zip(names, rows, strict=True)]


def _sentence(outlier: dict[str, Any]) -> str:
    sizes = f"{number(outlier['params_total'])} parameters, {number(outlier['tokens'])} tokens"
    loss = f"loss {outlier['val_loss']:.3f} where the law says {outlier['predicted']:.3f}"
    return f"run {outlier['run']}: {sizes}, {loss} ({outlier['off']:+.0f} standard deviations)"
