"""Fit a scaling law to a folder of runs."""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", metavar="DIR", help="a folder of run records")
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
    from sparsity_lab.runs import store

    runs = store.load_frame(Path(options.folder))
    for name, lacking in (("n_layers", "depth"), ("top_k", "granularity")):
        wanted = getattr(options, name)
        kinds = sorted(runs[name].unique()) if wanted is None else [wanted]
        if len(kinds) > 1:
            has, option = f"{name}={' and '.join(map(str, kinds))}", name.replace("_", "-")
            raise ValueError(f"the runs have {has}, and these laws have no {lacking}: add --{option} {kinds[0]}")
        runs = runs[runs[name].isin(kinds)]
    if options.near_best is not None:
        runs = near_best(runs, options.near_best)

    holdout = None
    if options.holdout is not None:
        holdout = runs["budget"] == options.holdout
        if not holdout.any():
            budgets = ", ".join(f"{budget:g}" for budget in sorted(runs["budget"].unique()))
            raise ValueError(f"holdout={options.holdout:g} is the budget of no run: use one of {budgets}")

    if "S" in named(options.law).exponents.values():
        fits = [fitting.fit(runs, options.law, holdout=holdout, bootstraps=options.bootstraps)]
    else:  # a law without S fits one sparsity at a time
        fits = fitting.fit_each(runs, options.law, holdout=holdout, bootstraps=options.bootstraps)
    if options.out:
        fitting.save_fits(options.out, fits)
    print(json.dumps([fit.report() for fit in fits]) if options.json else "\n\n".join(fit.summary() for fit in fits))
