// Draws the race as figures/race.py does: the whole fall of the loss, and in the empty corner its end, enlarged. Python
// has chosen the frame, the labels and their places. Without a picture, the axes await a guess. `share` is of the time
// that a playback takes.
const HEIGHT = 268, LEFT = 56, RIGHT = 8, TOP = 10, BOTTOM = 46;

function raceSvg(svg, data, picture, budget, seeds, share = 1) {
  const width = svg.clientWidth || 600, across = width - LEFT - RIGHT, up = HEIGHT - TOP - BOTTOM;
  const end = Math.log10(budget), [bottom, low, high] = picture ? picture.frame : [1.8, 0, 1];
  // A scale: the range of the logarithm of FLOPs, that of losses, and the corner of the box that it fills.
  const scale = (x0, x1, y0, y1, left, height) => ({
    x: (flops) => left + ((Math.log10(flops) - x0) / (x1 - x0)) * (width - RIGHT - left),
    y: (loss) => TOP + height - ((loss - y0) / (y1 - y0)) * height,
    left, height,
  });
  const whole = scale(end - 2.05, end + 0.1, bottom, data.blind + 0.25, LEFT, up);
  const close = scale(end - 0.9, end + 1.1, low, high, LEFT + 0.48 * across, up / 2);

  const parts = [];
  const add = (tag, attributes, text = "") => {
    const written = Object.entries(attributes).map(([name, value]) => `${name}="${value}"`).join(" ");
    parts.push(`<${tag} ${written}>${text}</${tag}>`);
  };
  const words = (x, y, text, anchor = "middle", more = {}) =>
    add("text", { x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor, ...more }, text);
  const axes = (at) =>
    add("path", { class: "axis", d: `M${at.left} ${TOP}V${TOP + at.height}H${width - RIGHT}` });
  const tick = (x, y, dx, dy) => add("path", { class: "axis", d: `M${x.toFixed(1)} ${y.toFixed(1)}l${dx} ${dy}` });

  // Axes
  axes(whole);
  for (let power = Math.ceil(end - 2.05); power <= end + 0.1; power++) {
    const x = whole.x(10 ** power);
    tick(x, TOP + up, 0, 5);
    words(x, TOP + up + 18, `10<tspan dy="-5" font-size="9">${power}</tspan>`);
  }
  for (let loss = Math.ceil(bottom); loss < data.blind + 0.25; loss++) {
    tick(LEFT, whole.y(loss), -5, 0);
    words(LEFT - 8, whole.y(loss) + 4, loss, "end");
  }
  words(LEFT + across / 2, HEIGHT - 8, "training FLOPs used", "middle", { class: "title" });
  const middle = `translate(14 ${TOP + up / 2}) rotate(-90)`;
  words(0, 0, "loss (nats per byte)", "middle", { class: "title", transform: middle });
  if (!picture) {
    words(LEFT + across / 2, TOP + up / 2, "The race is drawn here after your guess.");
    return finish();
  }
  axes(close);
  for (const flops of [budget / 5, budget]) {
    tick(close.x(flops), TOP + close.height, 0, 5);
    words(close.x(flops), TOP + close.height + 16, power(flops));
  }
  const step = high - low > 0.8 ? 0.4 : high - low > 0.4 ? 0.2 : 0.1;
  for (let n = Math.ceil(low / step); n * step <= high; n++) {
    tick(close.left, close.y(n * step), -4, 0);
    add("path", { class: "grid", d: `M${close.left} ${close.y(n * step).toFixed(1)}H${width - RIGHT}` });
    words(close.left - 7, close.y(n * step) + 4, (n * step).toFixed(1), "end");
  }

  // What the law expects, lines, and ends
  const clip = { whole: "clip-path=\"url(#dial-whole)\"", close: "clip-path=\"url(#dial-close)\"" };
  parts.push(box("dial-whole", LEFT, TOP, across, up), box("dial-close", close.left, TOP, width - RIGHT - close.left, close.height));
  parts.push(`<g ${clip.close}>`);
  for (const [role, band] of picture.bands) {
    const edge = (i) => band.map((at) => `${close.x(at[0] * budget).toFixed(1)} ${close.y(at[i]).toFixed(1)}`);
    const { colour } = data.looks[role], d = `M${[...edge(1), ...edge(2).reverse()].join("L")}Z`;
    add("path", { class: "band", fill: colour, stroke: band.length > 1 ? "none" : colour, d }); // one point: a bar
  }
  parts.push("</g>");
  const until = share < 1 ? 10 ** (end - 2.05 + 2.05 * share) : Infinity; // FLOPs, while the training is played
  for (const [role, number] of picture.lines) {
    const [first, last, ...losses] = data.curves[number], look = data.looks[role];
    const points = losses.map((loss, i) => [i === losses.length - 1 ? last : first * (i + 1), loss / 1000])
      .filter(([flops]) => flops <= until);
    for (const [name, at] of Object.entries({ whole, close })) {
      const d = points.map(([flops, loss]) => `${at.x(flops).toFixed(1)} ${at.y(loss).toFixed(1)}`).join("L");
      if (!d) continue;
      parts.push(`<g ${clip[name]}>`);
      add("path", { class: `line ${role.replace(" ", "-")}`, stroke: look.colour, "stroke-width": look.width,
        "stroke-dasharray": { dash: "9 6", dot: "2 4" }[look.dash] ?? "none", d: `M${d}` });
      parts.push("</g>");
    }
  }
  if (until < Infinity) return finish();
  for (const [role, loss, from, to] of picture.expected) {
    const x = close.x(budget), { colour } = data.looks[role];
    add("path", { class: "bar", stroke: colour, d: `M${x} ${close.y(from)}V${close.y(to)}` });
    mark(role, x, close.y(loss), 5, `fill="var(--page)" stroke="${colour}" stroke-width="2"`);
  }
  for (const [role, losses] of seeds) {
    if (losses.length > 1) for (const loss of losses) mark(role, close.x(budget * 0.84), close.y(loss), 2, `fill="${data.looks[role].colour}"`);
  }
  for (const [role, loss] of picture.ends) mark(role, close.x(budget), close.y(loss), 5, `fill="${data.looks[role].colour}"`);
  if (picture.ends.length === 2) {
    const [one, two] = picture.ends.map(([, loss]) => close.y(loss).toFixed(1)), x = close.x(budget * 1.16).toFixed(1);
    add("path", { class: "gap", d: `M${x - 4} ${one}h8m-4 0V${two}m-4 0h8` });
  }
  for (const [text, loss, anchor] of picture.labels) {
    words(close.x(budget * 1.3), close.y(loss) + { top: 12, middle: 4, bottom: -3 }[anchor], text, "start", { class: "label" });
  }
  return finish();

  function mark(role, x, y, r, look) {
    parts.push(data.looks[role].symbol === "square"
      ? `<rect class="mark" x="${(x - r).toFixed(1)}" y="${(y - r).toFixed(1)}" width="${2 * r}" height="${2 * r}" ${look}/>`
      : `<circle class="mark" cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${r}" ${look}/>`);
  }
  function box(id, x, y, w, h) {
    return `<clipPath id="${id}"><rect x="${x}" y="${y}" width="${w}" height="${h}"/></clipPath>`;
  }
  function finish() {
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.innerHTML = parts.join("");
  }
}

// As units.py writes it: 10¹¹, 2×10¹⁰.
function power(value) {
  const [digits, exponent] = value.toExponential(2).split("e"), raised = String(Number(exponent)).replace(/\d/g, (n) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[n]);
  return (Number(digits) === 1 ? "" : `${Number(digits)}×`) + `10${raised}`;
}
