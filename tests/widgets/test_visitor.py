"""A visitor's dashboard, as `make app` serves it: no more than the dials offer, whatever the page sends."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsity_lab.training.timing import Speed
from sparsity_lab.widgets import MagicDial
from sparsity_lab.widgets.controls import LARGEST_UPLOAD, MOST_UPLOADS
from sparsity_lab.widgets.session import Session
from sparsity_lab.widgets.settings import WIDTHS, Settings


@pytest.fixture
def dial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MagicDial:
    monkeypatch.setenv("SPARSITY_LAB_VISITOR", "1")
    monkeypatch.setenv("SPARSITY_LAB_HOME", str(tmp_path))
    return MagicDial(session=Session(tmp_path), calibrate=False)


def upload(dial: MagicDial, content: Any, name: str = "a.txt") -> None:
    file = {"name": name, "type": "", "size": 1, "content": content, "last_modified": datetime.now(UTC)}
    dial.dials.upload.value = (file,)


ASKED = {
    "text": ["/etc/passwd", "/", "~", "hf:roneneldan/TinyStories", "tasks/../tasks"],
    "b": ["1.1e13", "1e18"],
    "w": [WIDTHS[-1] + 4, 4096],
    "d": [5, 1000],
    "s": [0.99999, 0.9999999999],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in ASKED for value in ASKED[key]])
@pytest.mark.parametrize("way", ["pasted", "link"])
def test_settings_that_the_dials_do_not_offer_are_refused(dial: MagicDial, key: str, value: Any, way: str) -> None:
    before = dial.settings
    if way == "pasted":
        dial.share.value = f"{key}={value}"
    else:
        dial._aid.opened = f"?token=1a&{key}={value}"
    assert dial.settings == before
    assert f"The link&#x27;s {key}={value} is not" in dial._lesson.value


def test_a_gpu_offers_more_and_no_more_than_that(dial: MagicDial) -> None:
    dial._session.speed = Speed(np.array([0.01, 0, 0, 0, 1e-5, 0]), "cuda")
    dial._session._tell()
    last = dial.dials.budget.options[-1][1]
    assert last > 1e13
    dial.share.value = f"b={last}"
    assert (dial.settings.budget, dial._lesson.value) == (last, "")
    dial.share.value = f"b={1.1 * last}"
    assert dial.settings.budget == last
    assert "is not between 1e10 and 2e15" in dial._lesson.value


def test_settings_that_the_dials_offer_are_taken(dial: MagicDial) -> None:
    wanted = Settings(sparsity=0.875, budget=3e12, width=24, n_layers=1, hold="total", seed=7, corpus="tasks")
    dial.share.value = MagicDial(session=dial._session, calibrate=False, **vars(wanted)).link()
    assert dial.settings == wanted
    assert not dial.dials.problem
    dial.share.value = "s=.9375"
    assert dial.settings == Settings()


@pytest.mark.parametrize(
    "state",
    [
        {"value": "/etc/passwd"},
        {"options": ["/etc/passwd"], "value": "/etc/passwd"},
        {"_options_labels": ["python", "/etc/passwd"], "index": 1},
        {"_options_labels": ["/etc/passwd"] * 9, "index": 8},
        {"_options_values": ["/etc/passwd"], "index": 0},
    ],
)
def test_whatever_a_page_sends_chooses_no_other_text(dial: MagicDial, state: dict[str, Any]) -> None:
    with suppress(IndexError, TypeError):  # which stay in the visitor's own kernel
        dial.dials.corpus.set_state(state)
    assert dial.settings.corpus in ("python", "standard-library", "tasks")


def test_an_upload_is_a_text_to_choose_by_its_name(dial: MagicDial, tmp_path: Path) -> None:
    upload(dial, memoryview(b"some text\n" * 1_000), name="../poems.txt")
    assert dial.settings.corpus == str(tmp_path / "texts/poems.txt")
    assert dial.dials.corpus.label == "poems.txt"
    assert [label for label, _ in dial.dials.corpus.options] == ["python", "standard-library", "tasks", "poems.txt"]
    assert "poems" not in dial.share.value


@pytest.mark.parametrize("content", [b"x" * (LARGEST_UPLOAD + 1), 10**12, None, {"a": 1}])
def test_an_upload_too_large_or_of_no_bytes_is_refused(dial: MagicDial, tmp_path: Path, content: Any) -> None:
    upload(dial, content)
    assert "can&#x27;t be kept" in dial.dials.problem
    assert not list(tmp_path.rglob("*.txt"))
    assert dial.settings.corpus == "python"


def test_uploads_are_few(dial: MagicDial, tmp_path: Path) -> None:
    for number in range(MOST_UPLOADS + 3):
        upload(dial, b"some text\n" * 1_000, name=f"{number}.txt")
    assert len(list(tmp_path.rglob("*.txt"))) == MOST_UPLOADS
    assert f"you have uploaded {MOST_UPLOADS} files" in dial.dials.problem
