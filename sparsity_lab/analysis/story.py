"""Is the story true? Eleven claims that people make about sparsity, each judged by the runs that ship, or by counting.

A finding says what was found, with intervals. Claims that are tested at several budgets are judged together by Holm's
method: such a sentence holds if all of its tests do, and fails if one of them decidedly points the other way.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from sparsity_lab.accounting import attention_twins, cache_bytes, count_parameters, preset
from sparsity_lab.analysis.task_scores import worth_in_weights
from sparsity_lab.config import ModelConfig
from sparsity_lab.intervals import CONFIDENCE, Verdict, contrast_interval, holm, mean_interval
from sparsity_lab.intervals import verdict as by_interval
from sparsity_lab.laws import fair, isoflop
from sparsity_lab.laws.curves import Curve
from sparsity_lab.units import flops

DIAL = 0.9375  # the sparsity that was measured at every budget and depth
STEPS, FURTHER = (0.0, 0.75, DIAL), (0.984375, 0.99609375)
MARGIN = 0.03  # nats: what costs less "can be removed" (the plan of `benchmarks/removal.py`)
ALPHA = 1 - CONFIDENCE


class Sentence(NamedTuple):
    """A sentence of the story, and what the runs say of it."""

    number: int
    sentence: str
    verdict: Verdict
    evidence: str
    notebook: str  # where it is tested at length
    needed: str = ""  # the runs that would decide what is open


class Evidence(NamedTuple):
    """What the sentences are judged by."""

    runs: pd.DataFrame  # with one active expert, of all depths
    scores: pd.DataFrame  # as `score_table` gives them
    removal: pd.DataFrame  # data/removal.csv
    best: list[Curve]  # `fair.best_curves` of the runs
    shapes: pd.DataFrame  # `fair.best_shapes` of the runs
    claims: pd.DataFrame  # `isoflop.judge_claims` of the runs with two layers


def gather(runs: pd.DataFrame, scores: pd.DataFrame, removal: pd.DataFrame) -> Evidence:
    """Fits what the sentences are judged by. Errors as for `fair.best_shapes` and `fair.best_curves`."""
    runs = runs[runs["top_k"] == 1]
    claims = isoflop.judge_claims(runs[runs["n_layers"] == 2])
    return Evidence(runs, scores, removal, fair.best_curves(runs), fair.best_shapes(runs), claims)


def judge(evidence: Evidence) -> list[Sentence]:
    """Returns the findings, in the order of the story."""
    return [found(evidence) for found in FINDINGS]


SIGNS = {"holds": "✓ holds", "does not hold": "✗ does not hold", "undecided": "? undecided"}


def as_table(findings: Sequence[Sentence]) -> str:
    """Returns the findings as a table in Markdown, with links to the notebooks beside this one."""
    lines = ["| | The story says | Verdict | What was found | Tested in |", "|---|---|---|---|---|"]
    for f in findings:
        needed = (
            f" Runs that would decide it, if the true changes are as large as the measured ones: {f.needed}."
            if f.verdict == "undecided" and f.needed
            else ""
        )
        link = f"[{f.notebook[:2]}]({f.notebook}.ipynb)"
        lines.append(f"| {f.number} | {f.sentence} | **{SIGNS[f.verdict]}** | {f.evidence}{needed} | {link} |")
    return "\n".join(lines)


def steps(best: list[Curve], pairs: Sequence[tuple[float, float]] = tuple(itertools.pairwise(STEPS))) -> pd.DataFrame:
    """Returns `fair.curve_gains` for each pair of a sparsity and a higher one, with the columns than and sparsity, and
    p adjusted by Holm's method for the number of rows."""
    tables = [fair.curve_gains(best, more, less).assign(than=less, sparsity=more) for less, more in pairs]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(p=holm(table["p"]))


def further(best: list[Curve]) -> pd.DataFrame:
    """Returns the `steps` from `DIAL` to each of the sparsities beyond it."""
    return steps(best, [(DIAL, more) for more in FURTHER])


def effect(evidence: Evidence, sentence: int, budget: float) -> float:
    """Returns the number that a sentence rests on at one budget, in nats; NaN if no runs have that budget. Sentence 2:
    the fall of the loss from `STEPS`' second sparsity to `DIAL`; 4: from there to the last of `FURTHER`; 6: the gain of
    `DIAL` over dense models. Raises ValueError for the other sentences."""
    if sentence == 2:
        table = steps(evidence.best, [(STEPS[1], DIAL)])
    elif sentence == 4:
        table = steps(evidence.best, [(DIAL, FURTHER[-1])])
    elif sentence == 6:
        table = fair.fair_gains(evidence.shapes, DIAL)
    else:
        raise ValueError(f"sentence={sentence}: choose 2, 4 or 6")
    own = table.loc[table["budget"] == budget, "gain"]
    return float(own.iloc[0]) if len(own) else math.nan


def yardsticks(shapes: pd.DataFrame) -> pd.DataFrame:
    """Returns the gain of `DIAL` by three yardsticks, each in multiples of its value at the smallest budget: columns
    line (the yardstick), budget, value, low, high (95 %, of the value at that budget alone). ``shapes`` is from
    `fair.best_shapes`."""
    gains, times = fair.fair_gains(shapes, DIAL), fair.leverages(shapes, DIAL).dropna(subset="leverage")
    values = {
        "nats": (gains, gains["gain"], gains["gain"] - gains["half"], gains["gain"] + gains["half"]),
        "share of the loss": (
            gains, gains["share"], gains["share"] - gains["share_half"], gains["share"] + gains["share_half"],
        ),
        "leverage": (times, times["leverage"], times["low"], times["high"]),
    }  # fmt: skip
    tables = []
    for line, (table, value, low, high) in values.items():
        columns = {"line": line, "budget": table["budget"], "value": value, "low": low, "high": high}
        own = pd.DataFrame(columns)
        own[["value", "low", "high"]] /= value.iloc[0]
        tables.append(own)
    return pd.concat(tables, ignore_index=True)


def removals(table: pd.DataFrame) -> pd.DataFrame:
    """Judges what can be removed: one row for each part and share, with the columns part, share, rise (nats), half (of
    its 95 % interval), p (of the rise being `MARGIN`, adjusted by Holm's method) and verdict (can, cannot, undecided).
    ``table``: columns part, share, seed, loss; parts of one model are compared by seed, texts as two groups."""
    from scipy.special import stdtr, stdtrit

    whole = table[table["part"] == "nothing"].set_index("seed")["loss"]
    all_text = table.loc[(table["part"] == "text") & (table["share"] == 0), "loss"].tolist()
    rows = []
    for (part, share), own in table[table["share"] > 0].groupby(["part", "share"], sort=False):
        losses = own.set_index("seed")["loss"]
        if part == "text":
            rise, half = contrast_interval([losses.tolist(), all_text], [1, -1])
            free = len(losses) + len(all_text) - 2
        else:
            rise, half = mean_interval((losses - whole).tolist())
            free = len(losses) - 1
        error = half / float(stdtrit(free, (1 + CONFIDENCE) / 2))
        rows.append((part, share, rise, half, 2 * float(stdtr(free, -abs(rise - MARGIN) / error))))
    found = pd.DataFrame(rows, columns=["part", "share", "rise", "half", "p"])
    found["p"] = holm(found["p"])
    words = (found["rise"] < MARGIN).map({True: "can", False: "cannot"})
    return found.assign(verdict=words.where(found["p"] < ALPHA, "undecided"))


# ---- The sentences


def _never_all(evidence: Evidence) -> Sentence:
    sentence = "Sparsity approaches 100 % and never reaches it."
    most = ModelConfig.on_dial(32, FURTHER[-1])
    counted = count_parameters(most)
    text = (
        f"With one active expert of E, S = 1 − 1/E: {most.sparsity:.2%} with {most.n_experts}. Of all weights of such "
        f"a model {1 - counted.active / counted.total:.1%} are inactive; attention, router and output never are."
    )
    return Sentence(1, sentence, "holds" if most.sparsity < 1 else "does not hold", text, "02_counting_flops")


def _more_is_better(evidence: Evidence) -> Sentence:
    sentence = "At a fixed budget, more sparsity with more weights in total lowers the loss, up to 15 of 16 inactive."
    table = steps(evidence.best)
    grows = evidence.claims.loc[evidence.claims["claim"] == "1a", "verdict"]
    least = min(_rows(table), key=lambda row: row["gain"])
    text = (
        f"From dense to S = {STEPS[1]} and on to {DIAL} the loss falls at each of {table['budget'].nunique()} budgets, "
        f"by at least {least['gain']:.3f} nats {_range(least['low'], least['high'], '.3f')}. The best size "
        f"rises with S at {(grows == 'holds').sum()} of {len(grows)} budgets. What comes after {DIAL}: sentence 4."
    )
    verdict = _together(table["gain"], table["p"])
    return Sentence(2, sentence, verdict, text, "04_isoflop", _needed(table, evidence.runs))


def _fewer_active(evidence: Evidence) -> Sentence:
    sentence = "A sparse model recalls as many facts with fewer active weights."
    budgets = sorted(set(evidence.scores["budget"]))
    found = {budget: worth_in_weights(evidence.scores, "recall", budget) for budget in budgets}
    parts = [
        f"{value:.2f} {_range(low, high if high < 100 else math.inf)} at {flops(budget)}"
        for budget, (value, low, high) in found.items()
    ]
    text = f"For recall, four times as many experts are worth this many times the active weights: {', '.join(parts)}."
    verdict = by_interval(min(low for _, low, _ in found.values()) - 1, min(high for *_, high in found.values()) - 1)
    return Sentence(3, sentence, verdict, text, "09_what_the_sleeping_experts_know")


def _always_further(evidence: Evidence) -> Sentence:
    sentence = "However much is inactive already, at any budget it pays to make more inactive."
    table = further(evidence.best)
    parts = [
        f"to S = {row['sparsity']:.4g} at {flops(row['budget'])} {-row['gain']:+.3f} "
        f"{_range(-row['high'], -row['low'], '+.3f')}"
        for row in _rows(table[table["p"] < ALPHA])
    ]
    text = (
        f"Of {len(table)} steps beyond S = {DIAL} these clearly change the loss: {'; '.join(parts) or 'none'} (nats; "
        "above 0 the loss rises)."
    )
    verdict = _together(table["gain"], table["p"])
    return Sentence(4, sentence, verdict, text, "04_isoflop", _needed(table, evidence.runs))


def _same_for_less(evidence: Evidence) -> Sentence:
    sentence = "A sparse model reaches the same loss with less compute."
    table = fair.leverages(evidence.shapes, DIAL)
    parts = [
        f"{row['leverage']:.1f} {_range(row['low'], row['high'], '.1f')} at {flops(row['budget'])}"
        for row in _rows(table.dropna(subset="leverage"))
    ]
    text = f"To reach the loss of S = {DIAL}, dense models need this many times its FLOPs: {', '.join(parts)}."
    verdict = by_interval(float(table["low"].min()) - 1, float(table["high"].min()) - 1)
    return Sentence(5, sentence, verdict, text, "08_better_or_cheaper")


def _better_for_same(evidence: Evidence) -> Sentence:
    sentence = "With the same compute a sparse model reaches a lower loss."
    table, fitted = fair.fair_gains(evidence.shapes, DIAL), fair.curve_gains(evidence.best, DIAL)
    parts = [f"{row['gain']:.3f} ± {row['half']:.3f} at {flops(row['budget'])}" for row in _rows(table)]
    others = ", ".join(f"{gain:.3f}" for gain in fitted["gain"])
    edges = ", ".join(flops(budget) for budget in table.loc[table["edge"], "budget"])
    edge = f" At {edges} a best width is the last one tried, so the gain may be another." if edges else ""
    text = (
        f"At S = {DIAL}, with the best width and depth on each side, the loss is lower by {', '.join(parts)} (nats). "
        f"Fitted curves give {others}.{edge}"
    )
    return Sentence(6, sentence, _together(table["gain"], table["p"]), text, "04_isoflop")


def _larger_budgets(evidence: Evidence) -> Sentence:
    sentence = "A larger budget is better at every sparsity."
    (row,) = _rows(evidence.claims[evidence.claims["claim"] == "4"])
    text = (
        f"The smallest fall of the loss from one budget to the next is {row['estimate']:.3f} nats "
        f"{_range(row['low'], row['high'], '.3f')}."
    )
    return Sentence(7, sentence, by_interval(row["low"], row["high"]), text, "04_isoflop")


def _pays_more(evidence: Evidence) -> Sentence:
    sentence = "Sparsity pays more the more compute you have."
    table = fair.fair_gains(evidence.shapes, DIAL)
    nats, share = fair.growth(table), fair.growth(table, "share")
    times = fair.leverage_growth(evidence.shapes, DIAL)
    text = (
        f"With each tenfold budget the gain changes by {nats.value:+.3f} nats {_range(nats.low, nats.high, '+.3f')}, "
        f"and the verdict is about that (depth is free up to {flops(1e12)}; beyond, all models have two layers). Its "
        f"share of the loss changes by {share.value:+.1%} {_range(share.low, share.high, '+.1%')}, the leverage by a "
        f"factor of {times.value:.2f} {_range(times.low, times.high)}."
    )
    return Sentence(8, sentence, by_interval(nats.low, nats.high), text, "04_isoflop")


def _optimum(evidence: Evidence) -> Sentence:
    sentence = "There is an optimal sparsity."
    inner = evidence.claims[(evidence.claims["claim"] == "2a") & evidence.claims["p"].notna()]
    places = ", ".join(flops(budget) for budget in inner["budget"])
    text = (
        f"At a given budget and a given number of weights, a sparsity between 0 and {DIAL} is best wherever this was "
        f"measured ({places}): at either end of that range the loss rises outwards by at least "
        f"{inner['estimate'].min():.3f} nats for each factor of e in 1 − S. If the number of weights is free, see "
        "sentence 4."
    )
    return Sentence(9, sentence, _together(inner["estimate"], inner["p"]), text, "04_isoflop")


def _smaller_cache(evidence: Evidence) -> Sentence:
    sentence = "Multi-head latent attention shrinks the cache."
    latent = preset("deepseek-v3").config
    full = attention_twins(latent)["mha"]
    small, large = (cache_bytes(config, 1, "bfloat16") for config in (latent, full))
    text = (
        f"DeepSeek-V3 keeps {small:,.0f} bytes per token. Ordinary attention with its {full.n_heads} heads would keep "
        f"{large:,.0f}, {large / small:.0f} times as many. This is counted; what it costs in loss is not tested here."
    )
    return Sentence(10, sentence, "holds" if small < large else "does not hold", text, "05_mla_cache")


def _removable(evidence: Evidence) -> Sentence:
    sentence = "Parts of a trained model, and of its text, can be removed."
    table = removals(evidence.removal)
    parts = [
        f"{row['share']:.0%} of the {row['part']}: {row['verdict']} ({row['rise']:+.3f} ± {row['half']:.3f})"
        for row in _rows(table)
    ]
    text = f"With a rise of the loss below {MARGIN} nats: {'; '.join(parts)}."
    # Some share of some part of the model, and some share of the text.
    verdicts = [set(table.loc[(table["part"] == "text") == of_text, "verdict"]) for of_text in (False, True)]
    verdict: Verdict = "holds" if all("can" in own for own in verdicts) else "undecided"
    if {"cannot"} in verdicts:
        verdict = "does not hold"
    return Sentence(11, sentence, verdict, text, "07_turning_things_off")


FINDINGS: list[Callable[[Evidence], Sentence]] = [
    _never_all, _more_is_better, _fewer_active, _always_further, _same_for_less, _better_for_same, _larger_budgets,
    _pays_more, _optimum, _smaller_cache, _removable,
]  # fmt: skip


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")


def _range(low: float, high: float, form: str = ".2f") -> str:
    if math.isinf(high):
        return f"(more than {low:{form}})" if math.isfinite(low) else "(not known)"
    return f"({low:{form}} to {high:{form}})"


def _together(estimate: "pd.Series[float]", p: "pd.Series[float]") -> Verdict:
    """The verdict on a sentence that needs every estimate to be above 0; p is adjusted for their number."""
    decided = p < ALPHA
    if (decided & (estimate < 0)).any():
        return "does not hold"
    return "holds" if bool((decided & (estimate > 0)).all()) else "undecided"


def _needed(table: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Says about how many runs would decide each open step in 80 % of cases: the standard error falls with the root of
    their number, and has to be 2.8 times smaller than the effect (Cohen 1988, section 2.4)."""
    parts = []
    for row in _rows(table[table["p"] >= ALPHA]):
        now = ((runs["budget"] == row["budget"]) & runs["sparsity"].isin([row["sparsity"], row["than"]])).sum()
        enough = now * (2.8 * row["sd"] / row["gain"]) ** 2
        parts.append(
            f"S = {row['than']:.4g} to {row['sparsity']:.4g} at {flops(row['budget'])}: {enough:,.0f} (now {now})"
        )
    return "; ".join(parts)
