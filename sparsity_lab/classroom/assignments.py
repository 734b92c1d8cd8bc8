"""Assignments with solutions (`notebooks/assignments`) → the students' notebooks, and random numbers for each."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def dice(student: str, assignment: str) -> np.random.Generator:
    """Returns random numbers that belong to one student and one assignment. They are the same on every machine, so the
    grader draws them too, and different for every other student."""
    digest = hashlib.sha256(f"{assignment}/{student.strip().lower()}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def canary() -> np.random.Generator:
    """Returns random numbers that nobody can foresee, for hidden tests."""
    return np.random.default_rng()


def flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Returns the FLOPs of the matrix products in a call, where the function runs: a graded one runs in the sandbox."""
    if hasattr(function, "flops"):
        return int(function.flops(*args, **kwargs))
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function(*args, **kwargs)
    return int(counter.get_total_flops())


def names(source: Path) -> list[str]:
    """Returns the names of assignments: folders that hold a notebook of their name. Raises ValueError without any."""
    found = sorted(path.stem for path in source.glob("*/*.ipynb") if path.stem == path.parent.name)
    if not found:
        raise ValueError(f"source={str(source)!r} has no assignments: each is a folder NAME with NAME.ipynb in it")
    return found


def release(source: Path, course: Path) -> Path:
    """Writes the students' notebooks, without solutions and hidden tests, to ``course/release`` and the points of all
    tests to ``course/gradebook.db``; returns the folder of the notebooks."""
    from sparsity_lab.classroom.nbgrader import make_release  # takes a second, and problem sets import `dice` from here

    course.mkdir(parents=True, exist_ok=True)
    for name in names(source):
        make_release(course, source, name)
    return course / "release"
