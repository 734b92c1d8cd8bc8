"""The settings of the dials: a few numbers that make two configs, and Python that does the same."""

from dataclasses import dataclass
from typing import Self, get_args

from sparsity_lab.config import Config, Hold, ModelConfig, RunConfig, resolve
from sparsity_lab.units import scientific

# What the dials offer.
BUDGETS = [m * 10.0**e for e in (10, 11, 12) for m in (1, 2, 3, 5)] + [1e13]
WIDTHS = [8, 12, 16, 24, 32, 48, 64, 96, 128]
DEPTHS = [1, 2, 3, 4]
CORPORA = ["python", "standard-library", "tasks"]


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """What the dials show."""

    sparsity: float = 0.9375
    budget: float = 1e11
    width: int = 32
    n_layers: int = 2
    hold: Hold = "active"
    seed: int = 0
    corpus: str = "python"
    dense_twin: bool = True
    backend: str = "grouped"

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.on_dial(self.width, self.sparsity, self.hold).replace(n_layers=self.n_layers)

    @property
    def twin(self) -> ModelConfig:
        return ModelConfig.on_dial(self.width, 0.0, self.hold).replace(n_layers=self.n_layers)

    @property
    def run(self) -> RunConfig:
        return RunConfig(budget=self.budget, seed=self.seed, corpus=self.corpus, backend=self.backend)

    @property
    def pairs(self) -> list[tuple[ModelConfig, RunConfig]]:
        """The runs that Train trains: the model on the dial and, if wanted and different, its dense twin."""
        models = [self.model, self.twin] if self.dense_twin and self.model != self.twin else [self.model]
        return [(model, self.run) for model in models]

    @classmethod
    def of(cls, model: ModelConfig, run: RunConfig) -> Self | None:
        """Returns the settings that train this run; None if no dials do."""
        for hold in get_args(Hold):
            same = {name: getattr(run, name) for name in ("budget", "seed", "corpus", "backend")}
            same |= {"width": model.d_model, "n_layers": model.n_layers}
            settings = cls(sparsity=model.sparsity, hold=hold, **same)
            if settings.model == model and resolve(model, settings.run) == run:
                return settings  # one of 16 experts is the same model, whatever is held
        return None

    def code(self) -> str:
        """Returns the Python that does what the dials do."""
        hold = "" if self.hold == "active" else ', hold="total"'
        backend = "" if self.backend == "grouped" else f", backend={self.backend!r}"
        depth = "" if self.n_layers == ModelConfig().n_layers else f".replace(n_layers={self.n_layers})"
        names = ["model", "dense"][: len(self.pairs)]
        models = [f"ModelConfig.on_dial({self.width}, {model.sparsity or 0!r}{hold}){depth}" for model, _ in self.pairs]
        return f"""from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training import train

{", ".join(names)} = {", ".join(models)}
run = RunConfig(budget={scientific(self.budget)}, seed={self.seed}, corpus={self.corpus!r}{backend})
for config in ({", ".join(names)}{"," * (len(names) == 1)}):
    *steps, record = train(config, run)
    print(record.summary())"""
