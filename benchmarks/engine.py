"""How fast is the page's engine, and how close to torch? `python -m benchmarks.engine [BUDGET]` also draws
build/engine.png: the losses of a run in JavaScript and in torch, and step by step how far they are apart, beside the
distance between torch's own two ways of computing experts."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from benchmarks.timing import Row, machine
from sparsity_lab.accounting import flops_per_step, plan
from sparsity_lab.cli.doctor import find_browser
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.figures.style import LOOKS, styled
from sparsity_lab.figures.training import smooth
from sparsity_lab.pages import training
from sparsity_lab.training import Training
from tests.browser.lab import browsing
from tests.pages.engine import PRELUDE, engine_text, in_node, page_corpus

PICTURE = Path("build/engine.png")
SHAPES = ((16, 1, 0.0), (16, 1, 0.9375), (32, 2, 0.9375), (32, 2, 0.96875))  # width, layers, sparsity
WARM, STEPS = 10, 60
SLOW = 30.0  # s; so that a slower laptop needs about a minute
SEED = 0
TIMED = """
const training = begin(input);
for (let i = 0; i < input.warm; i++) training.step();
const start = performance.now();
for (let i = 0; i < input.count; i++) training.step();
const seconds = (performance.now() - start) / 1000;
"""


def rows() -> Iterator[Row]:
    torch.set_num_threads(1)
    engine_text(page_corpus())
    for width, depth, sparsity in SHAPES:
        model = training.model(width, depth, sparsity)
        name = f"engine, width {width}, {depth} layer{'s'[: depth > 1]}, S = {sparsity:g}"
        step_flops = flops_per_step(model, RunConfig(budget=1e10).sequences)
        node, lab = in_node(f"{TIMED} console.log(seconds);", **timed(model)), in_torch(model)
        speed = STEPS * step_flops / node / 1e9
        yield Row(f"{name}: GFLOP/s in Node, share of torch's", "", f"{speed:.2f}, {lab / node:.2f}", None)
        if find_browser() is not None:
            chromium = in_chromium(model)
            measured = f"{STEPS * step_flops / chromium / 1e9:.2f}, {lab / chromium:.2f}"
            yield Row(f"{name}: the same in a worker in Chromium", "", measured, None)
            steps = plan(model, RunConfig(budget=max(training.BUDGETS))).steps
            seconds = chromium * steps / STEPS
            yield Row(f"{name}: the largest budget there", f"≤ {SLOW:.0f} s", f"{seconds:.0f} s", seconds <= SLOW)


def timed(model: ModelConfig) -> dict[str, object]:
    run = resolve(model, RunConfig(budget=1e10, seed=SEED))
    given = {
        "config": model.to_dict(),
        "run": run.to_dict(),
        "steps": plan(model, run).steps,
        "text": engine_text(page_corpus()),
    }
    return given | {"warm": WARM, "count": STEPS}


def in_torch(model: ModelConfig) -> float:
    """Returns the seconds of `STEPS` steps as the lab makes them, on one thread."""
    lab = Training(model, RunConfig(budget=1e10, seed=SEED, device="cpu"), corpus=page_corpus())
    for _ in range(WARM):
        lab.step()
    start = time.perf_counter()
    for _ in range(STEPS):
        lab.step()
    return time.perf_counter() - start


def in_chromium(model: ModelConfig) -> float:
    """Returns the seconds of `STEPS` steps in a worker of a page."""
    script = f"onmessage = ({{ data: input }}) => {{ {TIMED} postMessage(seconds); }};"
    ask = """([source, given]) => new Promise((resolve, reject) => {
        const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = reject;
        worker.postMessage(given);
    })"""
    with browsing("about:blank") as page:
        page.goto("about:blank")
        return float(page.evaluate(ask, [f"{training.engine()}\n{PRELUDE}\n{script}", timed(model)]))


def losses(model: ModelConfig, budget: float) -> dict[str, list[float]]:
    """Returns the losses of all steps in JavaScript and by two backends of torch."""
    run = resolve(model, RunConfig(budget=budget, seed=SEED, device="cpu"))
    script = """const training = begin(input), losses = [];
    while (!training.done) losses.push(training.step());
    console.log(JSON.stringify(losses));"""
    steps = plan(model, run).steps
    found = {"JavaScript": in_node(script, **timed(model) | {"run": run.to_dict(), "steps": steps})}
    for backend in ("naive", "grouped"):
        lab = Training(model, run.replace(backend=backend), corpus=page_corpus())
        found[f"torch, {backend}"] = [lab.step().loss for _ in range(lab.plan.steps)]
    return found


def picture(budget: float) -> go.Figure:
    """Losses above, and below them the distance from torch's naive backend; dense left, sparse right."""
    models = {"dense": training.model(16, 1, 0.0), "S = 0.9375": training.model(16, 1, 0.9375)}
    figure = make_subplots(2, 2, shared_xaxes=True, vertical_spacing=0.08, subplot_titles=list(models))
    for column, model in enumerate(models.values(), start=1):
        found = losses(model, budget)
        for look, (name, loss) in zip((LOOKS[0], LOOKS[1], LOOKS[2]), found.items(), strict=True):
            kind = {"name": name, "legendgroup": name, "line": look.line, "mode": "lines"}
            x, y = smooth(np.arange(1, len(loss) + 1), loss)
            figure.add_scatter(x=x, y=y, showlegend=column == 1, row=1, col=column, **kind)
            if name != "torch, naive":
                distance = np.maximum(np.abs(np.subtract(loss, found["torch, naive"])), 1e-8)
                figure.add_scatter(y=distance, showlegend=False, row=2, col=column, **kind)
        figure.add_hline(1e-4, line={"dash": "dot", "width": 1}, row=2, col=column)
    figure.update_yaxes(title="loss (nats per byte)", col=1, row=1)
    figure.update_yaxes(title="distance from torch, naive", col=1, row=2)
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", row=2)
    figure.update_xaxes(title="step", row=2)
    paper = {"paper_bgcolor": "white", "plot_bgcolor": "white"}
    return styled(figure, 560, width=1100, margin={"t": 90}, legend={"y": 1.18}, **paper)


if __name__ == "__main__":
    print(machine())
    for row in rows():
        print(f"{row.what}: {row.measured} {row.bar}", flush=True)
    PICTURE.parent.mkdir(exist_ok=True)
    picture(float(sys.argv[1]) if len(sys.argv) > 1 else 3e9).write_image(PICTURE)
    print(PICTURE)
