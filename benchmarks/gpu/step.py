"""`python -m benchmarks.gpu.step NAME DEVICE` measures one step, and prints a line of JSON for each row at once."""

import importlib
import json
import sys
from dataclasses import asdict


def main(name: str, device: str) -> None:
    for row in importlib.import_module(f"benchmarks.gpu.{name}").rows(device):
        print(json.dumps({"verdict": row} if isinstance(row, str) else asdict(row)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
