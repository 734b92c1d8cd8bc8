"""What can be removed from a trained model, and from its text? `python -m benchmarks.removal`

The plan, written before the runs. A sparse model (width 16, one layer, S = 0.9375, the best shape at 1e11 FLOPs) is
trained with `SEEDS`. From each finished model, shares of its weights in attention and experts are turned off by Wanda's
scores, and whole experts by how seldom they are asked, without further training. And models are trained for the same
FLOPs on a share of the text, chosen at random. A part "can be removed" if the 95 % interval of the rise in loss
(weights and experts: pairs of one model; text: two groups) ends below .03 nats, a fifth of the gain of sparsity at this
budget, and "cannot" if it begins above. Seven parts are judged at once, by Holm's method. Expected: half of the
weights and half of the text can be removed, nine tenths of either cannot.

Writes data/removal.csv: part, share removed, seed, loss (nats per byte).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from sparsity_lab.analysis import data_pruning, expert_pruning, pruning
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training import Training, load_corpus, validation_batches

MODEL = ModelConfig.on_dial(16, 0.9375).replace(n_layers=1)
BUDGET, SEEDS = 1e11, range(8)
WEIGHTS, EXPERTS, TEXT = (0.3, 0.5, 0.9), (0.25, 0.5), (0.5, 0.9)
POOL = 8_192  # windows of the text
TABLE = Path("data/removal.csv")


def main() -> None:
    torch.set_num_threads(1)
    corpus = load_corpus()
    held_out = validation_batches(corpus.val, MODEL.context, 16, 65_536)
    pool = data_pruning.part(corpus, POOL * MODEL.context + 1)
    rows: list[tuple[str, float, int, float]] = []
    for seed in tqdm(SEEDS):
        run = RunConfig(budget=BUDGET, seed=seed)
        training = Training(MODEL, run)
        while not training.done:
            training.step()
        network = training.model
        rows.append(("nothing", 0.0, seed, pruning.mean_loss(network, held_out)))

        text = pruning.unread(training, 8_192)
        scores = pruning.wanda(network, text)
        weights = {name: weight.clone() for name, weight in network.state_dict().items()}
        for share in WEIGHTS:
            pruning.turn_off(network, pruning.smallest(scores, share))
            rows.append(("weights", share, seed, pruning.mean_loss(network, held_out)))
            network.load_state_dict(weights)
        loads = expert_pruning.expert_loads(network, text)
        for share in EXPERTS:
            kept = expert_pruning.most(loads, round((1 - share) * MODEL.n_experts))
            smaller = expert_pruning.keep_experts(network, kept)
            rows.append(("experts", share, seed, pruning.mean_loss(smaller, held_out)))

        order = np.random.default_rng(seed).permutation(POOL)
        for share in (0.0, *TEXT):
            windows = np.sort(order[: round((1 - share) * POOL)])
            record = data_pruning.train_on(pool, windows, MODEL, run)
            rows.append(("text", share, seed, float(record.val_loss or np.nan)))
        pd.DataFrame(rows, columns=["part", "share", "seed", "loss"]).round(5).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
