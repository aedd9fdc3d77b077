// Keyboard shortcuts, and the dialog that lists them.

import { el, isWriting } from "./dom.js";

/** [keys, label of the keys, what they do, name of the action]; the first match wins. */
const KEYS = [
  [["j", "ArrowDown"], "j  ↓", "next run", "down"],
  [["k", "ArrowUp"], "k  ↑", "previous run", "up"],
  [["PageDown"], "Page ↓", "next page", "pageDown"],
  [["PageUp"], "Page ↑", "previous page", "pageUp"],
  [["Home", "g"], "Home  g", "first run", "first"],
  [["End", "G"], "End  G", "last run", "last"],
  [["Enter", "o"], "Enter  o", "open the run's page", "open"],
  [["x", " "], "x  Space", "show or hide the run's curve", "choose"],
  [["c"], "c", "compare the selected runs", "compare"],
  [["/"], "/", "search", "search"],
  [["f"], "f", "filter", "filter"],
  [["s"], "s", "stop the run (asks first)", "stop"],
  [["p"], "p", "pause or resume the run", "pause"],
  [["r"], "r", "resume the run", "resume"],
  [["l"], "l", "log scale on or off", "log"],
  [["t"], "t", "x-axis: steps or time", "axis"],
  [["z"], "z", "reset the zoom", "resetZoom"],
  [["Escape"], "Esc", "close, back", "back"],
  [["?"], "?", "show this help", "help"],
];
const OF_THE_LIST = new Set(["down", "up", "pageDown", "pageUp", "first", "last", "open", "choose"]);

/** Call `actions[name]()` for every key. An action that returns false leaves the key to the browser. */
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

/** Whether the focused element uses the key: Enter and Space press a button, arrows move a slider or scroll a log. */
function belongsToOther({ target, key }) {
  if (key === "Enter" || key === " ") return target.closest("button, a, input, summary, select") !== null;
  return target.closest("input[type=range], pre") !== null;
}

export function showHelp() {
  const dialog = el(
    "dialog",
    { class: "keys", "aria-label": "Keyboard shortcuts" },
    el(
      "form",
      { method: "dialog" },
      el("h2", { text: "Keyboard shortcuts" }),
      el(
        "dl",
        {},
        ...KEYS.flatMap(([, shown, what]) => [
          el("dt", {}, ...shown.split("  ").map((key) => el("kbd", { text: key }))),
          el("dd", { text: what }),
        ]),
      ),
      el("p", { class: "faint", text: "Drag over a curve to zoom in, double-click to reset the zoom." }),
      el("div", { class: "buttons" }, el("button", { class: "main", text: "Close" })),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
