"""The measured run nearest to where the dials stand."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fit as benchmark_fit
from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.laws import fair, fitting, isoflop
from sparsity_lab.record import Record
from sparsity_lab.runs import measured as shipped
from sparsity_lab.runs.lanes import LINE
from sparsity_lab.runs.store import RunStore
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.training.kinds import KINDS

PLACES = [(1e11, 16, 0.0), (1e11, 16, 0.9375), (1e11, 32, 0.9375), (1e12, 16, 0.9375), (1e12, 32, 0.984375)]


def measured(width: int, sparsity: float, budget: float, **changes: Any) -> Record:
    """As if it had been trained."""
    record = failed_record((ModelConfig.on_dial(width, sparsity), RunConfig(budget=budget)), "")
    curve = {"flops": [budget / 2, budget], "loss": [3.0, 2.0]}
    return dataclasses.replace(record, status="finished", val_loss=2.0, curve=curve, **changes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for budget, width, sparsity in PLACES:
        RunStore(tmp_path / "isoflop").save(measured(width, sparsity, budget))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "isoflop")
    forget()
    yield tmp_path / "isoflop"
    forget()


def forget() -> None:
    for cached in (shipped.runs, shipped.nearest):
        cached.cache_clear()


def place(record: Record | None) -> tuple[float, int, float]:
    assert record is not None
    return record.run["budget"], record.model["d_model"], record.sparsity


@pytest.mark.parametrize("budget", [1e11, 1e12])
@pytest.mark.parametrize("width", [8, 16, 24, 48])
@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9375, 0.996])
def test_budget_first_then_sparsity_then_width(folder: Path, budget: float, width: int, sparsity: float) -> None:
    model = ModelConfig.on_dial(width, sparsity)
    found = place(shipped.nearest(model, RunConfig(budget=budget)))
    here = [p for p in PLACES if p[0] == budget]
    steps = {p: abs((1 - p[2]) / (1 - model.sparsity) - 1) for p in here}
    if min(steps.values()) == 0:
        here = [p for p in here if steps[p] == 0]
    assert found in here
    if model.sparsity == 0.9375 and budget == 1e11:
        assert found[1] == (16 if width < 23 else 32)


def test_nothing_near(folder: Path) -> None:
    model = ModelConfig.on_dial(16, 0.9375)
    assert shipped.nearest(model, RunConfig(budget=1e10)) is None
    assert shipped.nearest(model, RunConfig(budget=3e10)) is not None
    assert shipped.nearest(model, RunConfig(budget=1e11, corpus="standard-library")) is None


def test_depths_are_kept_apart(folder: Path) -> None:
    shallow, run = ModelConfig.on_dial(16, 0.9375).replace(n_layers=1), RunConfig(budget=1e11)
    assert shipped.nearest(shallow, run) is None
    record = measured(16, 0.9375, 1e11)
    RunStore(folder).save(dataclasses.replace(record, model=shallow.to_dict(), val_loss=1.9))
    forget()
    assert len(shipped.runs()) == len(PLACES)
    assert len(shipped.runs(1)) == 1
    assert len(shipped.runs(None)) == len(PLACES) + 1
    found = shipped.nearest(shallow, run)
    assert found is not None
    assert found.val_loss == 1.9


def test_without_data_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nowhere")
    forget()
    try:
        assert shipped.nearest(ModelConfig.on_dial(16, 0.5), RunConfig()) is None
    finally:
        forget()


def test_a_failed_run_is_no_measurement(folder: Path) -> None:
    RunStore(folder).save(failed_record((ModelConfig.on_dial(24, 0.9375), RunConfig(budget=1e11)), "no memory"))
    forget()
    assert place(shipped.nearest(ModelConfig.on_dial(24, 0.9375), RunConfig(budget=1e11))) != (1e11, 24, 0.9375)


def test_expected_is_the_laws_word_near_the_best_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A law of runs within a factor of 2 of the best size says nothing about far wider models, other texts or finer
    experts, and its number is its own prediction."""
    frame = benchmark_fit.measured(benchmark_fit.grid())
    near = isoflop.near_best(frame, shipped.NEAR)
    law = fitting.fit(near, "reduced", bootstraps=5)
    fitting.save_fits(tmp_path / shipped.LAW, [law])
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "runs", lambda: frame)
    caches = (shipped._law, shipped._tokens_per_weight)
    for cached in caches:
        cached.cache_clear()
    try:
        row = near[near["sparsity"] == 0.9375].iloc[0]
        model, run = ModelConfig.on_dial(int(row["width"]), 0.9375), RunConfig(budget=float(row["budget"]))
        told = shipped.expected(model, run)
        assert told is not None
        params, tokens = count_parameters(model).total, plan(model, run).tokens
        assert told == law.predict(params, tokens, 0.9375)
        assert told.low < told.value < told.high
        assert shipped.expected(ModelConfig.on_dial(256, 0.9375), run) is None
        assert shipped.expected(model, run.replace(corpus="standard-library")) is None
        assert shipped.expected(model.replace(n_experts=64, top_k=4, d_expert=model.d_expert // 4), run) is None
    finally:
        for cached in caches:
            cached.cache_clear()


# ---- the data that ship


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_routes_are_of_every_model_on_the_dial(n_layers: int) -> None:
    found = shipped.routes()
    assert found["line"] == LINE
    assert len(LINE) <= ModelConfig().context
    on_dial = {str(ModelConfig.on_dial(16, s).n_experts) for s in ModelConfig.on_dial(16, 0.0).sparsities()[1:]}
    entries = found["layers"][str(n_layers)]
    assert set(entries) == on_dial
    for n, entry in entries.items():
        for name in ("untrained", "trained"):
            experts = np.array(entry[name])
            assert experts.shape == (n_layers, len(LINE), 1)
            assert 0 <= experts.min() <= experts.max() < int(n)
        assert np.shape(entry["favourites"]) == (n_layers, int(n))
        assert {kind for layer in entry["favourites"] for kind in layer} <= {*KINDS, ""}
        assert entry["untrained"] != entry["trained"]


@given(
    width=st.sampled_from([8, 16, 32, 48, 96]),
    sparsity=st.sampled_from(ModelConfig.on_dial(32, 0.0).sparsities()),
    n_layers=st.integers(1, 4),
    budget=st.sampled_from([3e10, 1e11, 1e12, 1e13]),
    hold=st.sampled_from(["active", "total"]),
)
def test_nearest_compares_experts_of_one_size(
    width: int, sparsity: float, n_layers: int, budget: float, hold: Any
) -> None:
    """Cut finer, experts do something else: such a model has no measured neighbour, unless it is dense."""
    model = ModelConfig.on_dial(width, sparsity, hold).replace(n_layers=n_layers)
    record = shipped.nearest(model, RunConfig(budget=budget))
    if record is not None:
        found = ModelConfig.from_dict(record.model)
        assert found.d_expert * model.d_model == model.d_expert * found.d_model
        assert (found.top_k, found.n_layers) == (model.top_k, n_layers)


def test_the_dial_has_neighbours_while_its_active_part_is_held() -> None:
    for sparsity in (0.0, 0.9375):
        assert shipped.nearest(ModelConfig.on_dial(32, sparsity), RunConfig(budget=1e11)) is not None
    assert shipped.nearest(ModelConfig.on_dial(32, 0.5, "total"), RunConfig(budget=1e11)) is None


def dense_losses() -> Any:
    best = fair.best_shapes(shipped.runs(None).loc[lambda runs: runs["top_k"] == 1])
    return best[best["sparsity"] == 0].sort_values("budget").set_index("budget")["loss"]


def test_the_dense_budget_of_a_loss_and_back() -> None:
    """On the straight lines, in logarithms, between the best dense models."""
    losses = dense_losses()
    assert losses.is_monotonic_decreasing
    for budget, loss in losses.items():
        assert shipped.dense_budget(loss) == pytest.approx(budget, rel=1e-9)
    for loss in np.linspace(losses.min(), losses.max(), 40):
        budget = shipped.dense_budget(float(loss))
        assert budget is not None
        back = np.exp(np.interp(np.log(budget), np.log(losses.index.to_numpy(float)), np.log(losses.to_numpy())))
        assert back == pytest.approx(loss, rel=1e-9)
    assert shipped.dense_budget(losses.min() - 1e-6) is None
    assert shipped.dense_budget(losses.max() + 1e-6) is None


def test_gains_are_those_of_fair_races() -> None:
    best = fair.best_shapes(shipped.runs(None).loc[lambda runs: runs["top_k"] == 1])
    table = shipped.gain_table()
    assert (table[0.0].dropna() == 0).all()
    for sparsity in (0.75, 0.9375):
        wanted = fair.fair_gains(best, sparsity).set_index("budget")["gain"]
        np.testing.assert_allclose(table[sparsity].dropna(), wanted.reindex(table[sparsity].dropna().index))
        assert set(wanted.index) == set(table[sparsity].dropna().index)


@pytest.mark.parametrize(("budget", "measured_at"), [(1e9, 1e11), (1.2e11, 1e11), (9e11, 1e12), (1e20, 1e13)])
def test_near_are_the_runs_of_one_budget(budget: float, measured_at: float) -> None:
    assert set(shipped.near(budget)["budget"]) == {measured_at}
    assert (shipped.near(budget)["n_layers"] == shipped.LAYERS).all()
    best = shipped._best()
    assert shipped.scatter(budget) == best.loc[best["budget"] == measured_at, "sd"].iloc[0]


def test_without_data_there_is_neither_map_nor_scatter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = (shipped.runs, shipped.gain_table, shipped.routes)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(shipped, "DATA", tmp_path)
    for cached in caches:
        cached.cache_clear()
    try:
        assert shipped.gain_table().empty
        assert shipped.scatter(1e11) is shipped.dense_budget(2.0) is None
        assert shipped.near(1e11).empty
        assert shipped.routes() == {"line": LINE, "layers": {}}
    finally:
        for cached in caches:
            cached.cache_clear()
