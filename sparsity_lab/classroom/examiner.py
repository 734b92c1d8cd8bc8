"""The grader's side of one submission: reads it, has its cells run in the sandbox, and runs the tests out here.

The tests, hidden ones too, run in this process on references from the package. A student's function is here only a
name: calling it sends the arguments into the sandbox, and what comes back is data (`answer_values`). So code of a
student can neither see a test nor change one; it can only give right or wrong answers. What is still possible: an
answer that knows a visible test's numbers, and a false count of FLOPs, which are counted where the code runs.

`python -m sparsity_lab.classroom.examiner` reads a job from its standard input and prints a report; both are JSON.
"""

import ast
import json
import os
import resource
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat

from sparsity_lab.classroom.answer_values import PRINTED, from_data, quoted
from sparsity_lab.classroom.collect import LARGEST_FILE
from sparsity_lab.classroom.handed_in import TEXT_STUB, Cell, Paper, clean, paper, read_cells
from sparsity_lab.classroom.sandbox import PACKAGE, Sandbox
from sparsity_lab.classroom.student_line import Answer, Gone, StudentLine, Tried, Wrong
from sparsity_lab.classroom.written_text import rendered

GRADER_MEMORY = 6 << 30  # bytes of address space of this side


class Examiner:
    """Runs the cells of one submission in order: those of the student in the sandbox, tests here."""

    def __init__(self, sheet: Paper, line: StudentLine, cell_seconds: float, seconds: float):
        self.paper, self.line, self.cell_seconds = sheet, line, cell_seconds
        self.end = time.monotonic() + seconds
        self.seconds, self.waited = seconds, 0.0
        self.scope: dict[str, Any] = {"__name__": "__main__"}
        self.known: dict[str, bool] = {}  # names of answers so far: whether each is a function
        self.unreadable: dict[str, str] = {}  # why a name is not there
        self.tried: deque[Tried] = deque(maxlen=3)
        self.flood = ""  # the cell that printed too much

    def left(self) -> float:
        """Returns the seconds that the student's code may still take in this test. Raises Wrong if there are none."""
        left = min(self.cell_seconds - (self.line.waited - self.waited), self.end - time.monotonic())
        if left <= 0:
            raise Wrong(f"took more than {self.cell_seconds:g} s")
        return left

    def run(self) -> tuple[list[dict[str, Any]], str]:
        """Returns each cell with what it gave, and what went wrong."""
        trouble, results = "", list[dict[str, Any]]()
        for cell in self.paper.cells:
            result: dict[str, Any] = asdict(cell) | {"out": "", "error": None, "earned": 0.0}
            results.append(result)
            if not trouble and time.monotonic() > self.end:
                trouble = f"took more than {self.seconds:g} s in all, up to {cell.name or 'a cell'}"
            if trouble:
                result["error"] = ["NotRun", trouble, ""] if cell.kind == "test" else None
                continue
            self.waited = self.line.waited
            try:
                if cell.kind == "test":
                    self._test(cell, result)
                elif cell.kind in ("given", "answer", "extra"):
                    self._cell(cell, result)
            except Gone as gone:
                name = cell.name or "a cell that was added"
                if str(gone) == "did not stop":
                    trouble = f"{name} did not stop after {self.cell_seconds:g} s: later cells were not run"
                else:
                    trouble = f"{gone} in {name}: later cells were not run"
                result["error"] = ["NotRun", trouble, ""]
        return results, trouble or self._said(results)

    def _said(self, results: list[dict[str, Any]]) -> str:
        if self.flood:
            return f"{self.flood} printed more than {PRINTED:,} characters: the rest was left out"
        late = [r["name"] for r in results if r["error"] and "took more than" in str(r["error"][1])]
        return f"{late[0]} took more than {self.cell_seconds:g} s" if late else ""

    def _cell(self, cell: Cell, result: dict[str, Any]) -> None:
        """Runs a cell of the notebook in the sandbox; given ones also here, for the tests."""
        answer = self.line.ask("run", self.cell_seconds, code=cell.source)
        out, error = answer.get("out"), answer.get("error")
        if isinstance(out, str) and cell.kind != "given":
            result["out"] = clean(out[: PRINTED + 2])
            self.flood = self.flood or (cell.name or "a cell that was added" if len(out) > PRINTED else "")
        if isinstance(error, list) and len(error) == 3:
            result["error"] = [clean(str(part)[:2_000]) for part in error]

        if cell.kind == "answer":
            self.known |= {name: name in cell.functions for name in cell.defines}
            for name in cell.functions:
                self.scope[name] = Answer(name, self.line, self.left, self.tried)
            if result["error"]:
                said = f"its cell {cell.name} raised {': '.join(result['error'][:2])}"
                self.unreadable |= dict.fromkeys(cell.defines, said)
            else:
                for name in cell.defines:
                    self.unreadable.pop(name, None)
        elif cell.kind == "given" and not cell.demonstration:
            try:
                exec(compile(cell.source, cell.name, "exec"), self.scope)
            except Exception as error:
                self.scope["__given__"] = f"{type(error).__name__}: {error}"

    def _test(self, cell: Cell, result: dict[str, Any]) -> None:
        self.tried.clear()
        reasons: dict[str, str] = {}
        for name, function in self.known.items():
            if not function:
                self.scope.pop(name, None)
                try:
                    self.scope[name] = from_data(self.line.ask("get", self.left(), name=name).get("value"))
                except (Wrong, ValueError) as error:
                    reasons[name] = str(error)
        try:
            exec(compile(cell.source, cell.name, "exec"), self.scope)
            result["earned"] = cell.points
        except Gone:
            raise
        except BaseException as error:
            result["error"] = [type(error).__name__, self._why(cell, error, reasons), ""]

    def _why(self, cell: Cell, error: BaseException, reasons: dict[str, str]) -> str:
        """Returns what a failed test says: its words, the earlier error that caused it, what was tried, and what came
        back."""
        words = str(error)
        if isinstance(error, AssertionError) and not words:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            words = f"this does not hold: {_statement(cell.source, trace.tb_lineno if trace else 0)}"
        names = {node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
        said = [words] if isinstance(error, (AssertionError, Wrong)) else [f"{type(error).__name__}: {words}"]
        said += [f"{name}: {self.unreadable[name]}" for name in sorted(names & {*self.unreadable})]
        said += [f"{name}: {reasons[name]}" for name in sorted(names & {*reasons} - {*self.unreadable})]
        said += [
            f"{name} is {quoted(self.scope[name])}" for name in sorted(names & {*self.known} & {*self.scope})
            if not self.known[name]
        ]  # fmt: skip
        for function, args, kwargs, value in self.tried:
            parts = [quoted(arg) for arg in args] + [f"{key}={quoted(arg)}" for key, arg in kwargs.items()]
            gave = value if isinstance(value, str) and value.startswith("raised ") else f"gave {quoted(value)}"
            said.append(f"Tried: {function}({', '.join(parts)}) {gave}")
        return clean("\n".join(said)[:5_000])


def _statement(source: str, line: int) -> str:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert) and node.lineno <= line <= (node.end_lineno or line):
            return ast.unparse(node.test)[:300]
    return "a check"


def examined(job: dict[str, Any]) -> dict[str, Any]:
    """Returns the report of one submission: its cells with results, notes and what went wrong."""
    source, empty = (nbformat.read(job[name], as_version=4) for name in ("source", "empty"))
    sheet, trouble = paper(source, empty, None), job["trouble"]
    if not trouble:
        try:
            path = Path(job["path"])
            if path.stat().st_size > LARGEST_FILE:
                raise ValueError(f"the notebook has more than {LARGEST_FILE:,} bytes: clear its outputs")
            sheet = paper(source, empty, read_cells(path.read_bytes()))
        except (OSError, ValueError, MemoryError) as error:
            trouble = str(error) or "too large to be read"

    results = [asdict(cell) | {"out": "", "error": None, "earned": 0.0} for cell in sheet.cells]
    if trouble:
        for result in results:
            result["error"] = ["NotRun", trouble, ""] if result["kind"] == "test" else None
        return {"cells": results, "notes": sheet.notes, "trouble": trouble}

    sandbox = Sandbox(**job["sandbox"])
    student = _named(sheet, job["names"], job["strict"])
    for cell in sheet.cells:
        if cell.name == "parameters":
            cell.source += f"\nSTUDENT = {student!r}"
    with tempfile.TemporaryDirectory(prefix=f"lab-{os.getppid()}-", ignore_cleanup_errors=True) as folder:
        sandbox.folder(Path(folder))
        line = StudentLine(sandbox, Path(folder))
        try:
            results, trouble = Examiner(sheet, line, job["cell_seconds"], job["seconds"]).run()
        finally:
            line.close()
            sandbox.clean_up(Path(folder))
    for result in results:
        if (result["kind"] == "written" and result["source"] != TEXT_STUB) or result["name"] == "added":
            result["html"] = rendered(result, sandbox)
    return {"cells": results, "notes": sheet.notes, "trouble": trouble}


def _named(sheet: Paper, names: list[str], strict: bool) -> str:
    """Returns the name whose numbers count. A folder's name does; without folders, what the notebook says does."""
    said = sheet.student
    if said is not None and said.lower() in {name.strip().lower() for name in names}:
        return said
    if strict or said in (None, "", "nobody"):
        sheet.notes.append(f"STUDENT is {said!r}, not {names[0]!r}, whose numbers count")
        return names[0]
    sheet.notes.append(f"STUDENT is {said!r}, handed in by {names[0]!r}: the numbers of {said!r} count")
    return str(said)


def without_paths(text: str) -> str:
    """Returns text without the folders of this machine."""
    for folder in sorted({str(PACKAGE.parent), sys.prefix, sys.base_prefix, str(Path.home())}, key=len, reverse=True):
        text = text.replace(folder, "…") if len(folder) > 1 else text
    return text


def examine_job() -> None:
    """Reads a job from stdin and prints the report; nothing else gets to stdout."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    job = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_AS, (GRADER_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    out.write(without_paths(json.dumps(examined(job))))
    out.close()


if __name__ == "__main__":
    examine_job()
