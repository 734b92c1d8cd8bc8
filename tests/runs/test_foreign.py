"""Tables of runs that others trained."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparsity_lab.laws.fitting import fit
from sparsity_lab.runs.foreign import load_runs

# Hoffmann et al. 2022 as Besiroglu et al. 2024 (arXiv 2404.10102) refitted it.
CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


def written(folder: Path, **columns: object) -> Path:
    path = folder / "runs.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_columns_are_mapped_and_the_rest_follows(tmp_path: Path) -> None:
    path = written(tmp_path, Size=[1e8, 2e8], Compute=[6e18, 2.4e19], loss=[3.0, 2.8], colour=["red", "blue"])
    runs = load_runs(path, {"params_total": "Size", "flops": "Compute"})
    assert runs["tokens"].tolist() == pytest.approx([1e10, 2e10]), "C = 6·N·D"
    assert runs["params_active"].tolist() == [1e8, 2e8]
    assert runs["val_loss"].tolist() == [3.0, 2.8]
    assert (runs["sparsity"] == 0).all()
    assert (runs["status"] == "finished").all()
    assert runs["budget"].equals(runs["flops"])
    assert "colour" not in runs


def test_sparse_runs_spend_flops_on_active_parameters(tmp_path: Path) -> None:
    sizes = {"params_total": [8e8], "params_active": [1e8], "sparsity": [0.875]}
    runs = load_runs(written(tmp_path, **sizes, tokens=[1e10], loss=[2.5]))
    assert runs["flops"].tolist() == pytest.approx([6e18])
    with pytest.raises(ValueError, match="has sparse runs: name the columns of both params_total and params_active"):
        load_runs(written(tmp_path, params_total=[8e8], sparsity=[0.875], tokens=[1e10], loss=[2.5]))


@pytest.mark.parametrize(
    ("columns", "mapped", "message"),
    [
        ({"loss": [2.0], "params_total": [1e8]}, {}, "needs a loss, params_total, and tokens or flops"),
        ({"a": [1]}, {"loss": "b"}, r"columns: .*runs.csv has no column 'b'; it has 'a'"),
        ({"a": [1]}, {"depth": "a"}, "columns: 'depth' is not known, use one of loss, val_loss, params_total"),
        (
            {"loss": [2.0, "n/a"], "params_total": [1e8] * 2, "tokens": [1e9] * 2},
            {},
            r"run 2: loss=.* must be a number above 0",
        ),
        (
            {"loss": [2.0], "params_total": [1e8], "tokens": [-1.0]},
            {},
            r"runs.csv, run 1: tokens=-1.0 must be a number above 0",
        ),
        (
            {"loss": [2.0], "params_total": [1e8], "tokens": [1e9], "S": [1.0]},
            {"sparsity": "S"},
            r"run 1: S=1.0 must be a number from 0 to below 1",
        ),
    ],
)
def test_what_is_no_table_of_runs(
    columns: dict[str, list[object]], mapped: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_runs(written(tmp_path, **columns), mapped)


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    for name in ("absent.csv", "empty.csv"):
        with pytest.raises(ValueError, match=f"{name} can't be read as a table with commas"):
            load_runs(tmp_path / name)


def test_outliers_are_named_and_the_law_is_found_without_them(tmp_path: Path) -> None:
    rng, c = np.random.default_rng(0), CHINCHILLA
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(5e7, 1.6e10, 12), np.geomspace(1e9, 5e11, 12)))
    loss = (c["A"] / N ** c["alpha"] + c["B"] / D ** c["beta"] + c["E"]) * np.exp(0.003 * rng.standard_normal(len(N)))
    wrong = [3, 50, 77]
    loss[wrong] *= [1.3, 1.1, 0.9]
    runs = load_runs(written(tmp_path, params_total=N, tokens=D, loss=loss))
    found = fit(runs, "chinchilla", bootstraps=50).outliers(runs)
    assert found.index.tolist() == [3, *sorted(wrong[1:], key=lambda i: -abs(found["off"][i]))]
    kept = fit(runs.drop(index=found.index), "chinchilla", bootstraps=100)
    table = kept.table().set_index("coefficient")
    assert all(table.loc[name, "low"] * 0.98 <= value <= table.loc[name, "high"] * 1.02 for name, value in c.items())
    assert kept.outliers(runs.drop(index=found.index)).empty
