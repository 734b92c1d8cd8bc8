"""Formats of a sparse layer against the dense product, int8 against its bound, and break-evens that were made up."""

import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_lab.analysis import sparse_formats as payoff
from sparsity_lab.analysis.sparse_formats import (
    FORMATS,
    break_even,
    break_evens,
    int8_bound,
    largest_weight,
    mask,
    quantised,
    swiglu,
)
from sparsity_lab.config import ModelConfig
from sparsity_lab.figures import sparse_formats as payoff_charts
from sparsity_lab.models.experts import MoE

STOPS = [0.5, 0.75, 0.875, 0.9375]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- Formats


@pytest.mark.parametrize("name", ["dense", "zeros", "csr", "bsr 16", "bsr 64"])
@pytest.mark.parametrize("tokens", [1, 7, 512])
@pytest.mark.parametrize("sparsity", [0.0, 0.75, 1.0])
def test_a_format_gives_the_dense_product_of_what_is_left(name: str, tokens: int, sparsity: float) -> None:
    w_MD = torch.randn(128, 192, generator=generator())
    kept_MD = w_MD * mask(128, 192, sparsity, FORMATS[name].block or 1, generator())
    x_ND = torch.randn(tokens, 192, generator=generator(1))
    with torch.no_grad():
        torch.testing.assert_close(FORMATS[name].product(kept_MD)(x_ND), x_ND @ kept_MD.t(), rtol=1e-4, atol=1e-4)


def test_experts_are_a_dense_layer_whose_other_blocks_sleep() -> None:
    """A token's block sparsity: the hidden numbers of all experts side by side, and zeros where its own is not."""
    torch.manual_seed(0)
    config = ModelConfig.of_width(32, d_expert=128).with_sparsity(0.875, "total")
    moe, x_ND = MoE(config, "grouped"), torch.randn(40, 32)
    with torch.no_grad():
        y_ND = moe(x_ND[None])[0][0]
        routing = moe.router.last
        gate_EDF, up_EDF = moe.experts.gate_up_EDG.chunk(2, -1)
        gate_NF, up_NF = (x_ND @ w.movedim(0, 1).flatten(1) for w in (gate_EDF, up_EDF))
        awake_NE = torch.zeros(40, 8).scatter(1, routing.experts_NK, routing.weights_NK)
        h_NF = F.silu(gate_NF) * up_NF * awake_NE.repeat_interleave(16, 1)
        torch.testing.assert_close(y_ND, h_NF @ moe.experts.down_EFD.flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert ((awake_NE > 0).sum(1) == 1).all()


def test_swiglu_is_the_models_own() -> None:
    torch.manual_seed(0)
    moe, x_ND = MoE(ModelConfig.of_width(16), "naive"), torch.randn(5, 16)
    gate_up_GD, down_DF = moe.experts.gate_up_EDG[0].t(), moe.experts.down_EFD[0].t()
    y_ND = swiglu(x_ND, lambda x: x @ gate_up_GD.t(), lambda h: h @ down_DF.t())
    torch.testing.assert_close(y_ND, moe.experts.one(0, x_ND))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 20), st.integers(2, 40), st.integers(1, 20), st.sampled_from([0, 1e-3, 50])
)  # not D = 1: torch's int8 product then leaves its output unwritten (pytorch issue 195066)
def test_int8_stays_within_its_bound(seed: int, n: int, d: int, m: int, outlier: float) -> None:
    x_ND, w_MD = torch.randn(n, d, generator=generator(seed)), torch.randn(m, d, generator=generator(seed + 1))
    x_ND[0] *= outlier
    error_NM = (FORMATS["int8"].product(w_MD)(x_ND).double() - x_ND.double() @ w_MD.double().t()).abs()
    bound_NM = int8_bound(x_ND, w_MD)
    assert (error_NM <= bound_NM * (1 + 1e-5) + 1e-6).all()
    q_ND, q_MD = quantised(x_ND)[0], quantised(w_MD, largest_weight())[0]
    assert torch.equal(torch._int_mm(q_ND, q_MD.t()).long(), q_ND.long() @ q_MD.long().t())


def test_int8_is_right_on_old_processors() -> None:
    """What one without VNNI instructions does, by oneDNN's own switch, in a process of its own."""
    script = """
import torch
from sparsity_lab.analysis.sparse_formats import FORMATS, int8_bound, largest_weight
x, w = torch.ones(40, 64), torch.ones(48, 64)  # the largest numbers everywhere
assert ((FORMATS["int8"].product(w)(x) - x @ w.t()).abs() <= int8_bound(x, w) + 1e-4).all()
print(largest_weight())
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("63", "127")  # ARM needs no such care


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30))
def test_quantised_is_off_by_half_a_scale_at_most(values: list[float]) -> None:
    x_1D = torch.tensor([values])
    q_1D, scale_11 = quantised(x_1D)
    assert ((q_1D.double() * scale_11.double() - x_1D.double()).abs() <= scale_11 * 0.50001 + 1e-30).all()


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 4, 16]), st.floats(0, 1))
def test_mask_zeroes_whole_blocks_as_many_as_asked(rows: int, columns: int, block: int, sparsity: float) -> None:
    kept = mask(rows * block, columns * block, sparsity, block, generator())
    blocks = kept.unflatten(1, (columns, block)).unflatten(0, (rows, block)).sum((1, 3))
    assert set(blocks.flatten().tolist()) <= {0, block * block}
    assert (blocks == 0).sum() == round(sparsity * rows * columns) or abs(sparsity * rows * columns % 1 - 0.5) < 1e-9


def test_mask_refuses_blocks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="block=16 must divide both 24 rows and 32 columns"):
        mask(24, 32, 0.5, 16, generator())


# ---- Bytes


@pytest.mark.parametrize(("name", "block"), [("csr", 1), ("bsr 16", 16)])
def test_bytes_are_those_of_the_tensors(name: str, block: int) -> None:
    width, hidden, held = 64, 128, 0
    for rows, columns in ((2 * hidden, width), (width, hidden)):
        w = torch.ones(rows, columns) * mask(rows, columns, 0.75, block, generator())
        sparse = w.to_sparse_csr() if block == 1 else w.to_sparse_bsr((block, block))
        held += sparse.values().nbytes + 4 * sparse.crow_indices().numel() + 4 * sparse.col_indices().numel()
    assert payoff.weight_bytes(name, width, hidden, 0.75) == held


def test_bytes_of_experts_grow_with_the_tokens_that_choose() -> None:
    chosen = np.random.default_rng(0).integers(0, 8, (20_000, 16))
    distinct = np.mean([len(set(row)) for row in chosen.tolist()])
    all_bytes = payoff.weight_bytes("dense", 64, 128)
    assert payoff.weight_bytes("experts", 64, 128, 0.875, 16) / all_bytes == pytest.approx(distinct / 8, rel=0.01)
    assert payoff.weight_bytes("experts", 64, 128, 0.875, 1) == pytest.approx(all_bytes / 8)
    assert payoff.weight_bytes("int8", 64, 128) == 3 * 64 * 128 + 4 * (256 + 64)


def test_multiplies() -> None:
    for name in ("dense", "zeros", "int8"):
        assert payoff.multiplies(name, 4, 8, 0.5, 3) == 3 * 4 * 8 * 3
    for name in ("csr", "experts"):
        assert payoff.multiplies(name, 4, 8, 0.5, 3) == 3 * 4 * 8 * 3 / 2


# ---- Times


def test_times_of_every_format_and_names_what_it_could_not() -> None:
    threads = torch.get_num_threads()
    times, missing = payoff.time_formats(64, 128, 2, [0.5, 0.75], rounds=2)
    assert torch.get_num_threads() == threads
    assert list(missing) == ["2:4"]
    assert "CUDA" in missing["2:4"]
    often = {"csr", "bsr 16", "bsr 64", "experts"}
    expected = {("dense", 0.0), ("int8", 0.0), ("zeros", 0.75)} | {(name, s) for name in often for s in (0.5, 0.75)}
    assert set(zip(times["format"], times["sparsity"], strict=True)) == expected
    assert (times.groupby(["format", "sparsity"])["round"].count() == 2).all()
    assert (times["seconds"] > 0).all()
    summary = payoff.summary(times)
    assert (summary.loc[summary["format"] == "dense", "ratio"] == 1).all()
    assert set(break_evens(times)["format"]) == often


def test_timing_refuses_experts_that_do_not_fit() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match=r"sparsity=0\.9 does not cut hidden=128 into equal experts"):
        payoff.time_formats(64, 128, 1, [0.5, 0.9], rounds=1)
    assert torch.get_num_threads() == threads


# ---- Break-even


@given(st.floats(1.05, 6.0), st.floats(0.3, 2.0))
def test_break_even_of_a_power_law_is_exact(overhead: float, power: float) -> None:
    stops = np.array([0.0, 0.5, 0.9, 0.99, 0.9999])
    ratio = overhead * (1 - stops) ** power
    exact = 1 - overhead ** (-1 / power)
    found = break_even(stops, ratio)
    if ratio[-1] < 1:
        assert found == pytest.approx(exact, rel=1e-6)
    else:
        assert math.isinf(found)


def test_break_even_none_always_and_dips() -> None:
    assert math.isinf(break_even(STOPS, [4, 3, 2, 1.0]))
    assert break_even(STOPS, [0.9, 0.5, 0.3, 0.2]) == 0.5
    assert 0.875 < break_even(STOPS, [2, 0.9, 1.1, 0.5]) < 0.9375, "a dip that does not last"
    for stops, ratio in ((STOPS[::-1], [1, 1, 1, 1]), ([0.5, 1.0], [2, 1]), ([0.5], [1, 2]), ([], []), ([0.5], [0])):
        with pytest.raises(ValueError, match="must rise within"):
            break_even(stops, ratio)


def made_up(**ratios: list[float]) -> pd.DataFrame:
    """Times of 11 rounds in which all are slow or fast together, dense at a second."""
    noise = np.random.default_rng(0).uniform(1, 3, 11)
    parts = [pd.DataFrame({"format": "dense", "sparsity": 0.0, "round": range(11), "seconds": noise})]
    for name, of_stop in ratios.items():
        for s, ratio in zip(STOPS, of_stop, strict=True):
            own = noise * np.linspace(0.99, 1.01, 11) * ratio
            parts.append(pd.DataFrame({"format": name, "sparsity": s, "round": range(11), "seconds": own}))
    return pd.concat(parts)


def test_break_evens_in_words() -> None:
    times = made_up(never=[4, 3, 2, 1.5], always=[0.9, 0.8, 0.7, 0.6], power=[2, 1, 0.5, 0.25], perhaps=[4, 3, 2, 1.0])
    found = break_evens(times).set_index("format")
    assert found.loc["never", "says"] == "none up to S = 0.938"
    assert found.loc["always", "says"] == "≤ 0.5"
    assert found.loc["perhaps", "says"].startswith("undecided")
    assert found.loc["power", "at"] == pytest.approx(0.75, abs=1e-9)
    assert 0.74 < found.loc["power", "low"] <= 0.75 <= found.loc["power", "high"] < 0.76
    summary = payoff.summary(times).set_index(["format", "sparsity"])
    assert summary.loc[("power", 0.875), "ratio"] == pytest.approx(0.5), "noise that all share drops out"


def test_figure_of_times() -> None:
    times = made_up(never=[4, 3, 2, 1.5], power=[2, 1, 0.5, 0.25])
    summary, crossings = payoff.summary(times), break_evens(times)
    dense, never, power, stars = payoff_charts.times(summary, crossings).data
    assert [trace.name for trace in (dense, never, power)] == ["dense", "never", "power"]
    assert len(set(dense.y)) == 1, "a level"
    assert list(never.x) == [1, 2, 3, 4]
    middle = float(summary.loc[summary["format"] == "dense", "seconds"].iloc[0])
    assert list(stars.y) == pytest.approx([1e3 * middle])
    assert list(stars.x) == pytest.approx([2])
    assert list(power.y) == list(1e3 * summary.loc[summary["format"] == "power", "seconds"])
