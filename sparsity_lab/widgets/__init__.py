"""What moves in a notebook? The dashboard, sliders in front of a formula, and the panel of a sweep.

`dashboard` is the magic dial: `controls` and their `settings`, the kernel's one training `session`, and a
`live_figure`. `explorer` puts sliders in front of any function that draws, `sweep_panel` starts and stops a sweep.
`html` and `accessibility` hold what the browser needs. Notebooks import `MagicDial`, `Explorer` with its controls, and
`SweepPanel`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
