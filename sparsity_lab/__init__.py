"""Sparsity Lab: small mixture-of-experts language models to learn sparsity with."""

__version__ = "0.1.0"
