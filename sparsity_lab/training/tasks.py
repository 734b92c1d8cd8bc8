"""Benchmarks with exact answers, small enough for models of thousands of weights.

An example is a line of bytes: a prompt, and the answer that follows from it. The text to train on (`training_text`, the
corpus "tasks") mixes such lines with program source. The prompt alone decides whether it is held out from that text, so
a model has never read what it is tested on. The exception is ``recall``, which asks for what was read, because its
answers are found only in memory.

Legend: N lines, L bytes of a line without its newline, P of them the prompt, S the height of a stack.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

TEXT_BYTES = 5_000_000  # more than 1e12 FLOPs read at width 32
SOURCE_SHARE = 0.15  # of the bytes
SOURCE_PIECE = 1_024  # bytes of source that stay together, several windows
HELD_OUT = 10  # one prompt in this many

LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
DIGITS = np.frombuffer(b"0123456789", np.uint8)
OPENING, CLOSING = (np.frombuffer(brackets, np.uint8) for brackets in (b"([{<", b")]}>"))

PLACES = 3  # digits of a number
WORD = 3  # letters of a word
MEANING = 2  # letters that a fact gives a word
RANKS = (8, 8_192)  # of the facts in the table, the commonest first; a fact appears in proportion to 1 over its rank
COPIED = 8  # letters
OPEN = 4  # brackets to close
CLOSED = 4  # pairs that open and close before the answer

Random = np.random.RandomState  # frozen for good (NEP 19): the same seed gives the same examples with any numpy


class Example(NamedTuple):
    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """``draw(random, n)`` gives lines_NL, uint8, the last ``answer`` bytes of each being the answer."""

    name: str
    question: str  # what it asks for
    draw: Callable[[Random, int], Bytes]
    answer: int  # bytes
    chance: float  # of being right without reading the prompt: the share of the commonest answer
    share: float  # of the bytes of the text
    from_memory: bool = False  # tested on what was trained on


def lines(task: Task, n: int, seed: int, held_out: bool = True) -> Bytes:
    """Draws lines_NL to test with, or to train on with ``held_out=False``. The two share no prompt, except in a task
    `from_memory`. Equal arguments give equal lines."""
    random, parts, missing = Random(seed), [], n
    while missing > 0:
        lines_NL = task.draw(random, n)
        if not task.from_memory:
            lines_NL = lines_NL[is_held_out(lines_NL[:, : -task.answer]) == held_out]
        parts.append(lines_NL)
        missing -= len(lines_NL)
    return np.concatenate(parts)[:n]


def examples(task: Task, n: int, seed: int, held_out: bool = True) -> list[Example]:
    """Draws what `lines` draws, as text."""
    texts = [line.tobytes().decode() for line in lines(task, n, seed, held_out)]
    return [Example(line[: -task.answer], line[-task.answer :]) for line in texts]


def is_held_out(prompts_NP: Bytes) -> np.ndarray:
    """Holds out one prompt in `HELD_OUT`, (N,) bool, by a multiplicative hash (Knuth, TAOCP vol. 3, section 6.4)."""
    hashes_N = np.zeros(len(prompts_NP), np.uint64)
    for column_N in prompts_NP.T:
        hashes_N = (hashes_N ^ column_N) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2⁶⁴; 2⁶⁴ over the golden ratio
        hashes_N ^= hashes_N >> np.uint64(32)
    return hashes_N % np.uint64(HELD_OUT) == 0


def training_text(source: bytes, n_bytes: int = TEXT_BYTES, seed: int = 0) -> bytearray:
    """Returns what models are trained on: lines of all tasks in their shares and pieces of ``source``, shuffled."""
    ends = range(SOURCE_PIECE, round(SOURCE_SHARE * n_bytes) + 1, SOURCE_PIECE)
    pieces = [source[end - SOURCE_PIECE : end].rpartition(b"\n")[0] + b"\n" for end in ends]
    for number, task in enumerate(TASKS.values()):
        length = task.draw(Random(0), 1).shape[1] + 1
        lines_NL = lines(task, round(task.share * n_bytes / length), seed + number, held_out=False)
        pieces += [line.tobytes() + b"\n" for line in lines_NL]
    return bytearray().join([pieces[i] for i in Random(seed).permutation(len(pieces))])


def stamp() -> list[object]:
    """Returns what tells this text from that of other tasks: lines of each task, and how they are mixed."""
    drawn = [lines(task, 16, seed=0, held_out=False).tobytes().hex() for task in TASKS.values()]
    return [SOURCE_SHARE, SOURCE_PIECE, TEXT_BYTES, [task.share for task in TASKS.values()], drawn]


def _line(n: int, *parts: Bytes | bytes) -> Bytes:
    """Puts columns side by side: (N,), (N, ·), or bytes that are the same in every line."""
    columns = [np.tile(np.frombuffer(p, np.uint8), (n, 1)) if isinstance(p, bytes) else p.reshape(n, -1) for p in parts]
    return np.concatenate(columns, 1)


# ---- Reasoning-like: there is a rule, and there are too many cases to learn each by heart


def _add(random: Random, n: int) -> Bytes:
    # Small digits are commoner, so that some sums are learnt early and some late.
    digits = (11 ** random.rand(2, n, PLACES)).astype(int) - 1
    a, b = (digits * 10 ** np.arange(PLACES)).sum(-1)
    # The last digit comes first, so a carry is known when it is needed (Lee et al. 2023, arXiv 2307.03381).
    first, second, total = _spelt(a, PLACES), _spelt(b, PLACES), _spelt(a + b, PLACES + 1)
    return _line(n, first[:, ::-1], b"+", second[:, ::-1], b"=", total)


def _commonest_sum() -> float:
    of_digit = np.diff(np.log(np.arange(1, 12))) / np.log(11)
    of_number = functools.reduce(np.kron, [of_digit] * PLACES)
    return float(np.convolve(of_number, of_number).max())


def _spelt(numbers_N: np.ndarray, length: int, digits: Bytes = DIGITS) -> Bytes:
    """Spells numbers as (N, length), the last digit first."""
    return digits[numbers_N[:, None] // len(digits) ** np.arange(length) % len(digits)]


# ---- Memory-like: there is no rule


@functools.cache
def facts() -> tuple[Bytes, Bytes]:
    """Returns the table to learn by heart, the commonest fact first: words, (N, `WORD`), and the letters that each was
    given, (N, `MEANING`)."""
    random, n = Random(0), RANKS[1] - RANKS[0]
    words_N = random.permutation(len(LETTERS) ** WORD)[:n]
    return _spelt(words_N, WORD, LETTERS), LETTERS[random.randint(0, len(LETTERS), (n, MEANING))]


def _recall(random: Random, n: int) -> Bytes:
    low, high = RANKS
    return recall_lines((low * (high / low) ** random.rand(n)).astype(int) - low)  # Zipf's law


def recall_lines(facts_N: np.ndarray) -> Bytes:
    """Returns lines_NL that ask for these facts, given by their places in the table."""
    words, letters = facts()
    return _line(len(facts_N), words[facts_N], b":", letters[facts_N])


def _commonest_meaning() -> float:
    of_rank = np.diff(np.log(np.arange(RANKS[0], RANKS[1] + 1))) / np.log(RANKS[1] / RANKS[0])
    return float(np.bincount(facts()[1] @ [256, 1], of_rank).max())


# ---- In context: the answer follows from the prompt alone


def _copy(random: Random, n: int) -> Bytes:
    letters = LETTERS[random.randint(0, len(LETTERS), (n, COPIED))]
    return _line(n, letters, b"~", letters)


def _close(random: Random, n: int) -> Bytes:
    stack_NS, depth_N, unopened_N = np.zeros((n, OPEN + CLOSED), int), np.zeros(n, int), np.full(n, OPEN + CLOSED)
    everyone, columns = np.arange(n), []
    for _ in range(OPEN + 2 * CLOSED):
        may = (depth_N > 0) & (depth_N + unopened_N > OPEN)  # or too few would stay open
        close = may & ((unopened_N == 0) | (random.randint(0, 2, n) == 1))
        kind_N = random.randint(0, len(OPENING), n)
        top_N = np.maximum(depth_N - 1, 0)
        columns.append(np.where(close, CLOSING[stack_NS[everyone, top_N]], OPENING[kind_N]))
        stack_NS[everyone[~close], depth_N[~close]] = kind_N[~close]
        depth_N = depth_N + np.where(close, -1, 1)
        unopened_N = unopened_N - ~close
    return _line(n, np.stack(columns, 1), b"|", CLOSING[stack_NS[:, OPEN - 1 :: -1]])


TASKS = {
    task.name: task
    for task in (
        Task("arithmetic", "the sum of two numbers, last digit first", _add, PLACES + 1, _commonest_sum(), share=0.3),
        Task("recall", "the letters that a word was given in a table of facts", _recall, MEANING,
             _commonest_meaning(), share=0.3, from_memory=True),
        Task("copying", "the letters once more", _copy, COPIED, chance=len(LETTERS) ** -float(COPIED), share=0.15),
        Task("brackets", "the brackets that close those left open", _close, OPEN,
             chance=len(OPENING) ** -float(OPEN), share=0.1),
    )
}  # fmt: skip
