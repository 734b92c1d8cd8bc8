"""Training in a page: the lab's models and text as JSON, for the engine in JavaScript that trains them (`site/`)."""

import json
from itertools import product
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

import sparsity_lab
from sparsity_lab.accounting import flops_per_step, plan
from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.figures.style import ROLES
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.units import flops, size

SITE = Path(__file__).parent / "site"
ENGINE = ("engine_random.js", "engine_products.js", "engine_model.js", "engine_training.js")
TEMPLATES = Environment(loader=PackageLoader("sparsity_lab.pages", "site"), autoescape=True, trim_blocks=True)

# What takes at most about a minute on a slow laptop.
BUDGETS = (1e9, 3e9, 1e10)
WIDTHS, DEPTHS = (16, 32), (1, 2)
SPARSITIES = (0.5, 0.75, 0.875, 0.9375, 0.96875)
ROOM = "classroom"  # Python and prose, about as long as the longest run
CODE = """from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training import train

model = ModelConfig.on_dial(WIDTH, SPARSITY).replace(n_layers=DEPTH)
run = RunConfig(budget=BUDGET, seed=SEED, corpus="sparsity_lab/ROOM")  # from the project's folder
*_, record = train(model, run)
print(record.val_loss)
"""
START = {"sparsity": 0.9375, "budget": 3e9, "width": 16, "depth": 1, "seed": 0}


def engine() -> str:
    """Returns the engine as one script, which defines `Training`."""
    return "\n".join((SITE / name).read_text() for name in ENGINE)


def text() -> dict[str, Any]:
    """Returns what the page trains on and is judged by, with a character for each byte: the source of a room,
    because it is part of the project and so has its licence."""
    corpus = load_corpus(str(Path(sparsity_lab.__file__).parent / ROOM))
    parts = {name: data.tobytes().decode("latin-1") for name, data in (("train", corpus.train), ("val", corpus.val))}
    return parts | {"fingerprint": corpus.fingerprint}


def model(width: int, depth: int, sparsity: float) -> ModelConfig:
    return ModelConfig.on_dial(width, sparsity).replace(n_layers=depth)


def models() -> dict[str, dict[str, Any]]:
    """Returns the config of each model by "width/depth/sparsity", the FLOPs of a step, and the steps of each budget."""
    found = {}
    for width, depth, sparsity in product(WIDTHS, DEPTHS, (0.0, *SPARSITIES)):
        config = model(width, depth, sparsity)
        steps = [plan(config, RunConfig(budget=budget)).steps for budget in BUDGETS]
        step_flops = flops_per_step(config, RunConfig(budget=BUDGETS[0]).sequences)
        found[f"{width}/{depth}/{sparsity:g}"] = {"config": config.to_dict(), "flops": step_flops, "steps": steps}
    return found


def runs_by_budget() -> list[dict[str, Any]]:
    """Returns how the models of each budget are trained, by a seed that the page adds."""
    return [resolve(ModelConfig(), RunConfig(budget=budget)).to_dict() for budget in BUDGETS]


def data() -> dict[str, Any]:
    """Returns all that the page's script needs."""
    read = text()
    said = {name: size(len(read[name])) for name in ("train", "val")}
    said |= {"room": ROOM, "fingerprint": read["fingerprint"][:8]}
    selects = [
        ("sparsity", "sparsity", [(s, f"S = {s:g}, {model(16, 1, s).n_experts} experts") for s in SPARSITIES]),
        ("budget", "budget", [(budget, flops(budget)) for budget in BUDGETS]),
        ("width", "width", [(width, width) for width in WIDTHS]),
        ("depth", "layers", [(depth, depth) for depth in DEPTHS]),
    ]
    return {
        "form": TEMPLATES.get_template("training.html.j2").render(selects=selects, start=START, **said),
        "style": (SITE / "training.css").read_text(),
        "engine": engine(),
        "worker": (SITE / "engine_worker.js").read_text(),
        "models": models(),
        "budgets": BUDGETS,
        "runs": runs_by_budget(),
        "text": read,
        "looks": {role: ROLES[role]._asdict() for role in ("this", "dense")},
        "code": CODE.replace("ROOM", ROOM),
    }


def script() -> str:
    """Returns `site/training.js` with its data: the script of a page with an element whose id is "train"."""
    return f"(() => {{\n'use strict';\nconst data = {json.dumps(data())};\n{(SITE / 'training.js').read_text()}}})();\n"
