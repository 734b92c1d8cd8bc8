"""A cell's output as a page shows it: figures, explorers that move, questions to answer, notes on what needs Python."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

from jinja2 import Environment, PackageLoader
from nbformat import NotebookNode

from sparsity_lab.widgets.predict import QUESTION, RESULT
from sparsity_lab.widgets.stops import STOPS

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
TEMPLATES = Environment(loader=PackageLoader("sparsity_lab.pages", "site"), autoescape=True, trim_blocks=True)
Drawing = dict[str, Any]  # a figure as plotly's JSON
EMPTY_HEADER = re.compile(r"<th\b([^>]*)>(?:\s|&nbsp;)*</th>")  # in the corner of pandas' tables: heads nothing


@dataclass
class Outputs:
    """The outputs of one page, and the files beside it, by name: what its explorers show at their stops."""

    page: str
    files: dict[str, str] = field(default_factory=dict)

    def shown(self, output: NotebookNode) -> NotebookNode | None:
        """Returns an output as the page shows it. None for the progress bar that a cell displays on the way to its
        result."""
        data = output.get("data", {})
        if WIDGET in data and output.output_type == "display_data" and "text/html" not in data:
            return None
        drawing = figure(data[PLOTLY], described(data[PLOTLY])) if PLOTLY in data else ""
        if STOPS in data:
            html = self.explorer(data[PLOTLY], data[STOPS], data["text/plain"])
        elif QUESTION in data:
            html = render("question", **data[QUESTION])
        elif RESULT in data:
            html = drawing + render("result", **data[RESULT])
        elif WIDGET in data:
            is_dial = data.get("text/plain", "").startswith("MagicDial")
            words = data.get("text/html", "" if drawing and not is_dial else render("controls", is_dial=is_dial))
            html = drawing + words
        elif drawing:
            html = drawing
        elif "text/html" in data:
            html = EMPTY_HEADER.sub(r"<td\1></td>", data["text/html"])
        else:
            return output
        output.data = {"text/html": html}
        return output

    def explorer(self, drawing: Drawing, stops: dict[str, Any], text: str) -> str:
        """Returns an explorer with its controls. What it shows at their stops goes into a file of its own, a script,
        because a page from disk may read no other file."""
        labels: dict[str, int] = {}
        for drawn, frame in frames(drawing, stops):
            frame["label"] = labels.setdefault(described(drawn), len(labels))
        name = f"{self.page}-{len(self.files) + 1}.js"
        table = json.dumps(stops | {"labels": list(labels)}, ensure_ascii=False, separators=(",", ":"))
        self.files[name] = f'explorers.take("{name}", {table});\n'
        whole = figure(drawing, described(drawing))
        return render("explorer", file=name, figure=whole, text=text, **stops)


def render(template: str, **values: Any) -> str:
    return TEMPLATES.get_template(f"{template}.html.j2").render(values)


def frames(drawing: Drawing, stops: dict[str, Any]) -> Iterator[tuple[Drawing, dict[str, Any]]]:
    """Returns the figure at each combination of stops that has one, and its frame."""
    for frame in stops["frames"]:
        if "parts" in frame:
            *traces, layout = (stops["deltas"][number] for number in frame["parts"])
            data = [merged(*pair) for pair in zip(chain(drawing["data"], repeat({})), traces, strict=False)]
            yield {"data": data, "layout": merged(drawing["layout"], layout)}, frame


def merged(old: Any, change: Any) -> Any:
    """Returns ``old`` with what `live_figure.changes` has found: dictionaries are merged, and None takes away, as in
    explorers.js."""
    if not (isinstance(old, dict) and isinstance(change, dict)):
        return change
    new = old | {key: merged(old.get(key), value) for key, value in change.items()}
    return {key: value for key, value in new.items() if value is not None}


def figure(drawing: Drawing, label: str) -> str:
    """Returns the place of a figure, with the words that a screen reader reads out, and its data."""
    data, height = {key: drawing[key] for key in ("data", "layout")}, drawing["layout"].get("height", 450)
    return render("figure", data=data, height=height, label=label)


def described(drawing: Drawing) -> str:
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


def thumbnail(drawing: Drawing) -> str:
    """Returns the figure small and bare; the words on its card say what it is about."""
    bare = {key: value | {"visible": False} for key, value in drawing["layout"].items() if re.match("[xy]axis", key)}
    margin = dict.fromkeys("lrtb", 4)
    layout = drawing["layout"] | bare | {"height": 130, "margin": margin, "showlegend": False, "annotations": []}
    traces = [trace | {"showscale": False} if "z" in trace else trace for trace in drawing["data"]]
    traces = [{key: value for key, value in trace.items() if key != "text"} for trace in traces]
    return figure({"data": traces, "layout": layout}, label="")
