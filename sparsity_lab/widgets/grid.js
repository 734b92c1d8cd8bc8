// The experts of a model as cells that light up for the character being read. Everything here follows the traits of
// `ExpertGrid` without asking the kernel, so dragging a slider that is linked to `stop` is seen at once.
const KINDS = {
    keyword: "#d55e00", name: "#2b8fd6", number: "#cc79a7", string: "#009e73", comment: "#8c564b",
    operator: "#e69f00", indentation: "#56b4e9", space: "#56b4e9", newline: "#56b4e9", other: "#7f8790",
};
const SHOWN = { indentation: "blank", space: "blank", newline: "blank" };
const BLUE = "#2b8fd6", HEIGHT = 132, GAP = 6, MARGIN = 16, SECONDS = 0.18, SPLIT_MS = 160, LINES = 20; // it stops by itself after so many
const still = matchMedia("(prefers-reduced-motion: reduce)");

const layerGap = (layers) => Math.min(GAP, HEIGHT / (3 * layers));
const layerHeight = (layers) => (HEIGHT - layerGap(layers) * (layers - 1)) / layers;

// Rows and columns of E cells in a box: powers of two that fill it with cells a bit wider than high.
function shape(experts, width, height) {
    const rows = 2 ** Math.max(0, Math.round(Math.log2(Math.sqrt((experts * height) / width * 1.6))));
    return [Math.min(rows, experts), Math.ceil(experts / Math.min(rows, experts))];
}

function place(expert, experts, layer, layers, full) {
    const width = full - MARGIN, height = layerHeight(layers), [, columns] = shape(experts, width, height);
    const rows = Math.ceil(experts / columns), w = width / columns, h = height / rows;
    const gap = Math.min(3, w / 6, h / 6);
    const x = (expert % columns) * w, y = layer * (height + layerGap(layers)) + Math.floor(expert / columns) * h;
    return [MARGIN + x + gap / 2, y + gap / 2, w - gap, h - gap];
}

function part(tag, className, parent, text = "") {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    parent.append(element);
    return element;
}

function render({ model, el }) {
    const box = part("div", "sl-grid", el);
    const canvas = part("canvas", "sl-cells", box);
    canvas.setAttribute("role", "img");
    const reader = part("div", "sl-reader", box);
    const play = part("button", "sl-play jupyter-button widget-button", reader);
    const line = part("div", "sl-line", reader);
    const note = part("div", "sl-note", box);
    const bar = part("div", "sl-bar", box), total = part("div", "sl-total", bar), active = part("div", "sl-active", bar);
    const sizes = part("div", "sl-sizes", box);
    line.tabIndex = 0;
    line.setAttribute("role", "slider");
    line.setAttribute("aria-label", "character being read");
    let at = 0, timer = 0, before = 1, moved = 0, frame = 0;

    const stop = () => model.get("stops")[model.get("stop")] ?? { experts: 1, active: 1 };

    // The routing to show: of the run in front if it has as many experts, or else what was recorded.
    function routing() {
        const { experts } = stop(), live = model.get("live"), recorded = model.get("recorded")[experts];
        if (live.experts === experts) return live;
        return recorded ? { ...recorded, experts, note: model.get("note") } : { experts, reads: [], kinds: [], note: "" };
    }

    function layersOf(found) { return found.reads.length || model.get("layers"); }
    function chosen(found, layer) { return found.experts === 1 ? [0] : found.reads[layer]?.[at] ?? []; }

    function draw() {
        frame = 0;
        const width = canvas.clientWidth, scale = devicePixelRatio || 1, found = routing(), { experts } = found;
        if (!width) return;
        if (canvas.width !== Math.round(width * scale)) {
            canvas.width = Math.round(width * scale);
            canvas.height = Math.round(HEIGHT * scale);
        }
        const c = canvas.getContext("2d"), layers = layersOf(found);
        const grown = still.matches ? 1 : Math.min(1, (performance.now() - moved) / SPLIT_MS);
        c.setTransform(scale, 0, 0, scale, 0, 0);
        c.clearRect(0, 0, width, HEIGHT);
        for (let layer = 0; layer < layers; layer++) {
            const lit = new Set(chosen(found, layer)), height = layerHeight(layers);
            c.globalAlpha = 0.8;
            c.fillStyle = getComputedStyle(canvas).color;
            c.font = "11px sans-serif";
            c.textAlign = "center";
            c.save();
            c.translate(11, layer * (height + layerGap(layers)) + height / 2);
            c.rotate(-Math.PI / 2);
            c.fillText(`layer ${layer + 1}`, 0, 0, height);
            c.restore();
            for (let expert = 0; expert < experts; expert++) {
                const parent = Math.floor((expert * before) / experts);
                const from = place(parent, before, layer, layers, width), to = place(expert, experts, layer, layers, width);
                const [x, y, w, h] = to.map((value, i) => from[i] + (value - from[i]) * grown);
                const colour = KINDS[found.kinds[layer]?.[expert]] ?? BLUE;
                c.globalAlpha = lit.has(expert) ? 1 : 0.13;
                c.fillStyle = colour;
                c.beginPath();
                c.roundRect(x, y, w, h, Math.min(4, w / 4, h / 4));
                c.fill();
                if (lit.has(expert)) continue;
                c.globalAlpha = 0.3;
                c.strokeStyle = colour;
                c.lineWidth = 1;
                c.stroke();
            }
        }
        c.globalAlpha = 1;
        if (grown < 1) frame = requestAnimationFrame(draw);
    }

    // What is drawn, also as text: for screen readers, and for tests, which compare it with the model.
    function show() {
        const found = routing(), layers = layersOf(found), { experts } = found, now = stop();
        const lit = Array.from({ length: layers }, (_, layer) => chosen(found, layer));
        const sleeping = experts - now.active;
        canvas.dataset.experts = experts;
        canvas.dataset.lit = JSON.stringify(lit);
        const who = lit.map((of, layer) => `layer ${layer + 1}: ${of.map((e) => `expert ${e + 1}`).join(" and ") || "–"}`);
        [...line.children].forEach((character, i) => character.classList.toggle("sl-now", i === at));
        line.dataset.at = at;
        if (!model.get("playing")) { // or a screen reader would be told of every character
            const character = JSON.stringify(model.get("line")[at]), works = who.join("; ");
            canvas.setAttribute("aria-label", experts === 1 ? "One network, which works on every character." :
                `${sleeping} of ${experts} experts sleep. At work on ${character}: ${works}.`);
            line.setAttribute("aria-valuenow", at);
            line.setAttribute("aria-valuetext", `${character}, ${works}`);
        }
        if (!frame) frame = requestAnimationFrame(draw);
    }

    // What stands below the cells, which changes less often than the character.
    function tell() {
        const found = routing(), now = stop();
        const kinds = [...new Set(found.kinds.flat().filter(Boolean).map((kind) => SHOWN[kind] ?? kind))];
        note.replaceChildren();
        part("span", "", note, found.note);
        for (const kind of kinds) {
            const colour = KINDS[kind === "blank" ? "space" : kind];
            part("i", "sl-key", note).style.background = colour;
            part("span", "", note, kind);
        }
        const most = Math.max(...model.get("stops").map((s) => s.total_parameters), 1);
        total.style.width = `${(100 * now.total_parameters) / most}%`;
        active.style.width = `${(100 * now.active_parameters) / most}%`;
        const [share, all] = [now.active_parameters, now.total_parameters].map((n) => (n ?? 0).toLocaleString("en"));
        sizes.replaceChildren();
        part("span", "", sizes, `parameters: ${share} active of ${all}`);
        part("span", "sl-end", sizes, `${most.toLocaleString("en")} at the end of the dial`);
    }

    function write() {
        line.replaceChildren(...model.get("line").map((character) => {
            const span = document.createElement("span");
            span.textContent = character === "\n" ? "⏎" : character;
            return span;
        }));
        line.setAttribute("aria-valuemin", 0);
        line.setAttribute("aria-valuemax", line.children.length - 1);
    }

    function move(to) {
        const size = model.get("line").length;
        at = (to + size) % size;
        show();
    }

    function tick() {
        clearInterval(timer);
        const playing = model.get("playing");
        play.textContent = playing ? "❚❚" : "▶";
        play.title = playing ? "pause the reading" : "play: read the line, character by character";
        play.setAttribute("aria-label", playing ? "pause the reading" : "play the reading");
        let left = LINES * line.children.length;
        if (playing) timer = setInterval(() => (left-- && !document.hidden ? move(at + 1) : set(false)), 1000 * SECONDS);
        show();
    }

    function set(playing) {
        model.set("playing", playing);
        model.save_changes();
    }

    play.onclick = () => set(!model.get("playing"));
    line.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1, Home: -at, End: -1 - at }[event.key];
        if (step === undefined) return;
        event.preventDefault();
        event.stopPropagation();
        set(false);
        move(at + step);
    };
    const point = (event) => {
        const index = [...line.children].indexOf(event.target);
        if (index >= 0) move(index);
    };
    line.onclick = (event) => { set(false); point(event); };
    line.onmousemove = (event) => { if (!model.get("playing")) point(event); };

    const split = () => {
        const { experts } = stop();
        if (experts !== Number(canvas.dataset.experts)) [before, moved] = [Number(canvas.dataset.experts) || 1, performance.now()];
        show();
        tell();
    };
    const both = () => { show(); tell(); };
    const rewrite = () => { write(); move(0); };
    const watched = { stop: split, stops: split, layers: both, live: both, recorded: both, note: both, line: rewrite,
        playing: tick, started: () => { if (!still.matches) set(true); } };
    for (const [trait, answer] of Object.entries(watched)) model.on(`change:${trait}`, answer);
    const watcher = new ResizeObserver(() => { if (!frame) frame = requestAnimationFrame(draw); });
    watcher.observe(canvas);
    write();
    split();
    tick();
    return () => {
        clearInterval(timer);
        watcher.disconnect();
        for (const [trait, answer] of Object.entries(watched)) model.off(`change:${trait}`, answer);
    };
}
export default { render };
