"""Code that was copied is found whatever it was renamed to; what everybody writes is not."""

from typing import Any

from sparsity_lab.classroom.similar import similar

MINE = '''
def bill(active, tokens, peak, share, price):
    """Returns hours and dollars."""
    hours = 6 * active * tokens / (peak * share) / 3600
    if hours < 0:
        raise ValueError(hours)
    return hours, hours * price
'''
COPIED = """
def bill(a: float, t: float, p: float, s: float, money: float) -> tuple:
    # my own work
    h = 6 * a * t / (p * s) / 3600
    if h < 0: raise ValueError(h)
    return (h, h * money)
"""
OTHER = MINE.replace("3600", "60 / 60").replace("6 *", "3 * 2 *")


def report(code: str) -> dict[str, Any]:
    return {"cells": [{"kind": "answer", "name": "bill", "source": code}]}


def test_renamed_code_is_found() -> None:
    codes = {"ada": MINE, "bob": COPIED, "eve": OTHER, "kim": "def bill(:", "zoe": "bill = 3"}
    table = similar((student, "ps2", report(code)) for student, code in codes.items())
    assert table.to_dict("records") == [
        {"assignment": "ps2", "student": "ada", "other": "bob", "same": 1, "answers": "bill"}
    ]


def test_what_most_write_is_not_listed() -> None:
    assert similar((f"student{n}", "ps2", report(MINE)) for n in range(9)).empty
