"""Execute notebooks without a browser."""

import argparse
import ast
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

MOST_STOPS = 1_000  # of an explorer that are drawn for its page: about half a minute


# Of a full run on two cores, to say how much time is left.
FULL_MINUTES = {
    "00": 0.5,
    "01": 6,
    "02": 0.3,
    "03": 3,
    "04": 2,
    "05": 2,
    "06": 1,
    "07": 6,
    "08": 6,
    "09": 2,
    "10": 1,
    "11": 0.3,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="which ones, e.g. 01 or 01_the_magic_dial (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("notebooks"), help="where they are (default notebooks)")
    parser.add_argument("--out", type=Path, default=Path("build/notebooks"), help="folder for the executed ones")
    parser.add_argument("--profile", default="ci", help="a set of parameters from profiles.toml, or full (default ci)")
    parser.add_argument(
        "--pages",
        action="store_true",
        help="for `gallery`: with every stop of the sliders; resumes where it was cut off",
    )
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="one parameter")


def run(options: argparse.Namespace) -> int:
    from papermill.exceptions import PapermillExecutionError

    from sparsity_lab.classroom.execute import (
        check_parameters,
        execute,
        find_notebooks,
        is_executed,
        parameters,
        profile,
    )
    from sparsity_lab.units import duration

    given = {name: _literal(value) for name, value in options.p}
    notebooks = find_notebooks(options.folder, options.names)
    jobs = [(path, profile(options.folder, options.profile, path) | given) for path in notebooks]
    for path, values in jobs:  # all of them, before the first one runs
        check_parameters(path, values)
        _check_not_negative(path.name, values, parameters(path))

    if options.pages:
        jobs = [(path, values) for path, values in jobs if not is_executed(path, options.out / path.name, values)]
        if kept := len(notebooks) - len(jobs):
            print(f"{kept} of {len(notebooks)} notebooks are in {options.out} already, executed as they are now")

    failed, expected, start = 0, [60 * FULL_MINUTES.get(path.name[:2], 1) for path, _ in jobs], time.monotonic()
    for done, (path, values) in enumerate(jobs):
        pace = (time.monotonic() - start) / sum(expected[:done]) if done else 1  # of this machine and these parameters
        left = duration(pace * sum(expected[done:]))
        print(f"{path.name} … {done + 1} of {len(jobs)}; about {left} left", flush=True)
        try:
            seconds = execute(path, options.out / path.name, values, MOST_STOPS if options.pages else 0)
        except PapermillExecutionError as error:
            failed += 1
            print(f"{path.name} FAILED in a cell: {error.ename}: {error.evalue}", flush=True)
        else:
            print(f"{path.name} done in {seconds:.0f} s → {options.out / path.name}", flush=True)
    return int(failed > 0)


def _check_not_negative(notebook: str, values: dict[str, Any], known: dict[str, tuple[str, Any]]) -> None:
    """Raises ValueError for a number below what its default shows to make sense: no run is made of -1 seeds."""
    for name, value in values.items():
        default = known[name][1]
        least = 1 if isinstance(default, int) and default > 0 else 0
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not value >= least:
            raise ValueError(f"{notebook}: parameter {name}={value} must be at least {least}, e.g. {default!r}")


def _literal(text: str) -> Any:
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text
