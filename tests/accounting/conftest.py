"""What tests of counts share."""

import logging

import pytest


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers warns of settings that are odd on purpose."""
    monkeypatch.setattr(logging.getLogger("transformers"), "disabled", True)
