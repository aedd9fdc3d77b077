// The keyboard: what each key does, and the list of them.

import { el, isWriting } from "./dom.js";

/** [keys, what is shown for them, what they do, name of the action]; the first that fits is done. */
const KEYS = [
  [["j", "ArrowDown"], "j  ↓", "next run", "down"],
  [["k", "ArrowUp"], "k  ↑", "run before", "up"],
  [["PageDown"], "Page ↓", "a page on", "pageDown"],
  [["PageUp"], "Page ↑", "a page back", "pageUp"],
  [["Home", "g"], "Home  g", "first run", "first"],
  [["End", "G"], "End  G", "last run", "last"],
  [["Enter", "o"], "Enter  o", "open the run's page", "open"],
  [["x", " "], "x  Space", "draw the run's curve, or not", "choose"],
  [["/"], "/", "search", "search"],
  [["f"], "f", "filter", "filter"],
  [["s"], "s", "stop the run (asks first)", "stop"],
  [["p"], "p", "pause it, or let it go on", "pause"],
  [["r"], "r", "resume it", "resume"],
  [["l"], "l", "log scale", "log"],
  [["t"], "t", "by step or by time", "axis"],
  [["z"], "z", "whole curve again", "whole"],
  [["Escape"], "Esc", "close, back", "back"],
  [["?"], "?", "these keys", "help"],
];
const OF_THE_LIST = new Set(["down", "up", "pageDown", "pageUp", "first", "last", "open", "choose"]);

/** Call `actions[name]()` for every key. An action that gives false leaves the key to the browser. */
export function listen(actions, isListShown) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (isWriting(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const entry = KEYS.find(([keys]) => keys.includes(event.key));
    if (!entry) return;
    const name = entry[3];
    if (OF_THE_LIST.has(name) && (!isListShown() || belongsToOther(event))) return;
    if (actions[name]() !== false) event.preventDefault();
  });
}

/** Enter and Space press a button that has the focus, arrows move a slider or scroll a log. */
function belongsToOther({ target, key }) {
  if (key === "Enter" || key === " ") return target.closest("button, a, input, summary, select") !== null;
  return target.closest("input[type=range], pre") !== null;
}

export function showHelp() {
  const dialog = el("dialog", { class: "keys", "aria-label": "Keys" }, el("form", { method: "dialog" },
    el("h2", { text: "Keys" }),
    el("dl", {}, ...KEYS.flatMap(([, shown, what]) => [el("dt", {}, ...shown.split("  ").map((key) => el("kbd", { text: key }))), el("dd", { text: what })])),
    el("p", { class: "faint", text: "Drag over a curve to zoom, double click for the whole." }),
    el("div", { class: "buttons" }, el("button", { class: "main", text: "Close" }))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
