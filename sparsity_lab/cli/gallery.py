"""Turn executed notebooks into pages that need neither Python nor a network."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--notebooks", type=Path, default=Path("build/notebooks"), help="a folder of executed notebooks")
    add("--out", type=Path, default=Path("build/gallery"), help="folder of the pages")


def run(options: argparse.Namespace) -> None:
    from sparsity_lab.pages import gallery

    pages = gallery.build(options.notebooks, options.out, Path("README.md"))
    print(f"{len(pages)} notebooks → {options.out / 'index.html'}")
