"""Executed notebooks → a folder of pages that any browser shows without a network, with figures to hover over."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from plotly.offline import get_plotlyjs

from sparsity_lab.pages import dial, training
from sparsity_lab.pages.markdown import Text
from sparsity_lab.pages.outputs import PLOTLY, TEMPLATES, Drawing, Outputs, thumbnail

SITE = Path(__file__).parent / "site"
# A row of the README's table of notebooks: file, question, how long a full run takes.
ROW = re.compile(r"^\| \[.+?\]\(notebooks/(\w+)\.ipynb\) \| (.+?) \| (.+?) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A notebook as HTML. ``files``: what its explorers load, by name; ``figure``: its first one, for the index;
    ``changed``: it ran with other parameters."""

    name: str
    title: str
    sections: list[str]
    body: str
    files: dict[str, str]
    figure: Drawing | None
    seconds: float
    changed: bool

    @classmethod
    def of(cls, path: Path, names: set[str]) -> "Page":
        """Makes the page of an executed notebook; ``names`` are those of all pages. Raises ValueError if a cell failed
        or none was executed."""
        book = nbformat.read(path, as_version=4)
        cells = [cell for cell in book.cells if cell.cell_type == "code"]
        outputs = [out for cell in cells for out in cell.outputs]
        run = book.metadata.get("papermill", {})
        if any(out.output_type == "error" for out in outputs) or run.get("duration") is None:
            raise ValueError(f"{path} was not executed to its end: `make notebooks ARGS={path.stem}` says why")

        figures = [out.data[PLOTLY] for out in outputs if PLOTLY in out.get("data", {})]
        shown = Outputs(path.stem)
        for cell in cells:
            cell.outputs = [page for out in cell.outputs if (page := shown.shown(out)) is not None]

        text = Text(names)
        template, bare = str(SITE / "cells.html.j2"), {"exclude_input_prompt": True, "exclude_output_prompt": True}
        exporter = HTMLExporter(template_name="basic", template_file=template, **bare)
        exporter.register_filter("markdown2html", MarkdownWithMath(renderer=text).render)
        body, _ = exporter.from_notebook_node(book)
        first = figures[0] if figures else None
        changed = bool(run.parameters)
        return cls(path.stem, text.title, text.sections, body, shown.files, first, run.duration, changed)


def build(executed: Path, out: Path, readme: Path) -> list[Page]:
    """Writes the site of all notebooks in ``executed`` to ``out``. Raises ValueError if one of them failed."""
    paths = sorted(executed.glob("*.ipynb"))
    if not paths:
        raise ValueError(f"{executed} has no notebooks: `make notebooks` executes them")
    pages = [Page.of(path, {path.stem for path in paths}) for path in paths]

    about = {name: row for name, *row in ROW.findall(readme.read_text())} if readme.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for before, page, after in zip([None, *pages[:-1]], pages, [*pages[1:], None], strict=True):
        text = TEMPLATES.get_template("page.html.j2").render(page=page, before=before, after=after)
        for name, content in {f"{page.name}.html": text, **page.files}.items():
            (out / name).write_text(content, encoding="utf-8")

    (out / "train.js").write_text(training.script())
    cards = [(page, *about.get(page.name, ("", "")), thumbnail(page.figure) if page.figure else "") for page in pages]
    index = TEMPLATES.get_template("index.html.j2").render(cards=cards, dial=dial.write(out))
    (out / "index.html").write_text(index, encoding="utf-8")
    (out / "plotly.min.js").write_text(get_plotlyjs())
    for name in ("style.css", "narrow.js", "figures.js", "explorers.js", "questions.js"):
        shutil.copy(SITE / name, out / name)
    return pages
