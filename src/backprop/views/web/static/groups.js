// The runs by group, or by the value of a parameter: a row each, with how they ended, the best, and the spread.

import * as api from "./api.js";
import { titleOf } from "./columns.js";
import { el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { swatch } from "./palette.js";

const ORDERS = {
  value: (a, b) => String(a.value).localeCompare(String(b.value), undefined, { numeric: true }),
  runs: (a, b) => b.runs - a.runs,
  created: (a, b) => Date.parse(b.created_at) - Date.parse(a.created_at),
};

const NUMBERS = ["runs", "best", "mean", "created"];
const metricOf = (answer) => format.name(answer.metric ?? "metric", 40);

// what a column is sorted by, and its title
const HEADS = [
  ["value", ({ by }) => (by === "group" ? "Group" : titleOf(by))],
  ["runs", () => "Runs"],
  [null, () => "How they ended"],
  ["best", (answer) => `Best ${metricOf(answer)}`],
  [null, () => "Best run"],
  ["mean", (answer) => `Mean ± sd of ${metricOf(answer)}`],
  ["created", () => "Newest"],
];

export class GroupsTable {
  #query = null;
  #answer = null;
  #order = "created";
  #isReversed = false;
  #chosen = [];
  #slotOf = () => 0;
  #controller = null;
  #rows = new Map(); // filter of a group -> element

  /** on: open(filter), choose(filter, isChosen), counted(text), problem(error or null). */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.heads = HEADS.map(([order]) =>
      el(
        "th",
        { scope: "col", class: NUMBERS.includes(order) ? "number" : null },
        order ? el("button", { type: "button", on: { click: () => this.#sort(order) } }) : el("span"),
      ),
    );
    const pick = el("th", {}, el("span", { class: "unseen", text: "Show curves" }));
    this.body = el("tbody");
    this.table = el("table", {}, el("thead", {}, el("tr", {}, pick, ...this.heads)), this.body);
  }

  /** query: {search, filter, by, metric}; by null: nothing is shown. */
  async setQuery(query) {
    if (JSON.stringify(query) === JSON.stringify(this.#query)) return;
    this.#query = query;
    this.#answer = null;
    await this.refresh();
  }

  async refresh() {
    this.#controller?.abort();
    this.root.hidden = this.#query.by === null;
    if (this.root.hidden) return;
    this.#controller = new AbortController();
    try {
      this.#answer = await api.groups(this.#query, this.#controller.signal);
      this.on.problem(null);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#answer = null;
      this.on.problem(error);
    }
    this.#draw();
  }

  /** slotOf: the colour of one of them, or null where it is not drawn yet. */
  setChosen(filters, slotOf) {
    this.#chosen = filters;
    this.#slotOf = slotOf;
    if (this.#answer) this.#draw();
  }

  #sorted() {
    const { groups, goal } = this.#answer;
    const sign = goal === "max" ? -1 : 1;
    const by = (valueOf) => (a, b) =>
      (valueOf(a) ?? sign * Infinity) < (valueOf(b) ?? sign * Infinity) ? -sign : sign;
    const order = { ...ORDERS, best: by((group) => group.best?.value), mean: by((group) => group.mean) }[this.#order];
    const sorted = [...groups].sort(order);
    return this.#isReversed ? sorted.reverse() : sorted;
  }

  #sort(order) {
    this.#isReversed = this.#order === order && !this.#isReversed;
    this.#order = order;
    if (this.#answer) this.#draw();
  }

  /** Rows are used again, so that none is replaced while it is pressed or has the focus. */
  #draw() {
    if (this.#answer === null) {
      this.root.replaceChildren();
      return;
    }
    const { by, total, groups } = this.#answer;
    this.on.counted(
      total > groups.length
        ? `the newest ${groups.length} of ${format.plural(total, "group")}`
        : format.plural(total, "group"),
    );
    if (total === 0) {
      const text = by === "group" ? "No run is in a group." : "No run has this parameter.";
      this.root.replaceChildren(el("p", { class: "empty", text }));
      return;
    }
    HEADS.forEach(([order, title], place) => {
      setText(this.heads[place].firstChild, title(this.#answer));
      const way = this.#isReversed ? "descending" : "ascending";
      setAttribute(this.heads[place], "aria-sort", order === this.#order ? way : null);
    });
    this.#arrange(this.#sorted());
    if (this.table.parentNode !== this.root) this.root.replaceChildren(this.table);
  }

  /** Put the rows in order. The row that has the focus is not moved, as it would lose it, and a press with it. */
  #arrange(groups) {
    const before = this.#rows;
    this.#rows = new Map(groups.map((group) => [group.filter, before.get(group.filter) ?? this.#makeRow(group)]));
    for (const [filter, row] of before) if (!this.#rows.has(filter)) row.remove();
    let next = this.body.firstChild;
    for (const group of groups) {
      const row = this.#rows.get(group.filter);
      this.#fillRow(row, group);
      if (row !== next && row.contains(document.activeElement)) {
        const inTheWay = [...this.body.children];
        this.body.append(...inTheWay.slice(inTheWay.indexOf(next), inTheWay.indexOf(row)));
        next = row;
      }
      if (row === next) next = next.nextSibling;
      else this.body.insertBefore(row, next);
    }
  }

  /** The row of a group, with what never changes; `row.parts` are the elements that `#fillRow` fills. */
  #makeRow(group) {
    const name = format.name(group.value, 120);
    const box = el("input", {
      type: "checkbox",
      "aria-label": `Show mean and spread of ${name}`,
      on: { change: () => this.on.choose(group.filter, box.checked) },
    });
    const open = el("button", {
      type: "button",
      class: "link-like cut",
      text: name,
      title: format.visible(group.value, 1000),
      on: { click: () => this.on.open(group.filter) },
    });
    const number = () => el("td", { class: "number" });
    const parts = {
      box,
      mark: el("span", { class: "mark" }),
      runs: number(),
      ended: el("td"),
      best: number(),
      bestRun: el("bdi", { class: "cut" }),
      mean: number(),
      age: number(),
    };
    const row = el(
      "tr",
      {},
      el("td", {}, el("label", { class: "tick" }, box, parts.mark)),
      el("td", {}, open),
      parts.runs,
      parts.ended,
      parts.best,
      el("td", {}, parts.bestRun),
      parts.mean,
      parts.age,
    );
    row.parts = parts;
    return row;
  }

  #fillRow(row, group) {
    const { parts } = row;
    const isChosen = this.#chosen.includes(group.filter);
    row.classList.toggle("chosen", isChosen);
    parts.box.checked = isChosen;
    const slot = isChosen ? this.#slotOf(group.filter) : null;
    parts.mark.replaceChildren(...(slot === null ? [] : [swatch(slot)]));
    setText(parts.runs, format.whole(group.runs));
    const statuses = Object.entries(group.statuses).sort((a, b) => b[1] - a[1]);
    const ended = statuses.map(([status, count]) => [status, `${format.whole(count)} ${status} `]);
    if (parts.ended.textContent !== ended.map(([, text]) => text).join(""))
      parts.ended.replaceChildren(
        ...ended.map(([status, text]) => el("span", { class: `status is-${status}`, text })),
      );
    setText(parts.best, format.number(group.best?.value));
    setText(parts.bestRun, format.visible(group.best?.name ?? group.best?.id ?? "–", 60));
    const spread = group.deviation === null ? "" : ` ± ${format.number(group.deviation)}`;
    setText(parts.mean, group.mean === null ? "–" : `${format.number(group.mean)}${spread} (${group.counted})`);
    setText(parts.age, format.age(group.created_at, Date.now()));
    setAttribute(parts.age, "title", format.instant(group.created_at));
  }

  /** How a group is called in a legend. */
  static label(filter) {
    return filter
      .replace(/^group=/, "")
      .replace(/^param\./, "")
      .replace(/^(["'])(.*)\1$/, "$2")
      .replace(/=(["'])(.*)\1$/, "=$2");
  }
}
