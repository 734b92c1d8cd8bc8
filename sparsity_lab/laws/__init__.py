"""What loss to expect? Scaling laws: loss as a function of parameters, tokens and sparsity.

`published` holds the laws of the papers, and `optimum` finds the best model that a budget buys by one of them.
`power_law` names the forms that can be fitted to runs, `huber` minimises the papers' robust loss, and `fitting` puts
both together, with intervals and predictions. `curves` fits loss against size at one budget, `isoflop` finds the best
sizes and judges published findings on runs, and `fair` compares sparse and dense models, each at its own best width and
depth. Nothing here imports
torch. Notebooks import the published laws, `optimal`, `curves`, `fair`, `fitting` and `isoflop`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
