"""Where the dials stand: two configs, and code that does the same."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsity_lab.config import ModelConfig, RunConfig, resolve
from sparsity_lab.widgets.settings import Settings

SETTINGS = st.builds(
    Settings,
    sparsity=st.sampled_from(ModelConfig().sparsities()) | st.floats(0, 4095 / 4096),
    budget=st.sampled_from([1e10, 3e11, 1e13]) | st.floats(1e10, 1e13),
    width=st.integers(2, 64).map(lambda n: 4 * n),
    n_layers=st.integers(1, 5),
    hold=st.sampled_from(["active", "total"]),
    seed=st.integers(0, 2**31 - 1),
    corpus=st.sampled_from(["python", '/a folder/it\'s "here"', "C:\\texts\\new", "Größe"]),
    dense_twin=st.booleans(),
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity": 1}, "sparsity=1.0 must be at least 0 and below 1"),
        ({"sparsity": True}, "sparsity=True"),
        ({"sparsity": None}, "sparsity=None"),
        ({"budget": "1e11"}, "budget='1e11' must be a finite number"),
        ({"budget": -1}, "budget=-1 is out of range"),
        ({"width": 7}, "width=7 must be a positive multiple of 4"),
        ({"width": 16.5}, "width=16.5 must be a whole number"),
        ({"n_layers": 0}, "n_layers=0 is out of range"),
        ({"hold": ["total"]}, "hold=.* is not known"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"corpus": 5}, "corpus=5 must be text"),
        ({"corpus": ""}, "corpus='' must be a name or a path"),
        ({"dense_twin": 1}, "dense_twin=1 must be True or False"),
    ],
)
def test_mistakes(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        _ = Settings(**values).pairs


@given(settings=SETTINGS)
def test_what_train_trains(settings: Settings) -> None:
    pairs = settings.pairs
    assert pairs[0] == (settings.model, settings.run)
    shape = ModelConfig.on_dial(settings.width, settings.sparsity, settings.hold)
    assert settings.model == shape.replace(n_layers=settings.n_layers)
    assert settings.run == RunConfig(budget=settings.budget, seed=settings.seed, corpus=settings.corpus)
    if settings.dense_twin and settings.model.sparsity > 0:
        assert pairs[1:] == [(settings.twin, settings.run)]
        assert settings.twin.sparsity == 0
    else:
        assert len(pairs) == 1


@given(settings=SETTINGS)
def test_a_run_has_the_settings_that_train_it(settings: Settings) -> None:
    for model, run in settings.pairs:
        found = Settings.of(model, resolve(model, run))
        assert found is not None
        assert (found.model, found.run) == (model, run)


def test_a_run_of_no_dials_has_no_settings() -> None:
    model, run = Settings().pairs[0]
    run = resolve(model, run)
    assert Settings.of(model, run) == Settings()
    assert Settings.of(model.replace(top_k=2), run) is None
    assert Settings.of(model, run.replace(learning_rate=1.0)) is None


@given(settings=SETTINGS)
@example(settings=Settings(budget=1.23456789e11))
@example(settings=Settings(sparsity=2999 / 3000))
@example(settings=Settings(sparsity=4095 / 4096))
def test_code_trains_just_the_same(settings: Settings) -> None:
    """However the dials stand, the shown code trains the configs that Train trains."""
    trained: list[tuple[ModelConfig, RunConfig]] = []

    class Done:
        def summary(self) -> str:
            return ""

    def train(model: ModelConfig, run: RunConfig) -> list[Done]:
        trained.append((model, run))
        return [Done()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsity_lab.training.train", train)
        exec(settings.code(), {"print": lambda text: None})
    assert trained == settings.pairs


def test_code_is_as_short_as_it_can_be() -> None:
    code = Settings(dense_twin=False).code()
    assert "model = ModelConfig.on_dial(32, 0.9375)\n" in code
    assert "budget=1e11" in code
    assert "hold" not in code
    assert 'hold="total"' in Settings(hold="total").code()
