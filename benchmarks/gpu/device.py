"""The machine: versions, what stands in for what, and the two rates that bound everything else."""

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator

import torch

from benchmarks.timing import Row, take_turns
from sparsity_lab.accounting.devices import DEVICES, Device
from sparsity_lab.models.megablocks import supplied, why_not

SIDE = {"cuda": 4096, "cpu": 128}  # of square products
BYTES = {"cuda": 2**30, "cpu": 2**20}  # that are copied
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def rows(device: str) -> Iterator[Row | str]:
    for what, found in _versions(device).items():
        yield Row(what, "", found, None)
    sheet, fastest = data_sheet(device), ""
    for dtype in DTYPES:
        name, rate = str(dtype).removeprefix("torch."), product_rate(device, dtype)
        peak = sheet.flops.get(name) if sheet else None
        of = f", {rate / peak:.0%} of the data sheet's" if peak else ""
        fastest = fastest or f"{rate / 1e12:.3g} TFLOP/s in {name}{of}"
        yield Row(f"products of {SIDE[device]:,}²: TFLOP/s in {name}", "", f"{rate / 1e12:.3g}{of}", None)
    rate = _copy_rate(device)
    yield Row("copy on the device: GB/s, read and written", "", f"{rate / 1e9:,.0f}", None)
    yield f"{device_name(device)}: {fastest}, and {rate / 1e9:,.0f} GB/s"


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()


def data_sheet(device: str) -> Device | None:
    """Returns the lab's figures for this GPU, if it has any: "NVIDIA H200" is "h200", "Tesla T4" is "t4"."""
    words = device_name(device).lower().replace("-", " ").split() if device == "cuda" else []
    return next((DEVICES[word] for word in words if word in DEVICES), None)


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Returns FLOP/s of a large product of random numbers; zeros would be faster."""
    a, b = (torch.randn(SIDE[device], SIDE[device], device=device).to(dtype) for _ in range(2))
    times = take_turns({"product": lambda: a @ b}, 0.5, block=5, device=device)
    return 2 * SIDE[device] ** 3 / min(times["product"])


def _copy_rate(device: str) -> float:
    source = torch.randn(BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    times = take_turns({"copy": lambda: target.copy_(source)}, 0.5, block=5, device=device)
    return 2 * BYTES[device] / min(times["copy"])


def _versions(device: str) -> dict[str, str]:
    found = {"device": device_name(device), "python": platform.python_version()}
    for package in ("torch", "triton", "transformers", "megablocks"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    pieces = f"not usable: {why_not()}" if why_not() else f"plain torch stands in for {', '.join(supplied()) or 'none'}"
    found |= {"MegaBlocks' pieces": pieces, "nvcc": shutil.which("nvcc") or "not on the PATH"}
    if device == "cuda":
        p, major_minor = torch.cuda.get_device_properties(0), torch.cuda.get_device_capability()
        found["capability"] = ".".join(map(str, major_minor))
        found["memory"] = f"{p.total_memory / 2**30:.1f} GiB, {p.multi_processor_count} multiprocessors"
        found["CUDA of torch"] = str(torch.version.cuda)
        found["bfloat16 in hardware"] = "yes" if major_minor >= (8, 0) else "no: it is imitated, and slow"
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return found
