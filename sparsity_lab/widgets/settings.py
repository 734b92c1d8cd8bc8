"""The settings of the dials: a few numbers that make two configs, a string to share, and Python that does the same."""

import json
from dataclasses import asdict, dataclass

from sparsity_lab.config import Hold, ModelConfig, RunConfig
from sparsity_lab.units import scientific


@dataclass(frozen=True)
class Settings:
    """What the dials show. As JSON it is the string that learners share."""

    sparsity: float = 0.9375
    budget: float = 1e11
    width: int = 32
    hold: Hold = "active"
    seed: int = 0
    corpus: str = "python"
    dense_twin: bool = True
    backend: str = "grouped"

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.on_dial(self.width, self.sparsity, self.hold)

    @property
    def twin(self) -> ModelConfig:
        return ModelConfig.on_dial(self.width, 0.0, self.hold)

    @property
    def run(self) -> RunConfig:
        return RunConfig(budget=self.budget, seed=self.seed, corpus=self.corpus, backend=self.backend)

    @property
    def pairs(self) -> list[tuple[ModelConfig, RunConfig]]:
        """The runs that Train trains: the model on the dial and, if wanted and different, its dense twin."""
        models = [self.model, self.twin] if self.dense_twin and self.model != self.twin else [self.model]
        return [(model, self.run) for model in models]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Reads a pasted string. Raises ValueError that says what is wrong with it."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"settings are not valid JSON ({error}); they look like {cls().to_json()}") from None
        if not isinstance(values, dict):
            raise ValueError(f"settings must be a JSON object like {cls().to_json()}")

        unknown = set(values) - set(asdict(cls()))
        if unknown:
            raise ValueError(f"settings have no {sorted(unknown)[0]!r}; they have {', '.join(asdict(cls()))}")
        settings = cls(**values)
        if not isinstance(settings.dense_twin, bool):
            raise ValueError(f"dense_twin={settings.dense_twin!r} must be true or false")
        _ = settings.pairs  # checks every value
        return settings

    def code(self) -> str:
        """Returns the Python that does what the dials do."""
        hold = "" if self.hold == "active" else ', hold="total"'
        backend = "" if self.backend == "grouped" else f", backend={self.backend!r}"
        names = ["model", "dense"][: len(self.pairs)]
        models = [f"ModelConfig.on_dial({self.width}, {model.sparsity or 0!r}{hold})" for model, _ in self.pairs]
        return f"""from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.training.trainer import train

{", ".join(names)} = {", ".join(models)}
run = RunConfig(budget={scientific(self.budget)}, seed={self.seed}, corpus={self.corpus!r}{backend})
for config in ({", ".join(names)},):
    *steps, record = train(config, run)
    print(record.summary())"""
