"""You are here: the measured gains of sparsity by budget, as a small map that a page draws without a script."""

import html

import numpy as np
import pandas as pd

from sparsity_lab.figures.style import BLUE, GREY, ORANGE, halvings
from sparsity_lab.units import power

LEFT, TOP, CELL, ROW = 48, 18, 44, 17  # pixels
STRONG = 0.18  # nats per byte that are drawn in full colour


def gains_map(gains: pd.DataFrame, sparsity: float, budget: float) -> str:
    """Returns an SVG: budgets upwards, sparsities to the right, and in each cell by how many nats per byte the best
    model of that sparsity ended below the best dense one. A frame marks ``sparsity`` and ``budget``, at the edge if
    they lie beyond it. ``gains``: budgets (rows) × sparsities (columns); an empty table gives "".
    """
    if gains.empty:
        return ""
    gains = gains.drop(columns=0.0)
    budgets, sparsities = gains.index.to_numpy(float), gains.columns.to_numpy(float)
    width, height = max(300, LEFT + CELL * len(sparsities) + 4), TOP + ROW * len(budgets) + 16
    cells = [
        _cell(column, len(budgets) - 1 - row, value)
        for row, line in enumerate(gains.to_numpy())
        for column, value in enumerate(line)
    ]
    rows = [_text(LEFT - 4, _y(len(budgets) - 1 - row) + 12, power(level), "end") for row, level in enumerate(budgets)]
    columns = [_text(_x(i) + CELL / 2, height - 4, f"{s:.3g}".lstrip("0")) for i, s in enumerate(sparsities)]

    across = np.interp(halvings(sparsity), [0.0, *halvings(sparsities)], np.arange(-1, len(sparsities)))
    up = np.interp(np.log(budget), np.log(budgets), np.arange(len(budgets)))
    x = max(LEFT + CELL / 4, _x(float(across)) + CELL / 2)
    y = _y(len(budgets) - 1 - float(up)) + ROW / 2
    box = f'x="{x - CELL / 2:.0f}" y="{y - ROW / 2:.0f}" width="{CELL}" height="{ROW}" rx="4"'
    ring = f'<rect {box} fill="none" stroke="currentColor" stroke-width="2.5"/>'
    title = "measured gain over dense (nats); ▭ you are here"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" style="max-width:100%;color:inherit" '
        f'aria-label="{html.escape(_words(gains, sparsity, budget))}">{_text(0, 11, title, "start")}'
        f"{''.join([*cells, *rows, *columns])}{ring}</svg>"
    )


def _words(gains: pd.DataFrame, sparsity: float, budget: float) -> str:
    level = min(gains.index, key=lambda b: abs(np.log(b / budget)))
    column = min(gains.columns, key=lambda s: abs(halvings(s) - halvings(sparsity)))
    value = gains.loc[level, column]
    known = "was not measured" if np.isnan(value) else f"ends {value:+.3f} nats per byte below the best dense one"
    return f"Map of measured gains. Nearest to the dial: S = {column:.4g} at {power(level)} FLOPs, which {known}."


def _x(column: float) -> float:
    return LEFT + CELL * column


def _y(row: float) -> float:
    return TOP + ROW * row


def _cell(column: int, row: int, value: float) -> str:
    known = not np.isnan(value)
    colour = GREY if not known else BLUE if value > 0 else ORANGE
    opacity = 0.1 if not known else 0.08 + 0.5 * min(1.0, abs(value) / STRONG)
    box = f'<rect x="{_x(column) + 1}" y="{_y(row) + 1}" width="{CELL - 2}" height="{ROW - 2}" rx="2" fill="{colour}" '
    box += f'fill-opacity="{opacity:.2f}"/>'
    return box + (
        _text(_x(column) + CELL / 2, _y(row) + 12, f"{value:.2f}".replace("0.", ".").replace("-", "−")) if known else ""
    )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    look = f'text-anchor="{anchor}" font-size="10.5" fill="currentColor"'
    return f'<text x="{x:g}" y="{y:g}" {look}>{html.escape(text)}</text>'
