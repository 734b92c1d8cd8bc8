"""`sparsity-lab`: what the notebooks do, without a browser. Results on stdout, progress and errors on stderr."""

import argparse
import importlib
import io
import os
import shlex
import sys
import warnings
from typing import Any

from sparsity_lab import __version__
from sparsity_lab.files import StrangeFile

REPORTS = (  # have --json
    "count", "cost", "compare", "cache", "memory", "models", "optimum", "fit", "measure", "prune", "doctor"
)  # fmt: skip
VERBS = ("lab", "train", "sweep", *REPORTS, "guesses", "notebooks", "gallery", "course")
WRONG_INPUT = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
INTERRUPTED, NOBODY_READS = 130, 141  # what shells report after SIGINT and SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0 if all is done; 1 if a run diverged, failed or can't be saved, a
    notebook failed, `doctor` found a fault or the system refused something, such as space on the disk; 2 for bad input;
    130 after Ctrl-C; 143 if SIGTERM stopped a training; 141 if whoever read the output has left."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # where the terminal can only show ASCII, "?" stands for the rest
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "w") as nothing:  # takes what is left when Python ends, which would complain otherwise
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        return NOBODY_READS


def _run(arguments: list[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    options.command = shlex.join(["sparsity-lab", *(sys.argv[1:] if arguments is None else arguments)])
    python = warnings.showwarning

    def warned(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, StrangeFile):  # the user's, and nothing to mend in the program
            print(f"sparsity-lab: {message}", file=sys.stderr)
        else:
            python(message, category, *where, **more)

    warnings.showwarning = warned
    try:
        status: int | None = options.run(options)  # None if the verb can only succeed
        return status or 0
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"sparsity-lab: {error}", file=sys.stderr)
        return 2 if isinstance(error, WRONG_INPUT) else 1
    except KeyboardInterrupt:
        print("\nsparsity-lab: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        warnings.showwarning = python


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
