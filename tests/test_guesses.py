"""Guesses: kept whatever happens to the file, scored as Brier did, and exchanged as CSV."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab import guesses as module
from sparsity_lab.guesses import (
    COIN,
    COLUMNS,
    SWITCH,
    Guess,
    brier,
    calibration,
    class_summary,
    class_table,
    for_reading,
    guess_table,
    guesses_csv,
    guesses_file,
    keep_guess,
    load_guesses,
    read_guesses,
)


def choice(key: str = "luck", confidence: float = 0.7, hit: bool | None = True, **more: object) -> Guess:
    result = None if hit is None else "yes" if hit else "no"
    values = {
        "key": key,
        "question": "Will it?",
        "guess": "yes",
        "unit": None,
        "confidence": confidence,
        "time": "2030",
    }
    return Guess(**(values | {"result": result, "hit": hit} | more))  # type: ignore[arg-type]


def number(**more: object) -> Guess:
    values = {"key": "share", "question": "How many?", "guess": -3.5, "unit": "%", "confidence": 0.9, "time": "2030"}
    return Guess(**(values | {"result": 2.0, "low": -math.inf, "high": 4.0, "hit": False} | more))  # type: ignore[arg-type]


# ---- The store


def test_the_last_guess_of_a_key_is_kept() -> None:
    assert load_guesses() == {}
    for guess in (choice(), number(), choice(confidence=0.9)):
        keep_guess(guess)
    assert load_guesses() == {"luck": choice(confidence=0.9), "share": number()}
    keep_guess(choice("other", default=True))
    assert "other" not in load_guesses(), "what nobody guessed is not kept"


def test_guesses_turned_off_are_neither_read_nor_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_guess(choice())
    before = guesses_file().read_bytes()
    monkeypatch.setenv(SWITCH, "0")
    assert load_guesses() == {}
    keep_guess(number())
    assert load_guesses() == {}
    assert guesses_file().read_bytes() == before
    monkeypatch.delenv(SWITCH)
    assert load_guesses() == {"luck": choice()}


GOOD = json.loads(json.dumps(vars(choice())))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        [],
        {},
        GOOD | {"unknown": 1},
        GOOD | {"confidence": 2.0},
        GOOD | {"confidence": "much"},
        GOOD | {"guess": 3.0},
        GOOD | {"guess": 3.0, "unit": "%", "result": math.nan},
        GOOD | {"guess": None},
        GOOD | {"hit": "yes"},
        GOOD | {"key": 5},
        GOOD | {"seen": None},
        GOOD | {"low": "1"},
    ],
)
def test_a_damaged_entry_is_left_out(bad: object) -> None:
    guesses_file().parent.mkdir(parents=True)
    guesses_file().write_text(json.dumps([bad, GOOD]))
    assert load_guesses() == {"luck": choice()}


@pytest.mark.parametrize("text", [b"", b"{", b"null", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file_holds_no_guesses_and_takes_new_ones(text: bytes) -> None:
    guesses_file().parent.mkdir(parents=True)
    guesses_file().write_bytes(text)
    assert load_guesses() == {}
    keep_guess(choice())
    assert load_guesses() == {"luck": choice()}


def test_without_a_disk_the_guess_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module, "write_text", full)
        keep_guess(choice())
        assert load_guesses() == {"luck": choice()}
        assert not guesses_file().exists()
    keep_guess(number())
    assert (
        load_guesses().keys() == {"luck", "share"} == {entry["key"] for entry in json.loads(guesses_file().read_text())}
    )


# ---- Scores


def test_brier_by_hand() -> None:
    """(0.9 − 1)² = 0.01, (0.7 − 0)² = 0.49, (0.5 − 1)² = 0.25: their mean is 0.25. The other three don't count."""
    made = [choice("a", 0.9), choice("b", 0.7, hit=False), choice("c", 0.5)]
    others = [choice("d", 0.99, hit=None), choice("e", 0.99, seen=True), choice("f", 0.99, default=True)]
    frame = guess_table(made + others)
    assert brier(frame) == pytest.approx((0.01 + 0.49 + 0.25) / 3)
    assert len(frame) == 5
    assert math.isnan(brier(guess_table([])))
    assert brier(guess_table([choice(str(i), 0.5, hit=i % 3 == 0) for i in range(7)])) == COIN


@given(truth=st.floats(0, 1), stated=st.floats(0, 1))
def test_brier_is_best_on_average_for_the_true_probability(truth: float, stated: float) -> None:
    right, wrong = (lambda p, hit=hit: brier(guess_table([choice(confidence=p, hit=hit)])) for hit in (True, False))

    def expected(p: float) -> float:
        return truth * right(p) + (1 - truth) * wrong(p)

    assert expected(stated) == pytest.approx(expected(truth) + (stated - truth) ** 2)


def test_calibration_counts_hits_by_stated_confidence() -> None:
    hits = [True] * 8 + [False] * 2
    made = [choice(str(i), 0.8, hit=hit) for i, hit in enumerate(hits)] + [choice("x", 0.97), choice("y", hit=None)]
    table = calibration(guess_table(made))
    assert table["how sure"].tolist() == [0.8, 0.95]
    assert table["guesses"].tolist() == [10, 1]
    assert table["hits"].tolist() == [8, 1]
    z = 1.959964  # Wilson's interval, by his formula
    middle, half = (0.8 + z**2 / 20) / (1 + z**2 / 10), z / (1 + z**2 / 10) * math.sqrt(0.8 * 0.2 / 10 + z**2 / 400)
    np.testing.assert_allclose(table.loc[0, ["low end", "high end"]].astype(float), [middle - half, middle + half])
    assert calibration(guess_table([])).empty


def test_table_for_reading() -> None:
    rows = for_reading(guess_table([choice(), number(), choice("c", hit=None), choice("d", seen=True)]))
    assert rows["guess"].tolist() == ["yes", "-3.5 %", "yes", "yes"]
    assert rows["hit"].tolist() == ["yes", "no", "not shown yet", "yes, not counted"]
    assert rows["95 % interval"].tolist() == ["", "below 4 %", "", ""]
    assert rows["how sure"].tolist() == ["70 %", "90 %", "70 %", "70 %"]
    assert for_reading(guess_table([])).empty


def test_summary_of_a_question() -> None:
    made = [choice(confidence=0.9), choice(hit=False), choice(seen=True)]
    expected = "3 people guessed. The result is no: 1 of the 2 guesses that count are hits, and they were 80 % sure on"
    assert class_summary(guess_table([made[0], made[1], made[2]])).startswith(expected)
    assert class_summary(guess_table([choice(hit=None)])) == "1 person guessed; the result is not known yet."


# ---- CSV files

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@given(text=TEXT, value=NUMBER, hit=st.sampled_from([None, True, False]), seen=st.booleans())
def test_csv_gives_the_table_back(text: str, value: float, hit: bool | None, seen: bool) -> None:
    seen = seen and hit is not None
    result = {"result": None if hit is None else text, "hit": hit, "seen": seen}
    made = [choice(text, question=text, guess=text, **result), number(guess=value, unit="", hit=hit)]
    table = guess_table(made)
    path = guesses_file().with_name("student.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(guesses_csv(table))
    pd.testing.assert_frame_equal(read_guesses(path), table)


def test_no_text_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    evil = '=HYPERLINK("x")'
    for name in ("=1+1", "+a", "-b", "@c", "plain"):
        (tmp_path / f"{name}.csv").write_text(guesses_csv(guess_table([choice(question=evil, guess=evil), number()])))
    table, problems = class_table(tmp_path)
    assert not problems
    assert set(table["student"]) == {"=1+1", "+a", "-b", "@c", "plain"}
    cells = pd.read_csv(pd.io.common.StringIO(guesses_csv(table)), dtype=str)  # type: ignore[attr-defined]
    assert cells["student"].iloc[::2].tolist() == ["'+a", "'-b", "'=1+1", "'@c", "plain"]
    assert set(cells["question"].iloc[::2]) == {f"'{evil}"} == set(cells["guess"].iloc[::2])
    assert set(cells["guess"].iloc[1::2]) == {"-3.5"}, "a number is no formula"


def test_a_class_is_joined_and_other_files_are_named(tmp_path: Path) -> None:
    plain = guesses_csv(guess_table([choice(), number()]))
    (tmp_path / "ada.csv").write_text(plain, encoding="utf-8-sig")  # as spreadsheets write it
    european = plain.replace(",", ";").replace("0.7", "0,7").replace("yes", "YES")
    (tmp_path / "ben.csv").write_text(european.replace("\n", "\r\n"))
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "short.csv").write_text(plain + "only,two\n")
    (tmp_path / "wrong.csv").write_text(plain.replace("0.7", "7"))
    (tmp_path / "zclass.csv").write_text(guesses_csv(guess_table([choice()]).assign(student="ada")))
    (tmp_path / "note.txt").write_text("not a table")
    table, problems = class_table(tmp_path)
    assert table["student"].tolist() == ["ada", "ada", "ben", "ben"]
    assert table["how sure"].tolist() == [0.7, 0.9] * 2
    assert [problem.split()[0].strip(",") for problem in problems] == [
        "bytes.csv", "empty.csv", "foreign.csv", "short.csv", "wrong.csv", "zclass.csv",
    ]  # fmt: skip
    assert "row 2: confidence=7.0" in problems[4]
    nobody, none = class_table(tmp_path / "nowhere")
    assert nobody.empty
    assert not none
    assert list(nobody) == ["student", *COLUMNS]
