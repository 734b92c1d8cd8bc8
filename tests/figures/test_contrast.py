"""Text that can be read in JupyterLab's light and dark themes: at least 4.5:1 (WCAG 2.2, success criterion 1.4.3)."""

import inspect
import re
import sys
from pathlib import Path

import pytest

from sparsity_lab.figures import routing
from sparsity_lab.widgets import explorer, html
from tests.contrast import colour, contrast, over

STATIC = Path(sys.prefix) / "share/jupyter/nbconvert/templates/lab/static"


def theme(name: str) -> tuple[str, str]:
    """JupyterLab's colours of text and of what is behind it."""
    css = (STATIC / f"theme-{name}.css").read_text() + (STATIC / "index.css").read_text()

    def value(variable: str) -> str:
        found = re.search(rf"{variable}: *([^;]+);", css)
        assert found is not None
        inner = re.fullmatch(r"var\((.+)\)", found[1])
        text = value(inner[1]) if inner else found[1]
        return {"white": "#ffffff", "#111": "#111111"}.get(text, text)

    return value("--jp-content-font-color1"), value("--jp-layout-color1")


def test_against_the_standards_own_numbers() -> None:
    assert contrast(colour("#000000"), colour("#ffffff")) == pytest.approx(21)
    assert contrast(colour("#777777"), colour("#ffffff")) == pytest.approx(4.48, abs=0.01)  # W3C's G18: not enough
    assert contrast(over(colour("rgba(0, 0, 0, 0.5)"), (255, 255, 255)), (127.5,) * 3) == pytest.approx(1)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_marked_characters(name: str) -> None:
    font, page = map(colour, theme(name))
    for mark in routing.COLOURS:
        behind = over(colour(f"{mark}{routing.TINT}"), page)
        assert contrast(over(font, behind), behind) >= 4.5, mark


@pytest.mark.parametrize("module", [html, explorer, routing])
def test_html_leaves_the_colour_of_text_to_the_theme(module: object) -> None:
    assert not re.search(r"""[;"' ]color: ?[#r{]""", inspect.getsource(module))  # type: ignore[arg-type]
