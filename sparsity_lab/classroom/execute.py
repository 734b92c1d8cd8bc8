"""Executes notebooks without a browser, with papermill, and checks their parameters, which papermill does not."""

import ast
import os
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill

from sparsity_lab import guesses
from sparsity_lab.widgets import stops

PROFILES = "profiles.toml"  # in the notebooks' folder: parameters by profile and notebook
KINDS: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list}


def parameters(notebook: Path) -> dict[str, tuple[str, Any]]:
    """Returns the type and the default of each of a notebook's parameters, as its parameters cell annotates them."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: (p["inferred_type_name"], ast.literal_eval(p["default"])) for name, p in found.items()}


def check_parameters(notebook: Path, values: dict[str, Any]) -> None:
    """Raises ValueError if the notebook lacks one of these parameters or wants another type."""
    known = parameters(notebook)
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{notebook.name} has no parameter {name!r}; it has {', '.join(known)}")

        kind, default = known[name]
        wanted = KINDS.get(kind.partition("[")[0])
        if wanted is None:
            raise ValueError(f"{notebook.name}: parameter {name!r} needs a type in the notebook: {', '.join(KINDS)}")
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{notebook.name}: parameter {name}={value!r} must be of type {kind}, e.g. {default!r}")


def profile(folder: Path, name: str, notebook: Path) -> dict[str, Any]:
    """Returns a notebook's parameters in a profile, none for ``full``. Raises ValueError for an unknown profile."""
    if name == "full":
        return {}
    if not (folder / PROFILES).exists():
        raise ValueError(f"profile={name!r} needs {folder / PROFILES}, which does not exist: use full")
    profiles = tomllib.loads((folder / PROFILES).read_text())
    if name not in profiles:
        raise ValueError(f"profile={name!r} is not in {folder / PROFILES}: use full, {', '.join(profiles)}")
    return dict(profiles[name].get(notebook.stem, {}))


def execute(notebook: Path, output: Path, values: dict[str, Any], most_stops: int = 0) -> float:
    """Runs a notebook in its own folder, writes it with its outputs to ``output`` and returns the seconds it took. The
    user's own guesses have no part in it: the page is for others. Of each explorer, the output holds up to
    ``most_stops`` stops, for the gallery.

    Raises ValueError for parameters that don't fit, and papermill's errors when a cell fails; ``output`` then holds
    what was computed up to that cell.
    """
    check_parameters(notebook, values)
    output.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with _environment({guesses.SWITCH: "0"} | ({stops.SWITCH: str(most_stops)} if most_stops else {})):
        papermill.execute_notebook(
            str(notebook), str(output), parameters=values, kernel_name="python3", cwd=str(notebook.parent),
            progress_bar=False, store_widget_state=False,
        )  # fmt: skip
    return time.monotonic() - start


@contextmanager
def _environment(switches: dict[str, str]) -> Iterator[None]:
    """Sets these for the kernels that are started inside."""
    before = {name: os.environ.get(name) for name in switches}
    os.environ |= switches
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def is_executed(notebook: Path, output: Path, values: dict[str, Any]) -> bool:
    """Whether ``output`` is this notebook as it is now, executed with these parameters to its end."""
    with suppress(OSError, ValueError, AttributeError, nbformat.reader.NotJSONError):
        book, now = (nbformat.read(path, as_version=4) for path in (output, notebook))
        cells = [cell for cell in book.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
        same = [(cell.cell_type, cell.source) for cell in cells] == [(c.cell_type, c.source) for c in now.cells]
        run = book.metadata.papermill
        return bool(same and run.exception is None and run.duration is not None and run.parameters == values)
    return False


def find_notebooks(folder: Path, names: list[str]) -> list[Path]:
    """Returns the notebooks whose names start with one of ``names``, or all. Raises ValueError if a name has none."""
    paths = sorted(folder.glob("*.ipynb"))
    if not paths:
        raise ValueError(f"folder={str(folder)!r} has no notebooks: name theirs, e.g. --folder my-lab/notebooks")
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            known = ", ".join(path.stem for path in paths)
            raise ValueError(f"no notebook in {folder} starts with {name!r}; there are {known}")
    return [path for path in paths if not names or path.name.startswith(tuple(names))]
