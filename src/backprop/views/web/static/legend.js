// Which curve is which run: one list for all charts of a panel.

import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { swatch } from "./palette.js";

export class Legend {
  #key = "";
  #values = new Map(); // run -> element

  /** on: remove(run), or null where runs cannot be taken away. */
  constructor(on) {
    this.on = on;
    this.root = el("ul", { class: "legend" });
  }

  /** runs: [{id, name, detail, slot, hasMissing}]; `look` is anything that changes when colours do. */
  draw(runs, look) {
    const key = JSON.stringify([runs, look]);
    if (key === this.#key) return;
    this.#key = key;
    this.#values.clear();
    this.root.replaceChildren(...runs.map((run) => this.#item(run)));
  }

  #item({ id, name, detail, slot, hasMissing }) {
    const value = el("span", { class: "value" });
    this.#values.set(id, value);
    const shown = format.visible(name, 60);
    return el(
      "li",
      {},
      swatch(slot),
      el("bdi", { class: "cut", text: shown, title: format.visible(name, 1000) }),
      detail
        ? el("span", { class: "faint cut", text: format.visible(detail, 120), title: format.visible(detail, 1000) })
        : null,
      hasMissing
        ? el("span", { class: "missing", text: "✕ NaN", title: "NaN or infinite values: gaps marked with a cross" })
        : null,
      value,
      this.on.remove
        ? el("button", {
            type: "button",
            class: "quiet remove",
            "aria-label": `Remove the curve of ${shown}`,
            text: "×",
            on: { click: () => this.on.remove(id) },
          })
        : null,
    );
  }

  /** values: run -> value; a run without one shows none. */
  setValues(values) {
    for (const [run, element] of this.#values) setText(element, values.has(run) ? format.number(values.get(run)) : "");
  }
}
