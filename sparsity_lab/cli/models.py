"""List the models whose numbers the lab knows, and the types of models that it understands."""

import argparse
import json
from typing import Any

from sparsity_lab.accounting import count_parameters
from sparsity_lab.accounting.hf_types import TYPES
from sparsity_lab.accounting.hf_vision import VISION
from sparsity_lab.accounting.presets import PRESETS
from sparsity_lab.units import billions


def run(options: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for preset in PRESETS.values():
        count = count_parameters(preset.config)
        published = {"total_published": preset.total * 1e9, "active_published": preset.active * 1e9}
        counted = {"total": count.total, "active": count.active_with(preset.embeddings)}
        seen = preset.shape.vision
        rows.append({"model": preset.name, **published, **counted, "vision": seen, "source": preset.source})
    if options.json:
        print(json.dumps({"presets": rows, "types": sorted(TYPES), "vision_types": sorted(VISION)}))
        return

    import textwrap

    import pandas as pd

    table = pd.DataFrame(rows).set_index("model").drop(columns=["vision", "source"])
    table.columns = pd.Index(["total, published", "active, published", "total", "active"])
    print(table.to_string(formatters=[billions] * 4, index_names=False))
    parts = ", ".join(f"{row['model']} {billions(row['vision'])}" for row in rows if row["vision"])
    print(textwrap.fill(f"Vision parts, which are not in these numbers: {parts}", 80, initial_indent="\n"))
    print(f"\n{len(TYPES)} types of models are understood, by the model_type of their config.json:\n")
    print(textwrap.fill(", ".join(sorted(TYPES)), 80))
    print("\nOf models of text and images the text part is counted, and beside it the vision\npart of these types:\n")
    print(textwrap.fill(", ".join(sorted(VISION)), 80))
