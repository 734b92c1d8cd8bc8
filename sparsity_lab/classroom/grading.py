"""From what students hand in to marks and feedback.

Each submission is examined by a process of its own (`examiner`), which has the student's code run in a sandbox. A
report comes back, and is kept: with it feedback can be written again, and a second grading runs only what is new.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from sparsity_lab.classroom import nbgrader
from sparsity_lab.classroom.assignments import release
from sparsity_lab.classroom.collect import Submission
from sparsity_lab.classroom.examiner import examined
from sparsity_lab.classroom.feedback import feedback_page
from sparsity_lab.classroom.handed_in import TEXT_STUB, about
from sparsity_lab.classroom.sandbox import WRITTEN, Sandbox, lent
from sparsity_lab.files import write_text
from sparsity_lab.units import size

GRACE = 120  # seconds that starting, reading and ending may add to a submission's time


@dataclass(frozen=True)
class Limits:
    cell_seconds: int
    seconds: int  # for all cells of a submission


@dataclass(frozen=True)
class Course:
    """The teacher's side: the assignments with solutions, and the gradebook's folder, which nobody else may read."""

    source: Path
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # nobody else may read marks

    def prepare(self) -> None:
        """Makes the students' notebooks and the gradebook, if the assignments are new or have changed."""
        stamp, key = self.folder / "release" / "made_from", self._key(*self.source.glob("*/*.ipynb"))
        if not stamp.exists() or stamp.read_text() != key:
            release(self.source, self.folder)
            write_text(stamp, key)
        paths = {"source": str(self.source.resolve()), "root": str(self.folder.resolve())}
        write_text(self.folder / "nbgrader_config.py", nbgrader.CONFIG.format(**paths))

    def _key(self, *paths: Path, more: str = "") -> str:
        digest = hashlib.sha256(more.encode(errors="replace"))
        for path in sorted(paths):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    # ---- one submission

    def grade(self, submission: Submission, sandbox: Sandbox, limits: Limits) -> dict[str, Any]:
        """Grades one submission and returns its row of the table. Whatever a student did, there is a row."""
        self.take(submission, self.examine(submission, sandbox, limits))
        return self.row(submission.student, submission.assignment)

    def examine(self, submission: Submission, sandbox: Sandbox, limits: Limits) -> dict[str, Any]:
        """Returns the report of a submission: the last one if nothing has changed since."""
        file = f"{submission.assignment}/{submission.assignment}.ipynb"
        paths = [self.source / file, *([submission.path] if submission.path else [])]
        words = f"{submission.names}{submission.strict}{submission.note}{submission.trouble}{limits}{sandbox.memory}"
        key = self._key(*paths, more=words)
        old = self.report(submission.student, submission.assignment)
        if old and old["key"] == key:
            return old

        job = self._job(submission) | asdict(limits)
        with lent(sandbox) as mine:
            report = _examined(job | {"sandbox": asdict(mine)}, mine, limits)
        if "cells" not in report:  # the examiner itself came to nothing
            report = examined(job | report)
        report["notes"] = [note for note in [submission.note, *report["notes"]] if note]
        handed_in = submission.path.stat().st_mtime if submission.path and submission.path.exists() else None
        return report | {"key": key, "handed_in": handed_in}

    def _job(self, submission: Submission) -> dict[str, Any]:
        file = f"{submission.assignment}/{submission.assignment}.ipynb"
        return {
            "source": str((self.source / file).resolve()), "empty": str((self.folder / "release" / file).resolve()),
            "path": str(submission.path.resolve()) if submission.path else "", "names": list(submission.names),
            "strict": submission.strict, "trouble": submission.trouble,
        }  # fmt: skip

    def take(self, submission: Submission, report: dict[str, Any]) -> None:
        """Keeps a report: its points in the gradebook, its notebook for nbgrader's pages, its page for the student."""
        student, assignment = submission.student, submission.assignment
        old = self.report(student, assignment)
        if old is None or old["key"] != report["key"]:
            earned = {cell["name"]: cell["earned"] for cell in report["cells"] if cell["kind"] == "test"}
            before = written_texts(old) if old else {}
            marks = {mark.name: mark for mark in nbgrader.marks_of(self.folder, student, assignment)} if old else {}
            report |= {key: dict(old.get(key, {})) if old else {} for key in ("marked", "rubric")}
            unread = {}
            for name, text in written_texts(report).items():
                if name in marks and marks[name].by_hand and not marks[name].waiting:  # on nbgrader's pages, too
                    report["marked"][name] = before.get(name, "")
                unread[name] = bool(text) and report["marked"].get(name) != text
            nbgrader.enter_points(self.folder, student, assignment, earned, unread)
            self._keep_notebook(student, assignment, report)
            write_text(self._report(student, assignment), json.dumps(report))  # last: only now it counts as done
        self.feedback(student, assignment)

    def _report(self, student: str, assignment: str) -> Path:
        return self.folder / "reports" / student / f"{assignment}.json"

    def report(self, student: str, assignment: str) -> dict[str, Any] | None:
        """Returns the kept report of a submission, if there is one."""
        path = self._report(student, assignment)
        return json.loads(path.read_text()) if path.exists() else None

    def graded(self) -> list[tuple[str, str]]:
        """Returns (student, assignment) of everything that was graded so far."""
        return sorted((path.parent.name, path.stem) for path in (self.folder / "reports").glob("*/*.json"))

    def row(self, student: str, assignment: str) -> dict[str, Any]:
        """Returns the marks in the gradebook, including those given by hand, as a row of the table."""
        marks = nbgrader.marks_of(self.folder, student, assignment)
        tests, written = ([mark for mark in marks if mark.written == which] for which in (False, True))
        row: dict[str, Any] = {"student": student, "assignment": assignment}
        sums = ("points", "max", marks), ("auto", "auto_max", tests), ("written", "written_max", written)
        for points, most, some in sums:
            row |= {points: sum(mark.points for mark in some), most: sum(mark.most for mark in some)}
        row["parts"] = "; ".join(f"{mark.name} {mark.points:g}/{mark.most:g}" for mark in marks)

        report = self.report(student, assignment) or {"notes": [], "trouble": "", "marked": {}}
        waiting = [mark for mark in marks if mark.waiting]
        changed = ", changed since you marked it" if any(mark.by_hand for mark in waiting) else ""
        read = f"to be read by you: {', '.join(mark.name for mark in waiting)}{changed}" if waiting else ""
        said = [part for part in (report["trouble"] or read or "graded", report["trouble"] and read) if part]
        return row | {"status": "; ".join([*said, *report["notes"]])}

    def feedback(self, student: str, assignment: str) -> None:
        """Writes the student's HTML page, with hidden tests and comments, to ``folder/feedback``."""
        report = self.report(student, assignment)
        assert report is not None, "feedback is written for what was graded"
        marks, status = nbgrader.marks_of(self.folder, student, assignment), self.row(student, assignment)["status"]
        page = feedback_page(student, assignment, report, marks, status)
        write_text(self.folder / "feedback" / student / assignment / f"{assignment}.html", page)

    def _keep_notebook(self, student: str, assignment: str, report: dict[str, Any]) -> None:
        """Writes the graded notebook for nbgrader's own pages. A written answer stands in it as literal text, with its
        pictures below, because these pages would run its scripts."""
        book = nbformat.read(self.folder / "release" / assignment / f"{assignment}.ipynb", as_version=4)
        by_name = {cell["name"]: cell for cell in report["cells"] if cell["kind"] == "written"}
        code: dict[str, list[dict[str, Any]]] = {}
        for cell in report["cells"]:
            if cell["kind"] in ("answer", "test"):
                code.setdefault(cell["name"], []).append(cell)
        for cell in book.cells:
            name = about(cell).get("grade_id", "")
            if name in by_name:
                _literal(cell, by_name[name])
            elif name in code:
                cell.source = "\n\n".join(part["source"] for part in code[name])
                cell.outputs = [output for part in code[name] for output in _outputs(part)]
        target = self.folder / "autograded" / student / assignment / f"{assignment}.ipynb"
        write_text(target, nbformat.writes(book))

    def mark(self, student: str, assignment: str, name: str, points: list[int], comment: str) -> None:
        """Enters a teacher's points, one for each item of the rubric, for the answer as it is now."""
        report = self.report(student, assignment)
        assert report is not None, "only what was graded is marked"
        nbgrader.mark_by_hand(self.folder, student, assignment, name, sum(points), comment)
        report["marked"][name] = written_texts(report)[name]
        report["rubric"] = report.get("rubric", {}) | {name: points}
        write_text(self._report(student, assignment), json.dumps(report))
        self.feedback(student, assignment)

    # ---- all of them

    def grade_all(
        self, todo: Sequence[Submission], sandbox: Sandbox, limits: Limits, workers: int
    ) -> Iterator[tuple[Submission, float]]:
        """Grades submissions, ``workers`` at a time; yields each, and its seconds, when it is in the gradebook."""

        def timed(submission: Submission) -> tuple[dict[str, Any], float]:
            start = time.monotonic()
            return self.examine(submission, sandbox, limits), time.monotonic() - start

        with ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(timed, submission): submission for submission in todo}
            try:
                for future in as_completed(futures):
                    submission, seconds = futures[future], 0.0
                    try:
                        report, seconds = future.result()
                        self.take(submission, report)
                    except Exception as error:  # one submission is one row, whatever is in it
                        trouble = {"trouble": f"could not be graded: {type(error).__name__}: {error}"[:300]}
                        report = examined(self._job(submission) | trouble)
                        self.take(submission, report | {"key": "", "handed_in": None})
                    yield submission, seconds
            finally:
                pool.shutdown(cancel_futures=True)


def written_texts(report: dict[str, Any]) -> dict[str, str]:
    """Returns the written answers by name, empty where nothing was written. A picture counts as text."""
    written = [cell for cell in report["cells"] if cell["kind"] == "written"]
    texts = [cell["source"].replace(TEXT_STUB, "") for cell in written]
    return {
        cell["name"]: "\n".join([text, *cell["pictures"].values()]).strip()
        for cell, text in zip(written, texts, strict=True)
    }


def _literal(cell: NotebookNode, answer: dict[str, Any]) -> None:
    """Puts a written answer into a cell as text that no page takes for HTML or a link."""
    if answer["source"] == TEXT_STUB and not answer["pictures"]:
        return
    longest = max((len(run) for run in answer["source"].split() if set(run) == {"`"}), default=0)
    longest = max(longest, answer["source"].count("`"))
    fence = "`" * max(3, longest + 1)
    cell.source = f"{fence}text\n{answer['source']}\n{fence}"
    cell.attachments = {}
    for number, url in enumerate(answer["pictures"].values()):
        kind, _, data = url.removeprefix("data:").partition(";base64,")
        cell.attachments[f"picture-{number + 1}"] = {kind: data}
        cell.source += f"\n\n![picture {number + 1}](attachment:picture-{number + 1})"


def _outputs(cell: dict[str, Any]) -> list[NotebookNode]:
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=cell["out"])] if cell["out"] else []
    if cell["error"]:
        name, value, _ = cell["error"]
        outputs.append(nbformat.v4.new_output("error", ename=name, evalue=value, traceback=[f"{name}: {value}"]))
    return outputs


def _examined(job: dict[str, Any], sandbox: Sandbox, limits: Limits) -> dict[str, Any]:
    """Returns the report of the examiner's process, none of whose children is left afterwards; or, without a report,
    only ``trouble``."""
    command = [sys.executable, "-m", "sparsity_lab.classroom.examiner"]
    if shutil.which("setpriv"):  # if this process is killed, its examiners end too
        command = ["setpriv", "--pdeathsig=KILL", "--", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=-1, stdout=-1, stderr=-1, text=True, start_new_session=True, env=environment
    )
    trouble = ""

    def watch() -> None:
        nonlocal trouble
        end = time.monotonic() + limits.seconds + limits.cell_seconds + GRACE
        while process.poll() is None:
            if time.monotonic() > end:
                trouble = f"took more than {limits.seconds} s"
            elif sandbox.written() > WRITTEN:
                trouble = f"wrote more than {size(WRITTEN)}"
            if trouble:
                os.killpg(process.pid, signal.SIGKILL)
                return
            time.sleep(1 if sandbox.kind == "user" else 0.2)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        answer, errors = process.communicate(json.dumps(job))
        if process.returncode == 0:
            return dict(json.loads(answer))
        return {"trouble": trouble or f"could not be run: {(errors.strip().splitlines() or ['ended'])[-1][:200]}"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        watcher.join()
        if trouble:  # it could not do this itself
            sandbox.clean_up(Path("/nonexistent"))
