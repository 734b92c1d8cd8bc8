"""Multi-token prediction: each module sees what it may, learns, and leaves the model itself alone."""

import pytest
import torch

from sparsity_lab.accounting import count_parameters, flops_per_step
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.models import Transformer, generate, transformer
from sparsity_lab.training.corpus import Corpus
from sparsity_lab.training.trainer import Training

SHAPE = ModelConfig(vocab_size=30, context=12, d_model=16, n_heads=2, d_expert=16, n_experts=4, mtp_depth=2)


def test_the_model_itself_is_the_same() -> None:
    """Same logits, same loss, same text; the modules only add to what is trained on."""
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    plain = Transformer(SHAPE.replace(mtp_depth=0))
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items() if not name.startswith("mtp.")})
    x = torch.randint(30, (2, 12))
    assert torch.equal(model(x), plain(x))
    (loss, more), (alone, less) = model.loss(x, x.roll(-1, 1)), plain.loss(x, x.roll(-1, 1))
    assert torch.equal(loss, alone)
    assert more > less
    model.eval()
    assert torch.equal(model.loss(x, x.roll(-1, 1))[1], less), "evaluation does without"
    assert torch.equal(generate(model, x, 20, temperature=0), generate(plain, x, 20, temperature=0))
    assert len(model.routers()) == len(plain.routers())


@pytest.mark.parametrize("backend", ["naive", "grouped"])
def test_no_module_sees_what_it_is_to_predict(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the k-th module at position i changes with the tokens up to i + k + 1, and with none after it."""
    torch.manual_seed(0)
    model = Transformer(SHAPE.replace(balance_loss=0, z_loss=0, mtp_weight=1.0, n_experts=1), backend)
    seen: list[torch.Tensor] = []

    def see(h_ND: torch.Tensor, w_VD: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
        seen.append(h_ND.view(1, -1, 16))
        return h_ND.sum()

    monkeypatch.setattr(transformer, "linear_cross_entropy", see)
    text = torch.randint(29, (1, 13))
    changed = text.clone()
    changed[0, 7] = 29
    for tokens in (text, changed):
        model.loss(tokens[:, :-1], tokens[:, 1:])
    for k in range(3):
        differs = (seen[k] - seen[3 + k]).abs().sum(-1)[0] > 0
        assert differs.tolist() == [i + k >= 7 for i in range(12 - k)], f"module {k} knows tokens up to {k} on"


def test_it_learns_and_is_counted(corpus: Corpus, run: RunConfig) -> None:
    model = ModelConfig(d_model=8, n_heads=1, d_expert=16, context=32, n_experts=4, mtp_depth=1)
    training = Training(model, run.replace(budget=2e8), corpus=corpus)
    x = torch.from_numpy(corpus.val[: 33 * 4].astype("int64")).view(4, 33)

    def further() -> float:
        training.model.train()
        with torch.no_grad():
            states, _ = training.model.states(x[:, :-1])
            return float(training.model._further(states, x[:, 1:]))

    before = further()
    last = None
    while not training.done:
        last = training.step()
    assert last is not None
    assert further() < 0.7 * before
    assert last.flops == last.step * flops_per_step(model, training.run_config.sequences)
    assert count_parameters(model).mtp > 0
    assert count_parameters(model).total == count_parameters(model.replace(mtp_depth=0)).total
