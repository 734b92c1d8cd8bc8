"""Scaling laws: loss as a function of weights, tokens and sparsity. Nothing here imports torch."""
