// Keys of the marking page: digits, Enter, arrows, and letters for what else there is.
const sets = [...document.querySelectorAll("fieldset")];
const filled = (set) => set.querySelector(":checked");
let row = Math.max(0, sets.findIndex((set) => !filled(set)));

function show() {
  sets.forEach((set, n) => set.classList.toggle("now", n === row));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.tagName === "TEXTAREA") {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const click = { ArrowLeft: "previous", ArrowRight: "next", u: "unread" }[event.key];
  if (click) {
    event.preventDefault();
    document.getElementById(click).click();
  } else if (/^[0-9]$/.test(event.key) && sets[row]) {
    const box = sets[row].querySelector(`[value="${event.key}"]`);
    if (box) {
      box.checked = true;
      row = Math.min(row + 1, sets.length - 1);
    }
  } else if (event.key === "Backspace") {
    row = 0;
  } else if (event.key === "c") {
    event.preventDefault();
    document.getElementById("comment").focus();
  } else if (event.key === "Enter" && event.target.tagName !== "A" && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    document.querySelector("form").requestSubmit();
  }
  show();
});
show();
