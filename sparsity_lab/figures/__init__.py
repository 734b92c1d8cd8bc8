"""DataFrame in, figure out: every plot of the suite. A figure is its data and its titles; its look is in `style`.

`style` holds the template, the colours, roles and looks, and the pieces that several figures share: lines with
intervals, axes, heat maps. `training` draws a run's loss, `race` that of two models side by side, `here` where the
dial stands on the map of measured gains, `runs_so_far` and `seeds` runs as dots; every other file draws the data of
the file of its name. No state, no widgets, no training. Notebooks write ``from sparsity_lab import figures`` and
``figures.costs.caches(…)``.
"""

import sys

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Plotly imports nbformat, and that jsonschema, which reads a grammar of internationalised web addresses for a second if
# it finds one. So plotly is imported here while that grammar is out of sight; later it can be imported as always.
GRAMMAR = "rfc3987_syntax"
if GRAMMAR not in sys.modules:
    sys.modules[GRAMMAR] = None  # type: ignore[assignment]
    try:
        from plotly.io import renderers  # noqa: F401
    finally:
        del sys.modules[GRAMMAR]
