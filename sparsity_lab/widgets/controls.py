"""Where a learner sets what to train: sliders and switches, which stand for `Settings`. They train nothing."""

import importlib.util
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import ipywidgets as ipw

from sparsity_lab.config import BACKENDS, ModelConfig
from sparsity_lab.runs.lanes import why_no_megablocks
from sparsity_lab.runs.pool import pool
from sparsity_lab.widgets.settings import Settings

BUDGETS = [m * 10.0**e for e in (10, 11, 12) for m in (1, 2, 3, 5)] + [1e13]
WIDTHS = [8, 12, 16, 24, 32, 48, 64, 96, 128]
DEPTHS = [1, 2, 3, 4]
LABEL = {"description_width": "110px"}


class Dials(ipw.VBox):
    """The sliders and switches. Budgets, widths and depths in ``start`` that are no stop of a slider become one.

    ``moved`` is called when they have been moved, ``refused`` with what a learner asked for and can't have.
    """

    def __init__(self, start: Settings, moved: Callable[[], None], refused: Callable[[ValueError], None]):
        self._moved, self._refused, self._setting = moved, refused, False
        self.sparsity = _slider("sparsity S", [("0", 0.0)])
        self.budget = _slider("budget", [(f"{budget:.3g} FLOPs", budget) for budget in BUDGETS])
        self.width = _slider("width", [(str(width), width) for width in WIDTHS])
        self.n_layers = _slider("layers", [(str(depth), depth) for depth in DEPTHS])
        self.hold = ipw.ToggleButtons(
            options=[("active part", "active"), ("total", "total")],
            tooltips=[
                "experts keep their width; with more of them the total grows",
                "the same hidden units are cut into more experts; the active part shrinks",
            ],
            style={"button_width": "110px"},
        )
        self.seed = ipw.BoundedIntText(min=0, max=2**31 - 1, description="seed", style=LABEL, layout={"width": "220px"})
        text = "train the dense twin beside it"
        self.dense_twin = ipw.Checkbox(description=text, indent=False, layout={"width": "225px"})
        missing = importlib.util.find_spec("megablocks") is None  # quick, and may be wrong
        self.backend = ipw.Dropdown(
            options=[(f"{b} (not installed)" if b == "megablocks" and missing else b, b) for b in BACKENDS],
            description="experts by",
            tooltip="how the experts are computed; the results are the same",
            style=LABEL,
            layout={"width": "320px"},
        )
        self._show(start)

        # The classes are for style sheets and tests.
        for dial in (self.sparsity, self.budget, self.width, self.n_layers):
            dial.add_class(f"sparsity-lab-{dial.description.split()[0]}")
        self.backend.add_class("sparsity-lab-backend")

        for dial in (self.sparsity, self.budget, self.n_layers, self.seed, self.dense_twin):
            dial.observe(self._dial_moved, "value")
        for dial in (self.width, self.hold):  # they decide which stops the sparsity dial has
            dial.observe(self._stops_moved, "value")
        self.backend.observe(self._backend_moved, "value")

        hold = ipw.Label("hold constant", layout={"width": "112px", "display": "flex", "justify_content": "flex-end"})
        rows = [ipw.HBox([hold, self.hold]), ipw.HBox([self.seed, self.dense_twin]), self.backend]
        super().__init__([self.sparsity, self.budget, self.width, self.n_layers, *rows])

    @property
    def settings(self) -> Settings:
        """The settings that the dials show now."""
        names = [field.name for field in fields(Settings) if field.name != "corpus"]  # those of the dials
        return Settings(corpus=self._corpus, **{name: getattr(self, name).value for name in names})

    def set(self, settings: Settings) -> None:
        """Moves all dials, and then calls ``moved`` once."""
        self._setting = True
        try:
            self._show(settings)
        finally:
            self._setting = False
        self._moved()

    def _show(self, settings: Settings) -> None:
        self._corpus = settings.corpus
        stops = {
            self.budget: (f"{settings.budget:.3g} FLOPs", settings.budget),
            self.width: (str(settings.width), settings.width),
            self.n_layers: (str(settings.n_layers), settings.n_layers),
        }
        for slider, stop in stops.items():
            if stop not in slider.options:
                slider.options = sorted([*slider.options, stop], key=lambda option: option[1])
            slider.value = stop[1]

        self.hold.value = settings.hold
        self._snap(settings.sparsity)
        self.seed.value = settings.seed
        self.dense_twin.value = settings.dense_twin
        self.backend.value = settings.backend

    def _snap(self, sparsity: float) -> None:
        """Gives the sparsity dial its stops for this width and hold; moves it to the one nearest to ``sparsity``."""
        dense = ModelConfig.on_dial(self.width.value, 0.0, self.hold.value)
        stops = sorted({*dense.sparsities(self.hold.value), dense.with_sparsity(sparsity, self.hold.value).sparsity})
        models = [dense.with_sparsity(s, self.hold.value) for s in stops]
        self.sparsity.options = [(f"{m.sparsity:.4g} ({m.top_k} of {m.n_experts})", m.sparsity) for m in models]
        self.sparsity.value = min(stops, key=lambda s: abs(s - sparsity))

    def _stops_moved(self, _change: Any) -> None:
        self._snap(self.sparsity.value)
        self._dial_moved()

    def _backend_moved(self, _change: Any) -> None:
        asks = self.backend.value == "megablocks"
        missing = pool().submit(why_no_megablocks, at_once=True).result() if asks else None
        if missing:
            self.backend.value = "grouped"
            self._refused(ValueError(missing))
        else:
            self._dial_moved()

    def _dial_moved(self, _change: Any = None) -> None:
        if not self._setting:
            self._moved()


def _slider(name: str, stops: list[tuple[str, Any]]) -> ipw.SelectionSlider:
    return ipw.SelectionSlider(options=stops, description=name, style=LABEL, layout={"width": "420px"})
