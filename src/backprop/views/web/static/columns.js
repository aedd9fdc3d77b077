// The dialog in which the columns of the table are chosen.

import { el } from "./dom.js";
import * as format from "./format.js";

const KINDS = {
  param: "Parameters",
  best: "Metrics, best value",
  metric: "Metrics, last value",
  sys: "What the run used",
};
const split = (key) => [key.slice(0, key.indexOf(".")), key.slice(key.indexOf(".") + 1)];

/** The text of a column's key, without its kind. */
export const titleOf = (key) => split(key)[1];

/** Ask which of the offered columns are shown. `chosen(keys)` is called with null for the usual ones. */
export function chooseColumns({ offered, shown, chosen }) {
  const boxes = new Map();
  const known = [...new Set([...shown, ...offered])];
  const search = el("input", {
    type: "search",
    placeholder: "name",
    "aria-label": "Find a column",
    autocomplete: "off",
  });
  const section = ([kind, title]) => {
    const keys = known.filter((key) => split(key)[0] === kind);
    if (keys.length === 0) return null;
    const items = keys.map((key) => {
      const box = el("input", { type: "checkbox", checked: shown.includes(key) });
      boxes.set(key, box);
      return el("label", { class: "check", "data-name": key.toLowerCase() }, box, format.name(titleOf(key), 60));
    });
    return el("fieldset", {}, el("legend", { text: title }), ...items);
  };
  const sections = el("div", { class: "choices" }, ...Object.entries(KINDS).map(section));
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase();
    for (const label of sections.querySelectorAll("label")) label.hidden = !label.dataset.name.includes(words);
  });
  const dialog = el(
    "dialog",
    { class: "columns", "aria-label": "Columns" },
    el(
      "form",
      { method: "dialog" },
      el("h2", { text: "Columns" }),
      search,
      sections,
      el(
        "div",
        { class: "buttons" },
        el("button", { value: "show", class: "main", text: "Show these" }),
        el("button", { value: "usual", text: "The usual ones" }),
        el("button", { value: "", text: "Cancel" }),
      ),
    ),
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    const keys = known.filter((key) => boxes.get(key)?.checked);
    if (dialog.returnValue === "show") chosen(keys);
    else if (dialog.returnValue === "usual") chosen(null);
  });
  document.body.append(dialog);
  dialog.showModal();
  search.focus();
}
