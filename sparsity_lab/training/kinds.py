"""What kind of token each byte of Python source belongs to: experts are asked which kinds they read."""

import io
import keyword
import re
import tokenize

import numpy as np

KINDS = ("keyword", "name", "number", "string", "comment", "operator", "indentation", "space", "newline", "other")
_OF_TOKEN = dict.fromkeys(("STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END"), "string")
_OF_TOKEN |= {"NUMBER": "number", "COMMENT": "comment", "OP": "operator", "INDENT": "indentation"}
_OF_TOKEN |= {"NEWLINE": "newline", "NL": "newline"}
# For bytes that are in no token; tokenize marks an indentation only where the depth of a block changes.
_OF_BLANKS = {"indentation": rb"(?m)^[ \t]+", "space": rb"[ \t]+", "newline": rb"\n"}


def kinds(text: bytes) -> np.ndarray:
    """Labels each byte of Python source with its kind, as indices into `KINDS`, uint8 (bytes,), by Python's `tokenize`.
    A piece that does not parse, as at the ends of a window, is ``other``; labels resume with the next line."""
    # One character per byte, so that positions agree; any letter can stand for what is not ASCII.
    # Lines as tokenize counts them: a form feed ends none.
    lines = list(io.StringIO(text.decode("latin-1").translate(dict.fromkeys(range(128, 256), "é")), newline="\n"))
    other = KINDS.index("other")
    found = np.full(len(text), other, np.uint8)
    starts = np.cumsum([0, *map(len, lines)])
    first = 0

    def place(row: int, column: int) -> int:
        return int(starts[min(first + row - 1, len(lines))]) + column

    while first < len(lines):
        reached = first
        try:
            for token in tokenize.generate_tokens(io.StringIO("".join(lines[first:])).readline):
                kind = _OF_TOKEN.get(tokenize.tok_name[token.type])
                if token.type == tokenize.NAME:
                    kind = "keyword" if keyword.iskeyword(token.string) else "name"
                if kind is not None:
                    found[place(*token.start) : place(*token.end)] = KINDS.index(kind)
                    reached = max(reached, first + token.end[0] - 1)
            break
        except (tokenize.TokenError, SyntaxError):
            first = reached + 1  # skips the line that is no Python, or the rest of the last one read

    for kind, pattern in _OF_BLANKS.items():
        for match in re.finditer(pattern, text):
            part = found[slice(*match.span())]
            part[part == other] = KINDS.index(kind)
    return found
