"""The one cell for Colab and Kaggle, as docs/elsewhere.md gives it: pip and the host are played here."""

import ast
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from sparsity_lab.runs import gpus as gpus_module
from sparsity_lab.runs.gpus import Gpu

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "notebooks" / "app" / "hosted.py"


def test_the_cell_is_valid_and_its_files_are_there() -> None:
    guide = (ROOT / "docs" / "elsewhere.md").read_text(encoding="utf-8")
    (cell,) = re.findall(r"```python\n(.*?hosted\.py.*?)```", guide, re.DOTALL)
    code = ast.parse(TransformerManager().transform_cell(cell))
    assert len(code.body) == len(cell.splitlines()) == 3
    clone, folder, script = cell.splitlines()
    assert re.fullmatch(r"!git clone .* https://github\.com/OWNER/REPOSITORY lab", clone)
    assert folder == "%cd lab"
    assert (ROOT / script.removeprefix("%run ")).samefile(SCRIPT)


class Host:
    """A notebook of Colab or Kaggle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]):
        self.module: dict[str, Any] = runpy.run_path(str(SCRIPT))
        self.versions, self.commands, self.newest = versions, list[list[str]](), dict[str, str]()
        patched = self.module["install"].__globals__
        monkeypatch.setitem(patched, "versions", lambda names: {n: v for n, v in self.versions.items() if n in names})
        monkeypatch.setattr(subprocess, "run", self.run)

    def run(self, command: list[str], check: bool) -> None:
        assert check
        assert command[1:4] == ["-m", "pip", "install"]
        self.commands.append(command)
        self.versions = self.versions | self.newest


def test_what_suits_stays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    host = Host(monkeypatch, {"torch": "2.13.0+cu130", "numpy": "2.2.6"})
    assert host.module["install"]() == []
    assert capsys.readouterr().out == "torch 2.13.0+cu130 suits the lab and was kept.\n"
    asked, ours = host.commands
    assert any(line.startswith("torch>=") for line in asked), "pip keeps what is in the range, and no pin is exact"
    assert not any(line.startswith(("ipykernel", "ipython", "jupyterlab")) for line in asked), "they are in use"
    assert ours[-3:] == ["--no-deps", "--editable", str(ROOT)]


def test_what_is_replaced_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And if this kernel has it loaded, only a restart helps."""
    host = Host(monkeypatch, {"torch": "2.9.0", "ipywidgets": "7.7.1", "numpy": "2.2.6"})
    host.newest = {"torch": "2.13.0", "ipywidgets": "8.1.7", "plotly": "7.0.0"}
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", types.ModuleType("ipywidgets"))
    host.module["main"]()
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"torch 2\.9\.0 was replaced by 2\.13\.0, because the lab needs torch>=2\.13,<2\.14\.", said[0])
    assert said[1].startswith("ipywidgets 7.7.1 was replaced by 8.1.7, ")
    assert said[2] == "ipywidgets: loaded before. Restart the session (in its menu), and run this cell again."
    assert len(said) == 3


@pytest.mark.parametrize(
    ("found", "line"),
    [((Gpu("NVIDIA X", "0", 1e10),), "GPU: NVIDIA X."), ((), "No GPU: choose one in the settings")],
)
def test_it_shows_the_dashboard(
    found: tuple[Gpu, ...], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host(monkeypatch, {"torch": "2.13.0"})
    shown: list[Any] = []
    enabled: list[bool] = []
    colab: Any = types.ModuleType("google.colab")
    colab.output = types.SimpleNamespace(enable_custom_widget_manager=lambda: enabled.append(True))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setattr(gpus_module, "gpus", lambda: found)
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr("sparsity_lab.widgets.MagicDial", lambda **start: start)
    host.module["main"]()
    assert shown == [{"width": 16}]
    assert enabled == [True]
    assert line in capsys.readouterr().out
