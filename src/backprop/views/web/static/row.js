// One row of the table of runs: its cells, and what a run shows in them.

import { el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { swatch } from "./palette.js";
import { draw, sparkline } from "./sparkline.js";

/** An empty row with a cell per column; `cells` of it has the elements that change. */
export function makeRow(columns) {
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

/**
 * Show a run's row in an element; null where its row has not arrived.
 *
 * slot: its colour, or null where its curve is not drawn. metric: the one that the heads of Last and Best name.
 * heads: of the columns that were chosen, or else are usual.
 */
export function fillRow(element, row, { isChosen, slot, link, metric, heads }) {
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
  const name = format.visible(row.name || row.id, 120);
  cells.box.checked = isChosen;
  setAttribute(cells.box, "aria-label", `Show the curve of ${name}`);
  setAttribute(element, "aria-selected", isChosen);
  cells.mark.replaceChildren(...(slot === null ? [] : [swatch(slot)]));
  const isQuiet = row.status === "running" && row.life_text;
  setText(cells.status, isQuiet ? (row.is_stalled ? "stalled" : "silent") : row.status);
  cells.status.className = `status is-${isQuiet ? "paused" : row.status}`;
  const why = isQuiet ? row.life_text : row.reason;
  setAttribute(cells.status, "title", why ? format.visible(why, 1000) : null);
  setText(cells.link, name);
  setAttribute(cells.link, "href", link);
  setAttribute(cells.link, "title", format.visible(row.name || row.id, 1000));
  setText(cells.id, row.name ? format.visible(row.id, 40) : "");
  setText(cells.command, format.visible(row.command ?? "", 240));
  setAttribute(cells.command, "title", format.visible(row.command ?? "", 1000));
  setText(cells.step, row.last_step === null ? "–" : format.whole(row.last_step));
  setText(cells.total, row.total_steps ? ` / ${format.whole(row.total_steps)}` : "");
  setAttribute(cells.step, "title", row.pace);
  setText(cells.last, format.number(row.last));
  setText(cells.best, format.number(row.best));
  const other = row.metric && row.metric !== metric ? format.visible(row.metric, 80) : null;
  setAttribute(cells.last, "title", other);
  cells.last.classList.toggle("other", other !== null);
  draw(cells.spark, row.spark);
  setAttribute(cells.age, "title", format.instant(row.created_at));
  cells.extra.forEach((cell, place) => {
    const value = row.values.get(heads[place].key) ?? null;
    setText(cell, typeof value === "string" ? format.visible(value, 80) : format.number(value));
    setAttribute(cell, "title", typeof value === "string" ? format.visible(value, 300) : null);
  });
}

/** Seconds that the run's sessions have taken so far. */
function elapsedNow(row, now_ms) {
  if (row.elapsed_s === null || row.elapsed_s === undefined || row.sessions === 0) return null;
  return row.status === "running" ? row.elapsed_s + Math.max(0, now_ms - row.received_ms) / 1000 : row.elapsed_s;
}

/** What changes from second to second: age, elapsed time, and how much of the timebox is used. */
export function drawTimes(cells, row, now_ms) {
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
