// The table of runs: a virtual grid that holds only the visible rows.
//
// All rows have the same height, so the scroll bar is right from the first response on. Pages of rows are fetched when
// they scroll into view, kept until the table changes, and drawn into recycled row elements.

import * as api from "./api.js";
import { debounced, el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { swatch } from "./palette.js";
import { draw, sparkline } from "./sparkline.js";

const PAGE_ROWS = 100;
const KEPT_PAGES = 40;
const OVERSCAN_ROWS = 8;
const RETRY_S = [1, 2, 4, 8, 16, 30];
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
  #pages = new Map(); // page number -> rows
  #stale = new Set(); // pages that are shown until newer ones arrive
  #pending = new Map(); // page number -> AbortController
  #rows = new Map(); // row index -> element
  #spare = [];
  #chosen = new Set();
  #slotOf = () => 0;
  #active = 0;
  #clickedBefore = null; // number of the row whose check box was clicked last
  #activeId = null;
  #query = null;
  #isHeld = false; // backing off after an error
  #failures = 0;
  #retryTimer = 0;
  #count = 0;
  #metric = "loss"; // what the columns Last and Best show in most rows
  #heads = []; // of the columns that were chosen, or else are usual: [{key, title, kind, goal}]
  #shownHeads = 0; // how many of them there is room for
  columns = []; // all that are shown
  offered = []; // keys of columns that can be chosen

  /**
   * on: open(row), choose(row, isChosen), chooseRange(ids), sort(key, isDescending) where that is the usual order,
   * seen(),
   * counted({total, shown, isFirst}), problem(error or null).
   */
  constructor(root, on, linkTo) {
    this.root = root;
    this.on = on;
    this.linkTo = linkTo;
    this.head = el("div", { class: "row head", role: "row", "aria-rowindex": 1 });
    this.body = el("div", { class: "rows", role: "rowgroup" });
    root.append(el("div", { role: "rowgroup", class: "heading" }, this.head), this.body);
    this.#lay();
    this.load = debounced(() => this.#loadVisible(), 40);
    root.addEventListener(
      "scroll",
      () => {
        this.render();
        this.load();
        this.seen();
      },
      { passive: true },
    );
    this.seen = debounced(() => on.seen(), 250);
    new ResizeObserver(() => {
      this.#lay();
      this.render();
      this.load();
    }).observe(root);
    this.body.addEventListener("click", (event) => this.#clicked(event));
  }

  /** The columns that there is room for; those that were chosen all are. */
  #lay() {
    const isChosen = this.#query?.columns != null;
    const room = Math.floor((this.root.clientWidth - WITHOUT_CHOSEN) / CHOSEN_WIDTH);
    const count = isChosen ? this.#heads.length : Math.max(0, Math.min(this.#heads.length, room));
    const shown = this.#heads.slice(0, count).map((head, place) => ({ ...head, key: `x${place}`, sort: head.key }));
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
    const key = JSON.stringify(query);
    if (key === JSON.stringify(this.#query)) return;
    this.#query = query;
    this.#release();
    for (const controller of this.#pending.values()) controller.abort();
    this.#pending.clear();
    this.#stale = new Set(this.#pages.keys());
    this.root.scrollTop = 0;
    this.#active = 0;
    this.#activeId = null;
    this.#showSort();
    this.#loadVisible();
  }

  #showSort() {
    this.columns.forEach((column, position) => {
      const isSorted = column.sort && this.#sortKey(column) === this.#query?.sort;
      setAttribute(
        this.headers[position],
        "aria-sort",
        isSorted ? (this.#query.descending ? "descending" : "ascending") : null,
      );
    });
  }

  /** Fetch the visible rows again; the old ones are shown until then. */
  refresh() {
    for (const page of this.#pages.keys()) this.#stale.add(page);
    this.#loadVisible();
  }

  /** Fetch again at once after a failure: the server is back. */
  retry() {
    this.#release();
    this.refresh();
  }

  #release() {
    clearTimeout(this.#retryTimer);
    this.#isHeld = false;
  }

  /** Back off after an error; after a client error (4xx) until the query changes. */
  #hold(error) {
    this.#release();
    this.#isHeld = true;
    if (error.status >= 400 && error.status < 500) return;
    const wait_s = RETRY_S[Math.min(this.#failures, RETRY_S.length - 1)];
    this.#failures += 1;
    this.#retryTimer = setTimeout(() => {
      this.#isHeld = false;
      this.#loadVisible();
    }, wait_s * 1000);
  }

  /** Newer rows of runs that may be visible. */
  update(rows) {
    const byId = new Map(rows.map((row) => [row.id, row]));
    for (const page of this.#pages.values()) {
      page.forEach((row, position) => {
        if (byId.has(row.id)) page[position] = { ...received(byId.get(row.id)), values: row.values };
      });
    }
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
    if (this.#count === 0) return;
    this.#active = Math.max(0, Math.min(this.#count - 1, this.#active + by));
    this.#activeId = this.row(this.#active)?.id ?? null;
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
    return this.row(this.#active);
  }

  row(index) {
    return this.#pages.get(Math.floor(index / PAGE_ROWS))?.[index % PAGE_ROWS] ?? null;
  }

  visible() {
    const [first, last] = this.#range(0);
    const rows = [];
    for (let index = first; index < last; index += 1) if (this.row(index)) rows.push(this.row(index));
    return rows;
  }

  #range(overscan) {
    const first = Math.floor(this.root.scrollTop / ROW_HEIGHT) - overscan;
    const last = Math.ceil((this.root.scrollTop + this.root.clientHeight) / ROW_HEIGHT) + overscan;
    return [Math.max(0, first), Math.min(this.#count, last)];
  }

  #loadVisible() {
    if (!this.#query || this.#isHeld) return;
    const [first, last] = this.#range(OVERSCAN_ROWS);
    const from = Math.floor(first / PAGE_ROWS);
    const to = Math.floor(Math.max(first, last - 1) / PAGE_ROWS);
    for (const [page, controller] of this.#pending) {
      if (page < from || page > to) {
        controller.abort();
        this.#pending.delete(page);
      }
    }
    for (let page = from; page <= to; page += 1) {
      if (!this.#pending.has(page) && (!this.#pages.has(page) || this.#stale.has(page))) this.#fetch(page);
    }
  }

  async #fetch(page) {
    const controller = new AbortController();
    this.#pending.set(page, controller);
    const isFirst = this.#pages.size === 0;
    this.#stale.delete(page);
    try {
      const isUsual = this.#query.columns === null && (page === 0 || isFirst);
      const asked = {
        ...this.#query,
        columns: isUsual ? null : (this.#query.columns ?? this.#heads.map((head) => head.key)),
        offset: page * PAGE_ROWS,
        limit: PAGE_ROWS,
      };
      const answer = await api.runs(asked, controller.signal);
      const keys = answer.columns.map((head) => head.key);
      if (isUsual || this.#query.columns !== null) this.#heads = answer.columns;
      this.offered = answer.offered;
      this.#lay();
      this.#pages.set(
        page,
        answer.runs.map((row) => ({ ...received(row), values: new Map(keys.map((key, at) => [key, row.cells[at]])) })),
      );
      this.#count = answer.shown_of;
      this.#failures = 0;
      for (const other of [...this.#pages.keys()].filter((n) => this.#stale.has(n) && n !== page)) {
        if (other * PAGE_ROWS >= this.#count) this.#pages.delete(other);
      }
      while (this.#pages.size > KEPT_PAGES) this.#pages.delete(this.#pages.keys().next().value);
      this.#follow();
      this.#learnMetric();
      this.on.problem(null);
      this.on.counted({ total: answer.total, shown: answer.shown_of, isFirst });
      this.render();
      this.seen();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#stale.add(page);
      this.#hold(error);
      if (error.status === 400) this.#empty(); // the rows that are there answer another question
      this.on.problem(error);
    } finally {
      if (this.#pending.get(page) === controller) this.#pending.delete(page);
    }
    if (!controller.signal.aborted) this.load();
  }

  #empty() {
    this.#pages.clear();
    this.#count = 0;
    this.render();
  }

  /** The active row stays on its run when the order changes. */
  #follow() {
    if (this.#activeId !== null && this.row(this.#active)?.id !== this.#activeId) {
      for (const [page, rows] of this.#pages) {
        const position = rows.findIndex((row) => row.id === this.#activeId);
        if (position >= 0 && !this.#stale.has(page)) this.#active = page * PAGE_ROWS + position;
      }
    }
    this.#active = Math.max(0, Math.min(this.#active, this.#count - 1));
    this.#activeId = this.row(this.#active)?.id ?? null;
  }

  #learnMetric() {
    const counts = new Map();
    for (const row of this.#pages.values().next().value ?? []) {
      if (row.metric !== null) counts.set(row.metric, (counts.get(row.metric) ?? 0) + 1);
    }
    const most = [...counts].sort((a, b) => b[1] - a[1])[0];
    if (most) this.#metric = most[0];
    this.#nameMetric();
    this.#showSort();
  }

  #nameMetric() {
    const head = this.headers[this.columns.findIndex((column) => column.key === "last")];
    setText(head.firstChild, format.visible(this.#metric, 24));
    setAttribute(head.firstChild, "title", `Sort by ${format.visible(this.#metric, 80)}`);
  }

  /** The sort key of the best value of the main metric. */
  get bestKey() {
    return `best.${this.#metric}`;
  }

  /** The name of a run that is or was shown; null where it has none or is not known. */
  nameOf(id) {
    return [...this.#pages.values()].flat().find((row) => row.id === id)?.name ?? null;
  }

  /** Whether a column shows what changes while a run trains. */
  hasMetrics() {
    return this.#heads.slice(0, this.#shownHeads).some((head) => head.kind !== "param");
  }

  /** Draw the visible rows. */
  render() {
    const [first, last] = this.#range(OVERSCAN_ROWS);
    this.root.style.setProperty("--rows", this.#count);
    setAttribute(this.root, "aria-rowcount", this.#count + 1);
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
    const row = this.row(index);
    element.classList.toggle("active", index === this.#active);
    if (element.shown !== row) this.#fill(element, row);
    if (row) drawTimes(element.cells, row, now_ms);
  }

  #fill(element, row) {
    element.shown = row;
    const { cells } = element;
    element.classList.toggle("loading", row === null);
    if (row === null) {
      for (const cell of [
        cells.status,
        cells.id,
        cells.command,
        cells.age,
        cells.time,
        cells.step,
        cells.last,
        cells.best,
        ...cells.extra,
      ])
        setText(cell, "");
      setText(cells.link, "…");
      draw(cells.spark, []);
      return;
    }
    const isChosen = this.#chosen.has(row.id);
    const name = format.visible(row.name || row.id, 120);
    cells.box.checked = isChosen;
    setAttribute(cells.box, "aria-label", `Show the curve of ${name}`);
    setAttribute(element, "aria-selected", isChosen);
    const slot = isChosen ? this.#slotOf(row.id) : null; // none for one whose curve is not drawn
    cells.mark.replaceChildren(...(slot === null ? [] : [swatch(slot)]));
    const isQuiet = row.status === "running" && row.life_text;
    setText(cells.status, isQuiet ? (row.is_stalled ? "stalled" : "silent") : row.status);
    cells.status.className = `status is-${isQuiet ? "paused" : row.status}`;
    const why = isQuiet ? row.life_text : row.reason;
    setAttribute(cells.status, "title", why ? format.visible(why, 1000) : null);
    setText(cells.link, name);
    setAttribute(cells.link, "href", this.linkTo(row.id));
    setAttribute(cells.link, "title", format.visible(row.name || row.id, 1000));
    setText(cells.id, row.name ? format.visible(row.id, 40) : "");
    setText(cells.command, format.visible(row.command ?? "", 240));
    setAttribute(cells.command, "title", format.visible(row.command ?? "", 1000));
    setText(cells.step, row.last_step === null ? "–" : format.whole(row.last_step));
    setText(cells.total, row.total_steps ? ` / ${format.whole(row.total_steps)}` : "");
    setAttribute(cells.step, "title", row.pace);
    setText(cells.last, format.number(row.last));
    setText(cells.best, format.number(row.best));
    const metric = row.metric && row.metric !== this.#metric ? format.visible(row.metric, 80) : null;
    setAttribute(cells.last, "title", metric);
    cells.last.classList.toggle("other", metric !== null);
    draw(cells.spark, row.spark);
    setAttribute(cells.age, "title", format.instant(row.created_at));
    cells.extra.forEach((cell, place) => {
      const value = row.values.get(this.#heads[place].key) ?? null;
      setText(cell, typeof value === "string" ? format.visible(value, 80) : format.number(value));
      setAttribute(cell, "title", typeof value === "string" ? format.visible(value, 300) : null);
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
      const between = Array.from({ length: to - from + 1 }, (_, place) => this.row(from + place));
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

/** A row with its time of arrival, so that the elapsed time can be extrapolated. */
const received = (row) => ({ ...row, received_ms: Date.now() });

/** Seconds that the run's sessions have taken so far. */
export function elapsedNow(row, now_ms) {
  if (row.elapsed_s === null || row.elapsed_s === undefined || row.sessions === 0) return null;
  return row.status === "running" ? row.elapsed_s + Math.max(0, now_ms - row.received_ms) / 1000 : row.elapsed_s;
}

function drawTimes(cells, row, now_ms) {
  setText(cells.age, format.age(row.created_at, now_ms));
  const elapsed_s = elapsedNow(row, now_ms);
  const [elapsed, timebox] = format.used(elapsed_s, row.timebox_s);
  setText(cells.elapsed, elapsed);
  setText(cells.timebox, timebox);
  const share =
    elapsed_s !== null && row.session_timebox_s ? Math.min(1, (elapsed_s - row.earlier_s) / row.session_timebox_s) : 0;
  cells.fill.style.transform = `scaleX(${share})`;
  cells.bar.className = `bar is-${row.status}`;
}

function makeRow(columns) {
  const cells = {
    box: el("input", { type: "checkbox", tabindex: -1 }),
    mark: el("span", { class: "mark" }),
    status: el("span", { class: "status" }),
    link: el("a", { tabindex: -1, class: "name-text" }),
    id: el("span", { class: "id" }),
    command: el("span", { class: "cut" }),
    age: el("span"),
    elapsed: el("span"),
    timebox: el("span", { class: "faint" }),
    fill: el("span", { class: "fill" }),
    step: el("span"),
    total: el("span", { class: "faint total" }),
    last: el("span", { class: "cut" }),
    best: el("span", { class: "cut" }),
    spark: sparkline(),
    extra: columns.filter((column) => column.kind).map(() => el("span", { class: "cut" })),
  };
  cells.bar = el("span", { class: "bar" }, cells.fill);
  cells.time = el("span", { class: "times" }, cells.elapsed, cells.timebox);
  const content = {
    pick: [el("label", { class: "tick" }, cells.box, cells.mark)],
    status: [cells.status],
    name: [cells.link, cells.id],
    command: [cells.command],
    age: [cells.age],
    time: [cells.time, cells.bar],
    step: [cells.step, cells.total],
    last: [cells.last],
    best: [cells.best],
    spark: [cells.spark],
  };
  const row = el("div", { class: "row", role: "row" });
  const extra = [...cells.extra];
  for (const column of columns) {
    const kind = `${column.kind ? " c-extra" : ""}${column.isNumber || column.kind ? " number" : ""}`;
    row.append(
      el(
        "div",
        { class: `cell c-${column.key}${kind}`, role: "gridcell" },
        ...(column.kind ? [extra.shift()] : content[column.key]),
      ),
    );
  }
  row.cells = cells;
  return row;
}
