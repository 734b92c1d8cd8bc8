/* Trains a sparse model and its dense twin in the page, each in a worker of its own, and draws both losses. `data`
 * comes from training.py. */

const HEIGHT = 320, LEFT = 46, TOP = 10, BOTTOM = 46;
const NAME = 84; // pixels right of the ends, for their names
const SIDES = ["this", "dense"], NAMES = { this: "sparse", dense: "dense" };
const BLIND = Math.log(256); // the loss of guessing among all bytes

const section = document.getElementById("train");
section.innerHTML = `<style>${data.style}</style>${data.form}`;
const find = (selector) => section.querySelector(selector);
const form = find("form"), train = find("[type=submit]"), stop = find("#train-stop"), canvas = find("canvas");

const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const text = { train: bytes(data.text.train), val: bytes(data.text.val) };
const address = URL.createObjectURL(new Blob([data.engine, "\n", data.worker], { type: "text/javascript" }));
const gaps = new Map(); // dense − sparse, by setting and then by seed
let race = null;

const asked = () => Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, Number(value)]));

// ---- The race

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const setting = asked(), place = data.budgets.indexOf(setting.budget);
  race = { setting, begun: performance.now(), lanes: {} };
  for (const side of SIDES) {
    const key = `${setting.width}/${setting.depth}/${side === "this" ? setting.sparsity : 0}`, model = data.models[key];
    const steps = model.steps[place], worker = new Worker(address);
    const lane = { worker, steps, step: model.flops, losses: [], heldOut: null };
    worker.onmessage = ({ data: news }) => hear(lane, news);
    worker.onerror = ({ message }) => end(`The training failed: ${message}`);
    worker.postMessage({ config: model.config, run: { ...data.runs[place], seed: setting.seed }, steps, text });
    race.lanes[side] = lane;
  }
  find("#train-verdict b").textContent = find("#train-verdict span").textContent = "";
  canvas.setAttribute("aria-label", "The race is drawn here.");
  train.disabled = true;
  stop.disabled = false;
  show();
});

stop.addEventListener("click", () => {
  say("No winner: the race was stopped.", "Press Train to race again.");
  end(`Stopped at ${Math.round(100 * share())} % of the budget.`);
});

function hear(lane, news) {
  lane.losses.push(...news.losses);
  if ("heldOut" in news) lane.heldOut = news.heldOut;
  show();
  if (SIDES.every((side) => race.lanes[side].heldOut !== null)) {
    judge();
    end(`Trained in ${seconds(performance.now() - race.begun)}.`);
  }
}

/** Returns how much of the race is done, in its slower lane. */
const share = () => Math.min(...Object.values(race.lanes).map((lane) => lane.losses.length / lane.steps));
const seconds = (milliseconds) => `${Math.ceil(milliseconds / 1000)} s`;

function end(words) {
  for (const { worker } of Object.values(race.lanes)) worker.terminate();
  find("#train-progress").textContent = words;
  train.disabled = false;
  if (document.activeElement === stop) train.focus(); // because a disabled button loses it
  stop.disabled = true;
  draw();
}

function judge() {
  const [sparse, dense] = SIDES.map((side) => race.lanes[side].heldOut), { seed, ...rest } = race.setting;
  if (!Number.isFinite(sparse + dense)) {
    say("No winner: a run diverged.", "Its loss became infinite or undefined, which is no fault of sparsity.");
    return;
  }
  const key = JSON.stringify(rest), bySeed = gaps.get(key) ?? new Map(), gap = dense - sparse;
  gaps.set(key, bySeed.set(seed, gap));
  const all = [...bySeed.values()], ahead = all.filter((each) => each > 0).length;
  const caution = all.length === 1
    ? "One seed each, and with a budget this small chance decides much: not a finding. Train other seeds before you " +
      "believe it."
    : `Sparse was ahead with ${ahead} of the ${all.length} seeds that you trained, by ${all.map(signed).join(", ")}. ` +
      "Budgets this small are noisy: it takes many seeds, and larger budgets, to know.";
  const lower = `ends ${Math.abs(gap).toFixed(3)} nats per byte lower on held-out text`;
  say(`${gap > 0 ? "Sparse" : "Dense"} ${lower}.`, caution);
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

function say(title, rest) {
  find("#train-verdict b").textContent = title;
  find("#train-verdict span").textContent = rest;
}

function show() {
  const done = share(), passed = performance.now() - race.begun;
  const left = done > 0.05 ? `, about ${seconds(passed / done - passed)} left` : ""; // the first steps are slow
  find("#train-progress").textContent = `${Math.round(100 * done)} %${left}`;
  draw();
}

// ---- The picture: the whole fall of the losses, and in the empty corner their end, enlarged, once it is known

/** Means over the last twelfth of the run so far: one batch's loss jumps about. */
function smooth({ losses, step }) {
  const sums = [0];
  for (const loss of losses) sums.push(sums.at(-1) + loss);
  return losses.map((_, i) => {
    const from = i + 1 - Math.max(1, Math.floor((i + 1) / 12));
    return [(i + 1) * step, (sums[i + 1] - sums[from]) / (i + 1 - from)];
  });
}

function draw() {
  const width = canvas.clientWidth, scale = window.devicePixelRatio, pen = canvas.getContext("2d");
  const style = getComputedStyle(section), right = width - 10;
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  pen.scale(scale, scale);
  pen.font = `12px ${style.fontFamily}`;

  const budget = (race?.setting ?? asked()).budget;
  const lanes = race ? SIDES.map((side) => ({ ...race.lanes[side], side, points: smooth(race.lanes[side]) })) : [];
  const whole = panel([0, 1.04 * budget], [2, BLIND + 0.2], LEFT, right, HEIGHT - BOTTOM);
  axes(whole, right, [2, 3, 4, 5], [0, budget / 2, budget]);
  label(LEFT + (right - LEFT) / 2, HEIGHT - 8, "training FLOPs used", "center");
  pen.save();
  pen.translate(13, (TOP + HEIGHT - BOTTOM) / 2);
  pen.rotate(-Math.PI / 2);
  label(0, 0, "loss (nats per byte)", "center");
  pen.restore();
  for (const lane of lanes) line(whole, lane);
  key();
  if (!lanes.length || lanes.some((lane) => !Number.isFinite(lane.heldOut ?? NaN))) return;

  const ends = lanes.map((lane) => lane.heldOut);
  const near = lanes.flatMap(({ points }) => points.filter(([x]) => x > budget / 3).map(([, y]) => y)).concat(ends);
  const low = Math.min(...near) - 0.08, high = Math.max(...near) + 0.04;
  const close = panel([budget / 3, budget], [low, high], LEFT + 0.42 * (right - LEFT), right - NAME, TOP + 105);
  axes(close, right, ticks(low, high), [budget / 2, budget]);
  for (const lane of lanes) line(close, lane);
  const places = ends.map((loss) => close.y(loss)), upper = ends[0] > ends[1] ? 0 : 1;
  const apart = Math.max(0, 14 - Math.abs(places[0] - places[1])) / 2; // so that the names don't overlap
  lanes.forEach(({ side, heldOut }, i) => {
    pen.fillStyle = data.looks[side].colour;
    pen.beginPath();
    if (side === "this") pen.arc(close.x(budget), places[i], 5, 0, 7);
    else pen.rect(close.x(budget) - 4.5, places[i] - 4.5, 9, 9);
    pen.fill();
    label(close.x(budget) + 9, places[i] + 4 + (i === upper ? -apart : apart), `${NAMES[side]} ${heldOut.toFixed(2)}`);
  });
  canvas.setAttribute("aria-label", `Loss against FLOPs. ${lanes.map((lane) =>
    `${NAMES[lane.side]} ends at ${lane.heldOut.toFixed(4)}`).join(", ")} nats per byte on held-out text.`);

  function panel([x0, x1], [y0, y1], left, right, bottom) {
    return { left, right, bottom,
      x: (flops) => left + (flops - x0) / (x1 - x0) * (right - left),
      y: (loss) => bottom - (loss - y0) / (y1 - y0) * (bottom - TOP) };
  }
  function label(x, y, words, align = "left") {
    pen.fillStyle = style.color;
    pen.textAlign = align;
    pen.fillText(words, x, y);
  }
  function axes(at, right, losses, budgets) {
    pen.strokeStyle = "rgb(128 128 128 / 0.45)";
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(at.left, TOP);
    pen.lineTo(at.left, at.bottom);
    pen.lineTo(right, at.bottom);
    for (const loss of losses) {
      pen.moveTo(at.left - 4, at.y(loss));
      pen.lineTo(at.left, at.y(loss));
      label(at.left - 7, at.y(loss) + 4, String(loss), "right");
    }
    for (const value of budgets) {
      pen.moveTo(at.x(value), at.bottom);
      pen.lineTo(at.x(value), at.bottom + 4);
      label(at.x(value), at.bottom + 18, power(value), "center");
    }
    pen.stroke();
  }
  function line(at, { side, points }) {
    pen.save();
    pen.beginPath();
    pen.rect(at.left, TOP, at.right - at.left, at.bottom - TOP);
    pen.clip();
    stroke(side);
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(at.x(x), at.y(y));
    pen.stroke();
    pen.restore();
  }
  /** Names the lines, in the lower left corner, which stays empty. */
  function key() {
    if (!race) label(LEFT + 14, HEIGHT - BOTTOM - 16, "The race is drawn here.");
    for (const [i, side] of race ? SIDES.entries() : []) {
      const y = HEIGHT - BOTTOM - 28 + 16 * i;
      stroke(side);
      pen.beginPath();
      pen.moveTo(LEFT + 14, y);
      pen.lineTo(LEFT + 40, y);
      pen.stroke();
      pen.setLineDash([]);
      label(LEFT + 46, y + 4, NAMES[side]);
    }
  }
  function stroke(side) {
    const { colour, width, dash } = data.looks[side];
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash === "dash" ? [9, 6] : []);
  }
}

function ticks(low, high) {
  const step = high - low > 1 ? 0.5 : 0.2, found = [];
  for (let n = Math.ceil(low / step); n * step < high; n++) found.push((n * step).toFixed(1));
  return found;
}

/** 3e9 → 3×10⁹. */
function power(value) {
  if (!value) return "0";
  const [digits, exponent] = value.toExponential(1).split("e");
  const raised = exponent.slice(1).replace(/\d/g, (n) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[n]);
  return `${Number(digits) === 1 ? "" : `${Number(digits)}×`}10${raised}`;
}

// ---- The same in Python

function code() {
  const { sparsity, budget, width, depth, seed } = asked();
  find("#train-code").textContent = data.code.replace(/WIDTH|SPARSITY|DEPTH|BUDGET|SEED/g, (name) => ({
    WIDTH: width, SPARSITY: sparsity, DEPTH: depth, BUDGET: budget.toExponential().replace("+", ""), SEED: seed,
  })[name]);
}

form.addEventListener("input", code);
form.addEventListener("input", () => race || draw());
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
code();
draw();
