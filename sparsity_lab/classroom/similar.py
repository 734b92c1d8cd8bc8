"""Which students handed in the same code? Names, comments, types and layout are taken out before it is compared."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

SMALLEST = 45  # parts of an answer's syntax tree: shorter ones are alike by chance


class _Names(ast.NodeTransformer):
    """Gives names by the order in which they come up."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}

    def _new(self, name: str) -> str:
        return self.seen.setdefault(name, f"n{len(self.seen)}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._new(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg, node.annotation = self._new(node.arg), None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self._new(node.name), None
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        self.generic_visit(node)
        return node


def fingerprint(code: str) -> str | None:
    """Returns code without what a copyist changes; None if it is too short, or no code."""
    try:
        tree = _Names().visit(ast.parse(code))
        return ast.dump(tree) if sum(1 for _ in ast.walk(tree)) >= SMALLEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def similar(reports: Iterable[tuple[str, str, dict[str, Any]]]) -> pd.DataFrame:
    """Returns pairs of students with the same answers, most first, from (student, assignment, report). An answer that
    half of the students or more have in common is the usual one, and left out."""
    same: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    students: dict[str, set[str]] = defaultdict(set)
    for student, assignment, report in reports:
        students[assignment].add(student)
        for cell in report["cells"]:
            if cell["kind"] == "answer" and (found := fingerprint(cell["source"])):
                same[assignment, cell["name"]][found].append(student)

    pairs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for (assignment, name), groups in same.items():
        for group in groups.values():
            if len(group) <= max(2, len(students[assignment]) / 2):
                for one, other in combinations(sorted(set(group)), 2):
                    pairs[assignment, one, other].append(name)
    rows = [(*pair, len(names), ", ".join(names)) for pair, names in pairs.items()]
    table = pd.DataFrame(rows, columns=["assignment", "student", "other", "same", "answers"])
    return table.sort_values(["same", "assignment", "student"], ascending=[False, True, True], ignore_index=True)


def write_similar(path: Path, reports: Iterable[tuple[str, str, dict[str, Any]]]) -> int:
    """Writes `similar` as CSV; returns how many pairs there are."""
    table = similar(reports)
    table.to_csv(path, index=False)
    return len(table)
