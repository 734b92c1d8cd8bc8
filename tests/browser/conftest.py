"""One JupyterLab and one page a test; a test fails for console errors and for requests that leave this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from sparsity_lab.cli.doctor import find_browser
from tests.browser.lab import browsing, served

SCREENSHOTS = Path("build/screenshots")


@pytest.fixture(scope="session", autouse=True)
def chromium() -> None:
    if find_browser() is None:
        advice = "no Chromium found: sudo apt install chromium, or set BROWSER_PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(advice)
        pytest.skip(advice)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared corpus, shared by the tests of a run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def address(tmp_path: Path, cache: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    dark = "dark" in request.keywords or "dark" in request.node.name
    with served(tmp_path / "lab", cache, dark) as url:
        yield url


@pytest.fixture
def page(address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    with browsing(address, height=1_500, reruns="again" in request.node.name) as page:
        yield page
