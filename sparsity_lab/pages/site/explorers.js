// Moves the explorers. What one shows at its stops is in a file of its own, which is loaded once the explorer comes near the
// window: a page from disk may fetch nothing, but it may load scripts.
const explorers = {
  places: new Map(),
  take(file, table) {
    for (const place of this.places.get(file)) begin(place, table);
  },
};

const nearby = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    nearby.unobserve(target);
    const script = document.createElement("script");
    script.src = target.dataset.file;
    document.head.append(script);
  }
}, { rootMargin: "600px" });

for (const place of document.querySelectorAll(".explorer")) {
  explorers.places.set(place.dataset.file, [place]);
  nearby.observe(place);
}

function begin(place, table) {
  const controls = [...place.querySelectorAll("input, select")];
  const [drawn, problem, says] = [".figure", ".problem", "[role=status]"].map((part) => place.querySelector(part));
  const first = figures.get(drawn);

  const stopOf = (control) => (control.matches("select") ? control.selectedIndex : +control.value);

  function show() {
    let number = 0; // of the frame: the last control's stops change fastest
    controls.forEach((control, k) => {
      const { stops } = table.controls[k], stop = stopOf(control);
      number = number * stops.length + stop;
      if (control.matches("input")) {
        control.setAttribute("aria-valuetext", stops[stop]);
        control.nextElementSibling.textContent = stops[stop];
      }
    });
    const { error = "", text, parts, label } = table.frames[number];
    problem.textContent = error; // the figure stays as it was
    if (error) return;
    const changes = parts.map((part) => table.deltas[part]), layout = merged(first.layout, changes.pop());
    figures.set(drawn, { data: changes.map((change, k) => merged(first.data[k] ?? {}, change)), layout });
    drawn.setAttribute("aria-label", table.labels[label]);
    says.textContent = text;
    draw(drawn);
  }
  for (const control of controls) control.addEventListener("input", show);
  if (controls.some((control, k) => stopOf(control) !== table.controls[k].start)) show(); // moved before the file was there
}

// Dictionaries are merged, null takes away, as in outputs.py.
function merged(old, change) {
  const both = [old, change].every((part) => part && typeof part === "object" && !Array.isArray(part));
  if (!both) return change;
  const found = { ...old };
  for (const [key, value] of Object.entries(change)) {
    if (value === null) delete found[key];
    else found[key] = merged(old[key], value);
  }
  return found;
}
