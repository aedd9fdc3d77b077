// The runs by group, or by the value of a parameter: a row each, with how they ended, the best, and the spread.

import * as api from "./api.js";
import { titleOf } from "./columns.js";
import { el } from "./dom.js";
import * as format from "./format.js";
import { swatch } from "./palette.js";

const ORDERS = {
  value: (a, b) => String(a.value).localeCompare(String(b.value), undefined, { numeric: true }),
  runs: (a, b) => b.runs - a.runs,
  created: (a, b) => Date.parse(b.created_at) - Date.parse(a.created_at),
};

export class GroupsTable {
  #query = null;
  #answer = null;
  #order = "created";
  #isReversed = false;
  #chosen = [];
  #slotOf = () => 0;
  #controller = null;

  /** on: open(filter), choose(filter, isChosen), counted(text), problem(error or null). */
  constructor(root, on) {
    this.root = root;
    this.on = on;
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
    this.#draw();
  }

  #draw() {
    if (this.#answer === null) {
      this.root.replaceChildren();
      return;
    }
    const { by, metric, total, groups } = this.#answer;
    const shown = format.name(metric ?? "metric", 40);
    const heads = [
      ["value", by === "group" ? "Group" : titleOf(by)],
      ["runs", "Runs"],
      [null, "How they ended"],
      ["best", `Best ${shown}`],
      [null, "Best run"],
      ["mean", `Mean ± sd of ${shown}`],
      ["created", "Newest"],
    ];
    const head = ([order, title]) => {
      const way = order === this.#order ? (this.#isReversed ? "descending" : "ascending") : null;
      const content = order
        ? el("button", { type: "button", text: title, on: { click: () => this.#sort(order) } })
        : el("span", { text: title });
      const isNumber = ["runs", "best", "mean", "created"].includes(order);
      return el("th", { scope: "col", "aria-sort": way, class: isNumber ? "number" : null }, content);
    };
    this.on.counted(
      total > groups.length
        ? `the newest ${groups.length} of ${format.plural(total, "group")}`
        : format.plural(total, "group"),
    );
    this.root.replaceChildren(
      total === 0
        ? el("p", { class: "empty", text: by === "group" ? "No run is in a group." : "No run has this parameter." })
        : el(
            "table",
            {},
            el(
              "thead",
              {},
              el("tr", {}, el("th", {}, el("span", { class: "unseen", text: "Show curves" })), ...heads.map(head)),
            ),
            el("tbody", {}, ...this.#sorted().map((group) => this.#row(group))),
          ),
    );
  }

  #row(group) {
    const isChosen = this.#chosen.includes(group.filter);
    const name = format.name(group.value, 120);
    const box = el("input", {
      type: "checkbox",
      checked: isChosen,
      "aria-label": `Show mean and spread of ${name}`,
      on: { change: () => this.on.choose(group.filter, box.checked) },
    });
    const mark = el("span", { class: "mark" });
    if (isChosen) mark.append(swatch(this.#slotOf(group.filter)));
    const statuses = Object.entries(group.statuses).sort((a, b) => b[1] - a[1]);
    const spread = group.deviation === null ? "" : ` ± ${format.number(group.deviation)}`;
    return el(
      "tr",
      { class: isChosen ? "chosen" : null },
      el("td", {}, el("label", { class: "tick" }, box, mark)),
      el(
        "td",
        {},
        el("button", {
          type: "button",
          class: "link-like cut",
          text: name,
          title: format.visible(group.value, 1000),
          on: { click: () => this.on.open(group.filter) },
        }),
      ),
      el("td", { class: "number", text: format.whole(group.runs) }),
      el(
        "td",
        {},
        ...statuses.map(([status, count]) =>
          el("span", { class: `status is-${status}`, text: `${format.whole(count)} ${status} ` }),
        ),
      ),
      el("td", { class: "number", text: format.number(group.best?.value) }),
      el("td", {}, el("bdi", { class: "cut", text: format.visible(group.best?.name ?? group.best?.id ?? "–", 60) })),
      el("td", {
        class: "number",
        text: group.mean === null ? "–" : `${format.number(group.mean)}${spread} (${group.counted})`,
      }),
      el("td", {
        class: "number",
        text: format.age(group.created_at, Date.now()),
        title: format.instant(group.created_at),
      }),
    );
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
