// Draws the figures; the data of each are in the element after its place. Plotly's grey text has too little contrast on
// white and on black, so texts take the page's colour, also when the reader's system turns dark.
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;
const places = [...document.querySelectorAll(".figure")];
const figures = places.map((place) => [place, JSON.parse(place.nextElementSibling.textContent)]);

function draw() {
  const { color } = getComputedStyle(document.body);
  for (const [place, { data, layout }] of figures) {
    if (touch) layout.dragmode = false; // a finger scrolls the page
    layout.font = { ...layout.font, color };
    for (const axis of Object.values(layout.scene ?? {})) if (axis.color) axis.color = color; // three dimensions
    Plotly.react(place, data, layout, { responsive: true, displayModeBar: false, staticPlot: "static" in place.dataset });
  }
}
draw();
dark.addEventListener("change", draw);

// The keyboard must reach whatever scrolls sideways, folded code once it is unfolded.
function reach(part) {
  for (const box of part.querySelectorAll("pre, .output_html, .formula, .rendered_html")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}
reach(document);
for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", () => reach(fold));
