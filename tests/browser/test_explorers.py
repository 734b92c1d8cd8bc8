"""Sliders in front of formulas, as a learner moves them."""

import pytest
from playwright.sync_api import Locator, Page, expect

from sparsity_lab.accounting import count_parameters
from sparsity_lab.config import ModelConfig
from tests.browser.conftest import SCREENSHOTS
from tests.browser.lab import open_notebook, run_all

pytestmark = pytest.mark.browser


def press(explorer: Locator, key: str) -> None:
    """A key on its first slider."""
    explorer.scroll_into_view_if_needed()
    explorer.locator(".noUi-handle").first.focus()
    explorer.page.keyboard.press(key)


def test_counting(page: Page, address: str) -> None:
    open_notebook(page, address, "02_counting_flops.ipynb")
    run_all(page)
    weights, roof = (page.locator(".sparsity-lab-explorer").nth(i) for i in (0, 1))

    press(weights, "End")
    most = count_parameters(ModelConfig.on_dial(32, 1 - 1 / 256))
    expect(weights.get_by_role("status")).to_contain_text(f"{most.total:,} weights, {most.active:,} active")
    page.wait_for_function(
        """total => { const plot = document.querySelector('.sparsity-lab-explorer .js-plotly-plot');
        return plot.data.reduce((sum, trace) => sum + trace.x[1], 0) === total; }""",
        arg=most.total,
    )
    wide = weights.locator(".js-plotly-plot .main-svg").first.bounding_box()
    box = weights.bounding_box()
    assert wide is not None
    assert box is not None
    assert wide["width"] > 0.9 * box["width"], "the plot fills its place"
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    weights.screenshot(path=str(SCREENSHOTS / "explorer.png"))

    roof.scroll_into_view_if_needed()
    roof.get_by_role("combobox").select_option("h200")
    expect(roof.locator(".legendtext").first).to_have_text("roof of h200")


def test_bill_dark(page: Page, address: str) -> None:
    open_notebook(page, address, "08_better_or_cheaper.ipynb")
    run_all(page)
    bill, readings = (page.locator(".sparsity-lab-explorer").nth(i) for i in (0, 1))
    press(bill, "ArrowRight")
    expect(bill.get_by_role("status")).to_contain_text("With 4 of 256 experts active")
    bill.screenshot(path=str(SCREENSHOTS / "bill_dark.png"))
    press(readings, "End")
    expect(readings.get_by_role("status")).to_contain_text("10¹³ FLOPs. Read downwards: the sparse model ends")
    readings.screenshot(path=str(SCREENSHOTS / "readings_dark.png"))


def test_cache(page: Page, address: str) -> None:
    open_notebook(page, address, "05_mla_cache.ipynb")
    run_all(page)
    sizes, pareto = (page.locator(".sparsity-lab-explorer").nth(i) for i in (0, 1))
    press(sizes, "ArrowLeft")
    expect(sizes.get_by_role("status")).to_contain_text("MLA keeps 320 numbers per token and layer")
    sizes.screenshot(path=str(SCREENSHOTS / "cache.png"))
    press(pareto, "Home")
    expect(pareto.get_by_role("status")).to_contain_text("MLA of rank 4")
    page.wait_for_function(
        """() => { const plot = document.querySelectorAll('.sparsity-lab-explorer')[1].querySelector('.js-plotly-plot');
        return plot.data.find(trace => trace.name === 'MLA 4').marker.size === 20; }"""
    )
    pareto.screenshot(path=str(SCREENSHOTS / "pareto.png"))


def test_criteria(page: Page, address: str) -> None:
    open_notebook(page, address, "06_measuring_sparsity.ipynb")
    run_all(page)
    exercise = page.locator(".sparsity-lab-explorer")
    exercise.scroll_into_view_if_needed()
    exercise.get_by_role("combobox").select_option("Cloning")
    expect(exercise.get_by_role("status")).to_contain_text("Gini is 0.383 before, 0.383 after")
    page.wait_for_function(
        """() => { const plot = document.querySelector('.sparsity-lab-explorer .js-plotly-plot');
        return plot.data[1].x.length === 3 * plot.data[0].x.length; }"""
    )
    exercise.get_by_role("combobox").select_option("Babies")
    press(exercise, "End")
    expect(exercise.get_by_role("status")).to_contain_text("the sparsity should be higher")
    exercise.screenshot(path=str(SCREENSHOTS / "criteria.png"))


def test_inside_dark(page: Page, address: str) -> None:
    open_notebook(page, address, "03_inside_the_experts.ipynb")
    run_all(page)
    teams = page.locator(".sparsity-lab-explorer")
    press(teams, "End")
    expect(teams.get_by_role("status")).to_contain_text("8 of 128 experts")
    text = page.get_by_role("figure", name="text, each character marked").last  # the first is of an untrained model
    text.scroll_into_view_if_needed()
    expect(text.locator("pre")).to_contain_text("for name in names:")
    assert len({span.get_attribute("title") for span in text.locator("pre span").all()}) > 2
    page.screenshot(path=str(SCREENSHOTS / "inside.png"))


def test_isoflop(page: Page, address: str) -> None:
    open_notebook(page, address, "04_isoflop.ipynb")
    run_all(page)
    curves = page.locator(".sparsity-lab-explorer")
    press(curves, "Home")
    expect(curves.get_by_role("status")).to_contain_text("10¹¹ FLOPs: dense, best at")
    page.wait_for_function(
        """() => { const plot = document.querySelector('.sparsity-lab-explorer .js-plotly-plot');
        return plot.data[0].y.length === 18 && plot.data[0].customdata.length === 18; }"""
    )
    curves.screenshot(path=str(SCREENSHOTS / "isoflop.png"))


def test_turning_off(page: Page, address: str) -> None:
    open_notebook(page, address, "07_turning_things_off.ipynb")
    run_all(page)
    weights, times = (page.locator(".sparsity-lab-explorer").nth(i) for i in (0, 1))
    weights.scroll_into_view_if_needed()
    weights.get_by_role("combobox").select_option("Wanda, each row")
    press(weights, "End")
    expect(weights.get_by_role("status")).to_contain_text("Wanda, each row, 90% off: loss +")
    page.wait_for_function(
        """() => { const plot = document.querySelector('.sparsity-lab-explorer .js-plotly-plot');
        return plot.data.find(trace => trace.name === 'here').x[0] === 0.9; }"""
    )
    weights.screenshot(path=str(SCREENSHOTS / "pruning.png"))
    press(times, "Home")
    expect(times.get_by_role("status")).to_contain_text("1 token at once. Faster than dense from S = csr")
    times.screenshot(path=str(SCREENSHOTS / "payoff.png"))


def test_tasks_dark(page: Page, address: str) -> None:
    open_notebook(page, address, "09_what_the_sleeping_experts_know.ipynb")
    run_all(page)
    scores = page.locator(".sparsity-lab-explorer")
    scores.scroll_into_view_if_needed()
    scores.get_by_role("combobox").select_option("copying")
    expect(scores.get_by_role("status")).to_contain_text("copying at 10¹² FLOPs, width 32, chance 0.00%")
    press(scores, "Home")
    expect(scores.get_by_role("status")).to_contain_text("copying at 10¹² FLOPs, width 16")
    expect(scores.locator(".js-plotly-plot .infolayer")).to_contain_text("copying")
    scores.screenshot(path=str(SCREENSHOTS / "tasks_dark.png"))
