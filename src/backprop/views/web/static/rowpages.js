// The rows of the table of runs, fetched in pages when they are to be shown, and kept until the table changes.

import * as api from "./api.js";
import { debounced } from "./dom.js";

const PAGE_ROWS = 100;
const KEPT_PAGES = 40;
const RETRY_S = [1, 2, 4, 8, 16, 30];

export class RowPages {
  #pages = new Map(); // page number -> rows
  #stale = new Set(); // pages that are shown until newer ones arrive
  #pending = new Map(); // page number -> AbortController
  #isHeld = false; // backing off after an error
  #failures = 0;
  #retryTimer = 0;
  query = null;
  count = 0; // rows of the query, fetched or not
  heads = []; // of the columns that were chosen, or else are usual: [{key, title, kind, goal}]
  offered = []; // keys of columns that can be chosen

  /** on: range() -> [first, end) of the rows to have, loaded({total, isFirst}), emptied(), failed(error). */
  constructor(on) {
    this.on = on;
    this.load = debounced(() => this.#loadVisible(), 40);
  }

  /** Fetch the rows of another query; the old ones are shown until then. */
  setQuery(query) {
    this.query = query;
    this.#release();
    for (const controller of this.#pending.values()) controller.abort();
    this.#pending.clear();
    this.#stale = new Set(this.#pages.keys());
    this.#loadVisible();
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

  /** Newer rows of runs that may be here. */
  update(rows) {
    const byId = new Map(rows.map((row) => [row.id, row]));
    for (const page of this.#pages.values()) {
      page.forEach((row, position) => {
        if (byId.has(row.id)) page[position] = { ...received(byId.get(row.id)), values: row.values };
      });
    }
  }

  /** The row at an index; null where it has not arrived. */
  row(index) {
    return this.#pages.get(Math.floor(index / PAGE_ROWS))?.[index % PAGE_ROWS] ?? null;
  }

  /** The index of a run's row, among those that are up to date; null where it is not there. */
  indexOf(id) {
    let index = null;
    for (const [page, rows] of this.#pages) {
      const position = rows.findIndex((row) => row.id === id);
      if (position >= 0 && !this.#stale.has(page)) index = page * PAGE_ROWS + position;
    }
    return index;
  }

  /** The name of a run that is or was here; null where it has none or is not known. */
  nameOf(id) {
    return [...this.#pages.values()].flat().find((row) => row.id === id)?.name ?? null;
  }

  /** The main metric of most rows of a page; null where none has one. */
  commonMetric() {
    const counts = new Map();
    for (const row of this.#pages.values().next().value ?? []) {
      if (row.metric !== null) counts.set(row.metric, (counts.get(row.metric) ?? 0) + 1);
    }
    return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
  }

  #loadVisible() {
    if (!this.query || this.#isHeld) return;
    const [first, last] = this.on.range();
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
      const isUsual = this.query.columns === null && (page === 0 || isFirst);
      const asked = {
        ...this.query,
        columns: isUsual ? null : (this.query.columns ?? this.heads.map((head) => head.key)),
        offset: page * PAGE_ROWS,
        limit: PAGE_ROWS,
      };
      const answer = await api.runs(asked, controller.signal);
      const keys = answer.columns.map((head) => head.key);
      if (isUsual || this.query.columns !== null) this.heads = answer.columns;
      this.offered = answer.offered;
      this.#pages.set(
        page,
        answer.runs.map((row) => ({ ...received(row), values: new Map(keys.map((key, at) => [key, row.cells[at]])) })),
      );
      this.count = answer.shown_of;
      this.#failures = 0;
      for (const other of [...this.#pages.keys()].filter((n) => this.#stale.has(n) && n !== page)) {
        if (other * PAGE_ROWS >= this.count) this.#pages.delete(other);
      }
      while (this.#pages.size > KEPT_PAGES) this.#pages.delete(this.#pages.keys().next().value);
      this.on.loaded({ total: answer.total, isFirst });
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#stale.add(page);
      this.#hold(error);
      if (error.status === 400) this.#empty(); // the rows that are there answer another question
      this.on.failed(error);
    } finally {
      if (this.#pending.get(page) === controller) this.#pending.delete(page);
    }
    if (!controller.signal.aborted) this.load();
  }

  #empty() {
    this.#pages.clear();
    this.count = 0;
    this.on.emptied();
  }
}

/** A row with its time of arrival, so that the elapsed time can be extrapolated. */
const received = (row) => ({ ...row, received_ms: Date.now() });
