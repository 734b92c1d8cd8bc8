"""Assignments with solutions (`notebooks/assignments`) → the students' notebooks, and random numbers for each."""

import hashlib
import shutil
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


def flops_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
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
    import nbformat

    from sparsity_lab.classroom.check import with_questions
    from sparsity_lab.classroom.nbgrader import make_release  # takes a second, and problem sets import `dice` from here

    course.mkdir(parents=True, exist_ok=True)
    for name in names(source):
        make_release(course, source, name)
        path = course / "release" / name / f"{name}.ipynb"
        nbformat.write(with_questions(nbformat.read(path, as_version=4)), path)
    return course / "release"


def students_copy(root: Path, released: Path, target: Path) -> None:
    """Writes what students install to ``target``: the suite in ``root``, with the released notebooks in the place of
    those with solutions, and without tests."""
    kept = (
        "*.md",
        "*.toml",
        "*.txt",
        "*.yml",
        "LICENSE",
        "Makefile",
        "setup.py",
        "sparsity_lab",
        "notebooks",
        "data",
        "docs",
        "docker",
    )
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "assignments", "teaching.md")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in {path for pattern in kept for path in root.glob(pattern)}:
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=ignored)
        else:
            shutil.copy(path, target / path.name)
    shutil.copytree(released, target / "notebooks" / "assignments", ignore=shutil.ignore_patterns("made_from"))
