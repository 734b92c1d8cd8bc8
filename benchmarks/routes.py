"""Who reads what: the routing that the dial plays before anything was trained. `python -m benchmarks.routes`

For each number of experts on the dial and each number of layers, a model of width 16 is trained with seed 0 for 1e11
FLOPs. Recorded are the experts that read a certain line, before training and after, and the kind of token that each
expert came to read.

Writes data/routes.json: the line, and one entry per number of layers and of experts.
"""

import json

import torch
from tqdm import tqdm

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.files import DATA, write_text
from sparsity_lab.runs.lanes import LINE
from sparsity_lab.training import Training
from sparsity_lab.training.reading import favourites, read

WIDTH, BUDGET, LAYERS = 16, 1e11, (1, 2, 3, 4)


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[str, object]] = {}
    sparsities = ModelConfig.on_dial(WIDTH, 0.0).sparsities()[1:]
    for n_layers, sparsity in tqdm([(n, s) for n in LAYERS for s in sparsities]):
        config = ModelConfig.on_dial(WIDTH, sparsity).replace(n_layers=n_layers)
        training = Training(config, RunConfig(budget=BUDGET))
        untrained = read(training.model, LINE.encode())
        while not training.done:
            training.step()
        trained = read(training.model, LINE.encode())
        kinds = favourites(training.model, training.corpus.val)
        entry = {"untrained": untrained, "trained": trained, "favourites": kinds}
        found.setdefault(str(n_layers), {})[str(config.n_experts)] = entry
    write_text(
        DATA / "routes.json",
        json.dumps({"line": LINE, "width": WIDTH, "budget": BUDGET, "layers": found}, separators=(",", ":")),
    )


if __name__ == "__main__":
    main()
