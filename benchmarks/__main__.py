"""`python -m benchmarks [NAME …]` prints a table: what, its bar, what was measured, whether the bar was reached."""

import importlib
import sys
import time

from benchmarks.timing import machine

NAMES = ["moe_layer", "step", "twins", "backends", "decode", "live", "browser", "redraw", "estimate", "fit", "measures"]
NAMES += ["sweep", "decided", "classroom", "waiting_threads", "engine", "gallery"]


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print(machine(), "\n", flush=True)
    print("| what | bar | measured | reached |\n|---|---|---|---|", flush=True)
    start = time.monotonic()
    for name in names or NAMES:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            reached = {True: "yes", False: "NO", None: ""}[row.reached]
            print(f"| {row.what} | {row.bar} | {row.measured} | {reached} |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s. Where a step's time goes: python -m benchmarks.profile WIDTH SPARSITY")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
