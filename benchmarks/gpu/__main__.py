"""Measures what needs an NVIDIA GPU, in eight minutes; the report is build/gpu/report.md."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.place import BUILD, ROOT
from benchmarks.gpu.plan import STEPS, TOTAL, Step, plan
from benchmarks.gpu.process import Outcome, run, step_command
from benchmarks.gpu.report import write

NONE = "No NVIDIA GPU was found here, so there is nothing to measure. To see the steps: make gpu ARGS=--plan"
HAS_CUDA = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def main(arguments: list[str]) -> int:
    """Returns 0 if every step is done and has reached its bars, 1 if not or if there is no GPU, 2 for wrong usage, and
    130 after Ctrl-C."""
    options = _parse(arguments)
    if options.plan:
        print(plan())
        return 0
    machine = "A rehearsal on the processor" if options.device == "cpu" else find_gpu()
    if machine is None:
        print(NONE, file=sys.stderr)
        return 1

    python = sys.executable if options.device == "cpu" else find_python()
    if python is None:
        print(_no_torch(machine), file=sys.stderr)
        return 1
    if python != sys.executable:
        os.execv(python, [python, "-m", "benchmarks.gpu", *arguments])

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the step under way is killed too
    steps = [step for step in STEPS if not options.steps or step.name in options.steps]
    try:
        outcomes = run_steps(steps, options.device, options.out, machine)
    except KeyboardInterrupt:
        print(f"\nInterrupted; what is known is in {options.out / 'report.md'}", file=sys.stderr)
        return 130
    print(f"==> The report is {options.out / 'report.md'}")
    return int(not all(outcome.status == "done" and not outcome.short for outcome in outcomes))


def run_steps(steps: list[Step], device: str, folder: Path, machine: str) -> list[Outcome]:
    """Runs the steps one after the other, and writes the report after each."""
    outcomes: list[Outcome] = []
    end = time.monotonic() + TOTAL
    write(folder, machine, steps, outcomes)
    for step in steps:
        print(f"==> {step.name}: {step.question}", flush=True)
        seconds = max(1.0, min(step.seconds, end - time.monotonic()))
        outcomes.append(run(step.name, step_command(step.name, device), seconds))
        print(f"    {outcomes[-1].status}, {outcomes[-1].seconds:.0f} s: {outcomes[-1].verdict}", flush=True)
        write(folder, machine, steps, outcomes)
    return outcomes


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    names = [step.name for step in STEPS]
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"only these: {', '.join(names)}")
    parser.add_argument("--plan", action="store_true", help="list the steps, their limits and what each answers")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: rehearse, in small sizes")
    parser.add_argument("--out", type=Path, default=BUILD, metavar="DIR", help="where the report goes")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.steps if name not in names]:
        parser.error(f"no step {unknown[0]!r}; there are {', '.join(names)}")
    options.out = options.out.resolve()
    return options


def find_gpu() -> str | None:
    """Returns the first NVIDIA GPU's name, which the driver tells; None if there is none."""
    if (command := shutil.which("nvidia-smi")) is None:
        return None
    asked = [command, "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False)
    return (listed.stdout.strip().splitlines() or [None])[0] if listed.returncode == 0 else None


def find_python() -> str | None:
    """Returns a Python whose torch sees the GPU: this one, or .venv's."""
    for python in (sys.executable, str(ROOT / ".venv/bin/python")):
        if Path(python).exists() and not subprocess.run([python, "-c", HAS_CUDA], capture_output=True).returncode:
            return python
    return None


def _no_torch(machine: str) -> str:
    return (
        f"{machine} is here, but neither {sys.executable} nor .venv has a torch that sees it. `make install` makes "
        ".venv with such a torch, a download of some GB; or name a Python that has one: make gpu PYTHON=/path/to/python"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
