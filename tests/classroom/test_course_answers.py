"""Assignments against answers: solutions pass, for every student; empty ones get nothing; wrong ones lose what they
should and no more."""

import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sparsity_lab.classroom import assignments as course
from tests.assignments import NAMES, ROOT, SOURCE, about, is_test, run, source, with_answers

WRONG: dict[str, list[dict[str, Any]]] = tomllib.loads((ROOT / "tests/course/wrong_answers.toml").read_text())
CASES = [(name, case) for name in NAMES for case in WRONG[name]]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course.release(SOURCE, tmp_path_factory.mktemp("course"))


def full(name: str) -> dict[str, float]:
    return {about(cell)["grade_id"]: about(cell)["points"] for cell in source(name).cells if is_test(cell)}


@pytest.mark.parametrize("student", ["ada", "nobody", "zoe-7"])
@pytest.mark.parametrize("name", NAMES)
def test_solutions_get_all_points(name: str, student: str) -> None:
    assert run(source(name), student) == full(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_notebook_gets_nothing(name: str, released: Path) -> None:
    book = nbformat.read(released / name / f"{name}.ipynb", as_version=4)
    for cell, original in zip(book.cells, source(name).cells, strict=True):
        if is_test(cell):
            cell.source = original.source
    assert run(book, "ada") == dict.fromkeys(full(name), 0)


@pytest.mark.parametrize(("name", "case"), CASES, ids=lambda value: value["why"] if isinstance(value, dict) else value)
def test_wrong_answers_lose_the_right_points(name: str, case: dict[str, Any]) -> None:
    earned = run(with_answers(source(name), case["answers"]), "ada", whole=False)
    assert {test: points - earned[test] for test, points in full(name).items() if points > earned[test]} == case["lost"]


def test_there_are_wrong_answers_for_every_test() -> None:
    for name in NAMES:
        caught = {test for case in WRONG[name] for test in case["lost"]}
        assert caught == set(full(name)), f"{name}: no wrong answer fails {set(full(name)) - caught}"


@pytest.mark.parametrize("name", NAMES)
def test_students_get_different_numbers(name: str) -> None:
    """What a student's own draw prints differs, and is the same each time."""

    def drawn(student: str) -> list[float]:
        return list(course.dice(student, name.split("_")[0]).random(3))

    assert drawn("ada") == drawn(" Ada ")
    assert len({tuple(drawn(student)) for student in ("ada", "bob", "zoe")}) == 3
    setup = next(cell for cell in source(name).cells if about(cell).get("grade_id") == "setup")
    assert f'dice(STUDENT, "{name.split("_")[0]}")' in setup.source
