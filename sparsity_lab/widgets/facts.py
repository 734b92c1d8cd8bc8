"""The numbers under the dials: what a model costs, what a law expects of it, and where sparse models have gained."""

from sparsity_lab.accounting import count_parameters, plan
from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.figures.here import gains_map
from sparsity_lab.runs import measured as shipped
from sparsity_lab.training.timing import Speed
from sparsity_lab.units import duration
from sparsity_lab.widgets.html import expected_label, html_table
from sparsity_lab.widgets.settings import Settings

HIDDEN = "Measured and expected losses are hidden until you have made your guess."
NOT_MEASURED = "The measured gains are of models that hold the active part, so they say nothing about this race."


def facts_table(settings: Settings, speed: Speed | None, asks: bool) -> str:
    """Returns the table of both models; without losses while a guess is awaited (``asks``)."""
    models = {"on the dial": settings.model, "dense twin": settings.twin}
    if settings.model == settings.twin:
        del models["dense twin"]
    facts = [_facts(model, settings.run, speed, asks) for model in models.values()]
    return html_table(["", *models], [[name, *(each[name] for each in facts)] for name in facts[0]])


def map_text(settings: Settings, asks: bool) -> str:
    """Returns the map of measured gains with the place of these settings on it, or why there is none."""
    if asks:
        return f'<div class="sl-note">{HIDDEN}</div>'
    if settings.corpus != shipped.CORPUS:
        return ""
    if settings.hold == "total":
        return f'<div class="sl-note">{NOT_MEASURED}</div>'
    return gains_map(shipped.gain_table(), settings.model.sparsity, settings.budget)


def _facts(model: ModelConfig, run: RunConfig, speed: Speed | None, asks: bool) -> dict[str, str]:
    params, bought = count_parameters(model), plan(model, run)
    facts = {
        "active experts": f"{model.top_k} of {model.n_experts}",
        "total parameters": f"{params.total:,}",
        "active parameters": f"{params.active:,}",
        "tokens read": f"{bought.tokens:,}",
        "time here": "measuring…" if speed is None else duration(speed.seconds(model, run)),
    }
    return facts if asks else facts | {"expected loss": expected_label(shipped.expected(model, run))}
