"""What moves in a notebook? The dashboard, sliders in front of a formula, a guess, and the panel of a sweep.

`dashboard` is the magic dial: `controls` and their `settings`, the `facts` that follow from them, `buttons`, the
kernel's one training `session`, the runs that are `shown`, an `expert_grid`, a `live_figure` of the `race_now`, a
`runs_table`, the `place` on the page, and the `link` to share. `explorer` puts sliders in front of any function that
draws, and `stops` has what it shows, for pages without Python. `predict` asks for a guess before a result is shown, and
`sweep_panel` starts and stops a sweep. `html` and `accessibility` hold what the browser needs. Notebooks import
`MagicDial`, `Explorer` with its controls, `Predict`, and `SweepPanel`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
