// Draws the figures, whose data follow their places. Their texts are grey, which is too little on white and on black:
// they take the page's colour, also when the reader's system turns dark.
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

// What scrolls sideways must be within reach of the keyboard.
for (const box of document.querySelectorAll("pre, .output_html, .formula, .rendered_html")) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
