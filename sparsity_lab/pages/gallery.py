"""Executed notebooks → a folder of pages that any browser shows without a network, with figures to hover over."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, PackageLoader
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs

from sparsity_lab.pages import dial, training
from sparsity_lab.pages.markdown import Text

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
SITE = Path(__file__).parent / "site"
# A row of the README's table of notebooks: file, question, how long a full run takes.
ROW = re.compile(r"^\| \[.+?\]\(notebooks/(\w+)\.ipynb\) \| (.+?) \| (.+?) \|$", re.MULTILINE)
TEMPLATES = Environment(loader=PackageLoader("sparsity_lab.pages", "site"), autoescape=True, trim_blocks=True)


@dataclass(frozen=True)
class Page:
    """A notebook as HTML. ``figure``: its first one, for the index; ``changed``: it ran with other parameters."""

    name: str
    title: str
    sections: list[str]
    body: str
    figure: dict[str, Any] | None
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
        for cell in cells:
            cell.outputs = [shown for out in cell.outputs if (shown := _shown(out)) is not None]

        text = Text(names)
        template, bare = str(SITE / "cells.html.j2"), {"exclude_input_prompt": True, "exclude_output_prompt": True}
        exporter = HTMLExporter(template_name="basic", template_file=template, **bare)
        exporter.register_filter("markdown2html", MarkdownWithMath(renderer=text).render)
        body, _ = exporter.from_notebook_node(book)
        first = figures[0] if figures else None
        return cls(path.stem, text.title, text.sections, body, first, run.duration, bool(run.parameters))


def _shown(output: NotebookNode) -> NotebookNode | None:
    """Returns an output as the page shows it: a figure as data that figures.js draws, controls as the page that they
    bring or as a note about them. None for the progress bar that a cell displays on the way to its result."""
    data = output.get("data", {})
    if WIDGET in data and output.output_type == "display_data" and "text/html" not in data:
        return None
    if PLOTLY in data:
        words = data.get("text/html", "") if WIDGET in data else ""  # what an explorer says of its figure
        output.data = {"text/html": figure(data[PLOTLY], described(data[PLOTLY])) + words}
    elif WIDGET in data and "text/html" in data:
        output.data = {"text/html": data["text/html"]}
    elif WIDGET in data:
        output.data = {"text/html": (SITE / "controls.html").read_text()}
    return output


def figure(drawing: dict[str, Any], label: str) -> str:
    """Returns the place of a figure, with the words that a screen reader reads out, and its data."""
    data, height = {key: drawing[key] for key in ("data", "layout")}, drawing["layout"].get("height", 450)
    return TEMPLATES.get_template("figure.html.j2").render(data=data, height=height, label=label)


def described(drawing: dict[str, Any]) -> str:
    """Returns in words what a figure measures, and the names of its panels, lines and bars."""
    traces, layout = drawing["data"], drawing["layout"]

    plane = [axis for key, axis in sorted(layout.items()) if re.match("[xy]axis", key)]
    space = [axis for key, axis in sorted(layout.get("scene", {}).items()) if key.endswith("axis")]
    bars = [trace.get("colorbar", {}) for trace in traces]
    measured = [part["title"]["text"] for part in (*plane, *space, *bars) if part.get("title", {}).get("text")]

    shown = [note["text"] for note in layout.get("annotations", [])]
    shown += [trace["name"] for trace in traces if trace.get("name")]
    places = [value for trace in traces for key in "xy" if isinstance(trace.get(key), list) for value in trace[key]]
    shown += [place for place in places if isinstance(place, str) and re.search("[A-Za-z]", place)]

    words = ["Figure" + f" of {'; '.join(dict.fromkeys(measured))}" * bool(measured)]
    words += [f"Shown: {'; '.join(dict.fromkeys(shown))}"] * bool(shown)
    return " ".join(re.sub(r"<[^>]+>", " ", ". ".join(words)).split())


def thumbnail(drawing: dict[str, Any]) -> str:
    """Returns the figure small and bare; the words on its card say what it is about."""
    bare = {key: value | {"visible": False} for key, value in drawing["layout"].items() if re.match("[xy]axis", key)}
    margin = dict.fromkeys("lrtb", 4)
    layout = drawing["layout"] | bare | {"height": 130, "margin": margin, "showlegend": False, "annotations": []}
    traces = [trace | {"showscale": False} if "z" in trace else trace for trace in drawing["data"]]
    return figure({"data": traces, "layout": layout}, label="")


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
        (out / f"{page.name}.html").write_text(text)

    (out / "train.js").write_text(training.script())
    cards = [(page, *about.get(page.name, ("", "")), thumbnail(page.figure) if page.figure else "") for page in pages]
    index = TEMPLATES.get_template("index.html.j2").render(cards=cards, dial=dial.write(out))
    (out / "index.html").write_text(index, encoding="utf-8")
    (out / "plotly.min.js").write_text(get_plotlyjs())
    for name in ("style.css", "figures.js"):
        shutil.copy(SITE / name, out / name)
    return pages
