"""What experts learnt: labels are Python's, the measure is information, and chance is told apart."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity_lab.analysis import routing as inside
from sparsity_lab.analysis.routing import Readings
from sparsity_lab.config import ModelConfig
from sparsity_lab.figures import routing as inside_charts
from sparsity_lab.models import Transformer
from sparsity_lab.training.kinds import KINDS, kinds


def labelled(text: str) -> list[tuple[str, str]]:
    """Runs of one kind and what they hold."""
    found: list[tuple[str, str]] = []
    for character, kind in zip(text, kinds(text.encode("latin-1")), strict=True):
        if found and found[-1][0] == KINDS[kind]:
            found[-1] = (KINDS[kind], found[-1][1] + character)
        else:
            found.append((KINDS[kind], character))
    return found


def test_kinds_of_a_function() -> None:
    assert labelled("def f(x1):\n    return x1 + 2.5  # sum\n") == [
        ("keyword", "def"), ("space", " "), ("name", "f"), ("operator", "("), ("name", "x1"), ("operator", "):"),
        ("newline", "\n"), ("indentation", "    "), ("keyword", "return"), ("space", " "), ("name", "x1"),
        ("space", " "), ("operator", "+"), ("space", " "), ("number", "2.5"), ("space", "  "), ("comment", "# sum"),
        ("newline", "\n"),
    ]  # fmt: skip


def test_kinds_of_strings_over_lines() -> None:
    text = 'x = """one\ntwo"""\ny = 1\n'
    assert ("string", '"""one\ntwo"""') in labelled(text)
    assert labelled(text)[-2] == ("number", "1")


def test_a_piece_that_does_not_parse_costs_only_itself() -> None:
    assert ("number", "5") in labelled("e 'open\nx = 5\nreturn y\n")
    assert ("keyword", "return") in labelled("  )\nreturn y\n")


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_get_a_kind_each(text: bytes) -> None:
    found = kinds(text)
    assert len(found) == len(text)
    assert found.max(initial=0) < len(KINDS)


def test_a_source_file_is_labelled() -> None:
    source = Path(inside.__file__).read_bytes()
    assert (kinds(source) == KINDS.index("other")).mean() < 0.01


# ---- Information


def readings(experts: np.ndarray, kinds: np.ndarray, n_experts: int) -> Readings:
    return Readings(kinds, experts[None, :, None], n_experts)


def test_information_of_known_tables() -> None:
    certain = pd.DataFrame(np.eye(4) * 7)
    assert inside.mutual_information(certain) == pytest.approx(2), "four kinds, four experts: two bits"
    assert inside.mutual_information(pd.DataFrame(np.ones((4, 6)))) == pytest.approx(0, abs=1e-12)
    assert inside.mutual_information(pd.DataFrame([[3, 0], [3, 0]])) == pytest.approx(0, abs=1e-12)


@given(counts=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=5))
def test_information_is_between_nothing_and_the_entropy(counts: list[list[int]]) -> None:
    counts[0][0] += 1
    array = np.array(counts)
    bits = inside.mutual_information(pd.DataFrame(array))
    p = array.sum(0) / array.sum()
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
    assert -1e-12 <= bits <= entropy + 1e-9


def test_specialisation_is_told_from_chance() -> None:
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 4, 4_000).astype(np.uint8)
    special = inside.specialisation(readings(kinds.astype(np.int64), kinds, 4), 0)
    assert special.bits == pytest.approx(2, abs=0.01)
    assert special.p_value == 0.01
    assert special.largest < 0.1
    chance = inside.specialisation(readings(generator.integers(0, 4, 4_000), kinds, 4), 0)
    assert chance.p_value > 0.01
    assert chance.bits < 0.02


def test_runs_alone_are_no_specialisation() -> None:
    """Slow experts and slow kinds, independent of each other: shuffling one by one would call that a finding."""
    generator = np.random.default_rng(1)
    kinds = np.repeat(generator.integers(0, 3, 100), 40).astype(np.uint8)
    experts = np.repeat(generator.integers(0, 4, 80), 50)
    assert inside.specialisation(readings(experts, kinds, 4), 0).p_value > 0.05


def test_preference() -> None:
    counts = pd.DataFrame([[30, 10, 0], [10, 30, 0]], columns=["a", "b", "c"])
    lift = inside.preference(counts)
    assert list(lift.columns) == ["a", "b"], "a kind that does not occur has no preference"
    assert lift.loc[0, "a"] == pytest.approx(1.5)
    assert lift.loc[1, "a"] == pytest.approx(0.5)
    silent = inside.preference(pd.DataFrame([[5, 5], [0, 0]], columns=["a", "b"]))
    assert silent.loc[1].tolist() == [0, 0], "an expert without work prefers nothing"


# ---- Models


@pytest.fixture
def trained() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(d_model=8, n_heads=1, d_expert=16, context=16, n_experts=6, top_k=2))


def test_trace_routing(trained: Transformer) -> None:
    text = b"for x in range(10): print(x)  # many\n" * 5
    found = inside.trace_routing(trained, text)
    windows = len(text) // 16
    assert found.experts_LNK.shape == (2, windows * 16, 2)
    assert trained.training, "as before"
    again = inside.trace_routing(trained, text)
    assert np.array_equal(again.experts_LNK, found.experts_LNK)
    counts = inside.kind_counts(found.favourites_LN[0], found.kinds_N, 6)
    assert counts.to_numpy().sum() == windows * 16
    together = inside.co_activation(found, 0)
    assert np.allclose(together, together.T)
    assert together.diagonal().sum() == pytest.approx(2), "each token is read by two"
    alike = inside.similarity(trained, 1)
    assert alike.shape == (6, 6)
    assert np.allclose(alike.diagonal(), 1, atol=1e-5)


def test_effective_experts() -> None:
    assert inside.effective_experts(torch.full((5, 8), 1 / 8)) == pytest.approx(8)
    assert inside.effective_experts(torch.eye(8)) == pytest.approx(1)


def test_mistakes(trained: Transformer) -> None:
    with pytest.raises(ValueError, match="text of 3 bytes is shorter than the model's context=16"):
        inside.trace_routing(trained, b"abc")
    with pytest.raises(ValueError, match="no router: n_experts=1"):
        inside.trace_routing(Transformer(ModelConfig(d_model=8, n_heads=1)), b"a" * 500)


# ---- Figures


def test_figures() -> None:
    lift = pd.DataFrame([[2.0, 0.0], [0.5, 1.0]], columns=["name", "number"])
    (heat,) = inside_charts.preferences(lift).data
    assert heat.z.tolist() == [[1, -3], [-1, 0]]
    (cells,) = inside_charts.blocks(np.array([20, 0, 5]), width=32, block=16).data
    assert (~np.isnan(cells.z)).sum() == 2 * 2 + 0 + 1 * 2, "two blocks of tokens of the first expert, one of the third"
    assert cells.z.shape == (3, 6)
    (square,) = inside_charts.pairs(np.eye(3), "cosine").data
    assert square.z.tolist() == np.eye(3).tolist()
    loads = pd.DataFrame({"line": ["a", "a", "b"], "step": [1, 2, 1], "max_load": [3.0, 2.0, 1.0]})
    assert [list(t.y) for t in inside_charts.load_over_time(loads).data] == [[3, 2], [1]]


def test_loads_by_expert() -> None:
    (few,) = inside_charts.loads_by_expert(np.array([[0.5, 0.5], [1.0, 0.0]])).data
    assert few.z.tolist() == [[1, 2], [1, 0]], "in multiples of the even share, an expert a row"
    assert list(few.x) == [1, 2]
    (many,) = inside_charts.loads_by_expert(np.full((1_234, 4), 0.25)).data
    assert many.z.shape == (4, 100)
    assert np.allclose(many.z, 1)
    assert many.x[-1] == 1_234


def test_coloured_text_is_escaped_and_whole() -> None:
    shown = inside_charts.coloured(b"a<b>&", np.array([0, 0, 9, 9, 1]))
    assert 'title="expert 0">a&lt;</span>' in shown
    assert 'title="expert 9">b&gt;</span>' in shown
    assert "<b>" not in shown
    assert shown.count("expert 9") == 2, "in the legend too"


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_vectors_give_the_layers_answer(router: str) -> None:
    config = ModelConfig(
        d_model=8, n_heads=1, d_expert=6, n_experts=5, top_k=2, context=16, n_layers=2, n_dense_layers=1, router=router
    )
    torch.manual_seed(0)
    model = Transformer(config)
    answers: list[torch.Tensor] = []
    moe = model.layers[1].moe
    moe.register_forward_hook(lambda _, given, answer: answers.append(answer[0]))
    (parts,) = inside.vectors(model, bytes(range(48)))
    assert {name: part.shape for name, part in parts.items()} == {
        "shares": (48, 5), "gates": (48, 5), "hidden": (96, 6), "gate_up": (5, 2 * 8 * 6), "down": (5, 6 * 8)
    }  # fmt: skip
    assert ((parts["gates"] > 0).sum(1) == 2).all()
    gates_NE = torch.from_numpy(parts["gates"])
    hidden_ESF = torch.from_numpy(parts["hidden"]).split([int(n) for n in (gates_NE > 0).sum(0)])
    y_ND = torch.zeros(48, 8)
    for e, hidden_SF in enumerate(hidden_ESF):
        tokens = gates_NE[:, e].nonzero().flatten()
        y_ND[tokens] += gates_NE[tokens, e, None] * (hidden_SF @ moe.experts.down_EFD[e])
    torch.testing.assert_close(y_ND, answers[0].flatten(0, 1), rtol=1e-4, atol=1e-6)
    assert not moe._forward_pre_hooks, "nothing stays behind"
    before = parts["down"].copy()
    with torch.no_grad():
        moe.experts.down_EFD.zero_()
    assert np.array_equal(parts["down"], before), "not a view of weights that training changes"
