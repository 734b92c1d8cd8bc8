"""Who has won, in words: never more than the runs say."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.laws.fitting import PredictedLoss
from sparsity_lab.record import Step, run_label
from sparsity_lab.runs import measured
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.runs.sweep import failed_record
from sparsity_lab.widgets.html import describe, expected_label, measured_label, samples, who_won, winner

USUAL = 2 * (measured.scatter(1e11) or math.nan) / math.sqrt(math.pi)
Told = dict[str, Any]


def lanes(
    sparse: float | None, dense: float | None, corpus: str = "python", budget: float = 1e11, **told: Told
) -> list[Lane]:
    """A race that ended so; ``sparse_record`` and ``dense_record`` change a record."""
    found = []
    for name, sparsity, loss in (("sparse", 0.9375, sparse), ("dense", 0.0, dense)):
        lane = Lane(ModelConfig.on_dial(16, sparsity), RunConfig(budget=budget, corpus=corpus))
        record = replace(failed_record((lane.model, lane.run), ""), status="finished", val_loss=loss, flops=budget)
        lane.record = replace(record, **told.get(f"{name}_record", {}))
        found.append(lane)
    return found


def test_there_are_two_results_or_no_verdict() -> None:
    race = lanes(2.0, 2.5)
    for lanes_so_far in ([], race[:1], [race[0], replace(race[1], record=None)]):
        assert who_won(lanes_so_far) == ("", "")
        assert winner(lanes_so_far) == ""


def test_sparse_wins() -> None:
    """And the best dense models would need more FLOPs for its loss, by as much as the measured ones say."""
    headline, caveat = who_won(lanes(2.0, 2.3))
    needs = measured.dense_budget(2.0)
    assert needs is not None
    assert needs > 1e11
    assert headline.startswith("Sparse wins by 0.300 nats per byte")
    assert f"the best dense models need {needs / 1e11:.1f} × the FLOPs" in headline
    assert "One seed each" in caveat
    assert f"differ by {USUAL:.2f} on average" in caveat
    assert winner(lanes(2.0, 2.3)) == "sparse"


def test_without_a_dense_budget_there_is_no_factor() -> None:
    assert "FLOPs" not in who_won(lanes(0.5, 2.3))[0], "below all that was measured"
    needs = measured.dense_budget(2.0)
    assert needs is not None
    assert 1e11 < needs < 1e13
    assert "FLOPs" not in who_won(lanes(2.0, 1.9))[0], "the dense model has won"
    assert "FLOPs" not in who_won(lanes(2.0, 2.1, budget=1e13))[0], "it needs no more for a poor loss"


def test_dense_wins() -> None:
    headline, _ = who_won(lanes(2.3, 2.0))
    assert headline == "Dense wins by 0.300 nats per byte."
    assert winner(lanes(2.3, 2.0)) == "dense"
    assert winner(lanes(2.3, 2.0)[::-1]) == "dense", "whichever lane comes first"


@pytest.mark.parametrize("sign", [1, -1])
def test_too_close_to_call(sign: int) -> None:
    """Less than two seeds differ by on average."""
    race = lanes(2.0, 2.0 + sign * 0.9 * USUAL)
    ahead = "sparse" if sign > 0 else "dense"
    assert who_won(race)[0] == f"Too close to call: {ahead} is ahead by {0.9 * USUAL:.3f} nats per byte."
    assert winner(race) == "too close to call"
    assert "not a finding" in who_won(race)[1]
    assert winner(lanes(2.0, 2.0 + sign * 1.1 * USUAL)) == ahead
    assert "not a finding." in who_won(lanes(2.0, 2.0 + sign * 1.1 * USUAL))[1]
    assert "a good sign, not yet a finding" in who_won(lanes(2.0, 2.0 + sign * 2.1 * USUAL))[1]


@given(sparse=st.floats(1, 4), dense=st.floats(1, 4), budget=st.sampled_from([1e11, 1e12, 1e13]))
def test_headline_and_winner_agree(sparse: float, dense: float, budget: float) -> None:
    race = lanes(sparse, dense, budget=budget)
    headline, name = who_won(race)[0], winner(race)
    assert headline.lower().startswith(name)
    assert name == "too close to call" or name == ("sparse" if sparse < dense else "dense")


@pytest.mark.parametrize("share", [0.0, 0.004, 0.25])
def test_a_stopped_race_has_no_winner(share: float) -> None:
    stopped = {"status": "stopped", "flops": share * 1e11}
    both = {"sparse_record": stopped, "dense_record": stopped}
    for told in ({"sparse_record": stopped}, {"dense_record": stopped}, both):
        race = lanes(2.0, 2.5, **told)
        headline, caveat = who_won(race)
        assert headline == "No winner: the race was stopped."
        assert f"{share:.0%} of the budget" in caveat
        assert winner(race) == ""
        for lane in race:
            if lane.record is not None and lane.record.status != "stopped":
                lane.record = None
        assert who_won(race)[0] == headline, "the other had not even begun"
    unmeasured = lanes(None, None, **both)
    assert who_won(unmeasured)[0] == "No winner: the race was stopped."


def test_a_diverged_run_has_no_winner() -> None:
    diverged = {"status": "diverged"}
    for race in (lanes(None, 2.0, sparse_record=diverged), lanes(2.0, None, dense_record=diverged)):
        assert who_won(race)[0] == "No winner: a run diverged."
        assert winner(race) == ""


def test_of_another_text_nothing_is_measured() -> None:
    race = lanes(2.0, 2.001, corpus="tasks")
    headline, caveat = who_won(race)
    assert headline == "Sparse wins by 0.001 nats per byte."
    assert "One seed each: not yet a finding." in caveat
    assert winner(race) == "sparse"


def test_labels() -> None:
    assert expected_label(PredictedLoss(2.0, 1.901, 2.109)) == "1.90–2.11"
    assert expected_label(None) == measured_label(None) == "–"
    record = lanes(2.12345, 2.0)[0].record
    assert measured_label(record) == "2.123"


def test_a_race_in_words() -> None:
    race = lanes(2.0, 2.5)
    names = [run_label(lane.model, lane.run) for lane in race]
    assert describe(race) == f"{names[0]}: held-out loss 2.000. {names[1]}: held-out loss 2.500."
    step = Step(24, 48, tokens=1, flops=50_000_000_000, loss=2.0, learning_rate=0.01, seconds=1.0)
    race[0] = replace(race[0], record=None, last=step, losses=[9.0] * 22 + [3.0, 2.0], routing=[[0.75, 0.25, 0.0, 0.0]])
    assert describe(race).startswith(f"{names[0]}: training loss 2.500 after 5×10¹⁰ FLOPs.")
    assert "Busiest expert: 3.0 times its even share; 2 never chosen." in describe(race)
    race[0].losses[-1] = math.inf
    assert "training loss" not in describe(race)
    assert describe([]) == ""


def test_samples_are_side_by_side_and_escaped() -> None:
    race = lanes(2.0, 2.5)
    assert samples(race) == "", "kept runs wrote nothing"
    race[0].text_before, race[1].text_before = "def <a>", "def b"
    race[0].text_after = "def after"
    page = samples(race)
    assert page.index("Sparse model, S = 0.9375") < page.index("Dense model")
    assert "def &lt;a&gt;" in page
    assert "<a>" not in page
    assert "def after" in page
    assert page.count("once it is trained") == 1
