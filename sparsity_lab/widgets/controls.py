"""Where a learner sets what to train: sliders and switches, which stand for `Settings`. They train nothing."""

import html
import importlib.util
import os
import re
from collections.abc import Callable, Collection
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from sparsity_lab.config import BACKENDS, ModelConfig, RunConfig
from sparsity_lab.files import atomic, home
from sparsity_lab.runs.lanes import why_no_megablocks
from sparsity_lab.runs.pool import pool
from sparsity_lab.training.corpus import check_corpus
from sparsity_lab.training.timing import Speed
from sparsity_lab.units import power
from sparsity_lab.widgets.settings import BUDGETS, CORPORA, DEPTHS, WIDTHS, Settings

BEYOND = [m * 10.0**e for e in (13, 14, 15) for m in (2, 3, 5, 10)]  # further budgets, for a GPU
LONG = 900.0  # seconds of the longest run at a stop of the slider: what a laptop takes for 1e13 FLOPs, roughly
MOST_UPLOADS, LARGEST_UPLOAD = 5, 10_000_000  # of a visitor; files and bytes
LABEL = {"description_width": "58px"}
FIELD = re.compile(r"(\w+)=")  # how an error names what it is about
BESIDE = {"d_model": "width"}  # names in errors → names of controls


class Dials:
    """The sliders and switches: those in ``front``, and those in the fold ``more``. Budgets, widths and depths in
    ``start`` that are no stop of a slider become one.

    ``moved`` is called when they have been moved. What a learner asks for and can't have is said beside its control
    (`refuse`). A visitor (``$SPARSITY_LAB_VISITOR``) sits at somebody else's machine, and gets no more than the dials
    offer: no text by its path, only those in the list and a few uploads.
    """

    def __init__(self, start: Settings, moved: Callable[[], None]):
        self._moved, self._setting = moved, False
        self._visitor, self._uploads = bool(os.environ.get("SPARSITY_LAB_VISITOR")), 0
        self._texts = list(CORPORA)
        self.largest = BUDGETS[-1]  # budget that the slider offers
        self.sparsity = _slider("sparsity", [("0", 0.0)])
        self.budget = _slider("budget", [(f"{power(budget)} FLOPs", budget) for budget in BUDGETS])
        self.width = _slider("width", [(str(width), width) for width in WIDTHS])
        self.n_layers = _slider("layers", [(str(depth), depth) for depth in DEPTHS])
        self.hold = ipw.ToggleButtons(
            options=[("active part", "active"), ("total", "total")],
            tooltips=[
                "experts keep their width; with more of them the total grows",
                "the same hidden units are cut into more experts; the active part shrinks",
            ],
            style={"button_width": "96px"},
        )
        self.seed = ipw.BoundedIntText(min=0, max=2**31 - 1, description="seed", style=LABEL, layout={"width": "170px"})
        text = "train the dense twin beside it"
        self.dense_twin = ipw.Checkbox(description=text, indent=False, layout={"width": "240px"})
        missing = importlib.util.find_spec("megablocks") is None  # quick, and may be wrong
        self.backend = ipw.Dropdown(
            options=[(f"{b} (not installed)" if b == "megablocks" and missing else b, b) for b in BACKENDS],
            description="experts by",
            tooltip="how the experts are computed; the results are the same",
            style={"description_width": "72px"},
            layout={"width": "260px"},
        )
        tooltip = "what the models read" + ": a name, or the path of a text file or folder" * (not self._visitor)
        shown: dict[str, Any] = {
            "description": "text",
            "tooltip": tooltip,
            "style": LABEL,
            "layout": {"width": "230px"},
        }
        if self._visitor:  # a list's value is looked up here, whatever a page says
            self.corpus = ipw.Dropdown(options=CORPORA, **shown)
        else:
            self.corpus = ipw.Combobox(options=CORPORA, continuous_update=False, **shown)
        self.upload = ipw.FileUpload(
            description="Upload",
            tooltip="a text file of up to 10 MB" + "; for a larger one, type its path" * (not self._visitor),
            layout={"width": "auto"},
        )
        self._problems = {
            name: ipw.HTML() for name in ("sparsity", "budget", "width", "n_layers", "seed", "corpus", "")
        }
        self._show(start)
        self.backend.value = start.backend

        # The classes are for style sheets and tests.
        for dial in (self.sparsity, self.budget, self.width, self.n_layers):
            dial.add_class(f"sparsity-lab-{dial.description}")
            dial.add_class("sparsity-lab-slider")
        for name in ("backend", "corpus", "upload"):
            getattr(self, name).add_class(f"sparsity-lab-{name}")

        for dial in (self.sparsity, self.budget, self.seed, self.dense_twin):
            dial.observe(self._dial_moved, "value")
        for dial in (self.width, self.hold, self.n_layers):  # they decide which models the sparsity dial has
            dial.observe(self._stops_moved, "value")
        self.backend.observe(self._backend_moved, "value")
        self.corpus.observe(self._corpus_moved, "value")
        self.upload.observe(self._uploaded, "value")

        self._ticks = ipw.HTML()
        self._ticks.add_class("sparsity-lab-ticks")
        self._stops_shown()
        problem = self._problems
        sliders = [self.sparsity, self._ticks, problem["sparsity"], self.budget, problem["budget"]]
        sliders += [self.width, problem["width"], self.n_layers, problem["n_layers"], problem[""]]
        self.front = ipw.VBox(sliders)
        hold = ipw.HBox([ipw.Label("hold constant"), self.hold], layout={"flex_flow": "row wrap"})
        text = ipw.HBox([self.corpus, self.upload], layout={"flex_flow": "row wrap"})
        self._parts: dict[str, list[ipw.Widget]] = {
            field.name: [getattr(self, field.name)] for field in fields(Settings)
        }
        self._parts |= {"sparsity": [self.sparsity, self._ticks], "hold": [hold], "corpus": [text]}
        for name in self._parts:
            getattr(self, name).add_class("sl-control")
        self.more = [hold, self.seed, problem["seed"], self.dense_twin, text, problem["corpus"], self.backend]

    @property
    def settings(self) -> Settings:
        """The settings that the dials show now."""
        return Settings(**{field.name: getattr(self, field.name).value for field in fields(Settings)})

    @property
    def models(self) -> list[ModelConfig]:
        """The models at the stops of the sparsity dial."""
        dense = ModelConfig.on_dial(self.width.value, 0.0, self.hold.value).replace(n_layers=self.n_layers.value)
        return [dense.with_sparsity(sparsity, self.hold.value) for _, sparsity in self.sparsity.options]

    def set(self, settings: Settings) -> None:
        """Moves all dials, and then calls ``moved``."""
        with self._quiet():
            self._show(settings)
        self._moved()
        self.backend.value = settings.backend  # last, because what is not installed is refused

    def teach(self, hide: Collection[str], fix: Collection[str]) -> None:
        """Hides the controls of some fields of `Settings`, and shows others that can't be moved. All others are as
        usual."""
        for name, parts in self._parts.items():
            for part in parts:
                part.layout.display = "none" if name in hide else None
            control = getattr(self, name)
            control.disabled = name in fix
            (control.add_class if name in fix else control.remove_class)("sl-fixed")
        self.upload.disabled = "corpus" in fix

    def reach(self, speed: Speed) -> None:
        """Gives the budget slider as many more stops as a GPU of this speed pays for: those at which the widest model
        on the dial trains in `LONG` seconds. A processor gets none, nor does a GPU that is slower."""
        model, known = ModelConfig.on_dial(WIDTHS[-1], 0.9375), [value for _, value in self.budget.options]
        pays = [b for b in BEYOND if speed.device == "cuda" and speed.seconds(model, RunConfig(budget=b)) <= LONG]
        self.largest = max([BUDGETS[-1], *pays])
        if not set(pays) <= set(known):
            stops = [(f"{power(budget)} FLOPs", budget) for budget in sorted({*known, *pays})]
            with self._quiet(), self.budget.hold_sync():  # or the browser would see it at its first stop for a moment
                value, self.budget.options = self.budget.value, stops
                self.budget.value = value

    def refuse(self, error: Exception) -> None:
        """Says beside the control that an error is about, or under the sliders, what is wrong."""
        named = FIELD.match(str(error))
        name = BESIDE.get(named[1], named[1]) if named else ""
        text = f'<div role="alert" class="sparsity-lab-alert">{html.escape(str(error)[:400])}</div>'
        self._problems.get(name, self._problems[""]).value = text

    def accept(self) -> None:
        """Takes away what `refuse` has said."""
        for problem in self._problems.values():
            problem.value = ""

    @property
    def problem(self) -> str:
        """What `refuse` has said, with its markup."""
        return "".join(problem.value for problem in self._problems.values())

    def _show(self, settings: Settings) -> None:
        stops = {
            self.budget: (f"{power(settings.budget)} FLOPs", settings.budget),
            self.width: (str(settings.width), settings.width),
            self.n_layers: (str(settings.n_layers), settings.n_layers),
        }
        for slider, stop in stops.items():
            if stop[1] not in [value for _, value in slider.options]:
                slider.options = sorted([*slider.options, stop], key=lambda option: option[1])
            slider.value = stop[1]

        self.hold.value = settings.hold
        self._snap(settings.sparsity)
        self.seed.value = settings.seed
        self.dense_twin.value = settings.dense_twin
        self._add_text(settings.corpus)
        self.corpus.value = settings.corpus

    def _add_text(self, text: str) -> None:
        """Puts a text on the list, if it is not there yet."""
        if text not in self._texts:
            self._texts.append(text)
            self.corpus.options = [(Path(t).name, t) for t in self._texts] if self._visitor else self._texts

    def _snap(self, sparsity: float) -> None:
        """Gives the sparsity dial its stops for this width and hold; moves it to the one nearest to ``sparsity``."""
        dense = ModelConfig.on_dial(self.width.value, 0.0, self.hold.value)
        stops = sorted({*dense.sparsities(self.hold.value), dense.with_sparsity(sparsity, self.hold.value).sparsity})
        options = [(stop_name(dense.with_sparsity(s, self.hold.value)), s) for s in stops]
        with self.sparsity.hold_sync():  # or the browser would see the dial at its first stop for a moment
            if list(self.sparsity.options) != options:
                self.sparsity.options = options
            self.sparsity.value = min(stops, key=lambda s: abs(s - sparsity))

    def _stops_shown(self) -> None:
        experts = "".join(f"<span>{model.n_experts}</span>" for model in self.models)
        self._ticks.value = f'<div aria-hidden="true"><i>{experts}</i>experts, of which one works on each token</div>'

    def _stops_moved(self, _change: Any) -> None:
        if not self._setting:
            with self._quiet():
                self._snap(self.sparsity.value)
        self._stops_shown()
        self._dial_moved()

    def _backend_moved(self, _change: Any) -> None:
        asks = self.backend.value == "megablocks"
        missing = pool().submit(why_no_megablocks, at_once=True).result() if asks else None
        if missing:
            self.backend.value = "grouped"
            self.refuse(ValueError(missing))
        else:
            self._dial_moved()

    def _corpus_moved(self, change: Any) -> None:
        if self._setting:
            return
        try:
            check_corpus(self.corpus.value)
        except (ValueError, OSError) as error:
            with self._quiet():
                self.corpus.value = change.old
            self.refuse(error if str(error).startswith("corpus=") else ValueError(f"corpus={change.new!r}: {error}"))
        else:
            self._dial_moved()

    def _uploaded(self, _change: Any) -> None:
        """Keeps an uploaded text in the user's folder, because a run that resumes needs it again."""
        files, self.upload.value = self.upload.value, ()  # their bytes need not stay
        for file in files:
            path = home() / "texts" / (Path(file["name"].replace("\\", "/")).name or "text")
            try:
                if self._visitor:
                    self._check_upload(file)
                with atomic(path) as temporary:
                    temporary.write_bytes(memoryview(file["content"]))  # not bytes(): of a number, these are zeros
            except (OSError, ValueError, TypeError) as error:
                self.refuse(ValueError(f"corpus={file['name']!r} can't be kept: {error}"))
            else:
                with self._quiet():
                    self._add_text(str(path))
                self.corpus.value = str(path)

    def _check_upload(self, file: Any) -> None:
        if len(file["content"]) > LARGEST_UPLOAD:
            raise ValueError(f"it has {len(file['content']):,} bytes, and {LARGEST_UPLOAD:,} is the most")
        if self._uploads == MOST_UPLOADS:
            raise ValueError(f"you have uploaded {MOST_UPLOADS} files, which is the most")
        self._uploads += 1

    def _dial_moved(self, _change: Any = None) -> None:
        if not self._setting:
            self._moved()

    @contextmanager
    def _quiet(self) -> Any:
        before, self._setting = self._setting, True
        try:
            yield
        finally:
            self._setting = before


def stop_name(model: ModelConfig) -> str:
    """Returns what the sparsity dial says at the stop of this model."""
    if model.n_experts == model.top_k:
        return "S = 0: dense, nothing sleeps"
    return f"S = {model.sparsity:.4g}: {model.n_experts - model.top_k} of {model.n_experts} experts sleep"


def _slider(name: str, stops: list[tuple[str, Any]]) -> ipw.SelectionSlider:
    return ipw.SelectionSlider(options=stops, description=name, style=LABEL, layout={"width": "100%"})
