"""Small mixture-of-experts language models in torch."""

from sparsity_lab.models.generation import generate
from sparsity_lab.models.transformer import Transformer

__all__ = ["Transformer", "generate"]
