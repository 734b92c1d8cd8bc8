/* Trains a sparse model and its dense twin in the page, each in a worker of its own, and draws both losses. `data` comes
 * from training.py. */

const HEIGHT = 280, LEFT = 46, TOP = 10, BOTTOM = 46;
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
    ? "One seed each, and with a budget this small chance decides much: not a finding. Train other seeds before you believe it."
    : `With the seeds that you trained, sparse was ahead in ${ahead} of ${all.length}, by ${all.map(signed).join(", ")}. ` +
      "Budgets this small are noisy: it takes many seeds, and larger budgets, to know.";
  say(`${gap > 0 ? "Sparse" : "Dense"} ends ${Math.abs(gap).toFixed(3)} nats per byte lower on held-out text.`, caution);
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

function say(title, rest) {
  find("#train-verdict b").textContent = title;
  find("#train-verdict span").textContent = rest;
}

function show() {
  const done = share(), passed = performance.now() - race.begun;
  const left = done ? `about ${seconds(passed / done - passed)} left` : "";
  find("#train-progress").textContent = `${Math.round(100 * done)} % ${left}`;
  draw();
}

// ---- The picture: the whole fall of the losses, and in the empty corner the end, enlarged, when it is known

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
  const style = getComputedStyle(section), ink = style.getPropertyValue("--text") || style.color;
  const paper = style.getPropertyValue("--page") || "white", faint = "rgb(128 128 128 / 0.45)";
  canvas.width = width * scale;
  canvas.height = HEIGHT * scale;
  pen.scale(scale, scale);
  pen.font = `12px ${style.fontFamily}`;

  const budget = (race?.setting ?? asked()).budget, last = Math.log10(budget), right = width - 10;
  const lanes = race ? SIDES.map((side) => ({ ...race.lanes[side], side, points: smooth(race.lanes[side]) })) : [];
  const whole = panel(last - 2, last + 0.08, 1.8, BLIND + 0.2, LEFT, TOP, right, HEIGHT - BOTTOM);
  axes(whole, [2, 3, 4, 5], [last - 2, last - 1, last].map((at) => 10 ** at));
  label(LEFT + (right - LEFT) / 2, HEIGHT - 8, "training FLOPs used", "center");
  pen.save();
  pen.translate(13, (TOP + HEIGHT - BOTTOM) / 2);
  pen.rotate(-Math.PI / 2);
  label(0, 0, "loss (nats per byte)", "center");
  pen.restore();
  if (!race) label(LEFT + 14, HEIGHT - BOTTOM - 16, "The race is drawn here.");
  for (const lane of lanes) line(whole, lane);
  if (lanes.some((lane) => !Number.isFinite(lane.heldOut ?? NaN))) return key();

  const ends = lanes.map((lane) => lane.heldOut), low = Math.min(...ends) - 0.15, high = Math.max(...ends) + 0.35;
  const close = panel(last - 0.7, last + 0.45, low, high, LEFT + 0.52 * (right - LEFT), TOP, right, 0.54 * HEIGHT);
  pen.fillStyle = paper;
  pen.fillRect(close.left - 34, TOP - 4, right - close.left + 36, close.bottom - TOP + 24);
  axes(close, ticks(low, high), [budget / 4, budget]);
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
    `${NAMES[lane.side]} ends at ${lane.heldOut.toFixed(3)}`).join(", ")} nats per byte on held-out text.`);
  return key();

  function panel(x0, x1, y0, y1, left, top, right, bottom) {
    return { left, top, right, bottom,
      x: (value) => left + (Math.log10(value) - x0) / (x1 - x0) * (right - left),
      y: (loss) => bottom - (loss - y0) / (y1 - y0) * (bottom - top) };
  }
  function label(x, y, words, align = "left") {
    pen.fillStyle = ink;
    pen.textAlign = align;
    pen.fillText(words, x, y);
  }
  function axes(at, losses, budgets) {
    pen.strokeStyle = faint;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(at.left, at.top);
    pen.lineTo(at.left, at.bottom);
    pen.lineTo(at.right, at.bottom);
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
    pen.rect(at.left, at.top, at.right - at.left, at.bottom - at.top);
    pen.clip();
    pen.strokeStyle = data.looks[side].colour;
    pen.lineWidth = data.looks[side].width;
    pen.setLineDash(data.looks[side].dash === "dash" ? [9, 6] : []);
    pen.beginPath();
    for (const [x, y] of points) pen.lineTo(at.x(x), at.y(y));
    pen.stroke();
    pen.restore();
  }
  /** Names the lines, in the lower left corner, which stays empty. */
  function key() {
    SIDES.forEach((side, i) => {
      if (!race) return;
      const x = LEFT + 14, y = HEIGHT - BOTTOM - 28 + 16 * i;
      pen.strokeStyle = data.looks[side].colour;
      pen.lineWidth = data.looks[side].width;
      pen.setLineDash(data.looks[side].dash === "dash" ? [9, 6] : []);
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x + 26, y);
      pen.stroke();
      label(x + 32, y + 4, NAMES[side]);
    });
  }
}

function ticks(low, high) {
  const step = high - low > 0.8 ? 0.4 : 0.2, found = [];
  for (let n = Math.ceil(low / step); n * step < high; n++) found.push((n * step).toFixed(1));
  return found;
}

/** 3e9 → 3×10⁹. */
function power(value) {
  const [digits, exponent] = value.toExponential(1).split("e"), raised = exponent.slice(1).replace(/\d/g, (n) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[n]);
  return `${Number(digits) === 1 ? "" : `${Number(digits)}×`}10${raised}`;
}

// ---- The same in Python

function code() {
  const { sparsity, budget, width, depth, seed } = asked();
  find("#train-code").textContent = data.code.replace(/WIDTH|SPARSITY|DEPTH|BUDGET|SEED/g, (name) => ({
    WIDTH: width, SPARSITY: sparsity, DEPTH: depth, BUDGET: budget.toExponential().replace("+", ""), SEED: seed,
  })[name]);
}

form.addEventListener("change", code);
form.addEventListener("change", () => race || draw());
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
code();
draw();
