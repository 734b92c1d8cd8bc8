"""Show what is installed, how fast it is, and what to do about what is missing; or measure a GPU."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from sparsity_lab.files import SUITE

PACKAGES = ("sparsity-lab", "torch", "numpy", "pandas", "jupyterlab", "ipywidgets", "plotly", "papermill")
BROWSERS = (
    "chromium", "chromium-browser", "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)  # fmt: skip
PLAYWRIGHTS = ("chrome-linux*/chrome", "chrome-mac*/*.app/Contents/MacOS/*", "chrome-win*/chrome.exe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "measure what needs an NVIDIA GPU, in eight minutes, into build/gpu/report.md and report.json"
    parser.add_argument("--gpu", action="store_true", help=text)
    parser.add_argument("--plan", action="store_true", help="with --gpu: list the steps and their limits, run none")


def run(options: argparse.Namespace) -> int:
    if options.gpu or options.plan:
        return _measure_gpu(options)
    findings = examine()
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.ok else '-- '} {finding.name:<12} {finding.value}")
            if finding.advice:
                print(f"{'':16} {finding.advice}")
    return 0 if all(finding.ok or finding.optional for finding in findings) else 1


def _measure_gpu(options: argparse.Namespace) -> int:
    """Runs `make gpu`, which is no part of the package. Raises ValueError if it is not beside it."""
    if not options.gpu:
        raise ValueError("--plan lists the steps of --gpu: sparsity-lab doctor --gpu --plan")
    if not (SUITE / "benchmarks/gpu").is_dir():
        raise ValueError("--gpu needs the repository, of which only the package is here: run `make gpu` in its folder")
    command = [sys.executable, "-m", "benchmarks.gpu", *["--plan"] * options.plan]
    return subprocess.run(command, cwd=SUITE, check=False).returncode


@dataclass(frozen=True)
class Finding:
    name: str
    value: str
    ok: bool = True
    optional: bool = True  # the lab works without it
    advice: str = ""


def find_browser() -> str | None:
    """Returns the path of a Chromium, for images and browser tests: ``$BROWSER_PATH``, one where systems have it, or
    the newest that Playwright has downloaded (``playwright install chromium``)."""
    found = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return found
    import platformdirs

    cache = platformdirs.user_cache_dir("ms-playwright", appauthor=False, opinion=False)
    folder = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or cache)
    newest = sorted(folder.glob("chromium-[0-9]*"), key=lambda path: (len(path.name), path.name), reverse=True)
    return next((str(path) for each in newest for kind in PLAYWRIGHTS for path in each.glob(kind)), None)


def examine() -> list[Finding]:
    """Looks at everything. This takes about a second, because it times matrix products."""
    system = Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    return [system, *map(_package, PACKAGES), _device(), *_rates(), *_routes(), _compiler(), _megablocks(), _chromium()]


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), optional=False)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", ok=False, optional=False, advice="run `make lab`, which installs it")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", f"{torch.cuda.get_device_name()}; use it with device='auto', dtype='bfloat16'")
    return Finding("device", "CPU; no CUDA GPU was found, and the whole lab runs without one")


def _rates() -> list[Finding]:
    import torch

    from sparsity_lab.training.timing import matmul_rate

    before, rates = torch.get_num_threads(), {}
    for count in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(count)
        rates[f"{count} thread{'s'[: count > 1]}"] = matmul_rate()
    torch.set_num_threads(before)
    return [Finding(name, f"{rate / 1e9:.0f} GFLOP/s float32 products") for name, rate in rates.items()]


def _routes() -> list[Finding]:
    """Which library multiplies on one thread, by the size of the product."""
    import torch

    from sparsity_lab.models import routes

    torch.set_num_threads(1)
    found = []
    for kind, rows in routes.table(routes.machine()).items():
        sizes = []
        for row in rows:
            times = ", ".join(f"{name} {ms:.2g} ms" for name, ms in row["ms"].items())
            sizes.append(f"{row['multiply_adds'] / 1e6:.2g}M {row['route']}" + f" ({times})" * bool(times))
        found.append(Finding(kind, "; ".join(sizes)))
    return found


def _compiler() -> Finding:
    from sparsity_lab.training.compiled import WORTH_IT, has_compiler

    if has_compiler():
        return Finding("compiler", f"runs from {WORTH_IT:.0e} FLOPs are trained by compiled code")
    advice = "long runs are faster with a C++ compiler: `sudo apt install g++`, and SPARSITY_LAB_COMPILE unset"
    return Finding("compiler", "none is used", ok=False, advice=advice)


def _megablocks() -> Finding:
    from sparsity_lab.models import supplied, why_not

    if (reason := why_not()) is not None:
        advice = f"{reason}; backend='grouped' gives the same numbers"
        return Finding("megablocks", "not usable", ok=False, advice=advice)
    missing = ", ".join(supplied())
    pieces = f"plain torch stands in for {missing}" if missing else "with all of its compiled pieces"
    return Finding("megablocks", f"{importlib.metadata.version('megablocks')}; {pieces}")


def _chromium() -> Finding:
    if path := find_browser():
        return Finding("chromium", path)
    advice = "only the browser tests and pictures of figures need it: `sudo apt install chromium`, "
    advice += "`playwright install chromium`, or set BROWSER_PATH"
    return Finding("chromium", "not found", ok=False, advice=advice)
