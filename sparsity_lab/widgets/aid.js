// An ipywidgets slider gives a screen reader no name, and as its value the number of the stop, not the stop.
function nameSliders(box) {
    for (const handle of box.querySelectorAll(".noUi-handle")) {
        const slider = handle.closest(".widget-inline-hbox");
        const said = { "aria-label": "label", "aria-valuetext": ".widget-readout" };
        for (const [attribute, selector] of Object.entries(said)) {
            const text = slider?.querySelector(selector)?.textContent;
            if (text && handle.getAttribute(attribute) !== text) handle.setAttribute(attribute, text);
        }
        slider?.querySelector(".widget-readout")?.removeAttribute("contenteditable"); // typing there does nothing
    }
}

// Copy link puts a dashboard's link (link.py) into the address; a page that was opened with one tells the first dashboard
// on it. JupyterLab rewrites the address, so the one that was navigated to is asked.
function copyLink(model, button) {
    const link = `${location.origin}${location.pathname}?${model.get("link")}`;
    const done = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "Copy link"; }, 1500); };
    (navigator.clipboard?.writeText(link) ?? Promise.reject()).then(() => done("Copied"), () => prompt("The link:", link));
}

function openLink(model) {
    const entry = performance.getEntriesByType("navigation")[0], link = new URLSearchParams(entry && new URL(entry.name).search);
    link.delete("token"); // which is nobody's business
    if (!link.size || window.sparsityLabLinkRead) return;
    window.sparsityLabLinkRead = true;
    model.set("opened", `?${link}`);
    model.save_changes();
}

// A lesson's fixed controls say why they do not move.
function nameFixed(box) {
    for (const control of box.querySelectorAll(".sl-control")) {
        const fixed = control.classList.contains("sl-fixed");
        control.title = fixed ? "This lesson keeps it where it is" : "";
        for (const handle of control.querySelectorAll(".noUi-handle")) handle.ariaDisabled = String(fixed);
    }
}

// Plotly draws a plot before its place has a width, and after that only listens to the window.
function render({ model, el }) {
    let texts, plots = 0;
    const fit = () => window.dispatchEvent(new Event("resize"));
    const watcher = new ResizeObserver(() => {
        const box = el.closest(".sparsity-lab-dial, .sparsity-lab-explorer");
        if (box) fit();
        if (box && !texts) {
            texts = new MutationObserver(() => {
                nameSliders(box);
                const now = box.querySelectorAll(".js-plotly-plot .main-svg").length;
                if (now !== plots) setTimeout(fit, 50);
                plots = now;
            });
            texts.observe(box, { subtree: true, childList: true, characterData: true });
            nameSliders(box);
            for (const view of box.querySelectorAll(".sl-view")) watcher.observe(view);
            const copy = box.querySelector(".sparsity-lab-copy-link");
            if (copy) {
                copy.addEventListener("click", () => copyLink(model, copy));
                openLink(model);
                model.on("change:link", () => nameFixed(box));
                nameFixed(box);
            }
        }
    });
    watcher.observe(el);
    return () => { watcher.disconnect(); texts?.disconnect(); };
}
export default { render };
