"""A notebook's Markdown as HTML, with formulas as MathML."""

import re
from typing import Any

from latex2mathml.converter import convert as mathml
from nbconvert.filters.markdown_mistune import IPythonRenderer


class Text(IPythonRenderer):
    """Markdown → HTML for a whole notebook: formulas as MathML, links within the site, headings to link to."""

    def __init__(self, names: set[str]):
        super().__init__(escape=False)
        self.names = names
        self.title, self.sections = "", list[str]()

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        if level == 1:
            self.title = self.title or text
        if level != 2:
            return f"<h{level}>{text}</h{level}>\n"
        self.sections.append(text)
        return f'<h2 id="section-{len(self.sections)}">{text}</h2>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        stem = url.removesuffix(".ipynb")
        if stem != url:
            return f'<a href="{stem}.html">{text}</a>' if stem in self.names else text
        return super().link(text, url, title) if url.startswith(("https:", "http:")) else text

    def inline_math(self, body: str) -> str:
        # Browsers put no space between the name of a function and a number.
        return re.sub("(<mi>(ln|log)</mi>)", r'\1<mspace width="0.17em"/>', mathml(body))

    def block_math(self, body: str) -> str:
        return f'<div class="formula">{mathml(body, display="block")}</div>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")
