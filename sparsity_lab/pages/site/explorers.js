// Moves the explorers. What one shows at its stops is in a file of its own, which is loaded once the explorer comes near the
// window: a page from disk may fetch nothing, but it may load scripts.
const explorers = {
  places: new Map(),
  take(file, table) {
    for (const place of this.places.get(file)) begin(place, table);
  },
};

const REHEARSED = 12; // stops of an explorer, at most

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

  function figureOf(parts) {
    const changes = parts.map((part) => table.deltas[part]), layout = merged(first.layout, changes.pop());
    return { data: changes.map((change, k) => merged(first.data[k] ?? {}, change)), layout };
  }

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
    figures.set(drawn, figureOf(parts));
    drawn.setAttribute("aria-label", table.labels[label]);
    says.textContent = text;
    draw(drawn);
  }
  for (const control of controls) control.addEventListener("input", show);
  const all = table.frames.flatMap(({ parts }) => (parts ? [parts] : []));
  const some = new Set([...Array(REHEARSED).keys()].map((k) => all[Math.round((k * (all.length - 1)) / (REHEARSED - 1))]));
  rehearse(place, drawn, [...some], figureOf);
  if (controls.some((control, k) => stopOf(control) !== table.controls[k].start)) show(); // moved before the file was there
}

// Draws some stops out of sight while the reader reads. So the first move is as quick as the tenth, and the figure knows
// which margins it will need: it neither jumps nor is drawn twice.
const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));

function rehearse(place, drawn, left, figureOf) {
  const stage = document.createElement("div");
  stage.className = "stage";
  whenIdle(function next() {
    if (left.length) {
      if (!stage.isConnected) place.append(stage);
      stage.style.width = `${drawn.clientWidth}px`;
      draw(drawn, stage, figureOf(left.pop()));
      whenIdle(next);
    } else if (stage.isConnected) {
      Plotly.purge(stage);
      stage.remove();
    }
  });
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
