// Runs side by side, as `backprop compare` shows them, with what differs marked; below, how their code differs.

import * as api from "./api.js";
import { CodeDifference } from "./codediff.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";

export const MAX_COMPARED = 20; // as in comparison.py
const LONG = 160; // characters of a value that may have to be scrolled
const TITLES = { "": "Run", params: "Parameters", metrics: "Metrics", used: "Used" };

export class ComparePage {
  #query = null; // {ids, isAll, code}; null: it is closed
  #drawn = ""; // what the server answered, as text
  #isOpening = false; // its first answer has not come: then the heading gets the focus
  #controller = null;

  /** on: controls(changes), failed(error); links: back(), to(id), without(id) are addresses. */
  constructor(root, on, links) {
    this.root = root;
    this.on = on;
    this.links = links;
    this.title = el("h1", { tabindex: -1 });
    this.back = el("a", { class: "back", text: "‹ Runs" });
    this.all = el("input", {
      type: "checkbox",
      class: "with-all",
      on: { change: () => on.controls({ all: this.all.checked }) },
    });
    this.note = el("p", { class: "faint", role: "status" });
    this.told = el("p", { class: "hint", role: "status" });
    this.problem = el("div", { hidden: true }, el("h1", { class: "unseen", text: "Compare runs" }), this.told);
    this.table = el("div", { class: "comparison", tabindex: 0, role: "region", "aria-label": "Comparison" });
    const code = el("section", { class: "panel code-difference", "aria-label": "Code difference" });
    this.code = new CodeDifference(code, on);
    this.content = el(
      "div",
      { class: "compare" },
      el(
        "div",
        { class: "panel" },
        el(
          "div",
          { class: "compare-head" },
          this.title,
          el("label", { class: "check" }, this.all, "also what is the same"),
          this.note,
        ),
        this.table,
      ),
      code,
    );
    root.append(this.back, this.problem, this.content);
  }

  /** query: {ids, isAll, code}, or null to close it. */
  setQuery(query) {
    if (JSON.stringify(query) === JSON.stringify(this.#query)) return;
    if (this.#query === null) this.#isOpening = true;
    this.#query = query;
    if (query === null) {
      this.#controller?.abort();
      this.#drawn = "";
      this.table.replaceChildren();
      this.code.close();
      return;
    }
    this.back.href = this.links.back();
    this.all.checked = query.isAll;
    this.refresh();
  }

  /** Ask again: runs that train change. */
  async refresh() {
    if (this.#query === null) return;
    const { ids, isAll, code } = this.#query;
    const shown = ids.slice(0, MAX_COMPARED);
    document.title = "Compare · Backprop";
    setText(this.title, `Compare ${format.plural(shown.length, "run")}`);
    this.#controller?.abort();
    if (shown.length < 2) return this.#instead("Select two runs or more to compare them.");
    this.#controller = new AbortController();
    try {
      const answer = await api.compare({ ids: shown, isAll }, this.#controller.signal);
      this.problem.hidden = true;
      this.content.hidden = false;
      this.#draw(answer, ids.length - shown.length);
      if (this.#isOpening) this.title.focus({ preventScroll: true });
      this.#isOpening = false;
      this.code.setRuns(answer.runs, code);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404 || error.status === 400) this.#instead(error.message);
      else this.on.failed(error);
    }
  }

  #instead(message) {
    this.content.hidden = true;
    this.problem.hidden = false;
    setText(this.told, format.visible(message));
  }

  #draw(answer, runsLeftOut) {
    const text = JSON.stringify([answer, runsLeftOut]);
    if (text === this.#drawn) return; // what a reader has selected or scrolled stays
    this.#drawn = text;
    const { runs, rows, left_out: rowsLeftOut, over_seeds: overSeeds } = answer;
    const left = [
      ...(runsLeftOut ? [`${format.plural(runsLeftOut, "more selected run")} not compared`] : []),
      ...(rowsLeftOut ? [`${format.plural(rowsLeftOut, "more row")} not shown`] : []),
    ];
    setText(this.note, ["marked: not as in the first run; *: the best value", ...left].join(" · "));
    const sections = Object.keys(TITLES).filter((section) => rows.some((row) => row.section === section));
    this.table.replaceChildren(
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, el("td"), ...runs.map((run) => this.#head(run)))),
        ...sections.map((section) =>
          el(
            "tbody",
            {},
            el(
              "tr",
              { class: "section" },
              el("th", { colspan: runs.length + 1, scope: "rowgroup", text: TITLES[section] }),
            ),
            ...rows.filter((row) => row.section === section).map(tableRow),
          ),
        ),
      ),
      ...(overSeeds ? [seedsTable(overSeeds, runs)] : []),
    );
  }

  #head({ id, name, status }) {
    const shown = format.visible(name || id, 120);
    return el(
      "th",
      { scope: "col" },
      el("a", { class: "cut", href: this.links.to(id), text: shown, title: format.visible(name || id, 1000) }),
      el(
        "span",
        { class: "line" },
        el("code", { class: "id", text: name ? id : "" }),
        el("span", { class: `status is-${status}`, text: status }),
        el("a", { class: "remove", href: this.links.without(id), "aria-label": `Leave out ${shown}`, text: "×" }),
      ),
    );
  }
}

function tableRow({ label, cells, best, other, is_cut: isCut }) {
  const told = isCut ? `${label} (differs beyond what is shown)` : label;
  return el(
    "tr",
    { class: label.startsWith("  ") ? "detail" : null },
    el("th", { scope: "row" }, el("bdi", { text: format.visible(told.trim(), 2000) })),
    ...cells.map((text, place) => {
      const kinds = [best.includes(place) && "best", other.includes(place) && "other"].filter(Boolean);
      const shown = format.visible(text, 2000);
      const value = el("div", { class: "value", tabindex: shown.length > LONG ? 0 : null }, el("bdi", { text: shown }));
      return el("td", { class: kinds.join(" ") || null }, value);
    }),
  );
}

/** Of runs that differ in their seed only: mean and deviation of each metric. */
function seedsTable({ metrics, sets }, runs) {
  const nameOf = (id) => format.visible(runs.find((run) => run.id === id)?.name || id, 40);
  return el(
    "table",
    { class: "seeds" },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col", text: "Over seeds" }),
        ...metrics.map((name) => el("th", { scope: "col", text: format.name(name, 60) })),
      ),
    ),
    el(
      "tbody",
      {},
      ...sets.map((set) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, el("bdi", { text: set.runs.map(nameOf).join(", ") })),
          ...set.cells.map((text) => el("td", { text })),
        ),
      ),
    ),
  );
}
