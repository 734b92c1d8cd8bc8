"""Predict, then see: a question that is answered before a cell runs, and what came of it."""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go
import traitlets

from sparsity_lab.guesses import (
    SURE,
    Answer,
    Guess,
    answer_text,
    interval_text,
    keep_guess,
    load_guesses,
    percent,
    shown,
)
from sparsity_lab.widgets.accessibility import Aid, answer_at_once

FIRST = 0.7  # how sure a learner is taken to be until another answer
SMALL = "font-size:.92em"
KEPT = "Kept. You can change it until the result is shown."
QUESTION = "application/vnd.sparsity-lab.question+json"  # for pages without Python, where a script compares: a question
RESULT = "application/vnd.sparsity-lab.result+json"  # and its result


class Predict(ipw.VBox):
    """A question with its choices, or with a number as its answer. Display it as the last expression of a cell, and
    call `reveal` in the cell that has the result.

    One click on a choice is a guess, and so is a number that is entered; how sure the learner is may be changed
    afterwards. The user's guesses are kept, so after a restart of the kernel the guess is there again. ``given`` says
    whether there is one, and can be observed. Without a browser, `reveal` compares ``default``, and says so.

    Args:
        key: a short name, unique over all notebooks.
        question: what is asked, as plain text.
        choices: the possible answers, or:
        unit: the unit of the number that is asked for, which may be empty.
        near: how far a number may lie from the result and still be a hit.
        default: what is assumed if nobody is there to guess: one of the choices, or a number.

    Raises:
        ValueError: for arguments that don't fit together; it names them.
    """

    given = traitlets.Bool(False, read_only=True, help="whether the learner has made a guess")

    def __init__(
        self,
        key: str,
        question: str,
        *,
        choices: Sequence[str] | None = None,
        unit: str | None = None,
        near: float | None = None,
        default: Answer,
    ):
        if not key.strip():
            raise ValueError(f"key={key!r} must name the question")
        if (choices is None) == (unit is None):
            raise ValueError(f"choices={choices!r}, unit={unit!r}: give either choices or a unit")
        if choices is not None:
            if isinstance(choices, str) or len(choices) < 2 or len(set(choices)) < len(choices) or "" in choices:
                raise ValueError(f"choices={choices!r} must be at least two answers, all different")
            if near is not None:
                raise ValueError(f"near={near!r} is for a number; the answer to {key!r} is one of its choices")
        elif near is None or not 0 <= near < math.inf:
            raise ValueError(f"near={near!r} must say how far from the result a number is still a hit")
        self.key, self.question, self.unit, self.near = key, question, unit, near
        self.choices = None if choices is None else list(choices)
        self.default = self._checked("default", default)
        self.guess: Guess | None = None  # the learner's, as it stands
        self._revealed: Reveal | None = None  # where the result is shown
        self._seen = False  # whether the result has been shown

        self.text = ipw.HTML(f'<div style="line-height:1.5"><b>Predict.</b> {html.escape(question)}</div>')
        wide = {"width": "auto", "max_width": "100%"}
        if self.choices is not None:
            self.answer = ipw.RadioButtons(options=self.choices, value=None, layout=wide)
            row = [self.answer]
        else:
            self.answer = ipw.Text(
                description="Your guess", placeholder="a number", continuous_update=False,
                style={"description_width": "auto"}, layout={"width": "190px"},
            )  # fmt: skip
            row = [self.answer, ipw.HTML(html.escape(self.unit or ""))]
        self.sure = ipw.Dropdown(
            options=[(percent(sure), sure) for sure in SURE], value=FIRST, description="How sure?",
            style={"description_width": "auto"}, layout={"width": "160px"},
        )  # fmt: skip
        self.anew = ipw.Button(description="Guess anew", tooltip="unlock this question", layout={"display": "none"})
        self.status = ipw.HTML()
        answers = ipw.Box(row, layout={"flex_flow": "row wrap", "align_items": "center"})
        foot = ipw.Box([self.sure, self.anew], layout={"flex_flow": "row wrap", "align_items": "center"})
        super().__init__([self.text, answers, foot, self.status, Aid()])
        self.add_class("sparsity-lab-predict")
        answer_at_once(self)

        self._restore()
        self.answer.observe(self._answered, names="value")
        self.sure.observe(self._answered, names="value")
        self.anew.on_click(lambda _: self._unlock())

    def reveal(
        self,
        result: Answer,
        text: str = "",
        low: float | None = None,
        high: float | None = None,
        figure: go.Figure | None = None,
    ) -> "Reveal":
        """Records the result with the guess, locks the question, and returns a display of guess and result.

        Args:
            result: one of the choices, or a number.
            text: a sentence that explains the result.
            low: the low end of a number's interval; infinite where it has no end.
            high: the high end.
            figure: what a page without a kernel shows above, where JupyterLab has a live figure.

        Raises:
            ValueError: for a result that is not possible, or an interval that does not hold it.
        """
        found = self._checked("result", result)
        if low is not None or high is not None:
            wrong = f"low={low!r}, high={high!r} must be the two ends of an interval around result={result!r}"
            if isinstance(found, str) or low is None or high is None or not low <= found <= high:
                raise ValueError(wrong)
            low, high = float(low), float(high)
        self._revealed = Reveal(self.key, self.unit, self.near, found, low, high, text, figure)
        self._close()
        return self._revealed

    def _checked(self, name: str, value: Any) -> Answer:
        """Returns a possible answer, or raises ValueError."""
        if self.choices is not None:
            if value not in self.choices:
                raise ValueError(f"{name}={value!r} must be one of the choices: {', '.join(self.choices)}")
            return str(value)
        try:
            found = float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise ValueError(f"{name}={value!r} must be a number")
        return found

    def _restore(self) -> None:
        old = load_guesses().get(self.key)
        if old is None or old.unit != self.unit or (self.choices is not None and old.guess not in self.choices):
            return
        self.guess, self._seen = old, old.seen or old.hit is not None
        self.answer.value = old.guess if isinstance(old.guess, str) else f"{old.guess:.12g}"
        self.sure.value = min(SURE, key=lambda sure: abs(sure - old.confidence))
        self.set_trait("given", True)
        if old.hit is None:
            self._say(KEPT)
        else:
            self._lock()

    def _answered(self, _: Any) -> None:
        """Takes what the learner has chosen or entered as the guess."""
        if self.answer.disabled or not self.answer.value:
            return
        try:
            answer = self.answer.value if self.choices is not None else _entered(self.answer.value)
        except ValueError as error:
            self._say(str(error), role="alert")
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.guess = Guess(self.key, self.question, answer, self.unit, self.sure.value, now, seen=self._seen)
        self.set_trait("given", True)
        if self._revealed is not None:
            self._close()
            return
        self._keep()
        self._say("Run the cell with the result again. This guess is not counted." if self._seen else KEPT)

    def _close(self) -> None:
        """Compares the guess with the result, in the question and below the result. Without a guess, one can still be
        made, but it is not counted."""
        assert self._revealed is not None
        self._seen = True
        if self.guess is None:
            assumed = Guess(self.key, self.question, self.default, self.unit, FIRST, "", default=True)
            self._revealed.compare(assumed)
            self._say("The result has been shown. You can still guess, but it will not be counted.")
        else:
            self.guess = self._revealed.compare(self.guess)
            self._keep()
            self._lock()

    def _keep(self) -> None:
        """A guess made after its result was seen does not replace one that counts."""
        assert self.guess is not None
        kept = load_guesses().get(self.key)
        if not (self.guess.seen and kept is not None and kept.hit is not None and not kept.seen):
            keep_guess(self.guess)

    def _lock(self) -> None:
        assert self.guess is not None
        self.answer.disabled = self.sure.disabled = True
        self.anew.layout.display = ""
        counted = " Not counted: the result had been shown before." if self.guess.seen else ""
        self._say(f"{_verdict(self.guess)} {_both(self.guess)}{counted}")

    def _unlock(self) -> None:
        self._revealed = None
        self.answer.value = None if self.choices is not None else ""  # while disabled, so it is no guess
        self.answer.disabled = self.sure.disabled = False
        self.anew.layout.display = "none"
        self._say("Guess again, then run the cell with the result. This guess is not counted: you know the result.")

    def _say(self, text: str, role: str = "status") -> None:
        self.status.value = f'<div role="{role}" style="line-height:1.5;{SMALL}">{html.escape(text)}</div>'

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Adds what a page without a kernel shows: the question, and what is assumed; and its parts."""
        number = f"a number; a hit if within ±{shown(self.near or 0)} {self.unit or ''}".rstrip()
        answers = self.choices or [number]
        guess = self.guess or Guess(self.key, self.question, self.default, self.unit, FIRST, "", default=True)
        whose = f"{_whose(guess)}: {answer_text(guess.guess, self.unit)}."
        listed = "".join(f"<li>{html.escape(answer)}</li>" for answer in answers)
        page = f'<div class="sparsity-lab-predict">{self.text.value}<ul>{listed}</ul><p>{html.escape(whose)}</p></div>'
        plain = f"Predict. {self.question} ({' / '.join(answers)}) {whose}"
        asked = {"key": self.key, "question": self.question, "choices": self.choices, "unit": self.unit}
        return super()._repr_mimebundle_(**kwargs) | {"text/html": page, "text/plain": plain, QUESTION: asked}


class Reveal(ipw.HTML):
    """A guess beside the result, as `Predict.reveal` returns it."""

    def __init__(
        self,
        key: str,
        unit: str | None,
        near: float | None,
        result: Answer,
        low: float | None,
        high: float | None,
        text: str,
        figure: go.Figure | None = None,
    ):
        super().__init__()
        self.key, self._figure = key, figure
        self.unit, self.near, self.result, self.low, self.high, self.text = unit, near, result, low, high, text
        self._plain = self._page = ""

    def compare(self, guess: Guess) -> Guess:
        """Shows a guess beside the result, and returns it with the result."""
        if self.near is None:
            hit = guess.guess == self.result
        else:
            off = abs(float(guess.guess) - float(self.result))
            hit = off <= self.near or math.isclose(off, self.near)
        done = replace(guess, result=self.result, low=self.low, high=self.high, hit=hit)

        self._plain = f"{_whose(done)}: {answer_text(done.guess, self.unit)}. {_outcome(done)} {self.text}".strip()
        self._page = self._drawn(done, _verdict(done))
        self.value = self._drawn(None, "You made no guess.") if done.default else self._page
        return done

    def _drawn(self, guess: Guess | None, headline: str) -> str:
        parts = [("Result", answer_text(self.result, self.unit), "")]
        if self.low is not None and self.high is not None:
            parts.append(("95 % interval", interval_text(self.low, self.high, self.unit), ""))
        if guess is not None:
            sure = "" if guess.default else f" ({percent(guess.confidence)} sure)"
            near = "" if self.near is None else f" ± {shown(self.near)}"
            parts.insert(0, (_whose(guess), answer_text(guess.guess, self.unit), near + sure))
        cells = "".join(
            f'<div style="max-width:100%"><span style="{SMALL}">{html.escape(name)}</span><br>'
            f"<b>{html.escape(value)}</b>{html.escape(more)}</div>"
            for name, value, more in parts
        )
        picture = "" if guess is None or self.near is None else self._picture(guess, self.near)
        text = f'<div style="margin-top:4px">{html.escape(self.text)}</div>' if self.text else ""
        return (
            f'<div class="sparsity-lab-reveal" role="status" style="line-height:1.5">'
            f"{headline and f'<b>{headline}</b>'}"
            f'<div style="display:flex;flex-wrap:wrap;gap:4px 28px">{cells}</div>{picture}{text}</div>'
        )

    def _picture(self, done: Guess, near: float) -> str:
        """Draws the guess with its tolerance above the result with its interval. The words beside it say the same."""
        guess, result, name = float(done.guess), float(self.result), "assumed" if done.default else "guess"
        low, high = (result if end is None else end for end in (self.low, self.high))
        ends = [end for end in (guess - near, guess + near, result, low, high) if math.isfinite(end)]
        start, width = min(ends), max(ends) - min(ends) or 1.0

        def x(value: float) -> float:
            return min(max(round(62 + 300 * (value - start) / width, 1), 54), 370)  # an infinite end runs to the edge

        left, right, g, r = x(guess - near), x(guess + near), x(guess), x(result)
        words = 'fill="currentColor" font-size="12"'
        return f"""<svg viewBox="0 0 376 52" role="img" aria-label="guess and result on a line" \
style="display:block;width:100%;max-width:470px;color:var(--jp-content-font-color1, inherit)">
<rect x="{left}" y="2" width="{max(right - left, 1):.1f}" height="48" fill="currentColor" opacity=".14"/>
<text x="0" y="18" {words}>{name}</text><text x="0" y="42" {words}>result</text>
<path d="M{g} 7l7 7-7 7-7-7z" fill="none" stroke="currentColor" stroke-width="2"/>
<path d="M{x(low)} 38H{x(high)}" stroke="currentColor" stroke-width="3"/>
<circle cx="{r}" cy="38" r="6" fill="currentColor"/></svg>"""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Adds what a page without a kernel shows: the same, with the default in place of a guess; and the result."""
        found = {"key": self.key, "result": self.result, "near": self.near, "page": self._drawn(None, "")}
        twin: dict[str, Any] = {"text/html": self._page, "text/plain": self._plain, RESULT: found}
        if self._figure is not None:
            twin["application/vnd.plotly.v1+json"] = json.loads(self._figure.to_json())
        return super()._repr_mimebundle_(**kwargs) | twin


def _entered(text: str) -> float:
    """Reads a number as a learner enters it. Raises ValueError."""
    try:
        value = float(text.strip().rstrip("%").replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"“{text}” is not a number: write it as 1500, 0.5 or 3e11")
    return value


def _whose(guess: Guess) -> str:
    return "Without a guess this page assumes" if guess.default else "Your guess"


def _verdict(guess: Guess) -> str:
    right, wrong = ("As assumed.", "Not as assumed.") if guess.default else ("A hit.", "Not a hit.")
    return right if guess.hit else wrong


def _both(guess: Guess) -> str:
    assert guess.result is not None
    sure = f"{answer_text(guess.guess, guess.unit)} ({percent(guess.confidence)} sure)"
    return f"Your guess: {sure}. Result: {answer_text(guess.result, guess.unit)}."


def _outcome(guess: Guess) -> str:
    assert guess.result is not None
    ends = ""
    if guess.low is not None and guess.high is not None:
        ends = f" (95 % interval {interval_text(guess.low, guess.high, guess.unit)})"
    return f"Result: {answer_text(guess.result, guess.unit)}{ends}. {_verdict(guess)}"
