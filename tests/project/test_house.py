"""The rooms of the package: imports go down only, names are told apart, and what needs no torch imports none."""

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sparsity_lab"
FLOORS = [  # from the ground up: a file imports from its own floor and from those below
    {"units", "files", "intervals", "config", "schema", "record", "guesses"},
    {"accounting"},
    {"laws"},
    {"models"},
    {"training"},
    {"runs"},
    {"analysis"},
    {"figures"},
    {"widgets"},
    {"pages"},
    {"classroom"},
    {"cli", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = [room for rooms in FLOORS[1:] for room in rooms if room != "__main__"]
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it, as "room.file"."""
    modules = {".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in FILES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "sparsity_lab" and len(parts) > 1:
                inside = ".".join(parts[1:3])
                yield inside if inside in modules else ".".join(parts[1:2])


def test_every_file_has_a_floor():
    top = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert top - {"__init__"} == set(FLOOR)


def test_imports_go_down():
    climbing = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in FILES
        if (room := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) in FLOOR
        for module in imports(path)
        if module.split(".")[0] in FLOOR and FLOOR[module.split(".")[0]] > FLOOR[room]
    ]
    assert not climbing


def test_no_file_imports_itself_through_others():
    graph = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): set(imports(p)) for p in FILES}

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way, module))
        if module not in done:
            for other in sorted(graph.get(module, ())):
                if other != module:
                    visit(other, (*way, module))
            done.add(module)

    done: set[str] = set()
    for module in sorted(graph):
        visit(module, ())


def test_a_name_means_one_thing():
    """A figure may be named like the table that it draws, and every verb has `add_arguments` and `run`."""
    places = defaultdict(set)
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0]
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and room != "figures":
                if room == "cli" and node.name in ("add_arguments", "run"):
                    continue
                places[node.name].add(str(path.relative_to(PACKAGE)))
    assert not {name: files for name, files in places.items() if len(files) > 1}
    assert not places.keys() & {"Law", "Prediction", "interval", "find", "measure", "Layer"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_answers_and_has_what_it_lists(room):
    module = importlib.import_module(f"sparsity_lab.{room}")
    assert module.__doc__
    assert "?" in module.__doc__.splitlines()[0] or room == "figures"
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
    for path in (PACKAGE / room).glob("*.py"):
        if path.stem not in ("__init__", "main"):
            assert f"`{path.stem}`" in module.__doc__ or room in ("figures", "cli"), (
                f"{room} does not mention {path.stem}"
            )


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter of its own, and prints whether that has imported torch."""
    ending = "\nimport sys; print('torch' in sys.modules, file=sys.stderr)"
    return subprocess.run([sys.executable, "-c", code + ending, *arguments], capture_output=True, text=True, check=True)


NO_TORCH = ["config", "record", "units", "files", "intervals", "guesses", "accounting", "laws", "runs"]
NO_TORCH += [f"training.{name}" for name in ("corpus", "tasks", "checkpoint", "timing")]
FOR_OTHERS = ("forked", "cluster")  # what workers start with, and what needs Dask
NO_TORCH += [
    f"{room}.{path.stem}"
    for room in ("accounting", "laws", "runs", "widgets")
    for path in sorted((PACKAGE / room).glob("[a-z]*.py"))
    if path.stem not in FOR_OTHERS
]


def test_what_needs_no_torch_imports_none():
    code = "".join(f"import sparsity_lab.{name}\n" for name in NO_TORCH)
    assert fresh(code).stderr.split()[-1] == "False"


VERBS = [
    "--help",
    "count deepseek-v3",
    "cost deepseek-v3 --tokens 1e12",
    "cache deepseek-v3 --tokens 1000",
    "compare mixtral-8x7b deepseek-v3",
    "optimum --compute 1e20",
    "fit data/isoflop --n-layers 2 --top-k 1 --law reduced --bootstraps 2",
]


@pytest.mark.parametrize("words", VERBS)
def test_verbs_that_only_count_start_without_torch(words):
    code = f"""
from sparsity_lab.cli.main import main
try:
    assert main({words.split()!r}) == 0
except SystemExit as end:
    assert not end.code"""
    assert fresh(code).stderr.split()[-1] == "False"


def test_plotly_is_imported_without_the_grammar_that_nobody_asks_and_hides_it_from_nobody():
    code = """
import sys
import sparsity_lab.figures.style
assert "jsonschema" in sys.modules and "rfc3987_syntax" not in sys.modules
import rfc3987_syntax"""
    assert fresh(code).returncode == 0
