// What the page adds to the dashboard: what is being loaded, words that are explained, a tour, and a full window.
(() => {
  const DIAL = ".sparsity-lab-dial", $ = (selector) => document.querySelector(selector);

  // ---- Loading
  const STEPS = ["starting a Python for you", "loading the lab and its measured runs", "drawing the dashboard"];
  function loading(step) {
    $(".app-loading progress").value = step + 1;
    $(".app-loading span").textContent = `${step + 1} of ${STEPS.length}: ${STEPS[step]} …`;
  }
  loading(0);
  window.voila_process = () => loading(1); // Voilà calls it for each cell
  const finish = window.voila_finish;
  window.voila_finish = () => { loading(2); finish(); };

  // ---- Words of the glossary, the first of each in a place
  const GLOSSARY = new Map(Object.entries(JSON.parse($("#app-glossary").textContent)));
  const WORDS = [...GLOSSARY.keys()].sort((a, b) => b.length - a.length).join("|");
  const PLACES = `.app-head, ${DIAL} :is(.sparsity-lab-facts, .sparsity-lab-slider:not(.sparsity-lab-sparsity) .widget-label,
    .sparsity-lab-verdict, .sparsity-lab-more .widget-label)`;
  const FIND = new RegExp(`(?<![\\w-])(${WORDS})s?(?![\\w-])`, "i");
  const termOf = (text) => [...GLOSSARY.keys()].find((term) => term.toLowerCase() === text.toLowerCase());

  function mark(place) {
    const seen = new Set([...place.querySelectorAll(".app-word")].map((word) => word.dataset.term));
    const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT), texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    for (let text of texts.filter((text) => !text.parentElement.closest("h1, button, a, code, [aria-hidden=true]"))) {
      for (let found = FIND.exec(text.data); found; found = FIND.exec(text.data)) {
        const rest = text.splitText(found.index), term = termOf(found[1]);
        text = rest.splitText(found[0].length);
        if (seen.has(term)) continue;
        seen.add(term);
        const word = document.createElement("button");
        Object.assign(word, { type: "button", className: "app-word", textContent: found[0] });
        word.dataset.term = term;
        rest.replaceWith(word);
      }
    }
  }

  const means = Object.assign(document.createElement("div"), { id: "app-means", role: "tooltip", popover: "manual" });
  function explain(word) {
    for (const other of document.querySelectorAll("[aria-describedby=app-means]")) other.removeAttribute("aria-describedby");
    if (!word) { if (means.matches(":popover-open")) means.hidePopover(); return; }
    means.textContent = GLOSSARY.get(word.dataset.term);
    word.setAttribute("aria-describedby", "app-means");
    means.showPopover();
    const at = word.getBoundingClientRect(), box = means.getBoundingClientRect();
    const below = at.bottom + box.height < innerHeight;
    means.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
    means.style.top = `${below ? at.bottom : Math.max(0, at.top - box.height)}px`;
  }
  const wordOf = (event) => event.target.closest?.(".app-word");
  for (const kind of ["pointerover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => {
      if (!means.contains(event.target) && !(kind === "pointerover" && document.activeElement.matches(".app-word") && !wordOf(event)))
        explain(wordOf(event));
    });
  }
  document.addEventListener("focusout", () => explain());
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") explain(); });
  addEventListener("scroll", () => explain(), true);

  // ---- A tour
  const TOUR = [
    [`${DIAL} .sparsity-lab-sparsity`, "The sparsity dial: each stop to the right has more experts, and one of them works on each token."],
    [`${DIAL} .sparsity-lab-grid`, "The experts. Those that are lit work on the marked character; the others sleep. The bar below is the price: the full part works, the hatched part must be stored."],
    [`${DIAL} .sl-buttons`, "Train both models: the one on the dial, and its dense twin with as many FLOPs. You can pause and stop at any time."],
    [`${DIAL} .sl-race`, "The race: both losses fall while the models learn, and the lower one wins. Dotted lines were measured before."],
    [`${DIAL} .sparsity-lab-more`, "More settings, the text to read, and Copy link: whoever opens the link sees what you see."],
  ];
  $(".app-tour").addEventListener("click", () => tour(TOUR));

  // ---- A full window: the style sheet gives the race the height that the words and the rest leave
  const measure = () => document.body.style.setProperty("--app-head", `${$(".app-head").offsetHeight}px`);
  measure();
  addEventListener("resize", measure);

  let waits = false;
  new MutationObserver(() => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      for (const place of document.querySelectorAll(PLACES)) mark(place);
      if (!$(DIAL)) return;
      $(".app-loading")?.remove();
      if (!$("#rendered_cells .app-head")) $("#rendered_cells").prepend($(".app-head")); // which Voilà lays over all else
      $(".app-tour").disabled = false;
    });
  }).observe($("body"), { subtree: true, childList: true });
  document.body.append(means);
})();
