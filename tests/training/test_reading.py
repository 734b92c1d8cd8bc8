"""Who reads what: what the live model's routers choose, without touching its training."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsity_lab.analysis.routing import trace_routing
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.kinds import KINDS, kinds
from sparsity_lab.training.reading import WINDOWS, _favourites, favourites, read
from sparsity_lab.training.trainer import Training

TEXT = b"for x in range(10):  # count\n    print('one', x)\n"


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("top_k", [1, 3])
def test_it_is_what_the_routers_choose(model: ModelConfig, router: str, top_k: int) -> None:
    """Against the routing of one window, and by hand: the highest scores of what goes into each router."""
    torch.manual_seed(0)
    live = Transformer(model.replace(router=router, top_k=top_k, context=len(TEXT), n_layers=3))
    heard: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda router, inputs, output: heard.append(inputs[0] @ router.weight.T))
        for layer in live.routers()
    ]
    found = read(live, TEXT)
    for hook in hooks:
        hook.remove()
    assert np.shape(found) == (3, len(TEXT), top_k)
    assert len({str(layer) for layer in found}) == 3, "layers choose for themselves"
    for layer, scores_TE in zip(found, heard, strict=True):
        highest = scores_TE.reshape(len(TEXT), -1).topk(top_k).indices
        assert highest.tolist() == layer
    np.testing.assert_array_equal(trace_routing(live, TEXT).experts_LNK, found)


def test_a_text_longer_than_the_context_is_read_as_far_as_it_reaches(model: ModelConfig) -> None:
    live = Transformer(model)
    assert model.context < len(TEXT)
    assert read(live, TEXT) == read(live, TEXT[: model.context])
    assert np.shape(read(live, TEXT))[1] == model.context


@pytest.mark.parametrize("bias_rate", [0.0, 0.01])
def test_looking_changes_no_training(model: ModelConfig, run: RunConfig, corpus: Corpus, bias_rate: float) -> None:
    model = model.replace(bias_rate=bias_rate)
    alone, watched = Training(model, run), Training(model, run)
    looks = []
    for _ in range(20):
        alone.step()
        looks.append(read(watched.model, TEXT))
        watched.step()
    favourites(watched.model, corpus.val)
    assert watched.losses == alone.losses
    for (name, weight), other in zip(
        alone.model.state_dict().items(), watched.model.state_dict().values(), strict=True
    ):
        assert torch.equal(weight, other), name
    assert looks[0] != looks[-1], "routing changes while it learns"
    alone.step()
    watched.step()
    assert watched.losses[-1] == alone.losses[-1]


def test_without_routers_that_let_tokens_choose_there_is_nothing(model: ModelConfig, corpus: Corpus) -> None:
    for other in (
        model.with_sparsity(0),
        *(model.replace(router=kind) for kind in ("expert_choice", "hash", "random")),
    ):
        live = Transformer(other)
        assert read(live, TEXT) == []
        assert favourites(live, corpus.val) == []


def test_favourites_are_the_kinds_beyond_an_even_share(model: ModelConfig, corpus: Corpus) -> None:
    """Counted one byte at a time."""
    torch.manual_seed(1)
    live = Transformer(model)
    text = np.frombuffer((TEXT * 200)[: model.context * 20 + 7], np.uint8)
    windows = len(text) // model.context
    labels = [KINDS[kind] for kind in kinds(text[: windows * model.context].tobytes())]
    found = favourites(live, text)
    by_hand = [
        [expert[0] for i in range(windows) for expert in read(live, text.tobytes()[i * model.context :])[layer]]
        for layer in range(model.n_layers)
    ]
    assert np.shape(found) == (model.n_layers, model.n_experts)
    for layer, experts in enumerate(by_hand):
        even, load = Counter(labels), Counter(experts)
        met = Counter(zip(experts, labels, strict=True))
        for expert, kind in enumerate(found[layer]):
            surplus = {name: met[expert, name] - load[expert] * even[name] / len(labels) for name in KINDS}
            if load[expert]:
                assert surplus[kind] == pytest.approx(max(surplus.values()))
            else:
                assert kind == ""
    assert favourites(live, text[: model.context - 1]) == []
    long = np.concatenate([np.tile(text, 20)[: WINDOWS * model.context], np.zeros(5_000, np.uint8)])
    assert favourites(live, long) == favourites(live, long[: WINDOWS * model.context])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, len(KINDS) - 1)), min_size=1, max_size=60))
def test_an_expert_that_reads_one_kind_alone_is_named_after_it(pairs: list[tuple[int, int]]) -> None:
    experts, labels = np.array(pairs).T
    found = _favourites(experts, labels, 4)
    for expert, name in enumerate(found):
        mine = labels[experts == expert]
        assert (name == "") == (len(mine) == 0)
        if len(mine) and len(set(mine)) == 1 and (labels != mine[0]).any():
            assert name == KINDS[mine[0]]
