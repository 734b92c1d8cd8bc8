"""The headlines of notebooks 00, 01, 08 and 09, on the shipped runs: their words agree with sign and interval."""

import re
from typing import Any

import numpy as np
import pytest

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.laws import fair
from sparsity_lab.runs import gains, measured
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.widgets.html import who_won, winner
from sparsity_lab.widgets.predict import Predict
from tests.pages.cells import run_cells

NUMBER = r"([+-]?[\d.]+)"


def all_of(name: str, monkeypatch: pytest.MonkeyPatch, until: str) -> dict[str, Any]:
    """Runs a notebook's cells until this question has its result."""
    for names in run_cells(name, monkeypatch):
        if isinstance(asked := names.get(until), Predict) and asked._revealed is not None:
            return names
    raise AssertionError(f"{name} does not reveal {until}")


def test_00_names_the_model_with_the_lower_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    names = next(run_cells("00", monkeypatch))
    models = [ModelConfig.on_dial(names["width"], s) for s in (names["sparsity"], 0.0)]
    runs = [RunConfig(budget=names["budget"], seed=names["seed"], corpus=names["corpus"]) for _ in models]
    found = measured.like(list(zip(models, runs, strict=True)))
    assert found is not None, "the race of notebook 00 ships with the lab"
    sparse, dense = found["val_loss"]
    raced = [Lane(*pair, record=r) for *pair, r in zip(models, runs, found["record"], strict=True)]
    headline, _ = who_won(raced)
    assert sparse < dense
    assert winner(raced) == "sparse"
    assert headline.startswith(f"Sparse wins by {dense - sparse:.3f} nats per byte")


def test_01_sparse_ends_lower_beyond_chance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = all_of("01", monkeypatch, "more")
    said = re.findall(
        rf"sparse ends {NUMBER} ± {NUMBER} nats per byte lower \(\d+ seeds\); (.+)", capsys.readouterr().out
    )
    own = gains(names["race"], ["budget"])
    assert [(float(gain), float(half)) for gain, half, _ in said] == [
        (round(row.gain, 3), round(row.half, 3)) for row in own.itertuples()
    ]
    assert own["gain"].gt(0).all()
    for gain, half, verdict in said:
        assert verdict == "the interval " + (
            "excludes zero" if float(gain) > float(half) else "includes zero: not decided"
        )
    assert names["more"]._revealed.result == verdict_of(names["more"]._revealed.text)
    apart = [
        part.loc[part["sparsity"] > 0, "val_loss"].max() < part.loc[part["sparsity"] == 0, "val_loss"].min()
        for _, part in names["race"].groupby("budget")
    ]
    assert names["luck"]._revealed.result == ["at neither", "at one of them", "at both budgets"][sum(apart)]


def verdict_of(text: str) -> str:
    growth, half = map(float, re.findall(rf"{NUMBER} ± {NUMBER} nats", text)[0])
    return "these runs can't tell" if abs(growth) <= half else "larger" if growth > 0 else "smaller"


def test_08_a_sparse_model_is_cheaper_where_its_interval_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    names = all_of("08", monkeypatch, "cheaper_share")
    found = names["cheaper_share"]._revealed
    table = fair.leverages(names["best"], names["race_at"])
    last = table[np.isfinite(table["leverage"]) & np.isfinite(table["high"])].iloc[-1]
    assert found.result == pytest.approx(100 / last["leverage"], abs=0.1)
    assert found.low <= found.result <= found.high < 100, "the interval excludes as much as the dense model's FLOPs"
    assert f"the dense model needs {last['leverage']:.2f} times as much" in found.text
    assert last["low"] > 1


def test_09_what_rises_rises_beyond_its_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = all_of("09", monkeypatch, "hurts")
    lines = re.findall(
        rf"^    (\w+) (rises|falls|undecided): {NUMBER}% ± {NUMBER}%", capsys.readouterr().out, re.MULTILINE
    )
    assert len(lines) == 8, "four tasks, at equal FLOPs and at equal loss"
    for task, verdict, slope, half in lines:
        clear = abs(float(slope)) > float(half)
        assert verdict == "undecided" or (clear and (verdict == "rises") == (float(slope) > 0)), task
    rising = {task for task, verdict, *_ in lines[:4] if verdict == "rises"}
    assert rising == {names["rises"]._revealed.result} == {"recall"}
    (copying,) = [verdict for task, verdict, *_ in lines[4:] if task == "copying"]
    assert names["hurts"]._revealed.result == {"rises": "it rises", "falls": "it falls"}.get(copying, names["CLOSE"])
