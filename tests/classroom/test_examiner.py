"""Tests outside, answers inside: what crosses, what a failed test says, and what cannot be earned."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.classroom.answer_values import from_data, to_data
from sparsity_lab.classroom.examiner import Examiner
from sparsity_lab.classroom.handed_in import Cell, Paper, defined
from sparsity_lab.classroom.sandbox import choose
from sparsity_lab.classroom.student_line import StudentLine

GIVEN = "import numpy as np\nimport torch\nfrom types import SimpleNamespace\nn = 3"
ANSWER = """
import numpy as np
import torch
number, words, nothing = np.float64(2.5), "two", object()
def double(x, times=1):
    return 2 * x * times
def square(x):
    return (x * x).sum(), x
def product(a, b):
    return a @ b
def applied(function, x):
    return function(x)
def size(model):
    return model.width ** 2
def broken(x):
    return 1 / 0
class Always:
    __eq__ = __lt__ = __gt__ = lambda *_: True
def always(x):
    return Always()
def reads(x):
    import sys
    return [name for name in sys.modules if "examiner" in name]
n = 4  # the tests' n stays what it was
"""
TESTS = {
    "numbers": "assert double(n) == 6 and type(double(np.int64(3))) is int and double(3, times=2) == 12",
    "data": "assert number == 2.5 and words == 'two'",
    "arrays": "assert double(np.arange(3)).tolist() == [0, 2, 4]",
    "gradients": "x = torch.tensor([1.0, 3.0], requires_grad=True)\ny, z = square(x)\n(y + z[0]).backward()\n"
    "assert x.grad.tolist() == [3, 6]",
    "graph": "x = torch.ones(2, requires_grad=True)\nsquare(3 * x)[0].backward()\nassert x.grad.tolist() == [18, 18]",
    "own": "assert applied(lambda x: x + 1, 2) == 3 and applied(np.sum, np.ones(4)) == 4 and applied(double, 4) == 8",
    "bare": "assert size(SimpleNamespace(width=5)) == 25",
    "counted": "assert product.flops(torch.ones(2, 3), torch.ones(3, 5)) == 2 * 2 * 3 * 5",
    "apart": "assert reads(1) == [] and n == 3",
}
FAILING = {
    "wrong": ("assert double(5) == 11", ["this does not hold: double(5) == 11", "Tried: double(5) gave 10"]),
    "told": ("assert double(5) == 11, 'eleven'", ["eleven", "Tried: double(5) gave 10"]),
    "raised": ("assert broken(5)", ["ZeroDivisionError: division by zero", "Tried: broken(5) raised"]),
    "equal": ("assert always(3) == 3", ["Always can't be compared"]),
    "object": (
        "assert nothing == 3",
        ["name 'nothing' is not defined", "nothing: ValueError: object can't be"],
    ),
    "value": ("assert number == 3", ["number is 2.5"]),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    names = defined(ANSWER)
    del names["n"]
    answer = Cell("answer", "all", ANSWER, defines=list(names), functions=[name for name in names if names[name]])
    late = Cell("answer", "late", "later = 1\n1 / 0", defines=["later", "never"], functions=["never"])
    tests = TESTS | {name: code for name, (code, _) in FAILING.items()} | {"cause": "assert never(1)"}
    cells = [Cell("given", "setup", GIVEN), answer, late, *(Cell("test", *pair, points=1.0) for pair in tests.items())]
    folder = tmp_path_factory.mktemp("inside")
    sandbox = choose(None, True, 2 << 30, [])
    sandbox.folder(folder)
    line = StudentLine(sandbox, folder)
    try:
        found, trouble = Examiner(Paper(cells, []), line, 30, 120).run()
    finally:
        line.close()
    assert not trouble
    json.dumps(found)
    return {result["name"]: result for result in found}


@pytest.mark.parametrize("name", TESTS)
def test_right_answers_earn_their_points(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert (results[name]["error"], results[name]["earned"]) == (None, 1)


@pytest.mark.parametrize("name", FAILING)
def test_a_failed_test_says_what_it_tried(name: str, results: dict[str, dict[str, Any]]) -> None:
    assert results[name]["earned"] == 0
    for words in FAILING[name][1]:
        assert words in results[name]["error"][1]


def test_an_earlier_error_is_named_as_the_cause(results: dict[str, dict[str, Any]]) -> None:
    assert "never: its cell late raised ZeroDivisionError: division by zero" in results["cause"]["error"][1]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(
        st.characters(codec="utf-8"), max_size=3), inner, max_size=3), max_leaves=10,
)  # fmt: skip


@given(values)
def test_values_come_across_as_they_are(value: Any) -> None:
    back = from_data(json.loads(json.dumps(to_data(value))))
    assert back == value
    assert type(back) is type(value)


@given(st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["dict", "tuple", "set", "array", "tensor", "moves"]), inner, max_size=2), max_leaves=10,
))  # fmt: skip
def test_any_answer_is_a_value_or_refused(data: Any) -> None:
    with contextlib.suppress(ValueError):
        from_data(data)


@pytest.mark.parametrize("dtype", ["O", "V8", "M8[s]", "i4,i4", "U3", "nothing"])
def test_only_numbers_are_made_into_arrays(dtype: str) -> None:
    with pytest.raises(ValueError, match=r"can't be read|numbers"):
        from_data({"array": [dtype, [1], "AAAAAAAAAAAAAAAAAAAAAA=="]})


@pytest.mark.parametrize("value", [object(), len, np.array([object()]), 1j, [[[]]] * 3 and [object()]])
def test_other_objects_do_not_cross(value: Any) -> None:
    with pytest.raises(ValueError, match="can't be compared"):
        to_data(value)


def test_nothing_of_the_graders_side_is_in_the_package_of_the_student() -> None:
    """The inner side imports neither the examiner nor the gradebook."""
    text = (Path(__file__).parents[2] / "sparsity_lab" / "classroom" / "student.py").read_text()
    assert "examiner" not in text
    assert "nbgrader" not in text
