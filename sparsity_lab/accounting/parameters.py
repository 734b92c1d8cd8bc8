"""Counts the weights of a model, and those that are active on one token."""

from dataclasses import dataclass
from typing import Literal, get_args

from sparsity_lab.accounting.shape import Model, shape_of
from sparsity_lab.config import ModelConfig, one_of

Embeddings = Literal["both", "output", "none"]  # which tables of embeddings a count includes
EMBEDDINGS: tuple[Embeddings, ...] = get_args(Embeddings)


@dataclass(frozen=True)
class Parameters:
    """The numbers of weights by part of the model. Biases count with the matrix they follow.

    Laboratories differ in which tables of embeddings their "active parameters" include, so every sum can be taken by
    each convention: ``both`` tables, the ``output`` table alone (a token is multiplied by all of it, but only looks up
    one row of the input table), or ``none``.
    """

    embedding: int  # input table, and a table of positions where there is one; a tied table counts as the head
    attention: int
    norms: int
    router: int
    dense: int  # feed-forward parts of the layers without experts
    shared: int
    routed: int  # all routed experts
    routed_active: int  # the top_k of them that are active on a token
    head: int  # output table
    mtp: int = 0  # modules of multi-token prediction: trained, but not part of the model, and in no sum below

    @property
    def total(self) -> int:
        return self._every_token("both") + self.routed

    @property
    def active(self) -> int:
        return self.active_with("both")

    def active_with(self, embeddings: Embeddings) -> int:
        """Returns the number of weights that are active on a token, with the tables of a convention. Raises ValueError
        for an unknown one."""
        return self._every_token(embeddings) + self.routed_active

    @property
    def inactive(self) -> int:
        return self.routed - self.routed_active

    @property
    def sparsity(self) -> float:
        """Sparsity by parameters: the share of all weights that are inactive on a token. S counts experts only."""
        return self.inactive / self.total

    def _every_token(self, embeddings: Embeddings) -> int:
        one_of("embeddings", embeddings, EMBEDDINGS)
        tables = {"both": self.embedding + self.head, "output": self.head, "none": 0}[embeddings]
        return tables + self.attention + self.norms + self.router + self.dense + self.shared


def count_parameters(model: Model) -> Parameters:
    """Counts the weights of a model. Tests compare the count with the module built from the config and with Hugging
    Face's own models: it is the same to the last weight. Biases that only balance the load, and that no gradient
    trains, are not counted."""
    shape = shape_of(model)
    attention = dense = shared = router = routed = active = 0
    norms = shape.norms
    for layer, times in (*shape.layers, *shape.encoder):
        norms += times * layer.norms
        for mixer in layer.mixers:
            attention += times * mixer.weights.total
            norms += times * mixer.norms
        for part in layer.feed_forwards:
            dense += times * part.dense.total
            shared += times * part.shared.total
            router += times * part.router.total
            routed += times * part.n_experts * part.expert.total
            active += times * part.top_k * part.expert.total
    return Parameters(
        embedding=shape.embedding,
        attention=attention + shape.positions,
        norms=norms,
        router=router,
        dense=dense,
        shared=shared,
        routed=routed,
        routed_active=active,
        head=shape.head.total,
        mtp=model.mtp_depth * _mtp(model) if isinstance(model, ModelConfig) and model.mtp_depth else 0,
    )


def _mtp(config: ModelConfig) -> int:
    """Counts one module: three norms, a matrix that joins two vectors, a layer (DeepSeek-V3, arXiv 2412.19437, 2.2)."""
    layer = count_parameters(config.mtp_layer)
    return layer.total - layer.embedding - layer.head - config.d_model + 3 * config.d_model + 2 * config.d_model**2


def attention_matrices(config: ModelConfig) -> dict[str, int]:
    """Returns the number of weights of each matrix of one attention block, which is also the number of multiply-adds
    that a token needs there.

    MLA (DeepSeek-V2, arXiv 2405.04434, section 2.1) has q_down and q_up, or q if queries are not compressed. kv_down
    makes the latent and the shared RoPE key; kv_up makes keys and values from the latent.
    """
    d, heads = config.d_model, config.n_heads
    if config.kv_lora_rank is None:
        kv = config.kv_heads * config.head_dim
        return {"q": d * heads * config.head_dim, "k": d * kv, "v": d * kv, "out": heads * config.head_dim * d}
    query = heads * (config.nope_dim + config.rope_dim)
    queries = {"q": d * query}
    if config.q_lora_rank is not None:
        queries = {"q_down": d * config.q_lora_rank, "q_up": config.q_lora_rank * query}
    return queries | {
        "kv_down": d * (config.kv_lora_rank + config.rope_dim),
        "kv_up": config.kv_lora_rank * heads * (config.nope_dim + config.value_dim),
        "out": heads * config.value_dim * d,
    }
