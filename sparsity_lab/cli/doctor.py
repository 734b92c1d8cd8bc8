"""What is installed here, how fast it is, and what to do about what is missing."""

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass

import torch

from sparsity_lab.models.megablocks import supplied, why_not
from sparsity_lab.training.timing import matmul_rate

PACKAGES = ("sparsity-lab", "torch", "numpy", "pandas", "jupyterlab", "ipywidgets", "plotly", "papermill")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    name: str
    value: str
    ok: bool = True
    optional: bool = True  # the lab works without it
    advice: str = ""


def find_browser() -> str | None:
    """The path of the Chromium that draws images and runs the browser tests: ``$BROWSER_PATH`` or one on the PATH."""
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)


def examine() -> list[Finding]:
    """Takes about a second: the matrix products are measured."""
    return [
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_package(name) for name in PACKAGES),
        _device(),
        *_rates(),
        _megablocks(),
        _chromium(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), optional=False)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", ok=False, optional=False, advice="run `make lab`, which installs it")


def _device() -> Finding:
    if torch.cuda.is_available():
        return Finding("device", f"{torch.cuda.get_device_name()}; use it with device='auto', dtype='bfloat16'")
    return Finding("device", "CPU, no CUDA GPU found; all of the lab runs on it")


def _rates() -> list[Finding]:
    before, threads = torch.get_num_threads(), os.cpu_count() or 1
    findings = []
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        findings.append(
            Finding(f"{count} thread{'s'[: count > 1]}", f"{matmul_rate() / 1e9:.0f} GFLOP/s float32 products")
        )
    torch.set_num_threads(before)
    return findings


def _megablocks() -> Finding:
    reason = why_not()
    if reason is not None:
        return Finding(
            "megablocks", "not usable", ok=False, advice=f"{reason}; backend='grouped' gives the same numbers"
        )
    missing = supplied()
    stands_in = f"; plain torch stands in for {', '.join(missing)}" if missing else ", all of its compiled pieces"
    return Finding("megablocks", importlib.metadata.version("megablocks") + stands_in)


def _chromium() -> Finding:
    path = find_browser()
    if path:
        return Finding("chromium", path)
    advice = "only the browser tests and pictures of figures need it: `sudo apt install chromium`, or set BROWSER_PATH"
    return Finding("chromium", "not found", ok=False, advice=advice)
