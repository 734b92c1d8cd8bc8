"""The gallery: pages that ask nobody for anything, of two small notebooks executed as `make gallery` does."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from papermill.exceptions import PapermillExecutionError

from sparsity_lab.classroom.execute import execute, find_notebooks, is_executed
from sparsity_lab.cli.main import main
from sparsity_lab.pages.gallery import ROW, build
from sparsity_lab.pages.outputs import described

pytestmark = pytest.mark.notebooks

ROOT = Path(__file__).parents[2]
TEXT = r"""# One of two
$S = \frac{E-K}{E}$ and
$$L = \begin{pmatrix} a & b \end{pmatrix}$$
on to [the other](02_other.ipynb), to [a paper](https://arxiv.org/abs/2501.12370), to [a file](../docs/teaching.md)
and to [what is not there](03_third.ipynb).

## A section & its name
## Another"""
FIGURE = """import plotly.graph_objects as go
from tqdm.auto import tqdm
from sparsity_lab.figures import style as charts
from sparsity_lab.widgets.explorer import Explorer, choice

def draw(s):
    figure = go.Figure(go.Scatter(x=[1, 2], y=[s, float("nan")], name="dense <i>& twin</i>"))
    return charts.styled(figure, 300, xaxis={"title": "FLOPs"}, yaxis={"title": "loss<br>(nats)"})

for _ in tqdm(range(2)):
    pass
Explorer(draw, "the dial stands at {s}".format, s=choice("dial", [1, 2], 1))"""
GUESS = """from sparsity_lab.widgets import Predict

guess = Predict("which", "Which & why?", choices=["one", "two"], default="two")
guess"""
README = """| [00 One](notebooks/01_one.ipynb) | Which & why? | ten minutes |\n"""


def notebook(folder: Path, name: str, text: str, *sources: str) -> Path:
    cells = [v4.new_markdown_cell(text), v4.new_code_cell("n: int = 1  # some", metadata={"tags": ["parameters"]})]
    cells += [v4.new_code_cell(source) for source in sources]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder.mkdir(exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def fold(path: Path) -> None:
    """Folds the code of a notebook's last cell."""
    book = nbformat.read(path, as_version=4)
    book.cells[-1].metadata["jupyter"] = {"source_hidden": True}
    nbformat.write(book, path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    button = "import ipywidgets\nipywidgets.Button()"
    one = notebook(folder / "notebooks", "01_one", TEXT, FIGURE, button, GUESS, "guess.reveal('one', 'Because.')")
    other = notebook(folder / "notebooks", "02_other", "# Two", "print('1 < 2')", "print('folded')")
    fold(other)
    execute(one, folder / "executed" / one.name, {"n": 2}, most_stops=10)
    execute(other, folder / "executed" / other.name, {})
    (folder / "README.md").write_text(README)
    build(folder / "executed", folder / "site", folder / "README.md")
    return folder / "site"


class Tags(HTMLParser):
    """Attributes of every tag in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def with_attribute(self, name: str) -> Iterator[tuple[str, str]]:
        return ((tag, value) for tag, attrs in self.found if (value := attrs.get(name)) is not None)


def read(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text()


def test_pages_load_nothing_from_elsewhere_and_every_link_leads_somewhere(site: Path) -> None:
    pages = {path.name: Tags(path.read_text()) for path in site.glob("*.html")}
    assert set(pages) == {"index.html", "01_one.html", "02_other.html"}
    for page, tags in pages.items():
        ids = {anchor for _, anchor in tags.with_attribute("id")}
        for tag, address in [*tags.with_attribute("src"), *tags.with_attribute("href")]:
            if address.startswith(("http:", "https:")):
                assert tag == "a", f"{page} loads {address}"
            elif address.startswith("#"):
                assert address[1:] in ids, f"{page} has no place {address}"
            elif not address.startswith("data:"):
                assert (site / address).is_file(), f"{page} leads to {address}, which is not there"
    assert not re.search(r"url\(|@import", (site / "style.css").read_text())


def test_the_site_has_plotly_once(site: Path) -> None:
    large = [path.name for path in site.iterdir() if path.stat().st_size > 1_000_000]
    assert large == ["plotly.min.js"]


def test_links_stay_within_the_site_or_are_none(site: Path) -> None:
    page = read(site, "01_one")
    assert '<a href="02_other.html">the other</a>' in page
    assert '<a href="https://arxiv.org/abs/2501.12370">a paper</a>' in page
    assert "to a file\nand to what is not there." in page
    assert 'rel="next" href="02_other.html"' in page
    assert 'rel="prev" href="01_one.html"' in read(site, "02_other")


def test_formulas_are_mathml(site: Path) -> None:
    page = read(site, "01_one")
    assert "<mfrac>" in page
    assert "<mtable" in page
    assert "$" not in re.sub("<script.*?</script>", "", page, flags=re.DOTALL)


def test_outline(site: Path) -> None:
    assert '<a href="#section-1">A section &amp; its name</a>' in read(site, "01_one")
    assert '<h2 id="section-2">Another</h2>' in read(site, "01_one")


def test_figures_carry_their_data_and_a_description(site: Path) -> None:
    page = read(site, "01_one")
    (label,) = [attrs["aria-label"] for _, attrs in Tags(page).found if attrs.get("role") == "img"]
    assert label == "Figure of FLOPs; loss (nats). Shown: dense & twin"
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(data)["data"][0]["name"] == "dense <i>& twin</i>"


def test_explorers_have_their_controls_and_a_file_of_their_stops(site: Path) -> None:
    page = read(site, "01_one")
    assert '<p role="status">the dial stands at 1</p>' in page
    assert [value for _, value in Tags(page).with_attribute("aria-valuetext")] == ["1"]
    (name,) = [value for _, value in Tags(page).with_attribute("data-file")]
    called, table = (site / name).read_text().split("(", 1)
    told, found = json.loads("[" + table.strip().removesuffix(");") + "]")
    assert (called, told) == ("explorers.take", name)
    assert [frame["text"] for frame in found["frames"]] == ["the dial stands at 1", "the dial stands at 2"]
    assert found["labels"] == ["Figure of FLOPs; loss (nats). Shown: dense & twin"]


def test_a_question_can_be_answered_and_its_result_waits(site: Path) -> None:
    page = read(site, "01_one")
    assert [attrs["value"] for _, attrs in Tags(page).found if attrs.get("type") == "radio"] == ["one", "two"]
    assert 'data-result="one"' in page
    (result,) = re.findall(r"<details class=\"result\".*?</details>", page, re.DOTALL)
    assert "Because." in result
    assert "assume" not in page, "nobody but the reader guesses"


def test_no_widget_is_left_and_no_progress_bar(site: Path) -> None:
    page = read(site, "01_one")
    assert page.count("this cell shows controls to move") == 1
    for remains in ("Loading widget", "Explorer(children", "FigureWidget(", "2/2", "widget-view"):
        assert remains not in page


def test_folded_code_is_folded_and_its_output_is_not(site: Path) -> None:
    page = read(site, "02_other")
    (folded,) = re.findall(r"<details>\s*<summary>code</summary>(.*?)</details>", page, re.DOTALL)
    assert 'class="input"' in folded
    assert "folded" in re.sub("<[^>]+>", "", folded)
    assert "output" not in folded
    assert page.count('<details class="open"') == 2, "which only a narrow screen folds"


def test_pages_say_how_they_were_made(site: Path) -> None:
    assert "with other parameters than the notebook's own" in read(site, "01_one")
    assert "with the notebook's own parameters" in read(site, "02_other")
    assert "1 &lt; 2" in read(site, "02_other")


def test_only_what_was_executed_as_it_is_now_is_not_executed_again(tmp_path: Path) -> None:
    book = notebook(tmp_path, "01_one", "# One", "print(n)")
    output = tmp_path / "out" / book.name
    assert not is_executed(book, output, {"n": 2})
    execute(book, output, {"n": 2})
    assert is_executed(book, output, {"n": 2})
    assert not is_executed(book, output, {"n": 3})
    assert not is_executed(book, output, {})
    notebook(tmp_path, "01_one", "# One", "print(n + 1)")
    assert not is_executed(book, output, {"n": 2})
    failed = notebook(tmp_path, "02_two", "# Two", "1 / 0")
    with pytest.raises(PapermillExecutionError):
        execute(failed, output, {})
    assert not is_executed(failed, output, {})
    output.write_text("{")
    assert not is_executed(failed, output, {})


def test_index(site: Path) -> None:
    page = read(site, "index")
    assert "Which &amp; why?" in page
    assert "a full run takes ten minutes" in page
    assert page.count("<li>") == 2
    assert page.count('class="figure"') == 1, "the one notebook with figures"


def test_described_names_panels_bars_and_what_colours_mean() -> None:
    map_of = {"type": "heatmap", "colorbar": {"title": {"text": "load,<br>× even"}}, "x": ["0", 1], "y": {"bdata": ""}}
    axes = {"xaxis": {"title": {"text": "expert"}}, "yaxis2": {}}
    assert described({"data": [map_of, map_of], "layout": axes}) == "Figure of expert; load, × even"
    bars = {"type": "bar", "x": [1, 2], "y": ["MHA", "MLA 4"]}
    panels = {"annotations": [{"text": "one tall"}], "scene": {"zaxis": {"title": {"text": "loss"}}}}
    assert described({"data": [bars], "layout": panels}) == "Figure of loss. Shown: one tall; MHA; MLA 4"
    assert described({"data": [], "layout": {}}) == "Figure"


def test_a_notebook_that_failed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = notebook(tmp_path, "01_broken", "# Broken", "1 / 0")
    for output in ([], [v4.new_output("error", ename="ZeroDivisionError", evalue="", traceback=[])]):
        read_book = nbformat.read(book, as_version=4)
        read_book.cells[-1].outputs = output
        nbformat.write(read_book, book)
        assert main(["gallery", "--notebooks", str(tmp_path), "--out", str(tmp_path / "site")]) == 2
        assert "01_broken.ipynb was not executed to its end" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
    assert main(["gallery", "--notebooks", str(tmp_path / "site")]) == 2
    assert "has no notebooks" in capsys.readouterr().err


def test_the_readme_says_of_every_notebook_what_it_asks() -> None:
    rows = {name for name, *_ in ROW.findall((ROOT / "README.md").read_text())}
    assert rows == {path.stem for path in find_notebooks(ROOT / "notebooks", [])}
