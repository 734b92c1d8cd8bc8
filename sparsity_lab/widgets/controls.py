"""Where a learner sets what to train: sliders and switches, and where they stand as `Settings`. They train nothing."""

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
    """``moved`` is called when they stand elsewhere, ``refused`` with what a learner asked for and can't have.

    Budgets and widths in ``start`` that are no stop of a slider become one.
    """

    def __init__(self, start: Settings, moved: Callable[[], None], refused: Callable[[ValueError], None]):
        self._corpus, self._moved, self._refused, self._on_the_way = start.corpus, moved, refused, False
        self.sparsity = ipw.SelectionSlider(
            options=[("0", 0.0)],
            description="sparsity S",
            continuous_update=True,
            style=LABEL,
            layout={"width": "420px"},
        )
        self.budget = _stops("budget", BUDGETS, start.budget, lambda c: f"{c:.3g} FLOPs")
        self.width = _stops("width", WIDTHS, start.width, lambda w: f"{w}")
        self.hold = ipw.ToggleButtons(
            options=[("active part", "active"), ("total", "total")],
            value=start.hold,
            tooltips=[
                "experts keep their width; more of them make the total grow",
                "the same hidden units are cut into more experts; the active part shrinks",
            ],
            style={"button_width": "110px"},
        )
        self.seed = ipw.BoundedIntText(
            value=start.seed, min=0, max=2**31 - 1, description="seed", style=LABEL, layout={"width": "220px"}
        )
        self.dense_twin = ipw.Checkbox(
            value=start.dense_twin,
            description="train the dense twin beside it",
            indent=False,
            layout={"width": "225px"},
        )
        missing = importlib.util.find_spec("megablocks") is None  # not `why_not`, which takes a second and 60 MB
        self.backend = ipw.Dropdown(
            options=[(f"{b} (not here)" if b == "megablocks" and missing else b, b) for b in BACKENDS],
            value=start.backend,
            description="experts by",
            tooltip="how the experts are computed; all give the same numbers",
            style=LABEL,
            layout={"width": "320px"},
        )
        self.backend.add_class("sparsity-lab-backend")
        self._snap(start.sparsity)
        for dial in (self.sparsity, self.budget, self.width):
            dial.add_class(f"sparsity-lab-{dial.description.split()[0]}")
        for dial in (self.sparsity, self.budget, self.seed, self.dense_twin):
            dial.observe(self._dial_moved, "value")
        for dial in (self.width, self.hold):  # the stops of the sparsity dial hang on them
            dial.observe(self._stops_moved, "value")
        self.backend.observe(self._backend_moved, "value")
        hold = ipw.Label("hold constant", layout={"width": "112px", "display": "flex", "justify_content": "flex-end"})
        super().__init__(
            [
                self.sparsity,
                self.budget,
                self.width,
                ipw.HBox([hold, self.hold]),
                ipw.HBox([self.seed, self.dense_twin]),
                self.backend,
            ]
        )

    @property
    def settings(self) -> Settings:
        """Where the dials stand now."""
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
        """Moves all dials at once: nothing is shown for where they stand on the way."""
        self._corpus = settings.corpus
        self._on_the_way = True
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
            self._on_the_way = False
        self._moved()

    def _snap(self, sparsity: float) -> None:
        """The stops of the sparsity dial for this width and hold, and the one nearest to ``sparsity``."""
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
        if not self._on_the_way:
            self._moved()


def _stops(name: str, stops: list[Any], value: Any, label: Any) -> ipw.SelectionSlider:
    options = [(label(stop), stop) for stop in sorted({*stops, value})]
    return ipw.SelectionSlider(options=options, value=value, description=name, style=LABEL, layout={"width": "420px"})
