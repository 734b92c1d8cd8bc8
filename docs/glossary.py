"""Writes docs/glossary.md from docs/glossary.toml."""

import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
HEAD = """# Glossary

The terms of the notebooks, with the notebook that introduces each.
<!-- `make format` writes this file from glossary.toml: change that one. -->
"""


def page() -> str:
    """Returns the glossary as Markdown, sorted by term regardless of case."""
    terms = tomllib.loads((DOCS / "glossary.toml").read_text(encoding="utf-8"))
    lines = []
    for term, entry in sorted(terms.items(), key=lambda item: item[0].lower()):
        (notebook,) = DOCS.parent.glob(f"notebooks/{entry['notebook']}_*.ipynb")
        links = [f"notebook [{entry['notebook']}](../notebooks/{notebook.name})"]
        links += [entry["source"]] if "source" in entry else []
        lines.append(f"- **{term}**: {entry['means']} ({'; '.join(links)})")
    return f"{HEAD}\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (DOCS / "glossary.md").write_text(page(), encoding="utf-8")
