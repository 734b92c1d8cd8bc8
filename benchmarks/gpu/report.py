"""What the steps have shown so far, as JSON and as a page to read."""

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu.plan import Step
from benchmarks.gpu.process import Outcome
from sparsity_lab.files import write_text

REACHED = {True: "yes", False: "**no**", None: ""}


def write(folder: Path, machine: str, steps: list[Step], outcomes: list[Outcome]) -> None:
    """Writes ``report.json`` and ``report.md``, each at once. Steps without an outcome count as not reached."""
    known = {outcome.name: outcome for outcome in outcomes}
    all_steps = [(step, known.get(step.name) or Outcome(step.name, "not reached", "not reached")) for step in steps]
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    entries = [asdict(step) | {"limit": step.seconds} | asdict(outcome) for step, outcome in all_steps]
    content = {"written": now, "machine": machine, "python": platform.python_version(), "steps": entries}
    write_text(folder / "report.json", json.dumps(content, indent=1))

    lines = [
        "# Report of `make gpu`",
        "",
        f"{machine}, {now}.",
        "",
        "| step | status | verdict | time |",
        "|---|---|---|---|",
    ]
    for step, outcome in all_steps:
        short = f" (bars not reached: {outcome.short})" if outcome.short else ""
        lines.append(f"| {step.name} | {outcome.status} | {_cell(outcome.verdict)}{short} | {outcome.seconds:.0f} s |")
    for step, outcome in all_steps:
        if outcome.status != "not reached":
            lines += _section(step, outcome)
    write_text(folder / "report.md", "\n".join([*lines, ""]))


def _section(step: Step, outcome: Outcome) -> list[str]:
    lines = ["", f"## {step.name}", "", f"{step.question} {_cell(outcome.verdict)}"]
    if outcome.rows:
        lines += ["", "| what | bar | measured | reached |", "|---|---|---|---|"]
    for row in outcome.rows:
        what, bar, measured = (_cell(str(row.get(key, ""))) for key in ("what", "bar", "measured"))
        lines.append(f"| {what} | {bar} | {measured} | {REACHED.get(row.get('reached'), '')} |")
    if outcome.status in ("failed", "stopped") and outcome.log:
        lines += ["", "Its last lines:", "", *(f"    {line}" for line in outcome.log)]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
