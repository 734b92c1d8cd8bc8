"""Small pieces of HTML and prose for the dashboard."""

import html
import math
from collections.abc import Sequence

from sparsity_lab.laws.fitting import PredictedLoss
from sparsity_lab.record import Record, run_label
from sparsity_lab.runs import measured
from sparsity_lab.runs.lanes import Lane
from sparsity_lab.units import flops
from sparsity_lab.widgets.link import Link


def measured_label(record: Record | None) -> str:
    """Returns the loss at which a measured run ended."""
    return "–" if record is None or record.val_loss is None else f"{record.val_loss:.3f}"


def expected_label(loss: PredictedLoss | None) -> str:
    """Returns the interval in which a law expects the loss of a run."""
    return "–" if loss is None else f"{loss.low:.2f}–{loss.high:.2f}"


def html_table(header: list[str], rows: list[list[str]]) -> str:
    def cells(kind: str, values: list[str]) -> str:
        first, *rest = (html.escape(value) for value in values)
        numbers = "".join(f'<{kind} style="text-align:right;padding:0 6px">{value}</{kind}>' for value in rest)
        return f'<{kind} style="text-align:left;padding:0 6px 0 0;font-weight:normal">{first}</{kind}>' + numbers

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<table class="sl-table"><tr>{cells("th", header)}</tr>{body}</table>'


def lesson_text(link: Link) -> str:
    """Returns the question of a lesson, and a line on what is wrong with its link. Both may be anybody's words."""
    question = f'<div role="note" class="sl-question">{html.escape(link.lesson)}</div>' if link.lesson else ""
    notes = f'<div role="status" class="sl-note">{html.escape(" ".join(link.notes))}</div>' if link.notes else ""
    return question + notes


def samples(lanes: Sequence[Lane]) -> str:
    """Shows what the models wrote before training and after, side by side. Empty without a text: only live runs
    write."""
    cells = []
    for lane in lanes:
        if lane.text_before:
            name = "Dense model" if lane.model.sparsity == 0 else f"Sparse model, S = {lane.model.sparsity:.4g}"
            after = lane.text_after or "… (once it is trained)"
            cells.append(
                f"<div><b>{name}</b><br>writes before training<pre>{html.escape(lane.text_before)}</pre>"
                f"and after<pre>{html.escape(after)}</pre></div>"
            )
    return f'<div class="sl-samples">{"".join(cells)}</div>' if cells else ""


def who_won(lanes: Sequence[Lane]) -> tuple[str, str]:
    """Returns who has won, and how far to trust it: a headline and a sentence. Two empty texts until there are two
    results."""
    records = [lane.record for lane in lanes if lane.record is not None]
    if len(lanes) > 1 and any(record.status == "stopped" for record in records):  # the other may not have begun
        share = min(lane.share for lane in lanes)
        return "No winner: the race was stopped.", f"It had used {share:.0%} of the budget. Press Train to race again."
    if len(records) < 2:
        return "", ""
    if any(record.val_loss is None for record in records):
        return "No winner: a run diverged.", "Its loss became infinite or undefined, which is no fault of sparsity."

    sparse, gap = _gap(records)
    budget, shipped = lanes[0].run.budget, lanes[0].run.corpus == measured.CORPUS
    usual = _usual_distance(budget) if shipped else None
    caveat = "One seed each: not yet a finding. Train other seeds (under More) before you believe it."
    if usual is not None:
        caveat = (
            f"One seed each, and two runs of the same model differ by {usual:.2f} on average: "
            f"{'not a finding' if abs(gap) < 2 * usual else 'a good sign, not yet a finding'}. Notebook 01 repeats it."
        )
    close = usual is not None and abs(gap) < usual
    return headline(sparse, gap, budget, close=close, shipped=shipped), caveat


def headline(sparse: float, gap: float, budget: float, *, close: bool, shipped: bool = True) -> str:
    """Returns who is ahead, in a sentence.

    ``sparse`` is the sparse model's loss, ``gap`` by how much the dense one's lies above it (nats per byte), and
    ``close`` whether chance may explain the gap. What dense models need is known only for the ``shipped`` runs' text.
    """
    ahead = "sparse" if gap > 0 else "dense"
    if close:
        return f"Too close to call: {ahead} is ahead by {abs(gap):.3f} nats per byte."
    needs = measured.dense_budget(sparse) if shipped and gap > 0 else None
    leverage = ""
    if needs is not None and needs > budget:
        leverage = f": the best dense models need {needs / budget:.1f} × the FLOPs for this loss"
    return f"{ahead.title()} wins by {abs(gap):.3f} nats per byte{leverage}."


def winner(lanes: Sequence[Lane]) -> str:
    """Returns "sparse", "dense" or "too close to call"; empty until there are two results of whole runs."""
    records = [lane.record for lane in lanes if lane.record is not None]
    if len(records) < 2 or any(record.status != "finished" or record.val_loss is None for record in records):
        return ""
    _, gap = _gap(records)
    usual = _usual_distance(lanes[0].run.budget) if lanes[0].run.corpus == measured.CORPUS else None
    return "too close to call" if usual is not None and abs(gap) < usual else "sparse" if gap > 0 else "dense"


def _gap(records: Sequence[Record]) -> tuple[float, float]:
    """Returns the sparser model's loss, and by how much the denser one's lies above it."""
    sparse, dense = (record.val_loss or 0.0 for record in sorted(records, key=lambda record: -record.sparsity))
    return sparse, dense - sparse


def _usual_distance(budget: float) -> float | None:
    """Returns how far the losses of two runs that differ in their seeds lie apart on average: that of two draws from a
    normal distribution."""
    scatter = measured.scatter(budget)
    return None if scatter is None else 2 * scatter / math.sqrt(math.pi)


def describe(lanes: Sequence[Lane]) -> str:
    """Returns how far the runs are, in words, for those who can't see the plot."""
    sentences = []
    for lane in lanes:
        name = run_label(lane.model, lane.run)
        if lane.record is not None and lane.record.val_loss is not None:
            sentences.append(f"{name}: held-out loss {lane.record.val_loss:.3f}.")
        elif lane.losses and lane.last is not None and math.isfinite(lane.losses[-1]):
            latest = lane.losses[-max(1, len(lane.losses) // 12) :]
            sentences.append(f"{name}: training loss {sum(latest) / len(latest):.3f} after {flops(lane.last.flops)}.")
    for load in lanes[0].routing if lanes else []:
        busiest, never = max(load) * len(load), load.count(0)
        sentences.append(f"Busiest expert: {busiest:.1f} times its even share; {never} never chosen.")
    return " ".join(sentences)
