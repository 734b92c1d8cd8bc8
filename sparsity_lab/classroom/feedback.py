"""The page that a student gets: points by test, what a failed test tried, answers, and the teacher's comments.

It needs no network and no script, and forbids both. Only a student's text is HTML, and `written_text` made it.
"""

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader
from nbconvert.filters.markdown_mistune import MarkdownWithMath

from sparsity_lab.classroom.nbgrader import Mark
from sparsity_lab.pages.markdown import Text

TEMPLATES = Environment(loader=PackageLoader("sparsity_lab.classroom", "site"), autoescape=True, trim_blocks=True)


@cache
def task_html(text: str) -> str:
    """Returns a task's own text as HTML, with its headings below those of the page."""
    page = str(MarkdownWithMath(renderer=Text(set())).render(text))
    return re.sub(r"<(/?)h([1-4])\b[^>]*>", lambda found: f"<{found[1]}h{int(found[2]) + 1}>", page)


def feedback_page(student: str, assignment: str, report: dict[str, Any], marks: list[Mark], status: str) -> str:
    """Returns a submission's report and marks as a web page."""
    by_name = {mark.name: mark for mark in marks}
    nothing = Mark("", 0, 0, True, False, False, "")
    cells = []
    for cell in report["cells"]:
        html = cell.get("html", "")
        if cell["kind"] == "text" and cell["name"] != "added":
            html = task_html(cell["source"])
        cells.append(cell | {"html": html, "mark": by_name.get(cell["name"], nothing)})
    points, most = sum(mark.points for mark in marks), sum(mark.most for mark in marks)
    facts: dict[str, Any] = {"student": student, "assignment": assignment, "status": status, "notes": report["notes"]}
    facts |= {"cells": cells, "marks": marks, "points": points, "most": most}
    return TEMPLATES.get_template("feedback.html.j2").render(facts)
