"""The dial in the page that opens the gallery, from disk and without a network: sliders, the guess, links, the tour."""

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from sparsity_lab.widgets.link import link_of, read_link, write_link
from sparsity_lab.widgets.settings import Settings
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import browsing, gallery_page
from tests.browser.test_app import LOOKS_DIFFERENT, assert_accessible

pytestmark = pytest.mark.browser

LINK = "#s=0.75&b=1e12&w=24&d=2"
FORMS = {"light": (1366, "light"), "dark": (1366, "dark"), "phone": (390, "light"), "phone_dark": (390, "dark")}
# What is wider than its box although nothing scrolls there, or lies beyond the window.
CLIPPED = """() => [...document.querySelectorAll('#dial *')].filter(e => {
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!box.width || style.clipPath !== 'none' || e.closest('clipPath')) return false;
    if (e.tagName === 'text') {
        const whole = e.ownerSVGElement.getBoundingClientRect();
        return box.right > whole.right + 0.5 || box.left < whole.left - 0.5 || box.bottom > whole.bottom + 0.5;
    }
    if (e.namespaceURI.endsWith('svg')) return false;
    return box.right > innerWidth + 0.5 || box.left < -0.5 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth
        && style.overflowX !== 'visible';
}).map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return gallery_page(tmp_path_factory.mktemp("gallery"))


@pytest.fixture
def form(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "light")


@pytest.fixture
def page(address: str, form: str) -> Iterator[Page]:
    width, scheme = FORMS[form]
    touch = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    size = {"viewport": {"width": width, "height": 768}}
    with browsing(address, **size, color_scheme=scheme, offline=True, reduced_motion="reduce", **touch) as page:
        open_page(page, address)
        yield page


def open_page(page: Page, address: str) -> None:
    page.goto("about:blank")  # or another hash alone would not load the page
    page.goto(address)
    expect(page.locator(".dial-main")).to_be_visible()


def state(page: Page) -> list[str]:
    return page.locator(".dial-slider output").all_inner_texts()


def guess(page: Page, choice: str = "sparse") -> None:
    page.get_by_role("radio", name=choice).check()
    page.get_by_role("button", name="Guess", exact=True).click()
    expect(page.locator("#dial-verdict")).to_be_visible()


def lines(page: Page) -> int:
    return page.locator("#dial-plot .line").count()


@pytest.mark.parametrize("form", FORMS, indirect=True)
def test_looks(page: Page, form: str) -> None:
    """Before and after the guess: nothing is clipped, and axe-core finds nothing."""
    for after in (False, True):
        if after:
            guess(page)
        assert page.evaluate(CLIPPED) == []
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert_accessible(page)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(SCREENSHOTS / f"page_{form}_{'guessed' if after else 'asks'}.png"), full_page=True)


def test_keyboard_moves_every_picture(page: Page) -> None:
    page.keyboard.press("Tab")
    sparsity = page.get_by_role("slider", name="sparsity")
    expect(sparsity).to_be_focused()
    assert page.evaluate(LOOKS_DIFFERENT)
    guess(page)
    sparsity.focus()
    seen = set()
    page.keyboard.press("Home")
    for _ in range(4):
        experts = page.locator("#dial-grid canvas").get_attribute("data-experts")
        sizes = page.locator(".sl-sizes").inner_text()
        seen.add((experts, sizes, page.locator("#dial-plot .line.this").first.get_attribute("d")))
        page.keyboard.press("ArrowRight")
    assert [len({each[part] for each in seen}) for part in range(3)] == [4, 4, 4], "cells, bars and curves"
    assert sparsity.get_attribute("aria-valuetext") == "S = 0.9961: 255 of 256 experts sleep"
    for name, key, text in (("budget", "End", "10¹³ FLOPs"), ("width", "End", "96"), ("layers", "Home", "1")):
        page.get_by_role("slider", name=name, exact=True).focus()
        page.keyboard.press(key)
        assert text in state(page)


@pytest.mark.parametrize("form", ["phone"], indirect=True)
def test_touch(page: Page) -> None:
    slider = page.get_by_role("slider", name="sparsity")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    assert box["height"] >= 44, "large enough for a finger"
    page.touchscreen.tap(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    assert state(page)[0].startswith("S = 0.9961")


def test_losses_are_hidden_until_the_guess_which_is_kept(page: Page, address: str) -> None:
    assert lines(page) == 0
    expect(page.locator("#dial-verdict")).to_be_hidden()
    assert "expected" not in page.locator("#dial").inner_text()
    page.get_by_role("button", name="Guess", exact=True).click()
    expect(page.locator("#dial-wait")).to_have_text("Choose one of the three first.")

    guess(page, "dense")
    expect(page.locator("#dial-guessed")).to_contain_text("dense. Result: sparse. Not a hit.")
    expect(page.locator("#dial-verdict")).to_contain_text("Sparse wins by 0.126 nats per byte")
    expect(page.locator("#dial-verdict")).to_contain_text("0.126 ± 0.035")
    assert lines(page) == 4, "two models, each whole and enlarged"
    assert "held-out loss" in (page.locator("#dial-plot").get_attribute("aria-label") or "")

    page.reload()
    expect(page.locator("#dial-guessed")).to_contain_text("dense. Result: sparse.")
    page.get_by_role("button", name="Guess again").click()
    assert lines(page) == 0


def test_the_training_is_played_back(address: str) -> None:
    with browsing(address, offline=True) as page:
        open_page(page, address)
        guess(page)
        page.locator("#dial-plot .mark").first.wait_for()  # at the end of what plays by itself
        page.get_by_role("button", name="Play the training").click()
        page.wait_for_function("() => !document.querySelector('#dial-plot .mark')")
        page.locator("#dial-plot .mark").first.wait_for()
        assert lines(page) == 4


def test_storage_may_be_blocked(page: Page, address: str) -> None:
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }})"
    )
    open_page(page, address)
    guess(page)
    assert lines(page) == 4


def test_what_was_not_trained_says_so_and_leads_to_the_nearest(page: Page, address: str) -> None:
    open_page(page, address + "#s=0.75&b=1e13&w=8&d=3")
    expect(page.locator("#dial-nearest")).to_contain_text("No run with these settings ships with the lab.")
    expect(page.get_by_role("button", name="Guess", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Go to width 32, 2 layers").click()
    assert state(page)[1:] == ["10¹³ FLOPs", "32", "2"]
    expect(page.locator("#dial-nearest")).to_be_hidden()
    guess(page)


def test_a_link_goes_round(page: Page, address: str) -> None:
    open_page(page, address + LINK)
    assert state(page) == ["S = 0.75: 3 of 4 experts sleep", "10¹² FLOPs", "24", "2"]
    page.get_by_role("slider", name="width").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("w=32"))
    before = state(page)

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#dial-copied")).not_to_be_empty()
    shown = page.locator("#dial-copied").inner_text()
    link = shown.removeprefix("Copy this: ") if "Copy" in shown else page.evaluate("navigator.clipboard.readText()")
    open_page(page, link)
    assert state(page) == before
    in_python = {"sparsity": 0.75, "budget": 1e12, "width": 32, "n_layers": 2}
    assert read_link(link).values == in_python
    open_page(page, f"{address}#{write_link(link_of(Settings(**in_python)))}")
    assert state(page) == before
    expect(page.locator("#dial-note")).to_be_hidden()
    page.evaluate("() => { location.hash = 's=0&b=3e12&w=48&d=2'; }")
    expect(page.locator(".dial-slider output").first).to_have_text("S = 0: dense, nothing sleeps")
    page.get_by_role("slider", name="width").press("ArrowLeft")
    assert state(page)[2] == "32"
    page.get_by_role("button", name="Reset").click()
    assert state(page)[1:3] == ["3×10¹² FLOPs", "48"]


def test_a_lesson_hides_fixes_and_asks(page: Page, address: str) -> None:
    question = "Is <b>four</b> enough? <img src=x onerror=alert(1)>"
    guess(page)
    open_page(page, f"{address}{LINK}&lesson={quote(question)}&hide=w,d&fix=b")
    expect(page.locator("#dial-lesson")).to_have_text(f"Question: {question}")
    assert page.locator("#dial-lesson span *").count() == 0
    assert lines(page) == 0, "a guess at another question reveals nothing"
    for name in ("width", "layers"):
        expect(page.get_by_role("slider", name=name)).to_have_count(0)
    expect(page.get_by_role("slider", name="budget")).to_be_disabled()
    page.get_by_role("slider", name="sparsity").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("lesson=.*hide=w,d&fix=b"))
    assert_accessible(page)
    page.set_viewport_size({"width": 390, "height": 768})
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


HOSTILE = {  # links → what the page notes
    "s=<script>window.bad=1</script>": "is not",
    "lesson=%3Cscript%3Ewindow.bad=1%3C/script%3E": "",
    "w=99999": "w=99999 is not",
    "b=1e999": "b=1e999 is not",
    "nonsense=1&__proto__=2&constructor=3": "not known here",
    "s=0.75&s=0.5": "more than once",
    "w=20": "the nearest, 24, is shown",
    "hold=total": "no runs",
    "lesson=" + "x" * 3000: "ignored",
    "%E0%A4%A": "",
    "hide=%3Cb%3E,w": "no control",
}


def test_hostile_and_mistaken_links_do_nothing_but_a_note(page: Page, address: str) -> None:
    for link, noted in HOSTILE.items():
        open_page(page, f"{address}#{link}")
        note = page.locator("#dial-note")
        assert noted in (note.text_content() or ""), link
        assert note.locator("*").count() == 0
        assert page.evaluate("() => window.bad") is None
        assert state(page)[3] == "2", link
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), link
    guess(page)


def test_the_tour(page: Page, address: str) -> None:
    page.get_by_role("button", name="Tour").focus()
    page.keyboard.press("Enter")
    for step in range(1, 6):
        expect(page.get_by_role("dialog")).to_contain_text(f"{step} of 5")
        expect(page.locator(".tour-here")).to_have_count(1)
        expect(page.locator(".tour-here")).to_be_in_viewport()
        assert_accessible(page)
        page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("() => document.activeElement.textContent") == "Tour"
    guess(page)
    open_page(page, address.replace("index.html", "index.html?tour=1"))
    expect(page.get_by_role("dialog")).to_contain_text("1 of 5")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".tour-here")).to_have_count(0)
