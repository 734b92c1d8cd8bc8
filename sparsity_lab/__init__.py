"""Sparsity Lab: small mixture-of-experts language models to learn sparsity with."""

import sys

__version__ = "0.1.0"

# Plotly asks for nbformat, that for jsonschema, and that for a grammar of web addresses, which takes a second to read.
# A kernel checks no addresses, and jsonschema goes on without.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
