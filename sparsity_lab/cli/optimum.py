"""Find the best model that a budget can buy, by a published scaling law."""

import argparse
import json
from dataclasses import asdict

from sparsity_lab.laws.optimum import optimal
from sparsity_lab.laws.published import LAWS, published_law
from sparsity_lab.units import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--law", default="abnar", help=f"one of {', '.join(LAWS)} (default abnar)")
    add("--compute", type=float, required=True, help="training FLOPs, 6·N_a·D, e.g. 1e21")
    add("--sparsity", type=float, help="S (default: the best in the range in which the law was fitted)")
    add("--memory", type=float, metavar="N", help="at most N parameters in total")
    add("--active", type=float, metavar="N", help="at most N parameters active on a token")
    add("--serve", type=float, default=0.0, metavar="TOKENS", help="tokens to generate later, paid from the budget")
    add("--granularity", type=float, help="G, for a law that has it")


def run(options: argparse.Namespace) -> None:
    law = published_law(options.law)
    names = ("compute", "sparsity", "memory", "active", "serve", "granularity")
    best = optimal(law, **{name: getattr(options, name) for name in names})
    if options.json:
        print(json.dumps({"law": law.name, "compute": options.compute} | asdict(best)))
        return

    total = "not known to this law" if best.n_total is None else f"{number(best.n_total)} in total"
    lines = [
        f"{law.name} at {options.compute:.4g} FLOPs: {law.source}",
        "",
        f"sparsity    {best.sparsity:.4g}",
        f"parameters  {total} (the law's N: {law.n_means})",
        f"active      {number(best.n_active)} on a token",
        f"tokens      {number(best.tokens)}, {best.tokens / best.n_active:.3g} per active parameter",
        f"loss        {best.loss:.4f} nats per token",
    ]
    print("\n".join(lines + [f"Careful: {warning}" for warning in best.warnings]))
