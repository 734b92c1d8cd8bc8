"""Links: what they say is what the dials show, in Python and in a page, and no text does harm."""

import json
import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright._impl._driver import compute_driver_executable

from sparsity_lab.config import BACKENDS
from sparsity_lab.widgets import link as module
from sparsity_lab.widgets.link import RULES, Link, link_of, read_link, write_link
from sparsity_lab.widgets.settings import CORPORA, Settings

FULL = "s=.9375&b=1e11&w=32&d=2&hold=active&seed=0&text=python&twin=1&backend=grouped"
NODE = """
import { createInterface } from "node:readline";
const { readLink, writeLink } = await import("data:text/javascript," + encodeURIComponent(process.argv[1]));
const rules = JSON.parse(process.argv[2]);
for await (const line of createInterface({ input: process.stdin })) {
    const link = readLink(JSON.parse(line), rules);
    console.log(JSON.stringify({ link, written: writeLink(link, rules) }));
}
"""

SETTINGS = st.builds(
    Settings,
    sparsity=st.floats(0, 0.99609375) | st.sampled_from([0.0, 0.5, 0.9375]),
    budget=st.floats(1e10, 1e13) | st.sampled_from([1e10, 3e11, 1e13]),
    width=st.integers(2, 32).map(lambda n: 4 * n),
    n_layers=st.integers(1, 4),
    hold=st.sampled_from(["active", "total"]),
    seed=st.integers(0, 2**31 - 1),
    corpus=st.sampled_from(CORPORA),
    dense_twin=st.booleans(),
    backend=st.sampled_from(BACKENDS),
)
NAMES = st.lists(st.sampled_from([rule["name"] for rule in RULES["keys"]]), unique=True).map(
    lambda names: tuple(rule["name"] for rule in RULES["keys"] if rule["name"] in names)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LINKS = st.builds(link_of, SETTINGS, lesson=TEXT, hide=NAMES, fix=NAMES)

KEYS = [rule["key"] for rule in RULES["keys"]] + ["lesson", "hide", "fix", "token", "dial", "__proto__", "constructor"]
NUMBERS = st.floats().map(repr) | st.integers().map(str) | st.from_regex(r"[-+ ]?[0-9_.]{0,5}([eE][-+]?[0-9]{0,4})?")
VALUES = st.sampled_from(["", "active", "total", "1", "0", "python", "w,d", ",", "s,s,nothing", "constructor"])
PAIRS = st.builds(lambda key, value: f"{key}={value}", st.sampled_from(KEYS) | TEXT, VALUES | NUMBERS | TEXT)
BEGINNINGS = st.sampled_from(
    ["", "#", "?", "??", "http://host:1/a?", "file:///a=b/c?x=1#", "/lab/tree/x.ipynb?", " a#b?"]
)
HOSTILE = st.builds(lambda start, parts: start + "&".join(parts), BEGINNINGS, st.lists(PAIRS | TEXT, max_size=6)) | TEXT


@pytest.fixture(scope="module")
def in_node() -> Any:
    """Returns what the script makes of a text: the link that it reads, and how it writes that again."""
    node = compute_driver_executable()[0]  # Playwright brings one
    script = Path(module.__file__).with_name("link.js").read_text()
    command = [node, "--input-type=module", "-e", NODE, script, json.dumps(RULES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdin
        assert process.stdout

        def ask(text: str) -> dict[str, Any]:
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        yield ask
        process.stdin.close()  # which ends it


def test_a_full_link_is_the_default() -> None:
    assert read_link(FULL) == Link(Settings().to_dict())
    assert write_link(link_of(Settings())) == FULL.replace("s=.", "s=0.")


@pytest.mark.parametrize(
    "address",
    [
        "s=.5&w=16", "?s=.5&w=16", "#s=.5&w=16", "  s=.5&w=16\n", "http://localhost:8866/?token=1a&s=.5&w=16",
        "http://localhost:8888/lab/tree/00_start_here.ipynb?s=.5&w=16#Section", "file:///a=b/index.html?x#s=.5&w=16",
        "localhost:8866?theme=dark&s=.5&w=16", "s=%2E5&%77=16", "s=5e-1&w=1.6e+1",
    ],
)  # fmt: skip
def test_a_link_is_found_in_an_address(address: str) -> None:
    assert read_link(address) == Link({"sparsity": 0.5, "width": 16})


@given(LINKS)
def test_what_is_written_is_read(in_node: Any, link: Link) -> None:
    text = write_link(link)
    assert read_link(text) == link
    assert in_node(text)["written"] == text


@settings(max_examples=400)
@given(HOSTILE)
def test_python_and_the_script_agree(in_node: Any, text: str) -> None:
    link = read_link(text)
    found = in_node(text)
    assert found["link"] == json.loads(json.dumps(asdict(link)))
    assert found["written"] == write_link(link)
    assert Settings(**link.values)  # whatever is left can be shown


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("w=99999", "The link's w=99999 is not a multiple of 4 between 8 and 128: the default is used."),
        ("w=21", "The link's w=21 is not a multiple of 4 between 8 and 128: the default is used."),
        ("d=1.5", "The link's d=1.5 is not a whole number between 1 and 4: the default is used."),
        ("s=1", "The link's s=1 is not between 0 and 0.99609375: the default is used."),
        ("b=1e999", "The link's b=1e999 is not between 1e10 and 1e13: the default is used."),
        ("b=-1e11", "The link's b=-1e11 is not between 1e10 and 1e13: the default is used."),
        ("s=nan", "The link's s=nan is not between 0 and 0.99609375: the default is used."),
        ("s=0_1", "The link's s=0_1 is not between 0 and 0.99609375: the default is used."),
        ("twin=true", "The link's twin=true is not one of 1, 0: the default is used."),
        ("hold=<script>", "The link's hold=<script> is not one of active, total: the default is used."),
        ("text=/etc/passwd", f"The link's text=/etc/passwd is not one of {', '.join(CORPORA)}: the default is used."),
        (
            "backend=" + 99 * "x",
            f"The link's backend={40 * 'x'}… is not one of {', '.join(BACKENDS)}: the default is used.",
        ),
        ("dial={}", "The link has dial, which is not known here: it is ignored."),
        ("hide=w;d,<b>&hide=w", "The link has hide more than once: the first is used."),
        ("fix=b,<b>", "The link's fix has <b>, which is no control."),
        ("lesson=" + 301 * "a", "The link's lesson has over 300 characters: it is left out."),
        ("s=.5&" * 500, "The link has over 2000 characters: it is ignored."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_left_out_and_said(in_node: Any, text: str, note: str) -> None:
    link = read_link(text)
    assert link.values == {}
    assert link.lesson == ""
    assert note in link.notes
    assert in_node(text)["link"]["notes"] == list(link.notes)


def test_the_first_of_a_repeated_key_counts() -> None:
    link = read_link("w=16&w=<b>&w=8")
    assert (link.values, link.notes) == ({"width": 16}, ("The link has w more than once: the first is used.",))


def test_the_docs_name_every_key() -> None:
    docs = (Path(__file__).parents[2] / "docs/app.md").read_text(encoding="utf-8")
    assert [key for key in re.findall(r"^\| `(\w+)`", docs, re.M) if key != "lesson"] == [
        r["key"] for r in RULES["keys"]
    ]


def test_a_lesson() -> None:
    link = read_link("w=16&lesson=Why+does+%3Cb%3E+win%3F&hide=d,w&fix=b")
    assert link == Link({"width": 16}, "Why does <b> win?", ("width", "n_layers"), ("budget",))
    assert write_link(link) == "w=16&lesson=Why%20does%20%3Cb%3E%20win%3F&hide=w,d&fix=b"
