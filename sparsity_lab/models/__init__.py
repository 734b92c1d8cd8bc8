"""Which networks? A small decoder-only language model whose feed-forward part is a mixture of experts.

Read it from the bottom: `ops` (products, norms, losses; `routes` measures which library multiplies), `attention` and
`mla` (multi-head latent attention), `router` and `experts` (the mixture; `megablocks` has MegaBlocks compute it),
`transformer` (the whole). `cache` holds what attention remembers, `generation` writes text. Each fast path stands
beside its plain twin. Notebooks import `Transformer`, `generate`, and the parts that they open up.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
