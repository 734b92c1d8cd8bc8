"""What the doctor finds, and what it says about what is missing."""

import json
from pathlib import Path

import pytest
import torch

from sparsity_lab.cli import doctor
from sparsity_lab.cli.doctor import examine, find_browser
from sparsity_lab.cli.main import main

Capture = pytest.CaptureFixture[str]


def test_doctor(capsys: Capture) -> None:
    status = main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert {"python", "torch", "device", "1 thread", "megablocks", "chromium"} <= {f["name"] for f in findings}
    assert status == int(any(not f["ok"] and not f["optional"] for f in findings))
    main(["doctor"])
    listing = capsys.readouterr().out
    assert all(f["name"] in listing for f in findings)


def test_threads_are_as_before() -> None:
    torch.set_num_threads(1)
    findings = {finding.name: finding for finding in examine()}
    assert torch.get_num_threads() == 1
    assert findings["1 thread"].value.endswith("GFLOP/s float32 products")
    assert findings["torch"].value.split("+")[0] == torch.__version__.split("+")[0]


def test_missing_packages_are_faults_with_advice(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    assert main(["doctor", "--json"]) == 1
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["torch"]["ok"]
    missing = findings["no-such-package"]
    assert (missing["value"], missing["ok"], missing["optional"]) == ("missing", False, False)
    assert missing["advice"]


def test_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    monkeypatch.setattr(doctor, "BROWSERS", ("chromium",))  # not those that a system has elsewhere
    assert find_browser() is None
    finding = next(finding for finding in examine() if finding.name == "chromium")
    assert not finding.ok
    assert finding.optional, "the lab works without it"
    assert "BROWSER_PATH" in finding.advice
    browser = tmp_path / "chromium"
    browser.touch(mode=0o755)
    assert find_browser() == str(browser)
    monkeypatch.setenv("BROWSER_PATH", "/elsewhere/chrome")
    assert find_browser() == "/elsewhere/chrome"


@pytest.mark.parametrize(
    "where",
    [
        "chrome-linux/chrome",
        "chrome-linux64/chrome",
        "chrome-mac-arm64/Chrome.app/Contents/MacOS/Chrome",
        "chrome-win64/chrome.exe",
    ],
)
def test_newest_browser_of_playwright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(doctor, "BROWSERS", ("chromium",))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    for name in ("chromium-999", "chromium-1255", "chromium_headless_shell-2000", "firefox-3000"):
        (tmp_path / name / where).parent.mkdir(parents=True)
        (tmp_path / name / where).touch()
    (tmp_path / "chromium-1300").mkdir()  # a download that was cut off
    assert find_browser() == str(tmp_path / "chromium-1255" / where)
