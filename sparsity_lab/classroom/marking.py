"""The page on which a teacher marks written answers: one question at a time over all students.

It is served to this machine alone, and only to a browser that has the key from the address that the command prints.
Answers were made safe before (`written_text`), and the page allows no script but its own. Marks go into nbgrader's
database at once.
"""

import difflib
import hashlib
import html
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from sparsity_lab.classroom.feedback import TEMPLATES, task_html
from sparsity_lab.classroom.grading import Course, written_texts
from sparsity_lab.classroom.handed_in import about
from sparsity_lab.classroom.nbgrader import Mark, marks_by_student

POLICY = (
    "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Item:
    words: str
    most: int


@dataclass(frozen=True)
class Question:
    """A written question, with its task and model answer as HTML, and the items of its rubric."""

    assignment: str
    name: str
    task: str
    model: str
    rubric: tuple[Item, ...]


def rubric_of(text: str, points: int) -> tuple[Item, ...]:
    """Returns the items of a rubric, a list below "**Rubric.**" whose lines read "- Words (2): what earns them". Where
    their points don't sum to those of the question, there is one item."""
    found = re.findall(r"^- (.+?) \((\d+)\)(:.*(?:\n  .*)*)", text.partition("**Rubric.**")[2], re.MULTILINE)
    items = tuple(Item(" ".join(f"{words}{earns}".split()), int(most)) for words, most, earns in found)
    return items if sum(item.most for item in items) == points else (Item("Points", points),)


def questions_of(course: Course) -> list[Question]:
    """Returns the written questions of all assignments that somebody handed in."""
    found = []
    for assignment in sorted({assignment for _, assignment in course.graded()}):
        cells = nbformat.read(course.source / assignment / f"{assignment}.ipynb", as_version=4).cells
        for place, cell in enumerate(cells):
            if cell.cell_type == "markdown" and about(cell).get("grade"):
                rubric = rubric_of(cell.source, int(about(cell)["points"]))
                task = task_html(cells[place - 1].source) if place else ""
                found.append(Question(assignment, about(cell)["grade_id"], task, task_html(cell.source), rubric))
    return found


def difference(before: str, after: str) -> str:
    """Returns as HTML which words went and which came."""
    old, new = (re.findall(r"\s+|[^\s]+", text) for text in (before, after))
    parts = []
    for what, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, came = html.escape("".join(old[a:b])), html.escape("".join(new[c:d]))
        if what == "equal":
            parts.append(came)
        else:
            parts += [f"<del>{gone}</del>"] * bool(gone) + [f"<ins>{came}</ins>"] * bool(came)
    return "".join(parts)


class MarkingPage(RequestHandler):
    """The one page. Cookies hold the key, and whether names are shown."""

    def initialize(self, course: Course, key: str) -> None:
        self.course, self.key = course, key

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def prepare(self) -> None:
        if self.request.host.rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
            raise HTTPError(403)  # a name that somebody else points here
        if secrets.compare_digest(self.get_query_argument("key", "").encode(), self.key.encode()):
            self.set_cookie("key", self.key, httponly=True, samesite="Strict")
            self.redirect("/")
        elif not secrets.compare_digest((self.get_cookie("key") or "").encode(), self.key.encode()):
            raise HTTPError(403)

    def _order(self, question: Question) -> list[tuple[str, Mark]]:
        """Returns the students with their marks, in an order that says nothing about names."""

        def shuffled(student: str) -> str:
            return hashlib.sha256(f"{question.name}/{student}".encode()).hexdigest()

        marks = marks_by_student(self.course.folder, question.assignment)
        graded = {student for student, assignment in self.course.graded() if assignment == question.assignment}
        found = [(who, mark) for who in graded & {*marks} for mark in marks[who] if mark.name == question.name]
        return sorted(found, key=lambda pair: shuffled(pair[0]))

    def get(self) -> None:
        questions = questions_of(self.course)
        if not questions:
            self.finish("Nothing was graded yet: run `sparsity-lab course grade` first.")
            return
        q = min(max(0, int(self.get_query_argument("q", "0"))), len(questions) - 1)
        question = questions[q]
        order = self._order(question)
        unread = [n for n, (_, mark) in enumerate(order) if mark.waiting]
        n = min(max(0, int(self.get_query_argument("n", str(next(iter(unread), 0))))), len(order) - 1)
        student, mark = order[n]

        names = self.get_query_argument("names", self.get_cookie("names") or "0") == "1"
        self.set_cookie("names", "1" if names else "0", samesite="Strict")
        report = self.course.report(student, question.assignment)
        assert report is not None
        cell: dict[str, Any] = next((cell for cell in report["cells"] if cell["name"] == question.name), {})
        text, before = written_texts(report).get(question.name, ""), report["marked"].get(question.name)
        given = report.get("rubric", {}).get(question.name)
        page = TEMPLATES.get_template("mark.html.j2").render(
            question=question, questions=questions, q=q, number=n + 1, total=len(order), left=len(unread), names=names,
            student=student, html=cell.get("html", ""), comment=mark.comment, key=self.key, version=_version(text),
            changes=difference(before, text) if before is not None and before != text else "",
            given=given if given and len(given) == len(question.rubric) else None,
        )  # fmt: skip
        self.finish(page)

    def post(self) -> None:
        if not secrets.compare_digest(self.get_body_argument("key", "").encode(), self.key.encode()):
            raise HTTPError(403)
        q = int(self.get_query_argument("q"))
        question, student = questions_of(self.course)[q], self.get_body_argument("student")
        report = self.course.report(student, question.assignment)
        if report is None or (student, question.assignment) not in self.course.graded():
            raise HTTPError(404)
        if self.get_body_argument("version") == _version(written_texts(report).get(question.name, "")):
            points = [int(self.get_body_argument(f"item{row}")) for row in range(len(question.rubric))]
            if any(not 0 <= given <= item.most for given, item in zip(points, question.rubric, strict=True)):
                raise HTTPError(400)
            comment = self.get_body_argument("comment", "").strip()
            self.course.mark(student, question.assignment, question.name, points, comment)
            self.redirect(f"/?q={q}")
        else:  # graded again while the page was open
            self.redirect(f"/?q={q}&n={int(self.get_query_argument('n'))}")


def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class File(RequestHandler):
    """The style and the script of the page."""

    def get(self, name: str) -> None:
        self.set_header("Content-Type", "text/css" if name.endswith("css") else "text/javascript")
        self.finish((Path(__file__).parent / "site" / name).read_bytes())


def serve_marking(folder: Path, source: Path, port: int = 0) -> tuple[HTTPServer, str]:
    """Starts the page on this machine; returns the server, whose loop the caller runs, and the page's address.
    ``port`` 0 takes a free one."""
    key = secrets.token_urlsafe(24)
    details: dict[str, Any] = {"course": Course(source, folder), "key": key}
    app = Application([(r"/", MarkingPage, details), (r"/(mark\.css|mark\.js)", File)])
    server = HTTPServer(app)
    sockets = bind_sockets(port, "127.0.0.1")
    server.add_sockets(sockets)
    return server, f"http://127.0.0.1:{sockets[0].getsockname()[1]}/?key={key}"
