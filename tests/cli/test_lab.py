"""`sparsity-lab lab`: what JupyterLab is asked to serve, and mistakes in one line."""

import errno
import os
from pathlib import Path

import pytest
from jupyterlab.labapp import LabApp

from sparsity_lab.cli import lab
from sparsity_lab.cli.main import main
from sparsity_lab.files import SUITE

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of the JupyterLab that was started, which starts nothing."""
    options: list[str] = []
    monkeypatch.setattr(LabApp, "launch_instance", options.extend)
    return options


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite as a wheel has it."""
    suite = tmp_path / "shipped"
    (suite / "notebooks").mkdir(parents=True)
    (suite / lab.START).write_text("{}")
    monkeypatch.setattr(lab, "SUITE", suite)
    monkeypatch.setattr(lab, "SHIPPED", suite)
    return suite


def failed(arguments: list[str], capsys: Capture, status: int = 2) -> str:
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def test_the_repository_is_served_in_place_to_this_machine(served: list[str], capsys: Capture) -> None:
    assert main(["lab", "--no-browser", "--port", "9000"]) == 0
    assert {f"--ServerApp.root_dir={SUITE}", "--ServerApp.ip=127.0.0.1", "--no-browser", "--port=9000"} <= set(served)
    assert f"--LabApp.default_url=/lab/tree/{lab.START}" in served
    assert ("--allow-root" in served) == (hasattr(os, "geteuid") and os.geteuid() == 0)
    assert (SUITE / lab.START).exists()
    assert capsys.readouterr().out.startswith(f"JupyterLab on {SUITE / lab.START}, served on 127.0.0.1")
    served.clear()
    assert main(["lab", "--ip", "0.0.0.0", "--jupyter", "--IdentityProvider.token=a b", "--no-browser"]) == 0
    assert "--ServerApp.ip=0.0.0.0" in served
    assert served[-2:] == ["--IdentityProvider.token=a b", "--no-browser"]
    assert not any(option.startswith("--port") for option in served), "JupyterLab looks for one that is free"


def test_a_copy_is_put_into_a_folder_and_served(
    served: list[str], installed: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "my lab"]) == 0
    assert f"--ServerApp.root_dir={tmp_path / 'my lab'}" in served
    put, serving = capsys.readouterr().out.splitlines()
    assert put == "New files in my lab: 1"
    assert serving.startswith(f"JupyterLab on {tmp_path / 'my lab' / lab.START}")
    (tmp_path / "my lab" / lab.START).unlink()
    assert main(["lab", "my lab"]) == 0
    assert not (tmp_path / "my lab" / lab.START).exists()
    assert main(["lab", "my lab", "--restore"]) == 0
    assert (tmp_path / "my lab" / lab.START).exists()


def test_mistakes_are_one_line(served: list[str], installed: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = str(tmp_path / "lab")
    assert "For example: sparsity-lab lab my-lab" in failed(["lab"], capsys)
    assert "port=70000 must be from 0 to 65535" in failed(["lab", folder, "--port", "70000"], capsys)
    for ip in ("nonsense", "192.0.2.1", ""):  # no name, an address that is another machine's, and none
        assert f"ip={ip!r} can't be served on" in failed(["lab", folder, "--ip", ip], capsys)
    (tmp_path / "lab").write_text("precious")
    assert f"{folder} is no folder" in failed(["lab", folder], capsys)
    assert (tmp_path / "lab").read_text() == "precious"
    assert served == []


def test_a_folder_is_not_for_the_repository(served: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert f"notebooks are opened in {SUITE}" in failed(["lab", str(tmp_path)], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_can_not_be_written(
    number: int, served: list[str], installed: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lab"

    def refuse(file: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert f"{folder} can't be written ({os.strerror(number)}" in failed(["lab", str(folder)], capsys, status=1)
        assert served == []
    assert [path for path in folder.rglob("*") if path.is_file()] == [], "and nothing torn is left"
    assert main(["lab", str(folder)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert main(["lab", str(folder)]) == 0, "what is up to date need not be written"
