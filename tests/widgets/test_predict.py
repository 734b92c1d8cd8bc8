"""A question before a run: one click is a guess, and the result answers it."""

import math
from typing import Any

import pytest

from sparsity_lab.guesses import guess_table, load_guesses
from sparsity_lab.widgets.predict import Predict

HTML = "text/html"


def luck(**more: Any) -> Predict:
    return Predict(**({"key": "luck", "question": "Is it <luck>?", "choices": ["yes", "no"], "default": "yes"} | more))


def share(**more: Any) -> Predict:
    values = {"key": "share", "question": "What share?", "unit": "%", "near": 10, "default": 80}
    return Predict(**(values | more))


def twin(widget: Any) -> str:
    data = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"]
    return str(data[HTML])


def test_one_click_is_a_guess_and_can_be_changed() -> None:
    question = luck()
    told: list[bool] = []
    question.observe(lambda change: told.append(change["new"]), "given")
    assert not question.given
    assert question.guess is None
    question.answer.value = "yes"
    assert question.given
    assert told == [True]
    assert (question.guess.guess, question.guess.confidence, question.guess.hit) == ("yes", 0.7, None)
    assert "Kept. You can change it until the result is shown." in question.status.value

    question.answer.value = "no"
    question.sure.value = 0.95
    assert load_guesses()["luck"] == question.guess
    assert (question.guess.guess, question.guess.confidence) == ("no", 0.95)


def test_confidence_alone_is_no_guess() -> None:
    question = luck()
    question.sure.value = 0.9
    assert not question.given
    assert load_guesses() == {}
    question.answer.value = "no"
    assert question.guess is not None
    assert question.guess.confidence == 0.9


@pytest.mark.parametrize(("text", "value"), [("52", 52), (" −3.5 % ", -3.5), ("3e11", 3e11), ("0", 0)])
def test_a_number_counts_when_it_is_entered(text: str, value: float) -> None:
    question = share()
    question.answer.value = text
    assert question.guess is not None
    assert question.guess.guess == value
    question.sure.value = 0.5
    assert question.guess.confidence == 0.5


@pytest.mark.parametrize("text", ["many", "1,5", "nan", "inf", "%", "<b>"])
def test_what_is_no_number_is_said(text: str) -> None:
    question = share()
    question.answer.value = text
    assert not question.given
    assert 'role="alert"' in question.status.value
    assert "is not a number" in question.status.value
    assert "<b>" not in question.status.value


def test_reveal_locks_and_records() -> None:
    question = luck()
    question.answer.value = "no"
    reveal = question.reveal("no", "Two of three overlap & <more>.")
    assert load_guesses()["luck"].hit is True
    assert load_guesses()["luck"].result == "no"
    assert question.answer.disabled
    assert question.sure.disabled
    assert "A hit." in question.status.value
    assert question.anew.layout.display == ""
    for page in (reveal.value, twin(reveal)):
        assert "A hit." in page
        assert "Your guess" in page
        assert "(70 % sure)" in page
        assert "overlap &amp; &lt;more&gt;" in page


@pytest.mark.parametrize(("guess", "hit"), [("62", True), ("42", True), ("62.1", False), ("41.9", False)])
def test_a_number_is_a_hit_if_it_is_near(guess: str, hit: bool) -> None:
    question = share()
    question.answer.value = guess
    reveal = question.reveal(52.0, "Why.", low=45.0, high=58.0)
    assert load_guesses()["share"].hit is hit
    assert "45 to 58 %" in reveal.value
    assert "<svg" in reveal.value
    assert ("A hit." if hit else "Not a hit.") in twin(reveal)


def test_a_tolerance_holds_at_its_ends_whatever_rounding_does() -> None:
    question = share(near=0.1, default=0)
    question.answer.value = "0.3"
    question.reveal(0.2)
    assert load_guesses()["share"].hit


def test_an_interval_without_an_end_is_drawn_to_the_edge() -> None:
    question = share()
    question.answer.value = "50"
    page = question.reveal(52.0, low=-math.inf, high=math.inf).value
    assert "unknown: too few runs" in page
    assert "nan" not in page
    assert "inf " not in page
    question = share(near=0, default=52)
    assert "nan" not in twin(question.reveal(52.0))


def test_a_restart_of_the_kernel_keeps_the_guess() -> None:
    first = share()
    first.answer.value = "1234.5"
    first.sure.value = 0.9
    again = share()
    assert again.given
    assert again.guess == first.guess
    again.sure.value = 0.8
    assert load_guesses()["share"].guess == 1234.5
    again.reveal(1230.0)
    third = share()
    assert third.answer.disabled
    assert "A hit." in third.status.value


@pytest.mark.parametrize("changed", [{"choices": ["both", "neither"], "default": "both"}, {"unit": "", "near": 1}])
def test_the_guess_of_another_question_is_not_restored(changed: dict[str, Any]) -> None:
    luck().answer.value = "yes"
    question = share(key="luck", **changed) if "unit" in changed else luck(**changed)
    assert not question.given
    assert question.guess is None


def test_without_a_guess_the_result_is_shown_and_a_late_guess_does_not_count() -> None:
    question = luck()
    reveal = question.reveal("no", "Because.")
    assert "You made no guess." in reveal.value
    assert "Because." in reveal.value
    assert "Without a guess this page assumes" in twin(reveal)
    assert "Not as assumed." in twin(reveal)
    assert load_guesses() == {}
    assert not question.given

    question.answer.value = "no"
    assert "A hit." in reveal.value
    assert "Not counted" in question.status.value
    (row,) = guess_table(load_guesses().values()).to_dict("records")
    assert row["hit"]
    assert not row["counted"]


def test_guessing_anew_does_not_replace_the_guess_that_counts() -> None:
    question = luck()
    question.answer.value = "yes"
    question.reveal("no")
    question.anew.click()
    assert not question.answer.disabled
    assert question.answer.value is None
    question.answer.value = "no"
    assert "not counted" in question.status.value
    assert "A hit." in question.reveal("no").value
    assert load_guesses()["luck"].guess == "yes"
    assert load_guesses()["luck"].hit is False


def test_a_page_without_a_kernel_shows_the_question() -> None:
    page = twin(luck())
    assert "Is it &lt;luck&gt;?" in page
    assert "<li>yes</li><li>no</li>" in page
    assert "Without a guess this page assumes: yes." in page
    assert "a number; a hit if within ±10 %" in twin(share())


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"key": " "}, "key"),
        ({"choices": None}, "choices"),
        ({"unit": "%"}, "unit"),
        ({"choices": ["yes"]}, "choices"),
        ({"choices": ["yes", "yes"]}, "choices"),
        ({"choices": ["yes", ""]}, "choices"),
        ({"choices": "yes"}, "choices"),
        ({"near": 1}, "near"),
        ({"default": "maybe"}, "default"),
        ({"choices": None, "unit": "%"}, "near"),
        ({"choices": None, "unit": "%", "near": -1}, "near"),
        ({"choices": None, "unit": "%", "near": math.nan}, "near"),
        ({"choices": None, "unit": "%", "near": 1, "default": "yes"}, "default"),
        ({"choices": None, "unit": "%", "near": 1, "default": math.inf}, "default"),
    ],
)
def test_wrong_use_is_named(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        luck(**wrong)


@pytest.mark.parametrize(
    ("question", "arguments", "name"),
    [
        (luck, {"result": "maybe"}, "result"),
        (luck, {"result": "no", "low": 1.0, "high": 2.0}, "low"),
        (share, {"result": math.nan}, "result"),
        (share, {"result": "many"}, "result"),
        (share, {"result": 3.0, "low": 1.0}, "high"),
        (share, {"result": 3.0, "low": 4.0, "high": 5.0}, "low"),
        (share, {"result": 3.0, "low": math.nan, "high": 5.0}, "low"),
    ],
)
def test_a_result_that_is_not_possible_is_named(question: Any, arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        question().reveal(**arguments)
