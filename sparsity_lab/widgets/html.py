"""Small pieces of HTML and prose for the dashboard."""

import html

from sparsity_lab.laws.fitting import PredictedLoss
from sparsity_lab.record import Record


def measured_label(record: Record | None) -> str:
    """Returns the loss at which a measured run ended."""
    return "–" if record is None or record.val_loss is None else f"{record.val_loss:.3f}"


def expected_label(loss: PredictedLoss | None) -> str:
    """Returns the loss that a law expects, with its interval."""
    return "–" if loss is None else f"{loss.value:.2f} ({loss.low:.2f} to {loss.high:.2f})"


def html_table(header: list[str], rows: list[list[str]]) -> str:
    def cells(kind: str, values: list[str]) -> str:
        return "".join(f'<{kind} style="text-align:right;padding:1px 10px">{html.escape(v)}</{kind}>' for v in values)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<table style="line-height:1.4"><tr>{cells("th", header)}</tr>{body}</table>'


def samples(before: str, after: str) -> str:
    """Shows what the model on the dial wrote before training and after. Empty without a text: only live runs write."""
    if not before:
        return ""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.25;height:9em;overflow-y:auto"
    cell = '<div style="flex:1;min-width:0"><b>The model writes {} training</b><pre style="{}">{}</pre></div>'
    texts = {"before": before, "after": after or "…"}
    cells = "".join(cell.format(when, style, html.escape(text)) for when, text in texts.items())
    return f'<div style="display:flex;gap:24px">{cells}</div>'
