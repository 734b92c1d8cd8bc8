"""Checks the project's own files: dependencies, environment.yml, Makefile, CI, and the notebooks as git holds them."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


# --- Dependencies -------------------------------------------------------------------------------------------


def direct_requirements(extras: Iterable[str] = EXTRAS) -> list[Requirement]:
    listed = map(Requirement, chain(PROJECT["dependencies"], *(EXTRAS[extra] for extra in extras)))
    return [requirement for requirement in listed if requirement.name != PROJECT["name"]]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def required_by(name: str, extras: set[str]) -> Iterator[Requirement]:
    """Yields what an installed distribution needs on this machine, with these extras."""
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


# torch's own wheels with CUDA pin their Triton
PINNED = [requirement for requirement in direct_requirements() if requirement.name != "triton"]


@pytest.mark.parametrize("requirement", PINNED, ids=lambda requirement: requirement.name)
def test_dependency_is_pinned_and_installed_within_its_range(requirement):
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier
    assert Version(importlib.metadata.version(requirement.name)) in requirement.specifier


def test_package_imports_only_what_it_declares():
    # No release of these agrees with our torch, so they are installed by hand.
    # dask's extra is called as the package it brings.
    by_hand = {"distributed", "grouped_gemm", "megablocks", "stk", "triton"}
    distributions = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in direct_requirements(extras=["datasets"])}
    for path in (ROOT / "sparsity_lab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - by_hand:
                owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
                known = owners & {*declared, PROJECT["name"]}
                assert known, f"{path.name} imports {top}, which pyproject.toml does not list"


def test_constraints_hold_on_every_platform():
    for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), f"{line!r} is not a plain pin (a build tag such as +cpu?)"
    of_one_platform = [name for name in pins() if re.match("nvidia|cuda|triton", name)]
    assert not of_one_platform
    assert PROJECT["name"] not in pins()


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info[:2] != (3, 11),
    reason="made on Linux with Python 3.11",
)
def test_constraints_leave_nothing_open_and_suit_the_oldest_python():
    pinned, seen = pins(), set()
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    todo = [(canonicalize_name(direct.name), frozenset(direct.extras)) for direct in direct_requirements()]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen or re.match("nvidia|cuda|triton", name):
            continue
        seen.add((name, extras))
        installed = Version(importlib.metadata.version(name)).public
        if name in pinned and installed != str(pinned[name]):
            continue  # not installed with constraints.txt, so its needs say nothing about the pins
        assert oldest in SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python", "")), name
        for requirement in required_by(name, set(extras)):
            todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    assert {name for name, _ in seen} <= set(pinned)


def test_environment_yml_leaves_the_dependencies_to_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    python, pip, from_pip = environment["dependencies"]
    index = "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert (pip, from_pip) == ("pip", {"pip": [index, "-c constraints.txt", "-e ."]})
    version = re.fullmatch(r"python=(\d+\.\d+)", python)
    assert version is not None
    assert version[1] in SpecifierSet(PROJECT["requires-python"])


def test_dockerfile_is_made_of_the_same_files_and_out_of_binders_way():
    """Binder's repo2docker takes a Dockerfile at the top level, or a folder `binder`, before environment.yml."""
    assert not [name for name in ("Dockerfile", "binder", ".binder") if (ROOT / name).exists()]
    text = (ROOT / "docker/Dockerfile").read_text()
    assert f"FROM python:{(ROOT / 'environment.yml').read_text().split('python=')[1][:4]}-slim" in text
    assert "make .venv/.installed" in text
    assert "USER learner" in text.split("COPY")[0]


# --- The Makefile and CI ------------------------------------------------------------------------------------

TOOLS = ["awk", "cat", "cp", "dirname", "env", "find", "id", "ln", "ls", "make", "mkdir", "rm", "sh", "sleep"]
TOOLS += ["touch", "uname"]


# Fails unless MegaBlocks' setup, run now, would find a torch without CUDA.
KNOWS_NO_CUDA = f"""'{sys._base_executable}' -c '
import torch, torch.utils.cpp_extension as cpp
raise SystemExit("cu" in torch.__version__ or cpp.CUDA_HOME is not None)'"""


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


class Workshop:
    """A copy of the Makefile, and a Python for it whose environments are real except for the Python in them.

    A stand-in takes its place: it writes down its arguments, and fails while ``broken`` exists; ``browser`` tells
    whether it finds a Chromium, and ``playwright`` whether it can download one. ``bin`` is the whole PATH.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.project, self.bin = home, home / "project", home / "bin"
        self.broken, self.log, self.browser, self.playwright = (
            home / name for name in ("broken", "calls", "browser", "playwright")
        )
        self.project.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.project)
        self.bin.mkdir()
        for tool in TOOLS:
            where = shutil.which(tool)
            assert where is not None, f"{tool} is needed to test the Makefile"
            (self.bin / tool).symlink_to(where)
        stand_in = script(
            home / "stand-in",
            f'case "$*" in *find_browser*) test -e "{self.browser}"; exit;; esac',
            f'echo "$@" >> "{self.log}"',
            f'case "$*" in *"playwright install"*) test -e "{self.playwright}" && touch "{self.browser}"; exit;; esac',
            f'case "$*" in *megablocks==*) {KNOWS_NO_CUDA} || exit 1; ! [ -e "{self.broken}-megablocks" ]; exit;; esac',
            f'case "$*" in *"pip install"*) [ ! -e "{home}/slow" ] || sleep 1;; esac',
            f'! [ -e "{self.broken}" ]',
        )
        self.python = self.make_python("python", f'"$real" "$@" --without-pip && ln -sf "{stand_in}" .venv/bin/python')

    def make_python(self, name: str, *venv: str, path: Path | None = None) -> Path:
        """Makes a Python command. ``venv`` is what it does for ``-m venv``; modules in ``path`` come first."""
        return script(
            self.home / name,
            f'export PYTHONPATH="{path or ""}"',
            f'real="{sys._base_executable}"',
            'if [ "$1 $2" = "-m venv" ]; then',
            *(venv or ("exit 9",)),
            "exit; fi",
            'exec "$real" "$@"',
        )

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.bin), "HOME": str(self.home), "PYTHON": str(self.python)}

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=self.project, env=self.environment | environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """Returns the stand-in's arguments since the last call; those about MegaBlocks are kept in ``megablocks``."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        self.megablocks = [line for line in lines if "setuptools wheel" in line or "megablocks" in line]
        return [line for line in lines if line not in self.megablocks]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_help_is_the_default_and_lists_every_target(workshop):
    listing = workshop.make().stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    targets = phony[1].split()
    assert {"help", "lab", "test", "notebooks", "bench", "lint", "clean", "distclean"} <= set(targets)
    for target in targets:
        assert re.search(rf"^  make {target} +\w", listing, re.MULTILINE), f"`make help` does not mention {target}"
    assert workshop.make("help").stdout == listing


def test_missing_ensurepip_is_one_line_with_the_fix(workshop, tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "ensurepip.py").write_text("raise ModuleNotFoundError('No module named ensurepip')")
    python = workshop.make_python("debian-python", path=tmp_path / "without")
    run = workshop.make("install", PYTHON=str(python))
    message, *rest = run.stderr.splitlines()
    assert message.endswith(f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-venv")
    assert len(rest) == 1, "only make's own line may follow"
    assert rest[0].startswith("make: ***")
    assert not (workshop.project / ".venv").exists()


def test_old_python_is_one_line(workshop, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sitecustomize.py").write_text("import sys; sys.version_info = (3, 9, 2, 'final', 0)")
    python = workshop.make_python("old-python", path=tmp_path / "old")
    run = workshop.make("install", PYTHON=str(python))
    message, *rest = run.stderr.splitlines()
    needed = PROJECT["requires-python"].removeprefix(">=")
    assert f"needs Python {needed} or newer, and {python} is 3.9." in message
    assert len(rest) == 1


def test_absent_python_is_one_line(workshop):
    message, *rest = workshop.make("install", PYTHON="no-such-python").stderr.splitlines()
    assert message.startswith("No no-such-python found. Install Python")
    assert len(rest) == 1


def test_gpu_installs_nothing_and_says_in_one_line_that_there_is_none(workshop):
    for folder in ("benchmarks", "sparsity_lab"):
        (workshop.project / folder).symlink_to(ROOT / folder)
    run = workshop.make("gpu")
    message, *rest = run.stderr.splitlines()
    assert run.returncode != 0
    assert message.startswith("No NVIDIA GPU was found here")
    assert len(rest) == 1, "only make's own line may follow"
    plan = workshop.make("gpu", "ARGS=--plan")
    assert (plan.returncode, plan.stderr) == (0, "")
    assert "480 s  at most" in plan.stdout
    assert workshop.make("gpu", PYTHON="no-such-python").stderr.startswith("No no-such-python found")
    assert workshop.calls() == []
    assert not (workshop.project / ".venv").exists()


def test_half_made_environment_is_made_anew(workshop):
    venv = workshop.project / ".venv"
    for attempt, broken in enumerate([True, True, False]):
        workshop.broken.touch() if broken else workshop.broken.unlink()
        run = workshop.make("install")
        assert "==> Making .venv" in run.stdout
        assert (run.returncode != 0) == broken
        assert not (venv / f"leftover-{attempt}").exists()
        (venv / f"leftover-{attempt + 1}").touch()
        assert (venv / ".installed").exists() != broken
        [pip] = workshop.calls()
        assert pip == "-m pip install --disable-pip-version-check -c constraints.txt -e .[dev]"
    assert workshop.make("install").returncode == 0
    assert workshop.calls() == [], "what is installed is left alone"


def test_environment_cut_off_at_any_moment_is_made_anew(workshop):
    """The mark of an environment that was made here comes first, and stays while the rest is emptied."""
    (workshop.project / ".venv").mkdir()
    assert workshop.make("install").returncode == 0
    killed = workshop.make_python("killed-python", "mkdir -p .venv/bin; kill -9 $PPID")
    (workshop.project / ".venv/.installed").unlink()
    assert workshop.make("install", PYTHON=str(killed)).returncode != 0
    assert workshop.make("install").returncode == 0


FOREIGN = {
    "a link to another environment": ("link", "is a link"),
    "a link to nothing": ("dangling", "is a link"),
    "made by somebody else": ("folder", "is not made by this Makefile"),
    "no folder": ("file", "is not made by this Makefile"),
}


@pytest.mark.parametrize("target", ["lab", "app", "install", "test", "notebooks", "distclean", "megablocks"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_environment_that_was_not_made_here_is_left_alone(workshop, kind, target):
    venv, (how, words) = workshop.project / ".venv", FOREIGN[kind]
    other = workshop.home / "other" if how in ("link", "dangling") else venv
    if how == "file":
        venv.write_text("precious")
    elif how != "dangling":
        (other / "bin").mkdir(parents=True)
        (other / "precious").write_text("precious")
        script(other / "bin/python", "exit 0")
    if other != venv:
        (other / ".installed").write_text(f"{workshop.project}\n") if how == "link" else None
        venv.symlink_to(other)
    run = workshop.make(target)
    assert run.returncode != 0
    assert f".venv {words}, so it is left alone. Rename or remove it, or name another: make VENV=" in run.stderr
    assert len(run.stderr.splitlines()) == 2, "and make's own line"
    assert workshop.calls() == []
    precious = venv if how == "file" else other / "precious"
    assert how == "dangling" or precious.read_text() == "precious"
    assert venv.is_symlink() == (other != venv)


def test_another_environment_can_be_named(workshop):
    (workshop.project / ".venv").mkdir()
    (workshop.project / ".venv/precious").touch()
    python = workshop.make_python(
        "other", f'"$real" "$@" --without-pip && ln -sf "{workshop.home}/stand-in" "$3/bin/python"'
    )
    assert workshop.make("install", "VENV=.venv-lab", PYTHON=str(python)).returncode == 0
    assert (workshop.project / ".venv-lab/.installed").exists()
    assert (workshop.project / ".venv/precious").exists()


@pytest.mark.parametrize("killed", [False, True], ids=["both end", "the first is killed"])
def test_two_installations_at_a_time_wait_for_each_other(workshop, killed):
    (workshop.home / "slow").touch()
    first = subprocess.Popen(
        ["make", "install"], cwd=workshop.project, env=workshop.environment, start_new_session=True
    )
    while not workshop.log.exists():
        time.sleep(0.02)
    second = subprocess.Popen(
        ["make", "lab"], cwd=workshop.project, env=workshop.environment, stdout=subprocess.PIPE, text=True
    )
    if killed:
        assert second.stdout is not None
        assert any("waiting" in line for line in second.stdout)
        os.killpg(first.pid, signal.SIGKILL)
    output, _ = second.communicate(timeout=60)
    assert (first.wait(60), second.returncode) == (-signal.SIGKILL if killed else 0, 0)
    assert killed or "==> Another make is installing here; waiting for it" in output
    *installations, lab = workshop.calls()
    assert len(installations) == (2 if killed else 1), "what the first has installed, the second need not"
    assert lab.startswith("-m sparsity_lab lab ")


@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")
def test_megablocks_comes_without_its_compiled_pieces_where_they_cannot_be_built(workshop):
    script(workshop.bin / "nvidia-smi")  # a GPU, whose CUDA is too new: the stand-in fails where setup finds CUDA
    run = workshop.make("install")
    assert run.returncode == 0
    assert "could not be installed" not in run.stderr
    workshop.calls()
    assert len([line for line in workshop.megablocks if "megablocks==" in line]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")
def test_megablocks_that_failed_is_tried_again_when_asked(workshop):
    failing = workshop.home / "broken-megablocks"
    failing.touch()
    run = workshop.make("install")
    assert run.returncode == 0
    assert "'make megablocks' tries again" in run.stderr
    assert workshop.make("megablocks").returncode != 0
    failing.unlink()
    workshop.calls()
    assert "==> MegaBlocks is installed" in workshop.make("megablocks").stdout
    assert workshop.calls() == []
    assert any("megablocks==" in line for line in workshop.megablocks)


def test_changed_dependencies_are_installed_into_the_environment_that_is_there(workshop):
    workshop.make("install")
    workshop.calls()
    kept = workshop.project / ".venv" / "kept"
    kept.touch()
    future = (workshop.project / ".venv" / ".installed").stat().st_mtime + 5
    os.utime(workshop.project / "pyproject.toml", (future, future))
    assert workshop.make("install").returncode == 0
    assert len(workshop.calls()) == 1
    assert kept.exists()


@pytest.mark.parametrize("accident", ["the folder moved", "its Python is gone"])
def test_environment_that_no_longer_works_is_made_anew(workshop, accident):
    workshop.make("install")
    if accident == "the folder moved":
        workshop.project = workshop.project.rename(workshop.home / "moved project")
    else:
        (workshop.project / ".venv" / "bin" / "python").unlink()
    workshop.calls()
    run = workshop.make("install")
    assert run.returncode == 0, run.stderr
    assert "==> Making .venv" in run.stdout
    assert len(workshop.calls()) == 1


def test_lab_installs_the_core_alone_and_stays_on_this_machine(workshop):
    run = workshop.make("lab", "HEADLESS=1", "PORT=9000", "TORCH_INDEX=https://example.org/cpu")
    assert run.returncode == 0, run.stderr
    pip, lab = workshop.calls()
    assert pip.endswith("--extra-index-url https://example.org/cpu -c constraints.txt -e .")
    assert lab == "-m sparsity_lab lab --ip=127.0.0.1 --no-browser --port=9000"

    workshop.make("install")
    assert len(workshop.calls()) == 1, "developers' tools come on top"
    workshop.make("lab", "IP=0.0.0.0", "LAB_ARGS=--version --debug")
    [lab] = workshop.calls()
    assert lab == "-m sparsity_lab lab --ip=0.0.0.0 --jupyter --version --debug"


def test_wheel_is_built_without_a_network(workshop):
    assert workshop.make("wheel").returncode == 0
    (wheel,) = [line for line in workshop.calls() if "pip wheel" in line]
    assert wheel.endswith("--no-deps --no-build-isolation --wheel-dir dist .")


def test_app_stays_on_this_machine(workshop):
    run = workshop.make("app", "HEADLESS=1", "PORT=9000")
    assert run.returncode == 0, run.stderr
    app = workshop.calls()[-1]
    assert app == "notebooks/app/serve.py --Voila.ip=127.0.0.1 --no-browser --port=9000"
    assert (ROOT / app.split()[0]).exists()
    settings = json.loads((ROOT / "notebooks/app/voila.json").read_text())["VoilaConfiguration"]
    assert (ROOT / "notebooks/app/voila/templates" / settings["template"] / "index.html.j2").exists()


def test_a_chromium_that_is_missing_is_downloaded_or_named(workshop):
    run = workshop.make("test")
    assert run.returncode == 0
    assert "sudo apt install chromium libatomic1" in run.stdout.splitlines()[-1]
    assert workshop.calls()[-1] == "-m playwright install chromium"
    run = workshop.make("test", CI="true")
    assert run.returncode != 0
    assert "sudo apt install chromium libatomic1" in run.stderr

    workshop.playwright.touch()  # now it can be downloaded
    workshop.calls()
    assert workshop.make("test").returncode == 0
    units, download, browser = workshop.calls()
    assert units == "-m pytest -n 2 tests --ignore=tests/browser"
    assert download == "-m playwright install chromium"
    assert browser == "-m pytest -n 2 tests/browser"
    assert workshop.make("test", CI="true").returncode == 0
    assert workshop.calls() == [units, browser], "once is enough"


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="CI has bash, which nothing else needs")
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh machine", "ready machine"])
def test_ci_installs_what_is_missing_and_calls_make_test(workshop, fresh):
    (workshop.project / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", workshop.project / ".ci")
    for name in ("make", "id"):
        (workshop.bin / name).unlink()
    script(workshop.bin / "make", f'echo make "$@" >> "{workshop.log}"', "exit 7")
    script(workshop.bin / "apt-get", f'echo apt-get "$@" >> "{workshop.log}"')
    script(workshop.bin / "id", "echo 0")
    script(workshop.bin / "python3", "exit 1" if fresh else "exit 0")
    if not fresh:
        script(workshop.bin / "chromium")
    run = subprocess.run(
        [BASH, workshop.project / ".ci" / "run"], env={"PATH": str(workshop.bin)}, check=False, timeout=60
    )
    assert run.returncode == 7, "CI must end as `make test` ends"
    *installation, test = workshop.calls()
    assert test == "make test"
    if fresh:
        update, install = installation
        assert update == "apt-get -qq update"
        assert install.startswith("apt-get -qq install -y")
        assert {"chromium", "libatomic1", "python3", "python3-venv"} <= set(install.split())
    else:
        assert installation == []


def test_workflow_has_every_python_and_system_and_is_off_until_asked():
    workflow = yaml.safe_load((ROOT / ".github/workflows/systems.yml").read_text())
    assert set(workflow[True]) == {"workflow_dispatch"}, "`on`, which YAML takes for a truth value"
    jobs = workflow["jobs"]
    for job in ("make", "windows"):
        pythons = jobs[job]["strategy"]["matrix"]["python"]
        assert pythons[0] == PROJECT["requires-python"].removeprefix(">=")
        assert pythons == [f"3.{minor}" for minor in range(11, 11 + len(pythons))], "text, or 3.10 would be 3.1"
    assert {"ubuntu-latest", "macos-latest"} == set(jobs["make"]["strategy"]["matrix"]["os"])
    commands = [step["run"] for step in jobs["make"]["steps"] if "run" in step]
    assert any(re.match(r"make test .*PYTHON=", command) for command in commands)
    targets = re.findall(r"\bmake (\w+)", " ".join(commands))
    assert set(targets) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_workflow_publishes_what_make_gallery_writes_and_is_off_until_asked():
    workflow = yaml.safe_load((ROOT / ".github/workflows/pages.yml").read_text())
    assert set(workflow[True]) == {"workflow_dispatch"}, "`on`, which YAML takes for a truth value"
    assert workflow["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    steps = workflow["jobs"]["publish"]["steps"]
    assert [step["run"].split()[:2] for step in steps if "run" in step] == [["make", "gallery"]]
    (folder,) = [step["with"]["path"] for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    written = re.search(r"^gallery:.*(?:\n\t.*)+", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert written is not None
    assert f"--out {folder}\n" in written[0] + "\n"
    assert "--profile full" in written[0], "never of test sizes"


# --- Notebooks ----------------------------------------------------------------------------------------------

NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def problems(path: Path) -> list[str]:
    """Describes what a notebook in git must not contain."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernelspec is not python3")
    if "widgets" in notebook.metadata:
        found.append("carries widget state")
    for number, cell in enumerate(notebook.cells):
        if cell.get("outputs"):
            found.append(f"cell {number} carries outputs")
        if cell.get("execution_count") is not None:
            found.append(f"cell {number} carries an execution count")
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if [cell.cell_type for cell in parameters] != ["code"]:
        found.append(f"{len(parameters)} cells tagged `parameters`, where one code cell should be")
    return found


def test_there_are_notebooks():
    assert ROOT / "notebooks" / "00_start_here.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.relative_to(ROOT / "notebooks").as_posix())
def test_notebook_is_stripped_and_takes_parameters(path):
    assert problems(path) == [], "`make format` strips outputs"


def clean_notebook() -> nbformat.NotebookNode:
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("S = 0.5", metadata={"tags": ["parameters"]})]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def with_output(notebook):
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="0.5")]


def with_execution_count(notebook):
    notebook.cells[1].execution_count = 3


def with_widget_state(notebook):
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}


def with_another_kernel(notebook):
    notebook.metadata.kernelspec.name = "my-env"


def with_no_kernel(notebook):
    del notebook.metadata["kernelspec"]


def without_parameters(notebook):
    notebook.cells[1].metadata.tags = []


def with_parameters_twice(notebook):
    notebook.cells.append(nbformat.v4.new_code_cell("K = 2", metadata={"tags": ["parameters"]}))


def with_parameters_in_text(notebook):
    notebook.cells[0].metadata["tags"] = notebook.cells[1].metadata.pop("tags")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (with_output, "cell 1 carries outputs"),
        (with_execution_count, "cell 1 carries an execution count"),
        (with_widget_state, "carries widget state"),
        (with_another_kernel, "the kernelspec is not python3"),
        (with_no_kernel, "the kernelspec is not python3"),
        (without_parameters, "0 cells tagged `parameters`, where one code cell should be"),
        (with_parameters_twice, "2 cells tagged `parameters`, where one code cell should be"),
        (with_parameters_in_text, "1 cells tagged `parameters`, where one code cell should be"),
    ],
)
def test_every_problem_is_noticed(tmp_path, spoil, complaint):
    notebook, path = clean_notebook(), tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    assert problems(path) == []
    spoil(notebook)
    nbformat.write(notebook, path)
    assert problems(path) == [complaint]


@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")
def test_megablocks_brings_no_torch_of_its_own_and_no_old_wheel(workshop):
    assert workshop.make("install").returncode == 0
    workshop.calls()
    (line,) = [line for line in workshop.megablocks if "megablocks==" in line]
    for option in ("--no-deps", "--no-build-isolation", "--no-cache-dir", "stanford-stk=="):
        assert option in line
