"""A student's text as HTML in which nothing can run: Markdown, formulas as MathML, and pasted pictures.

HTML in the text is shown, not obeyed; links go to web pages only, and pictures come from the notebook itself. Rendering
may take any time for some texts, so it happens in the sandbox, with a limit. Without a result the text is shown as it
was written.
`python -m sparsity_lab.classroom.written_text` reads a text and its pictures as JSON from stdin and prints HTML.
"""

import html
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from sparsity_lab.classroom.sandbox import Sandbox

SECONDS = 15
MATHS = frozenset(
    [
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "ms",
        "msup",
        "msub",
        "msubsup",
        "mfrac",
        "msqrt",
        "mroot",
        "mtext",
        "mspace",
        "mtable",
        "mtr",
        "mtd",
        "mover",
        "munder",
        "munderover",
        "mfenced",
        "mstyle",
        "mpadded",
        "mphantom",
        "menclose",
        "mmultiscripts",
        "mprescripts",
        "none",
    ]
)
STYLES = frozenset(
    [
        "display",
        "stretchy",
        "fence",
        "form",
        "separator",
        "mathvariant",
        "width",
        "accent",
        "accentunder",
        "columnalign",
        "rowspacing",
        "columnspacing",
        "linethickness",
        "minsize",
        "maxsize",
        "displaystyle",
        "scriptlevel",
        "lspace",
        "rspace",
        "movablelimits",
        "open",
        "close",
        "notation",
    ]
)


def formula(latex: str, display: str = "inline") -> str:
    """Returns a formula as MathML, or as it was written where that does not work."""
    from latex2mathml.converter import convert

    try:
        tree = ET.fromstring(convert(latex, display=display))
        for part in tree.iter():
            part.tag = part.tag.rpartition("}")[2]
            if part.tag not in MATHS:
                raise ValueError(part.tag)
            part.attrib = {name: value for name, value in part.attrib.items() if name in STYLES}
        return ET.tostring(tree, encoding="unicode")
    except Exception:  # whatever a converter makes of what a student writes
        return f"<code>{html.escape(latex)}</code>"


def safe_html(text: str, pictures: dict[str, str]) -> str:
    """Returns Markdown as HTML, with ``pictures`` (data URLs by name) in their places."""
    import mistune
    from mistune.plugins.math import math, math_in_list
    from mistune.plugins.table import table

    shown = set()

    class Renderer(mistune.HTMLRenderer):
        def image(self, text: str, url: str, title: str | None = None) -> str:
            name = url.removeprefix("attachment:")
            found = pictures.get(name) or pictures.get(name.replace("%20", " "))
            if found is None:
                return html.escape(f"[picture: {text or name}]")
            shown.add(found)
            return f'<img src="{html.escape(found)}" alt="{html.escape(text or name)}">'

        def link(self, text: str, url: str, title: str | None = None) -> str:
            if not url.startswith(("https://", "http://")):
                return text
            return f'<a href="{html.escape(url)}" rel="noopener noreferrer nofollow" target="_blank">{text}</a>'

        def inline_math(self, text: str) -> str:
            return formula(text)

        def block_math(self, text: str) -> str:
            return f"<div>{formula(text, 'block')}</div>"

    markdown = mistune.Markdown(Renderer(escape=True), plugins=[table, math, math_in_list])
    page = str(markdown(text))
    rest = [(name, url) for name, url in pictures.items() if url not in shown]
    return page + "".join(f'<img src="{html.escape(url)}" alt="{html.escape(name)}">' for name, url in rest)


def rendered(cell: dict[str, Any], sandbox: Sandbox) -> str:
    """Returns a cell's text as HTML, made in the sandbox within `SECONDS`."""
    text, pictures = cell["source"], cell["pictures"]
    plain = f'<pre class="plain">{html.escape(text)}</pre>' + "".join(
        f'<img src="{html.escape(url)}" alt="{html.escape(name)}">' for name, url in pictures.items()
    )
    with tempfile.TemporaryDirectory(prefix=f"lab-{os.getppid()}-", ignore_cleanup_errors=True) as folder:
        sandbox.folder(Path(folder))
        command = sandbox.command([sys.executable, "-m", "sparsity_lab.classroom.written_text"], Path(folder))
        try:
            job = json.dumps([text, pictures])
            done = subprocess.run(command, input=job, capture_output=True, text=True, timeout=SECONDS, check=True)
            return str(json.loads(done.stdout))
        except (subprocess.SubprocessError, ValueError):
            return plain
        finally:
            sandbox.clean_up(Path(folder))


if __name__ == "__main__":
    print(json.dumps(safe_html(*json.loads(sys.stdin.read()))))
