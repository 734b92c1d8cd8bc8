// An ipywidgets slider gives a screen reader no name, and as its value the number of the stop, not the stop.
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

// Plotly draws a plot before its place has a width, and after that only listens to the window.
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
