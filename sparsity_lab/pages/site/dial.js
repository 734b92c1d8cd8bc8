// Moves the dial in the page: sliders → the experts (the dashboard's own grid), numbers, the race, and the verdict. All
// numbers and verdicts come with the page; see dial.py for what `data` holds.
const data = JSON.parse(document.getElementById("dial-data").textContent);
const AXES = ["sparsity", "budget", "width", "n_layers"], KEPT = "sparsity-lab guess ";
const SECONDS = 3, REST = 250; // of a playback; milliseconds between changes of the address, which browsers limit
const by = (id) => document.getElementById(`dial-${id}`);
const sliders = AXES.map(by), still = matchMedia("(prefers-reduced-motion: reduce)");
const nearestTo = (stops, value, map = (x) => x) => stops.reduce((best, stop, i) =>
  Math.abs(map(stop) - map(value)) < Math.abs(map(stops[best]) - map(value)) ? i : best, 0);
const SCALES = [(s) => Math.log(1 - s), Math.log, Math.log, (d) => d]; // by which stops are near each other

const WAITS = "The race is drawn here after your guess.";

let at = [0, 0, 0, 0], began = at; // the stops of the sliders, now and as the address was opened
let link = readLink("", data.rules); // as the address has it
let guess = null; // { choice, where }: the number of the stop that it was about
let frame = 0, written = 0, playing = 0;

const number = (stops) => stops.reduce((n, stop, axis) => n * data.axes[axis].length + stop, 0);
const stopsOf = (n) => [...data.axes.keys()].reverse().reduce((found, axis) => {
  const size = data.axes[axis].length;
  found.unshift(n % size);
  n = Math.floor(n / size);
  return found;
}, []);
const nameOf = (axis, stop) => data.names[axis]?.[stop] ?? String(data.axes[axis][stop]);
const named = (n) => stopsOf(n).map((stop, axis) =>
  [`S = ${data.axes[0][stop]}`, nameOf(1, stop), `width ${nameOf(2, stop)}`, `${nameOf(3, stop)} layer${stop ? "s" : ""}`][axis]);
const trained = (n) => data.nearest[n] === n;

// The kernel's place: what the grid asks of a widget's model.
const values = { stops: [], stop: 0, layers: 1, line: data.line, recorded: {}, live: {}, note: data.note, playing: false };
const heard = {};
const model = {
  get: (name) => values[name],
  set(name, value) {
    if (values[name] === value) return;
    values[name] = value;
    for (const answer of heard[`change:${name}`] ?? []) answer();
  },
  on: (event, answer) => { (heard[event] ??= []).push(answer); },
  save_changes() {},
};

function showGrid() {
  const [, budget, width, depth] = at;
  model.set("layers", data.axes[3][depth]);
  model.set("recorded", data.routes[data.axes[3][depth]] ?? {});
  model.set("stops", data.experts.map(([experts, active], sparsity) => {
    const [total, working] = data.parameters[number([sparsity, budget, width, depth])];
    return { experts, active, total_parameters: total, active_parameters: working };
  }));
  model.set("stop", at[0]);
}

function showFacts() {
  const models = [number(at), number([0, ...at.slice(1)])].slice(0, at[0] ? 2 : 1), count = (n) => n.toLocaleString("en");
  const rows = [
    ["", (n) => (n === number(at) ? "on the dial" : "dense twin")],
    ["active experts", (n) => { const [all, active] = data.experts[stopsOf(n)[0]]; return `${active} of ${all}`; }],
    ["total parameters", (n) => count(data.parameters[n][0])],
    ["active parameters", (n) => count(data.parameters[n][1])],
    ["tokens read", (n) => count(data.tokens[n])],
  ];
  if (guess) rows.push(["expected loss", (n) => data.expected[n]]);
  const table = by("facts");
  table.replaceChildren(table.caption);
  rows.forEach(([name, value], i) => {
    const row = table.insertRow();
    for (const [column, text] of [name, ...models.map(value)].entries()) {
      const cell = document.createElement(text && (i === 0 || column === 0) ? "th" : "td");
      if (cell.tagName === "TH") cell.scope = i === 0 ? "col" : "row";
      cell.textContent = text;
      row.append(cell);
    }
  });
}

// In words, where the combination was not trained.
function showNearest(n) {
  const place = by("nearest");
  place.hidden = trained(n);
  place.replaceChildren();
  if (trained(n)) return;
  const to = stopsOf(data.nearest[n]), names = named(data.nearest[n]).filter((_, axis) => to[axis] !== at[axis]);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `Go to ${names.join(", ")}`;
  button.onclick = () => { move(to); sliders[0].focus(); };
  place.append("No run with these settings ships with the lab. The nearest that does: ", button);
  if (guess && data.pictures[n].lines.length) place.append(" The thin dotted lines are the nearest runs.");
  if (guess && data.pictures[n].expected.length) place.append(" Hollow marks are what the lab's law expects.");
}

function showRace(n, share) {
  const here = data.verdicts[n], picture = guess && data.pictures[n], dense = number([0, ...at.slice(1)]);
  const sides = [["this", n], ...(at[0] ? [["dense", dense]] : [])];
  const seeds = trained(n) ? sides.map(([role, of]) => [role, data.seeds[of]]) : [];
  raceSvg(by("plot"), data, picture, data.axes[1][at[1]], seeds, share);
  if (share !== undefined) return;

  by("guess").hidden = Boolean(guess);
  by("result").hidden = !guess;
  by("twin").hidden = !at[0];
  by("guess").querySelector("button").disabled = !here;
  by("wait").textContent = here ? "" : at[0] ? "Move to settings that were trained first." :
    "At S = 0 there is only one model: move the sparsity dial first.";
  const words = data.words[n] ?? "The nearest runs, and what the law expects.";
  by("plot").setAttribute("aria-label", guess ? `Loss against training FLOPs. ${words}` : WAITS);
  if (!guess) return;
  const [title, rest] = by("verdict").children, about = data.verdicts[guess.where];
  title.textContent = here?.headline ?? (trained(n) ? "One dense model: nothing to race against." : "");
  rest.textContent = here?.sure ?? (trained(n) ? words : "");
  by("best").textContent = data.best[at[0] * data.axes[1].length + at[1]];
  by("guessed").textContent = `Your guess at ${named(guess.where).join(", ")}: ${guess.choice}. Result: ${about.won}. ` +
    (about.won === guess.choice ? "A hit." : "Not a hit.");
}

function show() {
  const n = number(at);
  sliders.forEach((slider, axis) => {
    const name = nameOf(axis, at[axis]);
    slider.value = at[axis];
    slider.setAttribute("aria-valuetext", name);
    slider.nextElementSibling.value = name;
  });
  showGrid();
  showFacts();
  showNearest(n);
  cancelAnimationFrame(playing);
  showRace(n);
}

function move(stops) {
  at = stops;
  show();
  clearTimeout(written);
  written = setTimeout(() => {
    try { history.replaceState(null, "", `#${address()}`); } catch { /* a browser that forbids it keeps the address */ }
  }, REST);
}

function address() {
  const shown = Object.fromEntries(AXES.map((name, axis) => [name, data.axes[axis][at[axis]]]));
  return writeLink({ ...link, values: { ...link.values, ...shown } }, data.rules);
}

// ---- links and lessons

function openLink() {
  link = readLink(location.hash, data.rules);
  const notes = [...link.notes];
  const stops = AXES.map((name, axis) => {
    const asked = link.values[name] ?? data.start[axis], stop = nearestTo(data.axes[axis], asked, SCALES[axis]);
    const found = data.axes[axis][stop], key = data.rules.keys.find((rule) => rule.name === name).key;
    if (found !== asked) notes.push(`The link's ${key}=${asked} is between the stops of this page: the nearest, ${found}, is shown.`);
    return stop;
  });
  for (const [name, has] of Object.entries(data.only)) {
    const asked = link.values[name] ?? has;
    if (asked !== has) notes.push(`The link asks for ${asked}, of which this page has no runs: those of ${has} are shown.`);
  }
  AXES.forEach((name, axis) => {
    sliders[axis].disabled = link.fix.includes(name);
    sliders[axis].parentElement.hidden = link.hide.includes(name);
  });
  by("lesson").hidden = !link.lesson;
  by("lesson").querySelector("span").textContent = link.lesson;
  by("note").hidden = !notes.length;
  by("note").textContent = notes.join(" ");
  guess = keptGuess();
  began = at = stops;
  clearTimeout(written);
  show();
}

// ---- the guess: one for each question; where storage is blocked it lasts as long as the page

function keptGuess() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT + link.lesson));
    return data.choices.includes(found?.choice) && data.verdicts[found.where] ? found : null;
  } catch {
    return null;
  }
}

function keep(found) {
  guess = found;
  try {
    if (found) localStorage.setItem(KEPT + link.lesson, JSON.stringify(found));
    else localStorage.removeItem(KEPT + link.lesson);
  } catch { /* blocked */ }
  show();
}

by("guess").onsubmit = (event) => {
  event.preventDefault();
  const choice = new FormData(by("guess")).get("guess");
  if (!choice) {
    by("wait").textContent = "Choose one of the three first.";
    return;
  }
  keep({ choice, where: number(at) });
  by("play").focus({ preventScroll: true });
  if (!still.matches) play();
};
by("again").onclick = () => {
  by("guess").reset();
  keep(null);
  by("guess").querySelector("input").focus();
};

// ---- the training, played back

function play() {
  const start = performance.now(), n = number(at);
  cancelAnimationFrame(playing);
  const step = (now) => {
    const share = Math.max(0.01, (now - start) / (1000 * SECONDS));
    showRace(n, share < 1 ? share : undefined);
    if (share < 1) playing = requestAnimationFrame(step);
  };
  playing = requestAnimationFrame(step);
}
by("play").onclick = play;

// ---- buttons

by("copy").onclick = async () => {
  const text = `${location.href.split("#")[0]}#${address()}`;
  try {
    await navigator.clipboard.writeText(text);
    by("copied").textContent = "The link is in the clipboard.";
  } catch {
    by("copied").textContent = `Copy this: ${text}`;
  }
};
by("reset").onclick = () => move(began);
by("tour").onclick = () => tour(data.tour);

sliders.forEach((slider, axis) => {
  slider.oninput = () => move(at.with(axis, Number(slider.value)));
});
document.querySelector(".dial-main").hidden = false;
render({ model, el: by("grid") });
openLink();
addEventListener("hashchange", openLink);
new ResizeObserver(() => { cancelAnimationFrame(frame); frame = requestAnimationFrame(() => showRace(number(at))); }).observe(by("plot"));
if (new URLSearchParams(location.search).get("tour") === "1") tour(data.tour);
