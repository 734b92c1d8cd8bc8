"""What a student handed in, read generously: which cell answers which question, and what could not be used.

A cell belongs to a question by nbgrader's name, else by its id, else by what it says or defines. Everything else in the
notebook (tests, points, outputs, order) is the teacher's; outputs are dropped before anything looks at them.
"""

import ast
import base64
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from nbformat import NotebookNode

CODE, TEXT = 50_000, 20_000  # characters of an answer
PICTURES = 5_000_000  # bytes of all pictures of a notebook
STARTS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}  # the first bytes of each kind
STUB = "raise NotImplementedError('nothing here yet: put your code in place of this line')"
TEXT_STUB = "*Your answer here, in place of this line.*"


@dataclass
class Cell:
    """A cell to grade. ``kind`` is text, given, test, answer, written or extra; a given cell that only shows something
    is a demonstration."""

    kind: str
    name: str
    source: str
    pictures: dict[str, str] = field(default_factory=dict)  # data URLs by file name
    points: float = 0
    demonstration: bool = False
    defines: list[str] = field(default_factory=list)  # functions and data that a solution defines
    functions: list[str] = field(default_factory=list)


@dataclass
class Paper:
    cells: list[Cell]
    notes: list[str]
    student: str | None = None  # as the notebook says


@dataclass
class _Piece:
    source: str
    own: bool  # it is the cell that was handed out, not a copy
    pictures: dict[str, str]


def about(cell: NotebookNode) -> Any:
    found = cell.metadata.get("nbgrader", {})
    return found if isinstance(found, dict) else {}


def defined(source: str) -> dict[str, bool]:
    """Returns the names that code defines at its top level, and whether each is a function or class."""
    names: dict[str, bool] = {}
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found = re.findall(r"^(?:async )?(?:def|class)\s+(\w+)|^(\w+)\s*(?::[^=\n]*)?=[^=]", source, re.MULTILINE)
        return {function or name: bool(function) for function, name in found}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names[node.name] = True
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names |= {part.id: False for part in ast.walk(target) if isinstance(part, ast.Name)}
    return names


def wanted_cells(source: NotebookNode, empty: NotebookNode) -> list[Cell]:
    """Returns the cells of an assignment, with hidden tests, and with the stubs of ``empty`` where answers go."""
    cells = []
    for original, stub in zip(source.cells, empty.cells, strict=True):
        name, tags = about(original).get("grade_id", ""), original.metadata.get("tags", [])
        cell = Cell("given" if original.cell_type == "code" else "text", name, original.source)
        cell.demonstration = "demonstration" in tags
        cell.points = float(about(original).get("points", 0))
        if "parameters" in tags:
            cell.name = "parameters"
        elif about(original).get("solution"):
            cell.kind, cell.source = "answer" if original.cell_type == "code" else "written", stub.source
            names = {name: kind for name, kind in defined(original.source).items() if name[0] != "_"}
            cell.defines, cell.functions = list(names), [name for name in names if names[name]]
        elif about(original).get("grade"):
            cell.kind = "test"
        cells.append(cell)
    return cells


# ---- reading


def read_cells(data: bytes) -> list[dict[str, Any]]:
    """Returns the cells of a notebook file: type, id, name, source, tags, pictures. Raises ValueError if it is none."""
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
        book = json.loads(text)
    except RecursionError:
        raise ValueError("not a notebook: it is nested too deeply") from None
    except (ValueError, MemoryError) as error:
        raise ValueError(f"not a notebook: {str(error).splitlines()[0][:200] if str(error) else 'too large'}") from None
    sheets = book.get("worksheets") if isinstance(book, dict) else None  # before 2015
    found = sheets[0].get("cells") if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict) else None
    found = book.get("cells", found) if isinstance(book, dict) else None
    if not isinstance(found, list):
        raise ValueError("not a notebook: it has no cells")
    return [_read_cell(cell) for cell in found if isinstance(cell, dict)]


def _read_cell(cell: dict[str, Any]) -> dict[str, Any]:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    data = _part(cell, "metadata", dict)
    grader, tags = _part(data, "nbgrader", dict), _part(data, "tags", list)
    text, pictures = clean(source) if isinstance(source, str) else "", _part(cell, "attachments", dict)
    keys = {"id": cell.get("id"), "name": grader.get("grade_id")}
    known = {key: value if isinstance(value, str) else None for key, value in keys.items()}
    return known | {"type": cell.get("cell_type"), "source": text, "tags": tags, "attachments": pictures}


def _part(data: dict[str, Any], key: str, kind: type) -> Any:
    """Returns a part of what was handed in, empty if it isn't of the kind that it should be."""
    value = data.get(key)
    return value if isinstance(value, kind) else kind()


def clean(text: str) -> str:
    """Returns text that any file and any page can hold: no control characters, and no half of a pair of characters."""
    text = text.replace("\r\n", "\n").encode("utf-8", errors="replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)


def pictures_of(attachments: dict[str, Any], left: int) -> tuple[dict[str, str], int]:
    """Returns the PNG, JPEG and GIF pictures among attachments as data URLs, while they fit into ``left`` bytes, and
    what is left then."""
    found: dict[str, str] = {}
    for name, kinds in attachments.items():
        for text in kinds.values() if isinstance(kinds, dict) else []:
            try:
                text = "".join(text if isinstance(text, (str, list)) else "")
                data = base64.b64decode("".join(text.split()), validate=True)
            except (ValueError, TypeError):
                continue
            kind = next((kind for start, kind in STARTS.items() if data.startswith(start)), None)
            if kind and len(data) <= left:
                left -= len(data)
                found[clean(str(name))] = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return found, left


# ---- matching


def paper(source: NotebookNode, empty: NotebookNode, handed: list[dict[str, Any]] | None) -> Paper:
    """Returns the cells to grade, in the source's order: hidden tests are the source's, answers are the student's, and
    cells that a student added stay behind the cell above them. A question without an answer stays as it was given.
    """
    cells = wanted_cells(source, empty)
    if handed is None:
        return Paper(cells, [])
    result = Paper([], [])
    pieces, added = _sorted_out(cells, empty, handed, result)
    if not any(pieces.values()):
        result.notes.append("no answer cells found")

    for place, cell in enumerate(cells):
        result.cells += added.get(place - 1, []) if place == 0 else []
        if cell.kind == "answer":
            result.cells += _code_answer(cell, pieces[place], result.notes)
        else:
            if cell.kind == "written":
                _written_answer(cell, pieces[place], result.notes)
            result.cells.append(cell)
        result.cells += added.get(place, [])
    return result


def _sorted_out(
    cells: list[Cell], empty: NotebookNode, handed: list[dict[str, Any]], result: Paper
) -> tuple[dict[int, list[_Piece]], dict[int, list[Cell]]]:
    """Returns the pieces of each answer, and the cells that belong to none, by the place of the cell above them."""
    by_name = {cell.name: place for place, cell in enumerate(cells) if cell.name}
    by_id = {cell.get("id"): place for place, cell in enumerate(empty.cells)}
    by_text = {_bare(cell.source): place for place, cell in enumerate(empty.cells) if cell.source}
    by_definition = {name: place for place, cell in enumerate(cells) for name in cell.defines}

    def found(cell: dict[str, Any]) -> int | None:
        for table, key in ((by_name, cell["name"]), (by_id, cell["id"]), (by_text, _bare(cell["source"]))):
            if key is not None and key in table:
                return table[key]
        return by_name.get("parameters") if "parameters" in cell["tags"] else None

    places = [found(cell) for cell in handed]
    taken = {place for place, cell in zip(places, handed, strict=True) if place is not None and not _is_stub(cell)}
    pieces: dict[int, list[_Piece]] = defaultdict(list)
    added: dict[int, list[Cell]] = defaultdict(list)
    left, last = PICTURES, -1
    for place, cell in zip(places, handed, strict=True):
        text, code = cell["source"], cell["type"] == "code"
        pictures, rest = pictures_of(cell["attachments"], left)
        if len(pictures) < len(cell["attachments"]):
            result.notes.append("a picture was left out: only PNG, JPEG and GIF count, up to 5 MB in all")
        left = rest

        # A cell without a known name may still be an answer: it defines what nothing else does.
        own = place is not None and cell["id"] in (None, empty.cells[place].get("id"))
        if code and (place is None or cells[place].kind in ("given", "test")):
            homes = {by_definition[name] for name in defined(text) if name in by_definition} - taken
            known = place is not None and _bare(text) in (_bare(empty.cells[place].source), _bare(cells[place].source))
            if homes and not known:
                result.notes.append(f"{cells[min(homes)].name} was found in another cell")
                place, own = min(homes), False

        if place is None:
            if code and text.strip():
                added[last].append(Cell("extra", "", text[:CODE]))
            elif text.strip() or pictures:
                beside = [p for p in (last, last + 1) if 0 <= p < len(cells) and cells[p].kind == "written"]
                if beside:
                    pieces[beside[0]].append(_Piece(text, False, pictures))
                else:
                    result.notes.append(f"text was added below {_where(cells, last)}")
                    added[last].append(Cell("text", "added", text[:TEXT], pictures))
            continue
        last, wanted = place, cells[place]
        if wanted.kind in ("answer", "written"):
            if code != (wanted.kind == "answer"):
                result.notes.append(f"{wanted.name} is a {cell['type']} cell, read as {wanted.kind}")
            pieces[place].append(_Piece(text, own, pictures))
        elif wanted.name == "parameters":
            name = re.search(r"^\s*STUDENT\b[^=\n]*=\s*[rRuUbBfF]?([\"'])(.*?)\1", text, re.MULTILINE)
            result.student = name[2].strip() if name else None
        elif wanted.kind == "text" and (more := _more(text, empty.cells[place].source)):
            if place + 1 < len(cells) and cells[place + 1].kind == "written":
                pieces[place + 1].append(_Piece(more, False, pictures))
            else:
                result.notes.append(f"text was added to the task above {_where(cells, place + 1)}")
                added[place].append(Cell("text", "added", more[:TEXT], pictures))
    return pieces, added


def _bare(text: str) -> str:
    return " ".join(text.split())


def _is_stub(cell: dict[str, Any]) -> bool:
    return STUB in cell["source"] or cell["source"].strip() in ("", TEXT_STUB)


def unanswered(cell: Cell) -> bool:
    """Tells whether an answer is still what was handed out."""
    return cell.kind in ("answer", "written") and _is_stub({"source": cell.source}) and not cell.pictures


def _more(text: str, given: str) -> str:
    """Returns what was added to a given text, empty if it was changed in another way."""
    return text.replace(given.strip(), "", 1).strip() if given.strip() in text else ""


def _where(cells: list[Cell], place: int) -> str:
    names = [cell.name for cell in cells[max(0, place) :: -1] if cell.name]
    return names[0] if names else "the title"


def _code_answer(cell: Cell, pieces: list[_Piece], notes: list[str]) -> list[Cell]:
    """Returns the cells to run for one answer: usually one, more if it was split."""
    if not pieces:
        notes.append(f"the answer cell {cell.name} is missing")
        return [cell]

    different = list({_bare(piece.source): piece for piece in pieces}.values())
    filled = [piece for piece in different if piece.source.strip() and STUB not in piece.source]
    filled = filled or different[:1]
    counts: dict[str, int] = defaultdict(int)
    for piece in filled:
        for name in {*defined(piece.source)} & {*cell.defines}:
            counts[name] += 1
    if max(counts.values(), default=0) > 1:  # two tries, and not two halves
        kept = next((piece for piece in filled if piece.own), filled[-1])
        which = "the one in its own cell" if kept.own else "the last one"
        notes.append(f"{cell.name} was answered {len(filled)} times: {which} counts")
        filled = [kept]
    elif len(filled) > 1:
        notes.append(f"{cell.name} was split into {len(filled)} cells: all of them count")
    if any(len(piece.source) > CODE for piece in filled):
        notes.append(f"{cell.name} has more than {CODE:,} characters: the rest was cut off")
    return [Cell("answer", cell.name, p.source[:CODE], {}, 0, False, cell.defines, cell.functions) for p in filled]


def _written_answer(cell: Cell, pieces: list[_Piece], notes: list[str]) -> None:
    """Puts a written answer, with its pictures, in the place of its stub."""
    if not pieces:
        notes.append(f"the answer cell {cell.name} is missing")
    texts = [text for piece in pieces if (text := piece.source.replace(TEXT_STUB, "").strip())]
    text = "\n\n".join(dict.fromkeys(texts))
    if text and any(not piece.own for piece in pieces):
        notes.append(f"text beside {cell.name} was added to it")
    if "\N{REPLACEMENT CHARACTER}" in text:
        notes.append(f"{cell.name} has characters that no page can show, such as half of an emoji: they became \ufffd")
    if len(text) > TEXT:
        notes.append(f"{cell.name} has more than {TEXT:,} characters: the rest was cut off")
    for piece in pieces:
        cell.pictures |= piece.pictures
    if text or cell.pictures:
        cell.source = text[:TEXT]
