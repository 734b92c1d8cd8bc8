"""Sets the lab up in a notebook of Colab or Kaggle and shows the dashboard of notebook 00.

    %run notebooks/app/hosted.py    (in the folder of the repository)

Whatever is installed stays if it suits pyproject.toml, torch with its CUDA above all. Jupyter itself always stays: it
is the host's, and the dashboard does not need the lab's.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OF_THE_HOST = {"ipykernel", "ipython", "jupyterlab", "nbgrader", "voila", "papermill", "tornado", "traitlets"}
WIDTH = 16  # as in notebook 00


def requirements() -> dict[str, str]:
    """Returns what the dashboard needs, by name of the package, as pyproject.toml asks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in project["dependencies"]}
    return {name: line for name, line in names.items() if name not in OF_THE_HOST}


def versions(names: Sequence[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {name: next(iter(metadata.distributions(name=name)), None) for name in names}
    return {name: package.version for name, package in found.items() if package is not None}


def install() -> list[str]:
    """Installs what is missing or does not suit, says which packages it had to replace, and returns those that this
    kernel has loaded already."""
    wanted = requirements()
    before = versions(list(wanted))
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *wanted.values()], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", str(ROOT)], check=True)

    after = versions(list(wanted))
    replaced = [name for name, version in before.items() if after.get(name) != version]
    for name in replaced:
        print(f"{name} {before[name]} was replaced by {after.get(name)}, because the lab needs {wanted[name]}.")
    if "torch" in before and "torch" not in replaced:
        print(f"torch {before['torch']} suits the lab and was kept.")
    return [name for name in replaced if name.replace("-", "_") in sys.modules]


def main() -> None:
    stale = install()
    if stale:
        print(f"{', '.join(stale)}: loaded before. Restart the session (in its menu), and run this cell again.")
        return
    if str(ROOT) not in sys.path:  # an editable package is found only by kernels that start later
        sys.path.insert(0, str(ROOT))

    from IPython.display import display

    from sparsity_lab.runs.gpus import gpus
    from sparsity_lab.widgets import MagicDial

    if "google.colab" in sys.modules:
        from google.colab import output  # type: ignore[import-not-found]

        output.enable_custom_widget_manager()  # without it, Colab shows only widgets that it knows
    found = ", ".join(gpu.name for gpu in gpus())
    print(f"GPU: {found}." if found else "No GPU: choose one in the settings of the session to train on it.")
    display(MagicDial(width=WIDTH))


if __name__ == "__main__":
    main()
