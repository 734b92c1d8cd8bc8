"""The verb that executes notebooks: profiles, parameters and their types, and cells that fail."""

import os
import re
from pathlib import Path

import nbformat
import pytest

from sparsity_lab.classroom.execute import parameters
from sparsity_lab.cli.main import main
from sparsity_lab.guesses import SWITCH, Guess, guesses_file, keep_guess

Capture = pytest.CaptureFixture[str]


# ---- notebooks

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
PARAMETERS = """steps: int = 3  # how many
rate: float = 0.5  # how fast
sizes: list = [1]  # how big"""


def notebook(folder: Path, name: str, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    folder.mkdir(exist_ok=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "notebooks"
    notebook(path, "01_sum", 'a: int = 1  # first\nb: float = 2.0  # second\nc: str = "x"  # label', "print(c, a + b)")
    notebook(path, "02_broken", "n: int = 0  # divisor", "print('so far')", "1 / n")
    (path / "profiles.toml").write_text('[ci.01_sum]\na = 10\n[ci.02_broken]\n[slow.01_sum]\nc = "slow"\n')
    return path


def command(folder: Path, *arguments: str) -> list[str]:
    return ["notebooks", "--folder", str(folder), "--out", str(folder.parent / "out"), *arguments]


def failed(folder: Path, capsys: Capture, *arguments: str) -> str:
    """The one line of an error."""
    assert main(command(folder, *arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert isinstance(line, str)
    return line.removeprefix("sparsity-lab: ")


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.text for cell in cells for out in cell.get("outputs", []) if out.output_type == "stream")


def test_notebooks_run_with_a_profile_and_parameters(folder: Path, capsys: Capture) -> None:
    assert main(command(folder, "01", "-p", "b", "5")) == 0
    assert "01_sum.ipynb done in" in capsys.readouterr().out
    assert printed(folder.parent / "out" / "01_sum.ipynb") == "x 15\n"
    assert not (folder.parent / "out" / "02_broken.ipynb").exists()
    assert all(not cell.outputs for cell in nbformat.read(folder / "01_sum.ipynb", as_version=4).cells)


def test_a_failing_notebook_is_status_1_and_kept(folder: Path, capsys: Capture) -> None:
    assert main(command(folder, "02_broken", "--profile", "full")) == 1
    assert "02_broken.ipynb FAILED in a cell: ZeroDivisionError: division by zero" in capsys.readouterr().out
    assert "so far" in printed(folder.parent / "out" / "02_broken.ipynb")


PREDICT = """from sparsity_lab.widgets import Predict
luck = Predict("luck", "Will it?", choices=["yes", "no"], default="no")
shown = luck.reveal("no")
print(luck.given, shown._repr_mimebundle_()["text/plain"])"""


@pytest.mark.parametrize("before", [None, "1"])
def test_the_users_guesses_have_no_part_in_a_run(
    folder: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is not None:
        monkeypatch.setenv(SWITCH, before)
    keep_guess(Guess("luck", "Will it?", "yes", None, 0.9, "2030-01-01T00:00:00+00:00"))
    kept = guesses_file().read_bytes()
    notebook(folder, "03_predict", "n: int = 0  # none", PREDICT)
    assert main(command(folder, "03")) == 0
    assert printed(folder.parent / "out" / "03_predict.ipynb").startswith(
        "False Without a guess this page assumes: no."
    )
    assert guesses_file().read_bytes() == kept
    assert os.environ.get(SWITCH) == before, "the environment is as it was"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["01", "-p", "d", "1"], "01_sum.ipynb has no parameter 'd'; it has a, b, c"),
        (["01", "-p", "a", "1.5"], "01_sum.ipynb: parameter a=1.5 must be of type int, e.g. 1"),
        (["01", "-p", "a", "True"], "01_sum.ipynb: parameter a=True must be of type int"),
        (["01", "-p", "b", "much"], "01_sum.ipynb: parameter b='much' must be of type float, e.g. 2.0"),
        (["01", "-p", "c", "5"], "01_sum.ipynb: parameter c=5 must be of type str, e.g. 'x'"),
        (["-p", "n", "1"], "01_sum.ipynb has no parameter 'n'"),
        (["03"], "no notebook in .* starts with '03'; there are 01_sum, 02_broken"),
        (["--profile", "quick"], "profile='quick' is not in .*profiles.toml: use full, ci, slow"),
    ],
)
def test_notebook_mistakes(folder: Path, arguments: list[str], message: str, capsys: Capture) -> None:
    assert re.match(message, failed(folder, capsys, *arguments))
    assert not (folder.parent / "out").exists(), "checked before anything runs"


def test_a_folder_without_notebooks(tmp_path: Path, capsys: Capture) -> None:
    assert str(tmp_path) in failed(tmp_path, capsys)


def test_notebooks_without_profiles(folder: Path, capsys: Capture) -> None:
    (folder / "profiles.toml").unlink()
    assert "profiles.toml" in failed(folder, capsys, "01")


def test_parameters_without_a_type_are_said_to_be_so(tmp_path: Path, capsys: Capture) -> None:
    notebook(tmp_path / "notebooks", "01_untyped", "a = 1", "print(a)")
    assert "'a'" in failed(tmp_path / "notebooks", capsys, "--profile", "full", "-p", "a", "2")


def test_types_and_defaults(tmp_path: Path) -> None:
    notebook(tmp_path, "01_kinds", "a: list[float] = [1e10, 2]  # many\nb: bool = True\nc: str = 'x'  # a text")
    assert parameters(tmp_path / "01_kinds.ipynb") == {
        "a": ("list[float]", [1e10, 2]),
        "b": ("bool", True),
        "c": ("str", "x"),
    }
