"""The wheel: what is in it, and the lab that it brings to a machine without the repository."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from sparsity_lab.runs import measured

ROOT = Path(__file__).parents[2]
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "setup.py", "sparsity_lab", "notebooks", "data", "docs")
SHIPPED = "sparsity_lab/shipped/"
LARGEST = 3e6  # bytes of the wheel
STRAY = ("notebooks/Untitled.ipynb", "notebooks/guesses.csv", "notebooks/app/.ipynb_checkpoints/dashboard.ipynb")
STRAY += ("data/isoflop/checkpoints/run.safetensors", "data/isoflop/.stop-1", "docs/teaching.md")
LEFT = "build/lib/sparsity_lab/shipped/notebooks/assignments/ps1_the_dial/ps1_the_dial.ipynb"  # by an earlier build


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository that somebody has worked in."""
    folder = tmp_path_factory.mktemp("a source tree") / "sources"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "guesses.csv", "checkpoints")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    for name in (*STRAY, LEFT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(scope="session")
def wheel(sources: Path) -> Path:
    """As `make wheel` builds it, without a network. It takes setuptools, which torch brings."""
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=sources, env=os.environ | {"PIP_NO_INDEX": "1"}, check=True, timeout=120)
    (path,) = (sources / "dist").glob("*.whl")
    return path


def repository_files() -> set[str]:
    """What a wheel has to carry, as the repository has it."""
    kept = {path for path in (ROOT / "data").rglob("*.*") if path.is_file() and "checkpoints" not in path.parts}
    kept |= {path for path in (ROOT / "notebooks/app").rglob("*.*") if path.is_file() and path.suffix != ".pyc"}
    kept |= {*(ROOT / "notebooks").glob("[0-1][0-9]_*.ipynb"), ROOT / "notebooks/profiles.toml"}
    names = {
        path.relative_to(ROOT).as_posix() for path in kept | {ROOT / "docs/glossary.md", ROOT / "docs/glossary.toml"}
    }
    return {name for name in names if "/." not in name}


def test_wheel_has_notebooks_and_data_and_nothing_that_a_student_must_not_see(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        texts = {name: archive.read(name) for name in names if name.startswith(SHIPPED)}
    shipped = {name.removeprefix(SHIPPED) for name in texts}
    assert shipped == repository_files()
    assert {f"{number:02}" for number in range(12)} == {
        name[10:12] for name in shipped if re.match(r"notebooks/\d", name)
    }
    for name, text in texts.items():
        for secret in (b"BEGIN SOLUTION", b"BEGIN HIDDEN", b'"solution": true', b'"grade": true'):
            assert secret not in text, name
    assert "sparsity_lab/cli/lab_settings/overrides.json" in names
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "data/", "build/", "benchmarks/"))]


def test_source_distribution_builds_the_same_wheel(sources: Path, tmp_path: Path) -> None:
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=sources, check=True, capture_output=True, timeout=120)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert repository_files() | {"setup.py", "pyproject.toml", "README.md"} <= names
    assert not names & {*STRAY, LEFT}
    assert not [name for name in names if "assignments/" in name]


class Machine:
    """Somebody's machine, on which only the wheel is installed, in ``target``, with a lab in ``folder``."""

    def __init__(self, target: Path, home: Path) -> None:
        self.target, self.home, self.folder = target, home, home / "my lab"
        home.mkdir()
        own = {"HOME": ".", "SPARSITY_LAB_HOME": "lab", "SPARSITY_LAB_CACHE": "cache"}
        own |= {f"JUPYTER_{kind.upper()}_DIR": kind for kind in ("config", "data", "runtime")}
        own |= {"JUPYTERLAB_SETTINGS_DIR": "settings"}
        self.environment = os.environ | {name: str(home / path) for name, path in own.items()}
        self.environment["PYTHONPATH"] = str(target)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words], cwd=self.home, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, code: str) -> list[str]:
        """The lines that code prints."""
        process = self.start("-c", code)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        return said.splitlines()

    def put(self, **options: bool) -> list[str]:
        """What the command says when it puts the notebooks into the folder."""
        code = "from sparsity_lab.classroom.learners_copy import put, Path; from sparsity_lab.files import SUITE"
        return self.run(f"{code}\nprint(*put(SUITE, Path({self.folder.name!r}), **{options!r}), sep='\\n', end='')")


@pytest.fixture(scope="session")
def machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("outside")
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-index", "--target", folder / "site", wheel], check=True, timeout=120)
    return Machine(folder / "site", folder / "somebody's home")


def test_the_lab_opens_on_the_first_notebook_and_has_its_runs(machine: Machine) -> None:
    server = machine.start("-m", "sparsity_lab", "lab", "my lab", "--no-browser", "--port", "0")
    try:
        machine.put()  # at the same time
        files, deadline = machine.home / "runtime", time.monotonic() + 60
        while not (found := list(files.glob("jpserver-*.json"))) and time.monotonic() < deadline:
            assert server.poll() is None, server.communicate()[0]
            time.sleep(0.1)
        state = json.loads(found[0].read_text())
        assert state["url"].startswith(("http://127.0.0.1:", "http://localhost:"))
        assert Path(state["root_dir"]) == machine.folder

        def ask(path: str, token: str = state["token"]) -> tuple[str, str]:
            request = urllib.request.Request(state["url"] + path, headers={"Authorization": f"token {token}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.url, answer.read().decode()

        assert len(state["token"]) > 20
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask("api/contents/notebooks/00_start_here.ipynb", token="")
        book = json.loads(ask("api/contents/notebooks/00_start_here.ipynb")[1])["content"]
        assert "".join(book["cells"][0]["source"]).startswith("# 00 ")
        assert ask("")[0].endswith("/lab/tree/notebooks/00_start_here.ipynb")
        assert json.loads(ask("api/contents/docs/glossary.md")[1])["content"].startswith("# Glossary")
        defaults = json.loads(ask("lab/api/settings/@jupyterlab/apputils-extension:notification")[1])["schema"]
        assert defaults["properties"]["fetchNews"]["default"] == "false"
        viewers = json.loads(ask("lab/api/settings/@jupyterlab/docmanager-extension:plugin")[1])["schema"]
        assert viewers["properties"]["defaultViewers"]["default"]["markdown"] == "Markdown Preview"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()

    package, runs, fitted = machine.run(
        "import sparsity_lab; print(sparsity_lab.__file__)\n"
        "from sparsity_lab.runs import measured; print(len(measured.runs(None)))\n"
        "from sparsity_lab.cli.main import main\n"
        "main(['fit', 'my lab/data/isoflop', *'--n-layers 2 --law reduced --top-k 1 --bootstraps 2 --json'.split()])"
    )
    assert Path(package).is_relative_to(machine.target)
    assert int(runs) == len(measured.runs(None))
    assert json.loads(fitted)


def test_an_upgrade_keeps_what_the_learner_changed(machine: Machine) -> None:
    machine.put()
    books = sorted((machine.folder / "notebooks").glob("*.ipynb"))
    changed, unchanged, deleted = books[:3]
    changed.write_text("mine")
    deleted.unlink()
    for book in (changed, unchanged, deleted):  # as pip would upgrade them
        new = machine.target / SHIPPED / "notebooks" / book.name
        new.write_text(new.read_text().replace('"source": [', '"source": ["New. ", ', 1))
    package = machine.target / "sparsity_lab/__init__.py"
    package.write_text(re.sub(r'__version__ = ".+"', '__version__ = "99.1"', package.read_text()))
    upgraded, kept = machine.put()
    assert upgraded == "Files in my lab that are now those of version 99.1: 1"
    assert kept.endswith(f"the new version is beside it: {changed.stem}.new-99.1.ipynb")
    assert changed.read_text() == "mine"
    assert changed.with_name(f"{changed.stem}.new-99.1.ipynb").read_text().startswith("{")
    assert unchanged.read_bytes() == (machine.target / SHIPPED / "notebooks" / unchanged.name).read_bytes()
    assert not deleted.exists()
    assert machine.put() == []
    assert machine.put(restore=True) == ["New files in my lab: 1"]
    assert deleted.exists()
