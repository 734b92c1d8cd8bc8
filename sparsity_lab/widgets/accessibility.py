"""Adds what widgets lack in the browser: names for sliders, a visible focus, plots as wide as their place."""

import anywidget

# An ipywidgets slider gives a screen reader no name, and as its value the number of the stop, not the stop.
NAME_SLIDERS = """
function nameSliders(box) {
    for (const handle of box.querySelectorAll(".noUi-handle")) {
        const slider = handle.closest(".widget-inline-hbox");
        const said = { "aria-label": "label", "aria-valuetext": ".widget-readout" };
        for (const [attribute, selector] of Object.entries(said)) {
            const text = slider?.querySelector(selector)?.textContent;
            if (text && handle.getAttribute(attribute) !== text) handle.setAttribute(attribute, text);
        }
    }
}
"""


class Aid(anywidget.AnyWidget):
    """An invisible widget. Put it last into a box of the class ``sparsity-lab-dial`` or ``sparsity-lab-explorer``."""

    # Plotly draws a plot before its place has a width, and after that only listens to the window.
    _esm = (
        NAME_SLIDERS
        + """
function render({ el }) {
    let texts;
    const watcher = new ResizeObserver(() => {
        window.dispatchEvent(new Event("resize"));
        const box = el.closest(".sparsity-lab-dial, .sparsity-lab-explorer");
        if (box && !texts) {
            texts = new MutationObserver(() => nameSliders(box));
            texts.observe(box, { subtree: true, childList: true, characterData: true });
            nameSliders(box);
        }
    });
    watcher.observe(el);
    return () => { watcher.disconnect(); texts?.disconnect(); };
}
export default { render };
"""
    )
    # No grey has a contrast of 4.5:1 both on white and on JupyterLab's dark: figures' text takes the theme's colour.
    _css = """
.js-plotly-plot :is(.infolayer, [class*=axislayer]) text { fill: var(--jp-content-font-color1) !important; }
.sparsity-lab-dial :focus-visible, .sparsity-lab-explorer :focus-visible {
    box-shadow: 0 0 0 2px var(--jp-brand-color1, #1976d2) !important;
}
"""
