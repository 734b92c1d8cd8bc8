"""Where a training step's time goes: `python -m benchmarks.profile WIDTH SPARSITY [BATCH_SIZE]`.

The first table is of what the step calls, each with all that happens inside it: forward functions by their names, their
backward passes as "…Backward". The second is of torch's operations alone. Profiling costs a few µs a call, so much
that is called often looks dearer than it is.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.training.trainer import Training

STEPS = 30
LINES = 22


def main(arguments: list[str]) -> None:
    width, sparsity = int(arguments[0]), float(arguments[1])
    batch_size = int(arguments[2]) if len(arguments) > 2 else 16
    model = ModelConfig.on_dial(width, sparsity)
    run = RunConfig(budget=1e14, batch_size=batch_size)
    training = Training(model, run, corpus=load_corpus(run.corpus))
    torch.set_num_threads(1)
    for _ in range(STEPS):
        training.step()
    start = time.thread_time()
    for _ in range(STEPS):
        training.step()
    bare = (time.thread_time() - start) / STEPS * 1e3
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        start = time.thread_time()
        for _ in range(STEPS):
            training.step()
        seconds = time.thread_time() - start
    events = profiled.events() or []
    experts = f"{model.top_k} of {model.n_experts} experts"
    print(f"Width {width}, {experts}, {batch_size} × {model.context} tokens: {bare:.2f} ms a step, CPU time")
    calls = [event for event in events if event.cpu_parent is None]
    inside = sum(event.cpu_time_total for event in calls)
    _table("what the step calls", ((_short(event.name), event.cpu_time_total) for event in calls), seconds)
    print(f"  {seconds / STEPS * 1e3 - inside / STEPS / 1e3:8.3f}  Python between them, and the profiler itself")
    _table("operations", ((event.name, event.self_cpu_time_total) for event in events), seconds)


def _short(name: str) -> str:
    return name.removeprefix("autograd::engine::evaluate_function: ")


def _table(title: str, times: Iterable[tuple[str, float]], seconds: float) -> None:
    """``times`` in µs, over all steps."""
    total: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for name, microseconds in times:
        total[name] += round(microseconds)
        count[name] += 1
    print(f"\n{title}: ms a step, share, calls a step")
    for name, microseconds in total.most_common(LINES):
        share = microseconds / seconds / 1e6
        print(f"  {microseconds / STEPS / 1e3:8.3f}  {share:4.0%}  {count[name] / STEPS:6.1f}  {name}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1:])
