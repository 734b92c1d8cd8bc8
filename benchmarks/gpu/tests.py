"""All tests marked `cuda`, by pytest in this process. Their files are found by the mark, because to collect the others
takes longer than to run these, and needs packages that such a machine may lack."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.place import ROOT
from benchmarks.timing import Row

MARK = "mark." + "cuda"


class Results:
    """What pytest reports: the last word on each test, and files that can't be read."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.found[report.nodeid] = (report.outcome, _reason(report))

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.found[report.nodeid] = ("failed", _reason(report))


def rows(device: str) -> Iterator[Row | str]:
    import pytest

    files = [
        str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARK in path.read_text(encoding="utf-8")
    ]
    results, stdout = Results(), sys.stdout
    sys.stdout = sys.stderr  # this step's own is for rows
    os.environ["PYTEST_ADDOPTS"] = ""
    settings = ["-c", os.devnull, "--rootdir", str(ROOT), "-o", "pythonpath=", "--import-mode=importlib"]
    status = pytest.main(
        ["-m", "cuda", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", *settings, *files],
        plugins=[results],
    )
    sys.stdout = stdout
    if not results.found:
        raise SystemExit(f"pytest has run no test (exit status {int(status)}); why is in the lines above")

    for name, (outcome, reason) in results.found.items():
        passed = {"passed": True, "failed": False}.get(outcome)
        yield Row(name, "passes", outcome + f": {reason}" * bool(reason), passed)
    counts = Counter(outcome for outcome, _ in results.found.values())
    yield ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def _reason(report: Any) -> str:
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):  # a skip's file, line and reason
        return str(report.longrepr[2])
    return str(report.longrepr).strip().splitlines()[-1][:200]
