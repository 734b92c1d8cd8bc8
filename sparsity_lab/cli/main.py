"""`sparsity-lab`: what the notebooks do, without a browser. Results on stdout, progress and errors on stderr."""

import argparse
import importlib
import shlex
import sys

from sparsity_lab import __version__

REPORTS = ("count", "cost", "compare", "cache", "optimum", "fit", "measure", "prune", "doctor")  # have --json
VERBS = ("train", "sweep", *REPORTS, "guesses", "notebooks", "gallery", "course")


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0 if all is done; 1 if a run diverged, failed or can't be saved, a
    notebook failed or `doctor` found a fault; 2 for bad input; 130 after Ctrl-C; 143 if SIGTERM stopped a training."""
    options = build_parser().parse_args(arguments)
    options.command = shlex.join(["sparsity-lab", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        status: int | None = options.run(options)  # None if the verb can only succeed
        return status or 0
    except (ValueError, OSError) as error:  # OSError: a checkpoint's folder that can't be written, a full disk
        print(f"sparsity-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsparsity-lab: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Reads the verbs' files, whose docstrings are the help. They import slow packages, such as torch, inside `run`,
    so that a verb which only counts starts at once."""
    parser = argparse.ArgumentParser(prog="sparsity-lab", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name in VERBS:
        module = importlib.import_module(f"sparsity_lab.cli.{name}")
        text = module.__doc__ or ""
        verb = verbs.add_parser(name, help=text[:1].lower() + text[1:].rstrip("."), description=text)
        verb.set_defaults(run=module.run)
        if hasattr(module, "add_arguments"):
            module.add_arguments(verb)
        if name in REPORTS:
            verb.add_argument("--json", action="store_true", help="print JSON")
    return parser
