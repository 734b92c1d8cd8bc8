// Walks through a page: highlights what is spoken of, step by step. `steps` is a list of [selector, text]; what a page
// does not show is passed over. Escape or Close ends it, and the focus goes back to where it was.
function tour(steps) {
  document.querySelector(".tour")?.dispatchEvent(new Event("leave"));
  const seen = (selector) => [...document.querySelectorAll(selector)].find((place) => place.getClientRects().length);
  const shown = steps.filter(([selector]) => seen(selector));
  if (!shown.length) return;
  const before = document.activeElement, box = document.createElement("div"), text = document.createElement("p");
  const [back, next, close] = ["Back", "Next", "Close"].map((name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    return button;
  });
  let at = 0;

  function show() {
    const [selector, words] = shown[at], still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.querySelector(".tour-here")?.classList.remove("tour-here");
    const place = seen(selector);
    place.classList.add("tour-here");
    place.scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
    box.setAttribute("aria-label", `Tour, step ${at + 1} of ${shown.length}`);
    text.textContent = `${at + 1} of ${shown.length}: ${words}`;
    back.disabled = at === 0;
    next.textContent = at === shown.length - 1 ? "Done" : "Next";
  }
  function leave() {
    document.querySelector(".tour-here")?.classList.remove("tour-here");
    box.remove();
    before?.focus?.();
  }

  box.className = "tour";
  box.setAttribute("role", "dialog");
  text.setAttribute("role", "status");
  box.append(text, back, next, close);
  back.onclick = () => { at -= 1; show(); if (back.disabled) next.focus(); };
  next.onclick = () => { at += 1; if (at < shown.length) show(); else leave(); };
  close.onclick = leave;
  box.addEventListener("leave", leave);
  box.addEventListener("keydown", (event) => { if (event.key === "Escape") leave(); });
  document.body.append(box);
  show();
  next.focus({ preventScroll: true });
}
window.tour = tour;
