// Draws the figures as they come near the window; the data of each are in the element after its place. Plotly's grey text
// has too little contrast on white and on black, so texts take the page's colour, also when the reader's system turns dark.
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 600px)");
const touch = matchMedia("(pointer: coarse)").matches;
const figures = new Map();
const drawn = new Set();
const rooms = new Map(); // what each figure has taken, at its width
const STEP = 16; // pixels

// Draws the figure of a place there, or another one out of sight, on a stage as wide.
function draw(place, stage = place, figure = figures.get(place)) {
  const { color } = getComputedStyle(document.body);
  const whole = structuredClone(figure), bare = "static" in place.dataset;
  const { data, layout } = narrow.matches && !bare ? narrowed(whole, place.clientWidth) : whole;
  layout.uirevision = "page"; // what a reader has zoomed or switched off stays so when a slider moves
  if (touch) layout.dragmode = false; // a finger scrolls the page
  layout.font = { ...layout.font, color };
  for (const axis of Object.values(layout.scene ?? {})) if (axis.color) axis.color = color; // three dimensions
  if (stage === place) drawn.add(place);
  // Where labels need more room than a figure gives, Plotly draws it twice. So it gets what it has needed before.
  const before = rooms.get(place), width = place.clientWidth;
  if (before?.width === width) {
    const own = layout.margin ?? {};
    layout.margin = { ...own, ...Object.fromEntries(Object.entries(before.margin).map(([side, room]) => [side, Math.max(own[side] ?? 0, room)])) };
    layout.height = Math.max(layout.height ?? 450, before.height);
  }
  stage.style.height = `${layout.height ?? 450}px`;
  Plotly.react(stage, data, layout, { responsive: true, displayModeBar: false, staticPlot: bare });
  const { l, r, t, b } = stage._fullLayout._size;
  // The last tick's label needs a little more room whenever the picture gets narrower: in large steps, that ends.
  rooms.set(place, { width, height: layout.height ?? 450, margin: { l, r: Math.ceil(r / STEP) * STEP, t, b } });
}

const inSight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    if (!drawn.has(target)) draw(target);
  }
}, { rootMargin: "400px" });

for (const place of document.querySelectorAll(".figure")) {
  figures.set(place, JSON.parse(place.nextElementSibling.textContent));
  inSight.observe(place);
}
for (const media of [dark, narrow]) media.addEventListener("change", () => drawn.forEach((place) => draw(place)));

function fold() {
  for (const code of document.querySelectorAll("details.open")) code.open = !narrow.matches;
}
fold();
narrow.addEventListener("change", fold);
addEventListener("beforeprint", () => figures.forEach((_, place) => draw(place)));

// The keyboard must reach whatever scrolls sideways, folded code once it is unfolded.
function reach(part) {
  for (const box of part.querySelectorAll("pre, .output_html, .formula, .rendered_html")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}
reach(document);
for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", () => reach(fold));
