"""Records in words and in tables: labels, sentences, rows."""

from dataclasses import replace

import pytest

from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.record import COLUMNS, Record, run_id, run_label
from sparsity_lab.runs.sweep import failed_record


@pytest.fixture
def record(model: ModelConfig, run: RunConfig) -> Record:
    """A finished run of 1 of 4 experts, by hand."""
    nothing = failed_record((model, run), "")
    return replace(nothing, status="finished", val_loss=2.3456, flops=98_000_000, steps=49, tokens=12_544)


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "dense, width 32, 10¹¹, seed 0"),
        ({"sparsity": 0.9375}, "S 0.938, width 32, 10¹¹, seed 0"),
        ({"n_layers": 1}, "dense, width 32, 1 layer, 10¹¹, seed 0"),
        ({"n_layers": 3}, "dense, width 32, 3 layers, 10¹¹, seed 0"),
        ({"budget": 2.51e12, "seed": 4}, "dense, width 32, 3×10¹², seed 4"),
        ({"order_seed": 2}, "dense, width 32, 10¹¹, seed 0, order 2"),
        ({"sparsity": 0.75, "hold": "total"}, "S 0.75, width 32, 10¹¹, seed 0, total held"),
    ],
)
def test_a_label_says_what_is_not_as_usual(changes: dict[str, object], label: str) -> None:
    values = {"sparsity": 0.0, "hold": "active", "n_layers": 2, "budget": 1e11, "seed": 0, "order_seed": None} | changes
    model = ModelConfig.on_dial(32, values.pop("sparsity"), values.pop("hold"))  # type: ignore[arg-type]
    model = model.replace(n_layers=values.pop("n_layers"))  # type: ignore[arg-type]
    assert run_label(model, RunConfig(**values)) == label  # type: ignore[arg-type]


def test_how_a_run_ended(record: Record) -> None:
    assert record.summary() == "Sparsity 0.75: finished after 10⁸ FLOPs, held-out loss 2.346 nats per byte."
    stopped = replace(record, status="stopped", val_loss=None, sparsity=0.0)
    assert stopped.summary() == "Dense: stopped after 10⁸ FLOPs, held-out loss not measured."
    diverged = replace(record, status="diverged", val_loss=None, steps=1_234)
    assert diverged.summary() == "Sparsity 0.75: diverged after 1,234 steps; lower the learning rate."
    assert replace(record, status="failed", error="no memory").summary() == "Sparsity 0.75: failed; no memory"


@pytest.mark.parametrize("chosen", ["both", "batch_size", "learning_rate", "neither"])
def test_a_row_has_what_the_lab_chose(record: Record, chosen: str) -> None:
    """Records of earlier versions may lack what the lab chooses by itself."""
    model, run = record.model_config, record.run_config
    usual = resolve(model, run)
    kept = {"both": ("batch_size", "learning_rate"), "neither": ()}.get(chosen, (chosen,))
    lacking = {name: None for name in ("batch_size", "learning_rate") if name not in kept}
    row = replace(record, run=record.run | lacking).row()
    assert tuple(row) == COLUMNS
    assert (row["batch_size"], row["learning_rate"]) == (usual.batch_size, usual.learning_rate)
    assert (row["id"], row["budget"], row["width"], row["n_experts"]) == (run_id(model, run), run.budget, 8, 4)
    assert record.row("a name")["id"] == "a name"
