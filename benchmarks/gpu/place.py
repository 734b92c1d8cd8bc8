"""Folders of `make gpu`, and what its steps find in their environment."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build/gpu"
PACKAGES, PIECES = BUILD / "packages", BUILD / "pieces"  # what was missing; MegaBlocks with its compiled pieces


def environment() -> dict[str, str]:
    """Returns the environment of a step: runs and texts are kept apart from the user's."""
    path = [str(ROOT), os.environ.get("PYTHONPATH", ""), str(PACKAGES)]
    own = {"SPARSITY_LAB_HOME": str(BUILD / "home"), "SPARSITY_LAB_CACHE": str(BUILD / "cache")}
    return os.environ | own | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}
