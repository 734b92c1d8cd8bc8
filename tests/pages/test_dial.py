"""The dial as a page: at every stop it knows what the dashboard and the notebooks compute, and it asks nobody."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.figures.training import smooth
from sparsity_lab.intervals import verdict
from sparsity_lab.laws import fair
from sparsity_lab.pages import dial
from sparsity_lab.pages.dial import ShippedDial, Stop, settings
from sparsity_lab.runs import measured
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.runs.repeat import gains, summarise
from sparsity_lab.widgets.html import expected_label, who_won, winner


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text(dial.write(folder), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(site: Path) -> dict[str, Any]:
    page = (site / "index.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="dial-data">(.*?)</script>', page, re.DOTALL)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


@pytest.fixture(scope="module")
def stops() -> list[Stop]:
    return list(ShippedDial().stops)


def runs_at(*stops: Stop) -> Any:
    """The shipped runs of stops as notebook 01 gets them: by their configs, with all their seeds."""
    shipped = measured.runs(None).query("top_k == 1").groupby(["sparsity", "budget", "width", "n_layers"])
    seeds = [(stop, int(seed)) for stop in stops for seed in shipped.get_group(stop)["seed"]]
    return measured.like([settings(stop).replace(seed=seed).pairs[0] for stop, seed in seeds])


def test_the_stops_are_what_was_trained(data: dict[str, Any], stops: list[Stop]) -> None:
    runs = measured.runs(None)
    runs = runs[runs["top_k"] == 1]
    trained = set(runs[["sparsity", "budget", "width", "n_layers"]].itertuples(index=False, name=None))
    assert {stop for i, stop in enumerate(stops) if data["nearest"][i] == i} == trained
    assert len(runs) == sum(map(len, data["seeds"].values())), "all seeds of all of them"
    assert trained < set(stops)


def test_every_number_beside_the_sliders_is_the_dashboard_s(data: dict[str, Any], stops: list[Stop]) -> None:
    for i, stop in enumerate(stops):
        model, run = settings(stop).model, settings(stop).run
        params = count_parameters(model)
        assert data["parameters"][i] == [params.total, params.active]
        assert data["tokens"][i] == plan(model, run).tokens
        assert data["expected"][i] == expected_label(measured.expected(model, run))


def test_every_verdict_is_that_of_the_notebooks_or_the_dashboard(data: dict[str, Any], stops: list[Stop]) -> None:
    """Sign, interval and verdict, for each pair that was trained: from all seeds as in notebook 01, or of one race."""
    several = 0
    for i, said in data["verdicts"].items():
        stop = stops[int(i)]
        runs = runs_at(stop, (0.0, *stop[1:]))
        means = summarise(runs, ["sparsity"]).set_index("sparsity")["loss"]
        (row,) = gains(runs, ["budget"]).itertuples()
        shown = dict(data["pictures"][int(i)]["ends"])
        assert shown == pytest.approx({"this": means[stop[0]], "dense": means[0.0]}, abs=1e-4)
        assert f"{abs(row.gain):.3f} nats per byte" in said["headline"]

        if math.isinf(row.half):
            pairs = settings(stop).pairs
            lanes = [Lane(*pair, record=measured.like([pair])["record"][0]) for pair in pairs]  # type: ignore[index]
            assert (said["headline"], said["sure"]) == who_won(lanes)
            assert said["won"] == winner(lanes)
            continue
        several += 1
        decided = verdict(row.gain - row.half, row.gain + row.half)
        won = {"holds": "sparse", "does not hold": "dense", "undecided": "too close to call"}[decided]
        assert said["won"] == won
        assert said["headline"].lower().startswith(f"{won} wins" if decided != "undecided" else won)
        assert f"sparse ends {abs(row.gain):.3f} ± {row.half:.3f}" in said["sure"]
        assert ("lower" if row.gain > 0 else "higher") in said["sure"]
        assert ("excludes zero" in said["sure"]) == (decided != "undecided")
        needs = measured.dense_budget(means[stop[0]])
        times = re.search(r"need ([\d.]+) × the FLOPs", said["headline"])
        assert (times is not None) == (won == "sparse" and needs is not None and needs > stop[1])
        if times is not None and needs is not None:
            assert float(times[1]) == pytest.approx(needs / stop[1], abs=0.051)
    assert several > 80


def test_each_side_at_its_best_shape(data: dict[str, Any]) -> None:
    sparsities, budgets, *_ = data["axes"]
    said = dict(zip([(s, b) for s in sparsities for b in budgets], data["best"], strict=True))
    runs = measured.runs(None)
    shapes = fair.best_shapes(runs[runs["top_k"] == 1])
    assert not any(said.pop((0.0, budget)) for budget in budgets)
    for sparsity in sparsities[1:]:
        leverage = fair.leverages(shapes, sparsity).set_index("budget")
        for row in fair.fair_gains(shapes, sparsity).itertuples():
            text, times = said.pop((sparsity, row.budget)), leverage.loc[row.budget]
            assert f"{abs(row.gain):.3f} ± {row.half:.3f} nats per byte {'lower' if row.gain > 0 else 'higher'}" in text
            assert ("excludes zero" in text) == (abs(row.gain) > row.half)
            if math.isnan(times["leverage"]):
                assert "need" not in text
            else:
                ends = f"interval {times['low']:.1f} to {times['high']:.1f}"
                assert f"need {times['leverage']:.1f} × the FLOPs for the same loss (95 % {ends})" in text
    assert not any(said.values()), "nothing is said of what was not measured"


def test_the_curves_are_those_of_the_first_seed(data: dict[str, Any], stops: list[Stop]) -> None:
    for i in map(int, data["seeds"]):
        record = measured.like(settings(stops[i]).pairs[:1])["record"][0]  # type: ignore[index]
        x, y = smooth(**record.curve)
        role, number = data["pictures"][i]["lines"][0]
        first, last, *losses = data["curves"][number]
        assert role == "this"
        assert np.array(losses) / 1000 == pytest.approx(y, abs=6e-4)
        assert [*(first * np.arange(1, len(x))), last] == pytest.approx(x.tolist(), rel=1e-6)


def test_what_was_not_trained_has_the_nearest_and_no_verdict(data: dict[str, Any], stops: list[Stop]) -> None:
    untrained = [i for i in range(len(stops)) if data["nearest"][i] != i]
    assert len(untrained) > 400
    for i in untrained:
        near = data["nearest"][i]
        assert data["nearest"][near] == near
        assert str(i) not in data["verdicts"]
        assert not data["pictures"][i]["ends"], "nothing that looks like a result"
        assert all(role.startswith("measured") for role, _ in data["pictures"][i]["lines"])
        record = measured.nearest(settings(stops[i]).model, settings(stops[i]).run)
        if record is not None:
            row = record.row()
            assert stops[near] == (row["sparsity"], row["budget"], row["width"], row["n_layers"])


def test_the_page_is_small_and_asks_nobody(site: Path) -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in site.iterdir()}
    assert {"index.html", "dial.js", "dial.css", "tour.js"} <= set(files)
    assert sum(len(text.encode()) for text in files.values()) < 1_000_000
    for name, text in files.items():
        assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|@import|\bimport\b[ (]", text), name
    for address in re.findall(r'(?:src|href)="(.*?)"', files["index.html"]):
        assert address in files
    assert "export" not in files["dial.js"], "a classic script: from disk a browser loads no modules"
