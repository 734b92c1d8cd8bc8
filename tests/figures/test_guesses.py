"""Figures of guesses show the numbers they are given."""

import numpy as np

from sparsity_lab import guesses
from sparsity_lab.figures import guesses as figures
from sparsity_lab.guesses import Guess
from sparsity_lab.widgets.explorer import Explorer, pick


def made(guess: str | float, hit: bool | None = None, **more: object) -> Guess:
    unit = None if isinstance(guess, str) else "%"
    return Guess("key", "What?", guess, unit, 0.8, "2030", hit=hit, **more)  # type: ignore[arg-type]


def test_calibration_shows_shares_with_intervals_beside_the_diagonal() -> None:
    table = guesses.calibration(guesses.guess_table([made("a", i < 3, result="a") for i in range(4)]))
    diagonal, points = figures.calibration(table).data
    assert list(diagonal.x) == list(diagonal.y)
    assert list(points.x) == [0.8]
    assert list(points.y) == [0.75]
    np.testing.assert_allclose(points.y + points.error_y.array, table["high end"])
    np.testing.assert_allclose(points.y - points.error_y.arrayminus, table["low end"])
    assert len(figures.calibration(guesses.calibration(guesses.guess_table([]))).data) == 2


def test_choices_are_counted_and_the_result_is_marked() -> None:
    table = guesses.guess_table([made("a"), made("a"), made("b", False, result="c")])
    bars, result = figures.class_guesses(table).data
    assert dict(zip(bars.x, bars.y, strict=True)) == {"a": 2, "b": 1, "c": 0}
    assert list(result.x) == ["c"]
    assert result.y[0] > max(bars.y)
    assert list(figures.class_guesses(guesses.guess_table([made("a")])).data[1].x) == [None]


def test_numbers_are_a_histogram_with_the_result_and_its_interval() -> None:
    table = guesses.guess_table([made(40.0), made(60.0, True, result=52.0, low=45.0, high=59.0)])
    bars, result = figures.class_guesses(table).data
    assert sum(bars.y) == 2
    assert bars.x[0] - bars.width / 2 == 40
    assert bars.x[-1] + bars.width / 2 == 60
    assert [result.x[0], result.error_x.array[0], result.error_x.arrayminus[0]] == [52, 7, 7]
    endless = guesses.guess_table([made(60.0, True, result=52.0, low=-np.inf, high=np.inf)])
    assert figures.class_guesses(endless).data[1].error_x.array is None


def test_a_menu_moves_from_one_question_to_another() -> None:
    tables = {
        "choice": guesses.guess_table([made("a"), made("b", False, result="c")]),
        "number": guesses.guess_table([made(40.0), made(60.0, True, result=52.0, low=45.0, high=59.0)]),
    }
    menu = Explorer(
        lambda which: figures.class_guesses(tables[which]),
        lambda which: which,
        which=pick("question", [*tables], "choice"),
    )
    for which in ("number", "choice"):
        menu.controls["which"].value = which
        wanted = figures.class_guesses(tables[which])
        for shown, trace in zip(menu.figure.data, wanted.data, strict=True):
            assert list(shown.x) == list(trace.x)
            assert list(shown.y) == list(trace.y)
        assert menu.figure.layout.xaxis.type == wanted.layout.xaxis.type
