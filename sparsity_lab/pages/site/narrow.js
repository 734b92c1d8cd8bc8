// What a figure looks like on a narrow screen: panels below each other, titles and names in several lines, room for legends.
const LETTER = 6.5; // pixels, on average
const LINE = 16, LEGEND_ROW = 20; // pixels: a line of a name, and of a legend
const PANEL = [150, 260], GAP = 90; // pixels: a panel's height at least and at most, and what is between panels

function narrowed({ data, layout }, width) {
  const room = width - 90; // beside the ticks of the vertical axis
  layout.height ??= 450;
  layout.font = { ...layout.font, size: 12 };
  const beside = data.filter(({ orientation, text }) => orientation === "h" && text).flatMap(({ text }) => text);
  const texts = LETTER * Math.max(0, ...beside.map((text) => String(text).length)); // to the right of bars
  // A vertical axis with a title has its room at once: where Plotly widens it, a legend may break in turns in one way and
  // the other, which takes a quarter of a second.
  const titled = Object.entries(layout).some(([key, axis]) => /^yaxis/.test(key) && axis.title);
  layout.margin = { ...layout.margin, l: titled ? 68 : Math.min(layout.margin?.l ?? 50, 50), r: 12 + texts };
  stack(data, layout);
  wrapTitles(layout, room);
  wrapNames(data, layout, width);
  for (const note of layout.annotations ?? []) if (note.text && !/<br>/.test(note.text)) note.text = wrapped(note.text, room / LETTER);

  const names = data.filter((trace) => trace.name && trace.showlegend !== false).map((trace) => trace.name.length);
  if (names.length > 1 && layout.showlegend !== false) {
    const columns = Math.max(1, Math.floor(room / (Math.max(...names) * LETTER + 50)));
    layout.height += (Math.ceil(names.length / columns) - 1) * LEGEND_ROW;
  }
  if (layout.scene) { // in three dimensions: whole, with its colours below
    layout.scene.camera = { eye: { x: 2.1, y: -2.1, z: 1.1 } };
    for (const trace of data) if (trace.colorbar) trace.colorbar = { ...trace.colorbar, orientation: "h", y: -0.1, thickness: 10 };
  }
  return { data, layout };
}

// Puts panels that stand side by side, up to three of them, below each other, in the order in which one reads them.
function stack(data, layout) {
  const axis = (name, letter) => `${letter}axis${(name ?? letter).slice(1)}`;
  const panels = new Map();
  for (const trace of data) {
    const keys = [axis(trace.xaxis, "x"), axis(trace.yaxis, "y")];
    const [x, y] = keys.map((key) => layout[key]?.domain ?? [0, 1]);
    if (layout[keys[0]] && layout[keys[1]]) panels.set(keys.join(), { keys, x, y, traces: [...(panels.get(keys.join())?.traces ?? []), trace] });
  }
  const cells = [...panels.values()].sort((a, b) => b.y[1] - a.y[1] || a.x[0] - b.x[0]);
  const columns = new Set(cells.map(({ x }) => x[0])).size;
  const shared = new Set(cells.flatMap(({ keys }) => keys)).size < 2 * cells.length;
  if (columns < 2 || columns > 3 || shared) return;

  const was = (layout.height - 110) / (cells.length / columns);
  const row = Math.min(Math.max(was, PANEL[0]), PANEL[1]), inner = cells.length * row + (cells.length - 1) * GAP;
  layout.height = inner + 150;
  cells.forEach(({ keys: [xaxis, yaxis], x, y, traces }, k) => {
    const top = 1 - (k * (row + GAP)) / inner, domain = [Math.max(top - row / inner, 0), top];
    const isTitle = (note) => note.xref === "paper" && note.yref === "paper" && Math.abs(note.x - (x[0] + x[1]) / 2) < 0.02 && Math.abs(note.y - y[1]) < 0.02;
    for (const note of (layout.annotations ?? []).filter(isTitle)) Object.assign(note, { x: 0.5, y: top });
    Object.assign(layout[xaxis], { domain: [0, 1], showticklabels: true });
    Object.assign(layout[yaxis], { domain, showticklabels: true, side: "left" });
    for (const trace of traces) if (trace.colorbar) Object.assign(trace.colorbar, { x: 1.02, y: (domain[0] + domain[1]) / 2, len: row / inner });
  });
}

function wrapTitles(layout, room) {
  for (const [key, axis] of Object.entries(layout)) {
    if (!/^[xy]axis/.test(key) || !axis.title) continue;
    const title = typeof axis.title === "string" ? { text: axis.title } : axis.title;
    const [low, high] = axis.domain ?? [0, 1];
    const pixels = key.startsWith("x") ? room * (high - low) : (layout.height - 110) * (high - low);
    if (title.text) axis.title = { ...title, text: wrapped(title.text, pixels / 7), font: { ...title.font, size: 12 } };
  }
}

// The names of bars or rows take less than half of the width; those of columns share it.
function wrapNames(data, layout, width) {
  const most = (0.42 * width) / LETTER;
  for (const [key, axis] of Object.entries(layout).filter(([key]) => key.startsWith("yaxis"))) {
    const own = data.filter((trace) => `yaxis${(trace.yaxis ?? "y").slice(1)}` === key && Array.isArray(trace.y));
    const names = axis.ticktext ?? [...new Set(own.flatMap((trace) => trace.y))];
    if (!names.every((name) => typeof name === "string") || !names.some((name) => longest(name) > most)) continue;
    const ticktext = names.map((name) => wrapped(name, most));
    const lines = Math.max(...ticktext.map((name) => name.split("<br>").length));
    Object.assign(axis, { tickvals: axis.tickvals ?? names, ticktext });
    layout.height = Math.max(layout.height, names.length * lines * LINE + 110);
    const { xaxis } = layout, share = (width - most * LETTER) / LETTER / (xaxis?.ticktext?.length ?? 1) - 2;
    if (xaxis?.ticktext) xaxis.ticktext = xaxis.ticktext.map((name) => wrapped(name, share));
  }
}

const longest = (text) => Math.max(...text.split("<br>").map((line) => line.length));

function wrapped(text, most) {
  if (longest(text) <= most) return text;
  const lines = [""];
  for (const word of text.split(/ |<br>/)) {
    if (lines.at(-1) && (lines.at(-1) + word).length >= most) lines.push("");
    lines.push([lines.pop(), word].filter(Boolean).join(" "));
  }
  return lines.join("<br>");
}
