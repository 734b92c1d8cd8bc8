"""How many weights a model has, and how many of them work on one token."""

from dataclasses import dataclass

from sparsity_lab.config import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights by part of the model; both tables of embeddings are counted, in ``total`` and ``active``."""

    embedding: int  # input table; a token reads one row, the convention here counts the table
    attention: int
    norms: int
    router: int
    shared: int
    routed: int  # all routed experts
    routed_active: int  # the top_k of them that work on a token
    head: int  # output table

    @property
    def total(self) -> int:
        return self._every_token + self.routed

    @property
    def active(self) -> int:
        return self._every_token + self.routed_active

    @property
    def sleeping(self) -> int:
        return self.routed - self.routed_active

    @property
    def sparsity(self) -> float:
        """Sparsity by parameters: the share of all weights that sleep on a token. Not S, which counts experts only."""
        return self.sleeping / self.total

    @property
    def _every_token(self) -> int:
        return self.embedding + self.attention + self.norms + self.router + self.shared + self.head


def count_parameters(config: ModelConfig) -> Parameters:
    """Equal, to the last one, to the weights of the module built from ``config`` (tests hold it to that)."""
    d, layers = config.d_model, config.n_layers
    expert = 3 * d * config.d_expert  # gate, up, down
    return Parameters(
        embedding=config.vocab_size * d,
        attention=layers * 4 * d * d,
        norms=layers * (2 * d + 2 * config.head_dim) + d,  # before attention and experts, on queries and keys; last
        router=layers * d * config.n_experts if config.has_router else 0,
        shared=layers * config.n_shared_experts * expert,
        routed=layers * config.n_experts * expert,
        routed_active=layers * config.top_k * expert,
        head=config.vocab_size * d,
    )
