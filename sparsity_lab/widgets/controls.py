"""Where a learner sets what to train: sliders and switches, which stand for `Settings`. They train nothing."""

import importlib.util
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from sparsity_lab.config import BACKENDS, ModelConfig
from sparsity_lab.models.megablocks import why_not
from sparsity_lab.widgets.settings import Settings

BUDGETS = [m * 10.0**e for e in (10, 11, 12) for m in (1, 2, 3, 5)] + [1e13]
WIDTHS = [8, 12, 16, 24, 32, 48, 64, 96, 128]
LABEL = {"description_width": "110px"}


class Dials(ipw.VBox):
    """The sliders and switches. Budgets and widths in ``start`` that are no stop of a slider become one.

    ``moved`` is called when they have been moved, ``refused`` with what a learner asked for and can't have.
    """

    def __init__(self, start: Settings, moved: Callable[[], None], refused: Callable[[ValueError], None]):
        self._corpus, self._moved, self._refused, self._setting = start.corpus, moved, refused, False
        wide = {"style": LABEL, "layout": {"width": "420px"}}
        self.sparsity = ipw.SelectionSlider(options=[("0", 0.0)], description="sparsity S", **wide)
        self.budget = _stops("budget", BUDGETS, start.budget, lambda c: f"{c:.3g} FLOPs")
        self.width = _stops("width", WIDTHS, start.width, str)
        self.hold = ipw.ToggleButtons(
            options=[("active part", "active"), ("total", "total")],
            value=start.hold,
            tooltips=[
                "experts keep their width; with more of them the total grows",
                "the same hidden units are cut into more experts; the active part shrinks",
            ],
            style={"button_width": "110px"},
        )
        self.seed = ipw.BoundedIntText(
            value=start.seed, min=0, max=2**31 - 1, description="seed", style=LABEL, layout={"width": "220px"}
        )
        text = "train the dense twin beside it"
        self.dense_twin = ipw.Checkbox(start.dense_twin, description=text, indent=False, layout={"width": "225px"})
        missing = importlib.util.find_spec("megablocks") is None  # not `why_not`, which takes a second and 60 MB
        self.backend = ipw.Dropdown(
            options=[(f"{b} (not installed)" if b == "megablocks" and missing else b, b) for b in BACKENDS],
            value=start.backend,
            description="experts by",
            tooltip="how the experts are computed; the results are the same",
            style=LABEL,
            layout={"width": "320px"},
        )
        self._snap(start.sparsity)

        # The classes are for style sheets and tests.
        for dial in (self.sparsity, self.budget, self.width):
            dial.add_class(f"sparsity-lab-{dial.description.split()[0]}")
        self.backend.add_class("sparsity-lab-backend")

        for dial in (self.sparsity, self.budget, self.seed, self.dense_twin):
            dial.observe(self._dial_moved, "value")
        for dial in (self.width, self.hold):  # they decide which stops the sparsity dial has
            dial.observe(self._stops_moved, "value")
        self.backend.observe(self._backend_moved, "value")

        hold = ipw.Label("hold constant", layout={"width": "112px", "display": "flex", "justify_content": "flex-end"})
        rows = [ipw.HBox([hold, self.hold]), ipw.HBox([self.seed, self.dense_twin]), self.backend]
        super().__init__([self.sparsity, self.budget, self.width, *rows])

    @property
    def settings(self) -> Settings:
        """The settings that the dials show now."""
        return Settings(
            sparsity=self.sparsity.value,
            budget=self.budget.value,
            width=self.width.value,
            hold=self.hold.value,
            seed=self.seed.value,
            corpus=self._corpus,
            dense_twin=self.dense_twin.value,
            backend=self.backend.value,
        )

    def set(self, settings: Settings) -> None:
        """Moves all dials, and then calls ``moved`` once."""
        self._corpus, self._setting = settings.corpus, True
        try:
            for slider, value, label in (
                (self.budget, settings.budget, f"{settings.budget:.3g} FLOPs"),
                (self.width, settings.width, f"{settings.width}"),
            ):
                if value not in [v for _, v in slider.options]:
                    slider.options = sorted([*slider.options, (label, value)], key=lambda option: option[1])
                slider.value = value

            self.hold.value = settings.hold
            self._snap(settings.sparsity)
            self.seed.value = settings.seed
            self.dense_twin.value = settings.dense_twin
            self.backend.value = settings.backend
        finally:
            self._setting = False
        self._moved()

    def _snap(self, sparsity: float) -> None:
        """Gives the sparsity dial its stops for this width and hold; moves it to the one nearest to ``sparsity``."""
        dense = ModelConfig.on_dial(self.width.value, 0.0, self.hold.value)
        stops = sorted({*dense.sparsities(self.hold.value), dense.with_sparsity(sparsity, self.hold.value).sparsity})
        models = [dense.with_sparsity(s, self.hold.value) for s in stops]
        self.sparsity.options = [
            (f"{s:.4g} ({model.top_k} of {model.n_experts})", s) for s, model in zip(stops, models, strict=True)
        ]
        self.sparsity.value = min(stops, key=lambda s: abs(s - sparsity))

    def _stops_moved(self, _change: Any) -> None:
        self._snap(self.sparsity.value)
        self._dial_moved()

    def _backend_moved(self, _change: Any) -> None:
        missing = why_not() if self.backend.value == "megablocks" else None
        if missing:
            self.backend.value = "grouped"
            self._refused(ValueError(missing))
        else:
            self._dial_moved()

    def _dial_moved(self, _change: Any = None) -> None:
        if not self._setting:
            self._moved()


def _stops(name: str, stops: list[Any], value: Any, label: Any) -> ipw.SelectionSlider:
    options = [(label(stop), stop) for stop in sorted({*stops, value})]
    return ipw.SelectionSlider(options=options, value=value, description=name, style=LABEL, layout={"width": "420px"})
