"""Several runs and what they say together, with seeds and intervals. Unlike the dashboard, a cell waits for them."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from IPython.core.getipython import get_ipython

from sparsity_lab.config import ModelConfig, RunConfig
from sparsity_lab.intervals import contrast_interval, over_seeds
from sparsity_lab.record import run_id
from sparsity_lab.runs.crew import Crew
from sparsity_lab.runs.gpus import place
from sparsity_lab.runs.pool import Pool, pool
from sparsity_lab.runs.store import to_frame, user_store
from sparsity_lab.runs.worker import Score, fingerprints, kept, to_compile

if TYPE_CHECKING:
    import plotly.graph_objects as go

SECONDS_BETWEEN_LOOKS = 0.2  # at the runs, so that an interrupt is heard and the bar moves
HEIGHT = 360  # pixels that JupyterLab gives a figure that names no height


def run_all(
    pairs: Sequence[tuple[ModelConfig, RunConfig]],
    folder: Path | None = None,
    score: Score | None = None,
    draw: "Callable[[pd.DataFrame], go.Figure] | None" = None,
    per_gpu: int | None = None,
) -> pd.DataFrame:
    """Trains every (model, run) that the store in ``folder`` (default: the user's) lacks, on all cores, the longest
    first; returns one row per run.

    The columns are those of `to_frame`, and ``record``. A bar shows progress and the time left. An interrupt (the
    notebook's stop button) or a run that fails loses nothing: finished runs are kept, and those under way resume from
    their checkpoints the next time. ``score`` examines each trained model, in the process that trained it, for the
    record's ``scores``; records without them are trained anew. Of a budget, all runs are compiled or none; if those in
    the store differ in that, some are trained again.

    ``draw`` makes a figure of such a table of the runs that have ended (of none, at first). The cell shows it at once,
    and draws it again in its place when a run ends.

    With ``per_gpu``, that many workers share each GPU of this machine. Raises ValueError as `gpus.place` does.
    """
    from tqdm.auto import tqdm

    store, wanted = user_store(folder), {run_id(*pair): pair for pair in pairs}
    fingerprint = pool().submit(fingerprints, {run.corpus for _, run in pairs}).result()
    found = {name: kept(*pair, store, fingerprint[pair[1].corpus], score) for name, pair in wanted.items()}
    before = {name: record.compiled for name, record in found.items() if record is not None}
    compiled = pool().submit(to_compile, list(wanted.values()), before).result()
    records = {name: r for name, r in found.items() if r is not None and r.compiled == (name in compiled)}
    # Seed by seed, so that models of different shapes begin together: each shape is compiled once, and the next run of
    # the same shape would wait for it.
    lacking = [name for name in wanted if name not in records]
    lacking.sort(key=lambda name: (-wanted[name][1].budget, wanted[name][1].seed))
    shares = dict.fromkeys(wanted, 1.0) | dict.fromkeys(lacking, 0.0)

    def flops() -> float:
        return sum(run.budget * shares[name] for name, (_, run) in wanted.items())

    def rows() -> pd.DataFrame:
        ended = [records[run_id(*pair)] for pair in pairs if run_id(*pair) in records]
        return to_frame(ended).assign(record=pd.Series(ended, dtype=object))

    total, spot = sum(run.budget for _, run in wanted.values()), os.urandom(8).hex()
    on = place([wanted[name] for name in lacking], per_gpu)
    with (
        closing(Pool(gpus=[gpu.id for gpu in on])) if on else nullcontext(pool()) as workers,
        tqdm(total=total, initial=flops(), unit="FLOP", unit_scale=True, smoothing=0.05) as bar,
        Crew(workers, [wanted[name] for name in lacking], store, shares.__setitem__, score, compiled=compiled) as crew,
    ):
        if draw is not None:
            _show(draw(rows()), spot, again=False)
        while crew.working:
            news = crew.ended(SECONDS_BETWEEN_LOOKS)
            for pair, ended in news:
                if isinstance(ended, Exception):
                    raise ended
                assert ended is not None, "nobody else can stop it"
                records[run_id(*pair)], shares[run_id(*pair)] = ended, 1.0
            if news and draw is not None:
                _show(draw(rows()), spot, again=True)
            bar.set_description(f"{len(records)} of {len(wanted)} runs", refresh=False)
            bar.update(flops() - bar.n)

    return rows()


def _show(figure: "go.Figure", place: str, again: bool) -> None:
    """Shows a figure in the cell's output, or ``again`` in the place of an earlier one. Outside Jupyter: nothing."""
    shell = get_ipython()
    if shell is None:
        return
    where = {"transient": {"display_id": place}, "update": again}
    if again:
        # JupyterLab draws a new figure only in the place of another kind of output, here a gap of the same height.
        gap = f'<div style="height: {figure.layout.height or HEIGHT}px"></div>'
        shell.display_pub.publish({"text/html": gap}, **where)
    # As plotly's own data: shown as itself, a figure would take a new place each time.
    shell.display_pub.publish(figure._repr_mimebundle_(), **where)


def summarise(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns mean held-out losses over seeds, half their 95% intervals' width: columns ``by``, loss, half, seeds."""
    return over_seeds(runs.dropna(subset="val_loss"), by, "val_loss").rename(columns={"val_loss": "loss"})


def gains(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns how much lower sparse runs end than dense ones: columns ``by``, gain, half, and seeds, those of the side
    that has fewer.

    The gain is a difference of two means, and half the width of its 95 % interval comes from one variance for both
    kinds. Runs are not paired by seed: in the shipped runs, those of one seed have nothing in common that would make up
    for the degrees of freedom. ``by`` must separate runs that are not to be compared. Raises ValueError if some runs to
    be compared were compiled and others not: `run_all` trains them alike.
    """
    if "compiled" in runs and (runs.groupby(by or (lambda _: 0))["compiled"].nunique() > 1).any():
        raise ValueError("compiled: some of these runs were compiled and some were not; give them to run_all together")
    rows = []
    for key, own in runs.dropna(subset="val_loss").groupby(by):
        dense, sparse = (own.loc[kind, "val_loss"].tolist() for kind in (own["sparsity"] == 0, own["sparsity"] > 0))
        if dense and sparse:
            rows.append((*key, *contrast_interval([dense, sparse], [1, -1]), min(len(dense), len(sparse))))
    return pd.DataFrame(rows, columns=[*by, "gain", "half", "seeds"])
