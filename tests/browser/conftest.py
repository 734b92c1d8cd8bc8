"""One JupyterLab, in order again for each test, and a page of its own; errors on its console and requests that leave
this machine fail the test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from sparsity_lab.cli.doctor import find_browser
from tests.browser.lab import browsing, end_kernels, prepare, served

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


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server: ``notebooks``, and the user's ``lab``."""
    return tmp_path_factory.mktemp("jupyter")


@pytest.fixture(scope="session")
def server(folder: Path, cache: Path) -> Iterator[str]:
    with served(folder, cache) as url:
        yield url


@pytest.fixture
def address(server: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    prepare(folder, dark="dark" in request.node.name)
    yield server
    end_kernels(server)


@pytest.fixture
def page(address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    with browsing(address, height=1_500, reruns="again" in request.node.name) as page:
        yield page
