// The table of runs: a virtual grid that holds only the visible rows.
//
// All rows have the same height, so the scroll bar is right from the first response on. Rows come from `rowpages.js`
// when they scroll into view, and are drawn into recycled row elements of `row.js`.

import { debounced, el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { drawTimes, fillRow, makeRow } from "./row.js";
import { RowPages } from "./rowpages.js";

const OVERSCAN_ROWS = 8;
const ROW_HEIGHT = 34; // --row in style.css

const BEFORE = [
  { key: "pick", title: "", label: "Show curve" },
  { key: "status", title: "Status", sort: "status" },
  { key: "name", title: "Run", sort: "name" },
];
const AFTER = [
  { key: "command", title: "Command" },
  { key: "age", title: "Age", sort: "created", isNumber: true },
  { key: "time", title: "Time", sort: "elapsed", isNumber: true },
  { key: "step", title: "Step", sort: "step", isNumber: true },
  { key: "last", title: "Last", sort: "metric", isNumber: true },
  { key: "best", title: "Best", sort: "best", isNumber: true },
  { key: "spark", title: "Trend" },
];
const CHOSEN_WIDTH = 84; // of a column that was chosen, at least
const WITHOUT_CHOSEN = 1000; // width that the others take
const LEAST_WIDTH = 330; // of the others, where the table may be scrolled sideways

export class RunsTable {
  #pages;
  #rows = new Map(); // row index -> element
  #spare = [];
  #chosen = new Set();
  #slotOf = () => 0;
  #active = 0;
  #clickedBefore = null; // number of the row whose check box was clicked last
  #activeId = null;
  #metric = "loss"; // what the columns Last and Best show in most rows
  #shownHeads = 0; // how many of the columns that were chosen, or else are usual, there is room for
  columns = []; // all that are shown

  /**
   * on: open(row), choose(row, isChosen), chooseRange(ids), sort(key, isDescending) where that is the usual order,
   * seen(), counted({total, shown, isFirst}), problem(error or null).
   */
  constructor(root, on, linkTo) {
    this.root = root;
    this.on = on;
    this.linkTo = linkTo;
    this.head = el("div", { class: "row head", role: "row", "aria-rowindex": 1 });
    this.body = el("div", { class: "rows", role: "rowgroup" });
    root.append(el("div", { role: "rowgroup", class: "heading" }, this.head), this.body);
    this.#pages = new RowPages({
      range: () => this.#range(OVERSCAN_ROWS),
      loaded: (counts) => this.#loaded(counts),
      emptied: () => this.render(),
      failed: (error) => on.problem(error),
    });
    this.#lay();
    root.addEventListener(
      "scroll",
      () => {
        this.render();
        this.#pages.load();
        this.seen();
      },
      { passive: true },
    );
    this.seen = debounced(() => on.seen(), 250);
    new ResizeObserver(() => {
      this.#lay();
      this.render();
      this.#pages.load();
    }).observe(root);
    this.body.addEventListener("click", (event) => this.#clicked(event));
  }

  /** The columns that there is room for; those that were chosen all are. */
  #lay() {
    const isChosen = this.#pages.query?.columns != null;
    const room = Math.floor((this.root.clientWidth - WITHOUT_CHOSEN) / CHOSEN_WIDTH);
    const count = isChosen ? this.#pages.heads.length : Math.max(0, Math.min(this.#pages.heads.length, room));
    const shown = this.#pages.heads
      .slice(0, count)
      .map((head, place) => ({ ...head, key: `x${place}`, sort: head.key }));
    const columns = [...BEFORE, ...shown, ...AFTER];
    if (JSON.stringify(columns) === JSON.stringify(this.columns)) return;
    this.columns = columns;
    this.#shownHeads = count;
    this.root.style.setProperty("--extra", count ? `repeat(${count}, minmax(${CHOSEN_WIDTH - 14}px, 0.7fr))` : " ");
    this.root.style.setProperty("--least", isChosen && count ? `${LEAST_WIDTH + count * CHOSEN_WIDTH}px` : "0px");
    this.root.classList.toggle("with-extra", count > 0);
    for (const element of this.#rows.values()) element.remove();
    this.#rows.clear();
    this.#spare = [];
    this.#makeHead();
    this.#showSort();
  }

  #makeHead() {
    this.headers = this.columns.map((column) => {
      const kind = column.kind ? " c-extra" : "";
      const cell = el("div", { class: `cell c-${column.key}${kind}`, role: "columnheader" });
      if (column.sort) {
        cell.append(
          el("button", {
            type: "button",
            text: format.name(column.title, 60),
            title: format.visible(column.title, 300),
            on: { click: () => this.on.sort(this.#sortKey(column), startsDescending(column)) },
          }),
        );
      } else {
        cell.append(el("span", { text: column.title, class: column.title ? null : "unseen" }));
        if (column.label) cell.firstChild.textContent = column.label;
      }
      return cell;
    });
    this.head.replaceChildren(...this.headers);
    this.#nameMetric();
  }

  #sortKey = (column) => ({ metric: this.#metric, best: `best.${this.#metric}` })[column.sort] ?? column.sort;

  /** Show other runs, or the same ones in another order. */
  setQuery(query) {
    if (JSON.stringify(query) === JSON.stringify(this.#pages.query)) return;
    this.root.scrollTop = 0;
    this.#active = 0;
    this.#activeId = null;
    this.#pages.setQuery(query);
    this.#showSort();
  }

  #showSort() {
    this.columns.forEach((column, position) => {
      const isSorted = column.sort && this.#sortKey(column) === this.#pages.query?.sort;
      setAttribute(
        this.headers[position],
        "aria-sort",
        isSorted ? (this.#pages.query.descending ? "descending" : "ascending") : null,
      );
    });
  }

  /** Fetch the visible rows again; the old ones are shown until then. */
  refresh() {
    this.#pages.refresh();
  }

  /** Fetch again at once after a failure: the server is back. */
  retry() {
    this.#pages.retry();
  }

  /** Newer rows of runs that may be visible. */
  update(rows) {
    this.#pages.update(rows);
    this.render();
  }

  setChosen(ids, slotOf) {
    this.#chosen = new Set(ids);
    this.#slotOf = slotOf;
    for (const element of this.#rows.values()) element.shown = null;
    this.render();
  }

  /** Move the active row; `by` rows, or to an end with ±Infinity. */
  move(by) {
    if (this.#pages.count === 0) return;
    this.#active = Math.max(0, Math.min(this.#pages.count - 1, this.#active + by));
    this.#activeId = this.#pages.row(this.#active)?.id ?? null;
    const top = this.#active * ROW_HEIGHT;
    const inside = this.root.clientHeight - this.head.offsetHeight - ROW_HEIGHT;
    if (top < this.root.scrollTop) this.root.scrollTop = top;
    else if (top > this.root.scrollTop + inside) this.root.scrollTop = top - inside;
    this.render();
  }

  pageRows() {
    return Math.max(1, Math.floor(this.root.clientHeight / ROW_HEIGHT) - 2);
  }

  get active() {
    return this.#pages.row(this.#active);
  }

  visible() {
    const [first, last] = this.#range(0);
    const rows = [];
    for (let index = first; index < last; index += 1) if (this.#pages.row(index)) rows.push(this.#pages.row(index));
    return rows;
  }

  #range(overscan) {
    const first = Math.floor(this.root.scrollTop / ROW_HEIGHT) - overscan;
    const last = Math.ceil((this.root.scrollTop + this.root.clientHeight) / ROW_HEIGHT) + overscan;
    return [Math.max(0, first), Math.min(this.#pages.count, last)];
  }

  #loaded({ total, isFirst }) {
    this.#lay();
    this.#follow();
    this.#metric = this.#pages.commonMetric() ?? this.#metric;
    this.#nameMetric();
    this.#showSort();
    this.on.problem(null);
    this.on.counted({ total, shown: this.#pages.count, isFirst });
    this.render();
    this.seen();
  }

  /** The active row stays on its run when the order changes. */
  #follow() {
    if (this.#activeId !== null && this.#pages.row(this.#active)?.id !== this.#activeId)
      this.#active = this.#pages.indexOf(this.#activeId) ?? this.#active;
    this.#active = Math.max(0, Math.min(this.#active, this.#pages.count - 1));
    this.#activeId = this.active?.id ?? null;
  }

  #nameMetric() {
    const head = this.headers[this.columns.findIndex((column) => column.key === "last")];
    setText(head.firstChild, format.visible(this.#metric, 24));
    setAttribute(head.firstChild, "title", `Sort by ${format.visible(this.#metric, 80)}`);
  }

  /** Keys of columns that can be chosen. */
  get offered() {
    return this.#pages.offered;
  }

  /** The sort key of the best value of the main metric. */
  get bestKey() {
    return `best.${this.#metric}`;
  }

  /** The name of a run that is or was shown; null where it has none or is not known. */
  nameOf(id) {
    return this.#pages.nameOf(id);
  }

  /** Whether a column shows what changes while a run trains. */
  hasMetrics() {
    return this.#pages.heads.slice(0, this.#shownHeads).some((head) => head.kind !== "param");
  }

  /** Draw the visible rows. */
  render() {
    const [first, last] = this.#range(OVERSCAN_ROWS);
    this.root.style.setProperty("--rows", this.#pages.count);
    setAttribute(this.root, "aria-rowcount", this.#pages.count + 1);
    for (const [index, element] of this.#rows) {
      if (index >= first && index < last) continue;
      element.remove();
      this.#spare.push(element);
      this.#rows.delete(index);
    }
    const now_ms = Date.now();
    for (let index = first; index < last; index += 1) this.#draw(index, now_ms);
    const active = this.#rows.get(this.#active);
    setAttribute(this.root, "aria-activedescendant", active ? active.id : null);
  }

  #draw(index, now_ms) {
    let element = this.#rows.get(index);
    if (!element) {
      element = this.#spare.pop() ?? makeRow(this.columns);
      element.id = `row-${index}`;
      element.index = index;
      element.shown = null;
      element.style.transform = `translateY(${index * ROW_HEIGHT}px)`;
      setAttribute(element, "aria-rowindex", index + 2);
      this.#rows.set(index, element);
      this.body.append(element);
    }
    const row = this.#pages.row(index);
    element.classList.toggle("active", index === this.#active);
    if (element.shown !== row) this.#fill(element, row);
    if (row) drawTimes(element.cells, row, now_ms);
  }

  #fill(element, row) {
    element.shown = row;
    const isChosen = row !== null && this.#chosen.has(row.id);
    fillRow(element, row, {
      isChosen,
      slot: isChosen ? this.#slotOf(row.id) : null,
      link: row && this.linkTo(row.id),
      metric: this.#metric,
      heads: this.#pages.heads,
    });
  }

  #clicked(event) {
    const element = event.target.closest(".row");
    const row = element?.shown;
    if (!row) return;
    this.#active = element.index;
    this.#activeId = row.id;
    this.root.focus({ preventScroll: true }); // row elements are recycled: the focus stays on the grid
    if (event.target === element.cells.box && event.shiftKey && this.#clickedBefore !== null) {
      const [from, to] = [this.#clickedBefore, element.index].sort((a, b) => a - b);
      const between = Array.from({ length: to - from + 1 }, (_, place) => this.#pages.row(from + place));
      this.on.chooseRange(between.filter(Boolean).map((one) => one.id));
    } else if (event.target === element.cells.box) this.on.choose(row, element.cells.box.checked);
    else if (!event.target.closest("a") && !event.target.closest(".c-pick") && !getSelection().toString())
      this.on.open(row);
    if (event.target === element.cells.box) this.#clickedBefore = element.index;
    this.render();
  }
}

/** Newest, longest and greatest first, but words from A to Z and the smallest loss first. */
const startsDescending = ({ sort, goal }) =>
  ["created", "elapsed", "step"].includes(sort) || goal === "max" || sort.startsWith("sys.");
