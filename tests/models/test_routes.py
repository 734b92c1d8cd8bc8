"""Which library multiplies: measured once on a machine, kept, and the same numbers whichever it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.config import ModelConfig
from sparsity_lab.files import cache_dir
from sparsity_lab.models import Transformer, routes
from sparsity_lab.models.ops import linear
from sparsity_lab.models.routes import CLASSES, EXPERTS, LINEAR, Routes

Twins = Callable[..., None]
ONEDNN = Routes(("onednn",) * CLASSES, ("onednn",) * CLASSES)
needs_onednn = pytest.mark.skipif(not routes.has_onednn(), reason="this torch has no oneDNN")


@pytest.fixture
def machine() -> str:
    """A machine that nobody has measured."""
    routes.table.cache_clear()
    (cache_dir() / "routes.json").unlink()
    return "a processor, 1 threads"


# ---- Numbers


@needs_onednn
@pytest.mark.parametrize("rows", [1, 300, 2048])
def test_a_linear_layer_by_onednn(assert_twins: Twins, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = routes.multiply_large
    monkeypatch.setattr(routes, "multiply_large", lambda a, b: asked.append(a.shape) or real(a, b))
    monkeypatch.setattr(routes, "in_use", ONEDNN)
    monkeypatch.setattr(routes, "LINEAR", 1)
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator) for shape in ((2, rows, 64), (96, 64)))
    assert_twins(linear, F.linear, x, w)
    assert len(asked) == 3, "forward, and the gradients of both"


@needs_onednn
def test_a_model_by_onednn_is_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(d_model=64, n_heads=4, n_experts=4, top_k=2, d_expert=96)
    x = torch.randint(256, (8, 128), generator=torch.Generator().manual_seed(0))
    results = []
    for chosen in (Routes(), ONEDNN):
        monkeypatch.setattr(routes, "in_use", chosen)
        torch.manual_seed(0)
        model = Transformer(config)
        loss, aux_loss = model.loss(x, x.roll(-1, 1))
        (loss + aux_loss).backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
    assert not all(torch.equal(mine, other) for mine, other in zip(*results, strict=True)), "another library added up"


# ---- Classes of size


@given(macs=st.integers(0, 2**40), place=st.integers(0, CLASSES - 1))
def test_a_class_is_four_times_as_large_as_the_one_before(macs: int, place: int) -> None:
    libraries = tuple("onednn" if number == place else "another" for number in range(CLASSES))
    one = Routes(libraries, libraries)
    for first, large in ((LINEAR, one.large_linear), (EXPERTS, one.large_experts)):
        end = first * 4 ** (place + 1) if place < CLASSES - 1 else 2**50
        assert large(macs) == (first * 4**place <= macs < end)


# ---- Measuring


def test_measured_once_and_kept(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    real = routes.time_both
    monkeypatch.setattr(routes, "time_both", lambda: times.append(1) or real())
    found = routes.table(machine)
    routes.table.cache_clear()  # as another process
    assert routes.table(machine) == found
    assert len(times) == 1
    assert set(json.loads((cache_dir() / "routes.json").read_text())) == {machine}
    routes.table(f"another, {machine}")
    assert len(times) == 2, "another processor, torch or number of threads"
    for kind, rows in found.items():
        safe = {"linear": "torch", "experts": "grouped_mm"}[kind]
        for row in rows:
            faster = row["ms"] and row["ms"]["onednn"] < 0.9 * row["ms"][safe]
            assert row["route"] == ("onednn" if faster else safe)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"MACHINE": 1}', '{"MACHINE": {}}', '{"MACHINE": {"linear": [], "experts": []}}',
        '{"MACHINE": {"linear": [{"route": "fortran"}]}}',
        json.dumps({"MACHINE": {kind: [{"route": "torch"}] * CLASSES for kind in ("linear", "experts")}}),
    ],
)  # fmt: skip
def test_a_file_that_is_not_understood_is_made_anew(machine: str, text: str) -> None:
    path = cache_dir() / "routes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("MACHINE", machine))
    assert len(routes.table(machine)["linear"]) == CLASSES
    assert set(json.loads(path.read_text())) == {machine}


def test_without_a_place_to_keep_it_nothing_is_risked(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSITY_LAB_CACHE", str(tmp_path / "file" / "inside"))
    assert {row["route"] for rows in routes.table(machine).values() for row in rows} == {"torch", "grouped_mm"}


def test_as_json_and_back() -> None:
    assert Routes.from_dict(json.loads(json.dumps(ONEDNN.to_dict()))) == ONEDNN
    with pytest.raises(ValueError, match="routes="):
        Routes.from_dict({"linear": ["torch"]})
