"""Grids: what a TOML file says, as pairs of configs; a mistake is named with its file, table and field."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.record import run_id
from sparsity_lab.runs import grid as grids
from sparsity_lab.runs.grid import grid_runs, read_grid

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


def test_lists_are_multiplied_out_in_order(written: Any) -> None:
    path = written(
        '[[runs]]\nbudget = [1e10, 2e10]\nsparsity = [0, 0.75]\nseed = [5, 3]\ncorpus = "standard-library"\n'
    )
    expected = [
        (ModelConfig.on_dial(32, s), RunConfig(budget=budget, seed=seed, corpus="standard-library"))
        for budget, s, seed in itertools.product([1e10, 2e10], [0, 0.75], [5, 3])
    ]
    assert read_grid(path) == expected


def test_an_empty_table_is_the_labs_defaults(written: Any) -> None:
    assert read_grid(written("[[runs]]\n")) == [(ModelConfig.on_dial(32, 0), RunConfig())]


def test_the_dial_and_the_rest_of_a_shape() -> None:
    table = {"width": 16, "sparsity": 0.9375, "hold": "total", "n_layers": 3, "router": "sigmoid", "batch_size": 2}
    assert grid_runs(table) == [
        (ModelConfig.on_dial(16, 0.9375, "total").replace(n_layers=3, router="sigmoid"), RunConfig(batch_size=2))
    ]


def test_granularity_keeps_what_it_cuts() -> None:
    """Krajewski et al. 2024 (arXiv 2402.07871), section 3: G times as many experts, of 1/G the width, G times as many
    of them working."""
    (coarse, _), (fine, _) = grid_runs({"sparsity": 0.9375, "granularity": [1, 4]})
    assert (fine.n_experts, fine.top_k, fine.d_expert) == (4 * coarse.n_experts, 4, coarse.d_expert // 4)
    assert fine.sparsity == coarse.sparsity == 0.9375
    assert fine.top_k * fine.d_expert == coarse.top_k * coarse.d_expert


@given(
    top_k=st.integers(1, 8),
    sparsity=st.sampled_from([0, 0.5, 0.75, 0.9375]),
    hold=st.sampled_from(["active", "total"]),
    granularity=st.sampled_from([1, 2, 4]),
)
def test_the_dial_shows_the_sparsity_that_is_trained(top_k: int, sparsity: float, hold: str, granularity: int) -> None:
    """Also where more than one expert works: S = (E − K)/E."""
    ((model, _),) = grid_runs({"top_k": top_k, "sparsity": sparsity, "hold": hold, "granularity": granularity})
    assert model.sparsity == sparsity
    assert model.top_k == top_k * granularity


def test_each_run_once() -> None:
    """The same run said in other words is the same run."""
    a = {"budget": 1e11, "seed": [0, 1]}
    b = {"budget": 100_000_000_000, "batch_size": RunConfig(budget=1e11).sequences, "seed": [1, 2]}
    pairs = grid_runs(a, b)
    assert [run.seed for _, run in pairs] == [0, 1, 2]
    assert len({run_id(*pair) for pair in pairs}) == 3


def test_the_grid_that_ships() -> None:
    pairs = read_grid(ROOT / "data" / "isoflop" / "grid.toml")
    assert len(pairs) == len({run_id(*pair) for pair in pairs})
    assert {model.sparsity for model, _ in pairs} == {0, 0.75, 0.9375, 0.984375, 0.99609375}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold [[runs]] tables and nothing else, got nothing"),
        ("budget = 1e11", "must hold [[runs]] tables and nothing else, got budget"),
        ("title = 'x'\n[[runs]]", "must hold [[runs]] tables and nothing else, got title, runs"),
        ("[runs]\nbudget = 1e11", "must hold [[runs]] tables and nothing else, got runs"),
        ("runs = 3", "must hold [[runs]] tables and nothing else, got runs"),
        ("runs = [3]", "must hold [[runs]] tables and nothing else, got runs"),
        ("runs = []", "must hold [[runs]] tables and nothing else, got runs"),
        ("[[runs]]\nbudget = ", "is not TOML (Invalid value (at end of document))"),
        ("[[runs]]\nbadget = 1e11", "table 1 has 'badget', which is no field of a run"),
        ("[[runs]]\n[[runs]]\nd_model = 8", "table 2 has 'd_model', which is no field of a run (the dial sets it: use"),
        ("[[runs]]\nn_experts = 8", "table 1 has 'n_experts', which is no field of a run (the dial sets it: use"),
        ("[[runs]]\nseed = []", "table 1: seed=[] gives no run; name at least one value"),
        ("[[runs]]\nbudget = [1e11, -1]", "table 1: budget=-1 is out of range"),
        ("[[runs]]\nbudget = inf", "table 1: budget=inf must be a finite number"),
        ("[[runs]]\nbudget = '1e11'", "table 1: budget='1e11' must be a finite number"),
        ("[[runs]]\nbudget = 2026-01-01", "table 1: budget=datetime.date(2026, 1, 1) must be a finite number"),
        ("[[runs]]\nwidth = 7", "table 1: width=7 must be a positive multiple of 4"),
        ("[[runs]]\nwidth = 'wide'", "table 1: width='wide' must be a positive multiple of 4"),
        ("[[runs]]\nsparsity = 1", "table 1: sparsity=1 must be at least 0 and below 1"),
        ("[[runs]]\nsparsity = 'much'", "table 1: sparsity='much' must be at least 0 and below 1"),
        ("[[runs]]\nhold = 'both'", "table 1: hold='both' is not known: use one of active, total"),
        ("[[runs]]\ntop_k = 0", "table 1: n_experts=0 is out of range"),
        ("[[runs]]\ngranularity = 0", "table 1: granularity=0 must be a whole number that divides the experts' width"),
        ("[[runs]]\ngranularity = 5", "granularity=5 must be a whole number that divides the experts' width 96"),
        ("[[runs]]\ngranularity = 2.0", "table 1: granularity=2.0 must be a whole number"),
        ("[[runs]]\ngranularity = true", "table 1: granularity=True must be a whole number"),
        ("[[runs]]\nseed = [[1, 2]]", "table 1: seed=[1, 2] must be a whole number"),
        ("[[runs]]\nseed = {a = 1}", "table 1: seed={'a': 1} must be a whole number"),
        ("[[runs]]\ncorpus = ''", "table 1: corpus='' must be a name or a path"),
    ],
)
def test_mistakes_are_named(written: Any, text: str, message: str) -> None:
    path = written(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_grid(path)
    assert str(error.value).startswith(f"grid {path}")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.toml does not exist: name a TOML file"):
        read_grid(tmp_path / "missing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bytes\.toml is not TOML"):
        read_grid(tmp_path / "bytes.toml")


def test_a_grid_that_nobody_could_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found at once, not after minutes of building it."""
    seeds = list(range(10**6))
    with pytest.raises(ValueError, match="table 1 makes it 1,000,000,000,000 runs, more than 100,000: shorten"):
        grid_runs({"seed": seeds, "budget": seeds})
    monkeypatch.setattr(grids, "MAX_RUNS", 4)
    assert len(grid_runs({"seed": [1, 2]}, {"seed": [3, 4]})) == 4
    with pytest.raises(ValueError, match="table 2 makes it 5 runs, more than 4"):
        grid_runs({"seed": [1, 2]}, {"seed": [3, 4, 5]})


FIELDS = st.sampled_from([*grids.DIAL, *grids.OF_MODEL, *grids.OF_RUN, "d_model", "nonsense"])
SCALARS = st.booleans() | st.integers(-5, 10**7) | st.floats() | st.text(max_size=5)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=2), SCALARS, max_size=1)


@example(table={"width": {}, "hold": "total"})
@given(table=st.dictionaries(FIELDS, VALUES, max_size=4))
def test_whatever_a_table_holds_it_is_runs_or_a_mistake_with_a_name(table: dict[str, Any]) -> None:
    pairs, mistake = [], ""
    try:
        pairs = grid_runs(table)
    except ValueError as error:
        mistake = str(error)
    assert mistake.startswith("table 1") or 1 <= len(pairs) <= 3**4
