"""The experts of a model as cells: which of them work on the character that is being read, and which sleep."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from sparsity_lab.accounting import count_parameters
from sparsity_lab.config import ModelConfig
from sparsity_lab.runs import measured
from sparsity_lab.runs.lanes import Lane

RECORDED = "recorded routing"
UNTRAINED, LEARNING, LEARNT = "live routing: untrained", "live routing: learning", "live routing: trained"


class ExpertGrid(anywidget.AnyWidget):
    """Cells for the experts of each layer, a line of text that is read, and a bar of active and inactive parameters.

    Its browser side does the rest: it plays, and where ``stop`` is linked to a slider's index it follows without the
    kernel. ``recorded`` and ``live`` hold routing in the form of `reads`.
    """

    _esm = Path(__file__).with_name("grid.js")
    _css = Path(__file__).with_name("grid.css")
    # Of the sparsity dial: the number of experts, how many are active, and parameters.
    stops = traitlets.List(traitlets.Dict()).tag(sync=True)
    stop = traitlets.Int(0).tag(sync=True)
    layers = traitlets.Int(1).tag(sync=True)
    line = traitlets.List(traitlets.Unicode()).tag(sync=True)  # the characters of the text that is read
    recorded = traitlets.Dict().tag(sync=True)  # by number of experts
    live = traitlets.Dict().tag(sync=True)  # of the run in front
    note = traitlets.Unicode(RECORDED).tag(sync=True)  # under what was recorded
    started = traitlets.Int(0).tag(sync=True)  # counts trainings: each starts to play, where motion is welcome
    playing = traitlets.Bool(False).tag(sync=True)

    def show_dial(self, models: list[ModelConfig]) -> None:
        """Takes the models at the stops of the sparsity dial."""
        n_layers = models[0].n_layers
        with self.hold_sync():
            self.stops, self.layers = [_stop(model) for model in models], n_layers
            self.line = list(measured.routes()["line"])
            found = measured.routes()["layers"].get(str(n_layers), {})
            self.recorded = {n: reads(entry["trained"], entry["favourites"]) for n, entry in found.items()}

    def show_lane(self, lane: Lane | None) -> None:
        """Takes the routing of a run as it stands; None, or a run without routing, leaves what was recorded."""
        live = {}
        if lane is not None and lane.reads:
            note = LEARNT if lane.favourites else LEARNING if lane.last else UNTRAINED
            live = reads(lane.reads, lane.favourites, experts=lane.model.n_experts, note=note)
        self.live = live


def reads(experts_LTK: list[list[list[int]]], kinds_LE: list[list[str]], **more: Any) -> dict[str, Any]:
    """Returns routing as the grid plays it: for each layer and character the experts, and each expert's kind."""
    return {"reads": experts_LTK, "kinds": kinds_LE, **more}


def _stop(model: ModelConfig) -> dict[str, int]:
    params = count_parameters(model)
    sizes = {"total_parameters": params.total, "active_parameters": params.active}
    return {"experts": model.n_experts, "active": model.top_k} | sizes
