// A guess is compared with its result, which opens by itself once there is one. Nothing is kept or sent.
for (const question of document.querySelectorAll(".question")) {
  const says = question.querySelector("[role=status]");
  const result = document.querySelector(`.result[data-key="${CSS.escape(question.dataset.key)}"]`);
  question.addEventListener("submit", (event) => event.preventDefault());
  question.addEventListener("change", () => {
    const guess = new FormData(question).get("guess").trim();
    if (!result || !guess) return;
    const { result: found, near } = result.dataset;
    const number = Number(guess.replace("%", "").replace("−", "-"));
    if (near !== undefined && !Number.isFinite(number)) {
      says.textContent = `“${guess}” is not a number: write it as 1500, 0.5 or 3e11`;
      return;
    }
    const hit = near === undefined ? guess === found : Math.abs(number - found) <= near * (1 + 1e-9);
    const verdict = result.querySelector(".verdict");
    verdict.textContent = `Your guess: ${guess}. ${hit ? "A hit." : "Not a hit."}`;
    verdict.hidden = false;
    result.open = true;
    says.textContent = "Read on: the result is set beside your guess.";
  });
}
