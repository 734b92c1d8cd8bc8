"""How fast the pages of the gallery answer a drag, from disk, on a desk and on a phone. `make gallery` comes first."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.timing import Row
from sparsity_lab.cli.doctor import find_browser
from tests.browser.lab import browsing

GALLERY = Path("build/gallery")
MOVES = 40
BAR = 50  # ms from a move of the slider to the frame with its picture, 95th percentile
OPENED = 1_000  # ms from the page's address to the first picture
WIDTHS = (1366, 390)  # pixels
# The longest slider of an explorer, five stops up and five down, so that each move is another picture.
DRAG = """async (place, moves) => {
    const [slider] = [...place.querySelectorAll('input[type=range]')].sort((a, b) => b.max - a.max);
    const times = [];
    for (let move = 0; slider && move < moves; move++) {
        slider.value = Math.min(Math.max(+slider.value + (move % 10 < 5 ? 1 : -1), 0), +slider.max);
        const start = performance.now();
        slider.dispatchEvent(new Event('input', {bubbles: true}));
        await new Promise((done) => requestAnimationFrame(() => {
            const { port1, port2 } = new MessageChannel();  // heard after the frame is painted
            port1.onmessage = done;
            port2.postMessage(0);
        }));
        times.push(performance.now() - start);
        await new Promise((done) => setTimeout(done, 60));
    }
    return times;
}"""
FIRST = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


def rows() -> Iterator[Row]:
    pages = sorted(GALLERY.glob("*.html"))
    if not pages or find_browser() is None:
        yield Row("gallery", f"p95 ≤ {BAR} ms", "needs Chromium and `make gallery`", None)
    for path in pages:
        for width in WIDTHS:
            yield from on_a_page(path, width)


def on_a_page(path: Path, width: int) -> Iterator[Row]:
    address, what = path.resolve().as_uri(), f"{path.stem}, {width} pixels wide"
    with browsing(address, viewport={"width": width, "height": 800}, offline=True) as page:
        page.goto(address)
        opened = page.evaluate(FIRST)
        yield Row(f"{what}: opened", f"≤ {OPENED} ms", f"{opened:.0f} ms", opened <= OPENED)
        for number, place in enumerate(page.locator(".explorer").all(), start=1):
            place.scroll_into_view_if_needed()
            place.locator(".figure .main-svg").first.wait_for()
            page.wait_for_timeout(1_000)  # as long as a reader needs to find the slider
            times = sorted(place.evaluate(DRAG, MOVES))
            if times:
                p95, median = times[int(len(times) * 0.95)], statistics.median(times)
                measured = f"p95 {p95:.0f} ms, median {median:.0f} ms"
                yield Row(f"{what}: explorer {number}, of {MOVES} moves", f"p95 ≤ {BAR} ms", measured, p95 <= BAR)
