"""Tasks: answers are right by another way to find them, nothing tested was trained on, and chance is what it says."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.training import corpus, tasks
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.tasks import TASKS, Example, Task, examples

NAMES = st.sampled_from(sorted(TASKS))
CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">"}
SOURCE = b"def f(x):\n    return x + 1\n\n\n" * 20_000


def answer(task: str, prompt: str, table: dict[str, str]) -> str:
    """By Python's own arithmetic, a dictionary, a slice and a stack."""
    if task == "arithmetic":
        assert len(prompt) == len("123+456=")
        first, second = prompt.rstrip("=").split("+")
        return f"{int(first) + int(second):04}"[::-1]
    if task == "recall":
        return table[prompt.removesuffix(":")]
    if task == "copying":
        return prompt.removesuffix("~")
    stack = []
    for bracket in prompt.removesuffix("|"):
        if bracket in CLOSES:
            stack.append(CLOSES[bracket])
        else:
            assert stack.pop() == bracket
    return "".join(reversed(stack))


@given(name=NAMES, seed=st.integers(0, 2**31), held_out=st.booleans())
def test_answers_are_right(name: str, seed: int, held_out: bool) -> None:
    words, letters = tasks.facts()
    table = {word.tobytes().decode(): own.tobytes().decode() for word, own in zip(words, letters, strict=True)}
    found = examples(TASKS[name], 20, seed, held_out)
    assert len(found) == 20
    for example in found:
        assert example.answer == answer(name, example.prompt, table)
        assert len(example.answer) == TASKS[name].answer


@given(name=NAMES, seed=st.integers(0, 2**31), n=st.integers(1, 50))
def test_the_same_seed_gives_the_same_examples(name: str, seed: int, n: int) -> None:
    assert examples(TASKS[name], n, seed) == examples(TASKS[name], n, seed)
    assert len(examples(TASKS[name], n, seed)) == n


def test_examples_stay_what_they_are() -> None:
    """Shipped scores are of these: whoever changes them has to measure anew."""
    first = {name: examples(task, 1, 0)[0] for name, task in TASKS.items()}
    assert first == FIRST


FIRST = {
    "arithmetic": Example("082+600=", "2860"),
    "recall": Example("saz:", "zf"),
    "copying": Example("odursojb~", "odursojb"),
    "brackets": Example("<[(<>{})([](|", "))]>"),
}


def test_the_table_of_facts_is_a_function() -> None:
    words, letters = tasks.facts()
    assert len({word.tobytes() for word in words}) == len(letters) == tasks.RANKS[1] - tasks.RANKS[0]
    assert set(letters.tobytes()) == set(tasks.LETTERS.tobytes())


# ---- Held out


@pytest.mark.parametrize("name", sorted(TASKS))
def test_nothing_tested_was_trained_on(name: str) -> None:
    task = TASKS[name]
    trained = {e.prompt for e in examples(task, 300_000 if task.from_memory else 20_000, 0, held_out=False)}
    asked = {e.prompt for e in examples(task, 2_000, 1)}
    assert trained.isdisjoint(asked) != task.from_memory
    if task.from_memory:
        assert asked <= trained, "a fact that was never read cannot be remembered"


@given(st.lists(st.binary(min_size=6, max_size=6), min_size=1, max_size=20))
def test_a_prompt_is_held_out_by_itself_alone(prompts: list[bytes]) -> None:
    def held(some: list[bytes]) -> np.ndarray:
        return tasks.is_held_out(np.array([list(p) for p in some], np.uint8))

    assert held(prompts).tolist() == [bool(held([prompt])[0]) for prompt in prompts]


@pytest.mark.parametrize("name", ["arithmetic", "copying", "brackets"])
def test_one_prompt_in_ten_is_held_out(name: str) -> None:
    lines_NL = TASKS[name].draw(np.random.RandomState(0), 30_000)
    prompts = np.unique(lines_NL[:, : -TASKS[name].answer], axis=0)
    error = (0.1 * 0.9 / len(prompts)) ** 0.5
    assert tasks.is_held_out(prompts).mean() == pytest.approx(0.1, abs=4 * error)


# ---- Chance


@pytest.mark.parametrize("name", sorted(TASKS))
def test_chance_is_the_share_of_the_commonest_answer(name: str) -> None:
    task, n = TASKS[name], 200_000
    answers = Counter(line.tobytes() for line in task.draw(np.random.RandomState(1), n)[:, -task.answer :])
    commonest = answers.most_common(1)[0][1] / n
    if name == "copying":  # a share too small to be met again
        assert answers.most_common(1)[0][1] < 5
        assert task.chance == pytest.approx(26**-tasks.COPIED)
    else:
        assert commonest == pytest.approx(task.chance, abs=5 * (task.chance / n) ** 0.5)


# ---- The text


def test_text_holds_each_task_in_its_share() -> None:
    text = bytes(tasks.training_text(SOURCE, 200_000, seed=3))
    assert text == bytes(tasks.training_text(SOURCE, 200_000, seed=3))
    assert text != bytes(tasks.training_text(SOURCE, 200_000, seed=4))
    assert len(text) == pytest.approx(200_000, rel=0.02)
    lines = text.decode().splitlines()
    for mark, task in (("=", "arithmetic"), (":", "recall"), ("~", "copying"), ("|", "brackets")):
        own = [line for line in lines if mark in line[: -TASKS[task].answer] and not line.startswith(("def", " "))]
        size = sum(len(line) + 1 for line in own)
        assert size == pytest.approx(TASKS[task].share * 200_000, rel=0.02), task
    assert sum(task.share for task in TASKS.values()) + tasks.SOURCE_SHARE == pytest.approx(1)


@given(st.sampled_from(sorted(set(TASKS) - {"recall"})))
def test_text_holds_no_line_that_is_asked(name: str) -> None:
    text = bytes(tasks.training_text(SOURCE, 100_000)).splitlines()
    asked = {line.tobytes() for line in tasks.lines(TASKS[name], 1_000, 5)}
    assert asked.isdisjoint(text)


def test_the_corpus(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    python = SimpleNamespace(train=np.frombuffer(SOURCE, np.uint8))
    real = load_corpus
    monkeypatch.setattr(tasks, "TEXT_BYTES", 50_000)
    monkeypatch.setattr(tasks.training_text, "__defaults__", (50_000, 0))
    monkeypatch.setattr(corpus, "load_corpus", lambda name, progress=None: python)
    monkeypatch.setattr(corpus, "_python_source", lambda packages: corpus._Source(["a version"], lambda report: None))
    found = real("tasks")
    whole = np.concatenate([found.train, found.val]).tobytes()
    assert sorted(whole) == sorted(tasks.training_text(SOURCE, 50_000))
    assert real("tasks").fingerprint == found.fingerprint


def test_a_change_of_a_task_or_of_the_mixture_makes_another_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a cached text outlived a change of the tasks, and models were tested on what they had never read."""
    stamps = [tasks.stamp()]
    for name, value in (("COPIED", 9), ("PLACES", 2), ("OPEN", 3), ("SOURCE_SHARE", 0.3)):
        with monkeypatch.context() as patch:
            patch.setattr(tasks, name, value)
            stamps.append(tasks.stamp())
    shorter = TASKS["copying"]
    monkeypatch.setitem(TASKS, "copying", replace(shorter, share=shorter.share / 2))
    stamps.append(tasks.stamp())
    assert len({repr(stamp) for stamp in stamps}) == len(stamps)


def test_a_task_is_found_by_name() -> None:
    assert all(isinstance(task, Task) and task.name == name for name, task in TASKS.items())
