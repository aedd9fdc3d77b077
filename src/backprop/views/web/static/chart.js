// One metric of some runs, drawn with uPlot: zoom by dragging or by keys, values at the cursor, marks for what is
// not drawn.

import { decades, drawable, spikes, stepTick, timeTick, yAxisSize, ySpan } from "./axes.js";
import { smoothed } from "./curvedata.js";
import { el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { drawMarks, drawMissing, drawSpikes } from "./marks.js";
import { ink, swatch } from "./palette.js";

const { uPlot } = globalThis; // index.html loads it before the modules

const RAW_ALPHA = "40"; // of the raw curve behind a smoothed one, as hex
const BAND_ALPHA = "2e"; // of the spread around a mean
const MOST_READ = 8; // curves whose values are shown at the cursor: the nearest ones
const NEAR_SIGHT = "300px";

export class Chart {
  #plot = null;
  #shape = ""; // of the plot that is there: when it changes, another is made
  #curves = [];
  #options = null;
  #span = [0, 1]; // of the values
  #spikes = []; // what is outside of it: [{slot, x, y, isAbove}]
  #extent = null; // of the whole x-axis
  isInSight = true; // or near it

  /**
   * on: range() that is asked for, drawn or not yet; zoom(range or null); values(run -> value) at the cursor or else
   * the last ones; sight() when it changes.
   */
  constructor(metric, on) {
    this.metric = metric;
    this.on = on;
    this.at = el("span", { class: "at" });
    this.canvas = el("div", {
      class: "plot",
      role: "group",
      tabindex: 0,
      on: { keydown: (event) => this.#pressed(event), mouseleave: () => this.#read(null) },
    });
    this.reading = el("ul", { class: "reading", hidden: true, "aria-hidden": "true" });
    this.note = el("p", { class: "plot-note faint", hidden: true });
    this.root = el(
      "figure",
      { class: "chart" },
      el(
        "figcaption",
        {},
        el("bdi", { class: "cut", text: format.name(metric, 120), title: format.visible(metric, 1000) }),
        this.at,
      ),
      el("div", { class: "plot-frame" }, this.canvas, this.reading),
      this.note,
    );
    this.size = new ResizeObserver(() => {
      if (this.#plot && this.canvas.clientWidth)
        this.#plot.setSize({ width: this.canvas.clientWidth, height: this.canvas.clientHeight });
      else if (this.#options) this.#lay();
    });
    this.size.observe(this.canvas);
    const seen = ([entry]) => {
      if (entry.isIntersecting === this.isInSight) return;
      this.isInSight = entry.isIntersecting;
      this.on.sight();
    };
    this.sight = new IntersectionObserver(seen, { rootMargin: NEAR_SIGHT });
    this.sight.observe(this.root);
  }

  /**
   * curves: [{run, name, slot, x, y, missing}], bands: [{run, name, slot, xs, mean, low, high}],
   * options: {axis, isLog, smooth, range, look, marks: [{x, text, isPause}]}.
   * `look` is anything that changes when colours do.
   */
  draw(curves, bands, options) {
    const means = bands.map(({ xs, mean, low, high, ...band }) => ({
      ...band,
      x: xs,
      y: mean,
      low,
      high,
      missing: [],
    }));
    this.#curves = [...curves, ...means].map((curve) => prepared(curve, options));
    this.#options = options;
    this.#measure();
    this.#say();
    this.on.values(this.#valuesAt(null));
    this.#lay();
  }

  #lay() {
    const options = this.#options;
    if (!this.canvas.clientWidth) return; // not laid out yet: the observer calls again
    const data = joined(this.#curves, options.smooth > 0);
    const shape = JSON.stringify([
      this.#curves.map(({ run, slot, low }) => [run, slot, low !== undefined]),
      options.axis,
      options.isLog,
      options.smooth > 0,
      options.look,
    ]);
    if (shape === this.#shape && this.#plot) {
      this.#plot.setData(data);
    } else {
      this.#plot?.destroy();
      this.#shape = shape;
      this.#plot = new uPlot(this.#plotOptions(), data, this.canvas);
    }
  }

  /** What of the values is drawn. */
  #measure() {
    const { range, isLog, smooth } = this.#options;
    const isShown = (x) => range === null || (x >= range.min && x <= range.max);
    const drawn = this.#curves.flatMap((curve) =>
      (smooth > 0 ? [curve.line, curve.shown] : [curve.line]).map((ys) => {
        const shown = curve.x.map(isShown);
        return { slot: curve.slot, xs: curve.x.filter((_, at) => shown[at]), ys: ys.filter((_, at) => shown[at]) };
      }),
    );
    this.#span = ySpan(drawn, isLog);
    this.#spikes = isLog
      ? []
      : drawn.flatMap((curve) => spikes(curve, this.#span).map((spike) => ({ ...spike, slot: curve.slot })));
    const xs = this.#curves.flatMap(({ x }) => (x.length ? [x[0], x.at(-1)] : []));
    if (range === null) this.#extent = xs.length ? { min: Math.min(...xs), max: Math.max(...xs) } : null;
  }

  #say() {
    const points = this.#curves.reduce((sum, curve) => sum + curve.x.length, 0);
    const isCut =
      this.#options.isLog && this.#curves.some((curve) => curve.y.some((value) => value !== null && value <= 0));
    const farthest = this.#spikes.reduce((most, { y }) => (Math.abs(y) > Math.abs(most) ? y : most), 0);
    const text =
      points === 0
        ? "no points yet"
        : isCut
          ? "values of 0 and below are not shown on a log scale"
          : this.#spikes.length
            ? `▲▼ values beyond the axis, up to ${format.number(farthest)}`
            : "";
    this.note.hidden = text === "";
    setText(this.note, text);
    const told = this.#curves.map((curve) => `${curve.name} ${format.number(lastOf(curve))}`).join(", ");
    const marks = this.#options.marks.map((mark) => `, ${mark.text} after ${format.duration(mark.x)}`).join("");
    setAttribute(
      this.canvas,
      "aria-label",
      `${format.name(this.metric, 80)} by ${this.#options.axis}: last ${format.visible(told, 1000) || "none"}${marks}`,
    );
  }

  #plotOptions() {
    const { axis, isLog, smooth } = this.#options;
    const style = getComputedStyle(this.root);
    const line = { stroke: style.getPropertyValue("--axis-ink"), width: 1 };
    const ink_ = style.getPropertyValue("--axis-text");
    const font = `11px ${style.fontFamily}`;
    const common = {
      stroke: ink_,
      font,
      grid: { ...line, stroke: style.getPropertyValue("--grid-ink") },
      ticks: { ...line, size: 4 },
    };
    const xText = axis === "time" ? timeTick : stepTick;
    const title = { labelFont: font, labelSize: 16, labelGap: 0 };
    const { unit } = this.#curves[0] ?? {};
    const yText = (v) => format.figure(isLog ? Number(v.toPrecision(2)) : v, unit);
    return {
      width: this.canvas.clientWidth,
      height: this.canvas.clientHeight,
      legend: { show: false },
      padding: [10, 20, 0, 0],
      cursor: {
        drag: { x: true, y: false, setScale: false },
        points: { size: 6, width: 1.5 },
        sync: { key: "curves", setSeries: false },
        bind: {
          dblclick: () => () => {
            this.on.zoom(null);
            return null;
          },
        },
      },
      scales: {
        x: { time: false, range: (_, min, max) => this.#xRange(min, max) },
        y: { distr: isLog ? 3 : 1, range: () => this.#span },
      },
      axes: [
        {
          ...common,
          ...title,
          label: axis === "time" ? "time of training" : "step",
          size: 26,
          gap: 3,
          space: 60,
          values: (_, splits, __, ___, step) => splits.map((v) => (v === null ? "" : xText(v, step))),
        },
        {
          ...common,
          ...title,
          label: `${format.name(this.metric, 24)}${isLog ? " (log)" : ""}`,
          grid: { ...common.grid, filter: (_, splits) => (isLog ? decades(splits) : splits) },
          ticks: { ...common.ticks, filter: (_, splits) => (isLog ? decades(splits) : splits) },
          size: yAxisSize,
          gap: 4,
          space: 34,
          values: (_, splits) => splits.map((v) => (v === null ? "" : yText(v))),
        },
      ],
      series: [{}, ...this.#curves.flatMap((curve) => seriesOf(curve, smooth > 0))],
      bands: bandPairs(this.#curves, smooth).map(([low, high, slot]) => ({
        series: [high, low],
        fill: ink(slot).colour + BAND_ALPHA,
      })),
      hooks: {
        setSelect: [(u) => this.#selected(u)],
        setCursor: [(u) => this.#showAt(u)],
        draw: [(u) => drawMissing(u, this.#curves), (u) => drawSpikes(u, this.#spikes), (u) => this.#drawMarks(u)],
      },
    };
  }

  #xRange(min, max) {
    const { range } = this.#options;
    if (range) return [range.min, range.max];
    if (min === null) return [0, 1];
    return min === max ? [min - 0.5, max + 0.5] : [min, max];
  }

  #selected(u) {
    const { left, width } = u.select;
    if (width < 3) return;
    const range = { min: u.posToVal(left, "x"), max: u.posToVal(left + width, "x") };
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (range.max > range.min) this.on.zoom(range);
  }

  #showAt(u) {
    const { left } = u.cursor;
    const x = left === undefined || left < 0 ? null : u.posToVal(left, "x");
    setText(
      this.at,
      x === null ? "" : this.#options.axis === "time" ? format.duration(x) : `step ${format.whole(Math.round(x))}`,
    );
    this.on.values(this.#valuesAt(x));
    this.#read(x === null || !this.canvas.matches(":hover") ? null : u);
  }

  #valuesAt = (x) => new Map(this.#curves.map((curve) => [curve.run, x === null ? lastOf(curve) : valueAt(curve, x)]));

  /** Beside the pointer, the values of the curves nearest to it. Null: no pointer is there. */
  #read(u) {
    this.reading.hidden = u === null || this.#curves.length < 2;
    if (this.reading.hidden) return;
    const { left, top } = u.cursor;
    const x = u.posToVal(left, "x");
    const found = this.#curves
      .map((curve) => ({ curve, value: valueAt(curve, x) }))
      .filter(({ value }) => value !== null)
      .map((entry) => ({ ...entry, far: Math.abs((u.valToPos(drawable(entry.value), "y") || 0) - top) }))
      .sort((a, b) => a.far - b.far);
    const shown = found.slice(0, MOST_READ).sort((a, b) => b.value - a.value);
    this.reading.replaceChildren(
      ...shown.map(({ curve, value }) =>
        el(
          "li",
          {},
          swatch(curve.slot),
          el("span", { class: "value", text: format.number(value) }),
          el("bdi", { class: "cut", text: format.visible(curve.name, 60) }),
        ),
      ),
      ...(found.length > shown.length
        ? [el("li", { class: "faint", text: `and ${found.length - shown.length} more` })]
        : []),
    );
    const isRight = left > u.over.clientWidth / 2; // beside the pointer, where there is room
    this.reading.classList.toggle("left", isRight);
  }

  /** Zoom and move by keys. */
  #pressed(event) {
    if (this.#extent === null || event.ctrlKey || event.metaKey || event.altKey) return;
    const range = rangeAfter(event.key, this.on.range() ?? this.#extent, this.#extent);
    if (range === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.on.zoom(range);
  }

  #drawMarks(u) {
    const { marks } = this.#options;
    this.canvas.dataset.marks = marks.map(({ text }) => text).join(", "); // for tests
    drawMarks(u, marks, getComputedStyle(this.root));
  }

  remove() {
    this.size.disconnect();
    this.sight.disconnect();
    this.#plot?.destroy();
    this.#plot = null;
    this.root.remove();
  }
}

/** The uPlot series of a curve: one line, and also the raw one where it is smoothed, or the two edges of a spread. */
function seriesOf(curve, isSmoothed) {
  const { colour, dash } = ink(curve.slot);
  const main = {
    stroke: colour,
    dash,
    width: 1.75,
    points: { show: (u, index) => isSparse(u, index), size: 5, fill: colour },
  };
  const raw = { stroke: colour + RAW_ALPHA, width: 1, points: { show: false } };
  const edge = { stroke: "transparent", width: 0, points: { show: false } };
  return curve.low ? [main, edge, edge] : isSmoothed ? [raw, main] : [main];
}

/** Of each band the numbers of the series that are its edges, and its slot. */
function bandPairs(curves, smooth) {
  const pairs = [];
  let number = 1;
  for (const { low, slot } of curves) {
    if (low) pairs.push([number + 1, number + 2, slot]);
    number += low ? 3 : smooth > 0 ? 2 : 1;
  }
  return pairs;
}

/** The range after a key that zooms or moves; null: the whole; undefined: the key does neither. */
function rangeAfter(key, { min, max }, extent) {
  const shift = { ArrowLeft: -0.25, ArrowRight: 0.25 }[key] ?? 0;
  const factor = { "+": 0.5, "=": 0.5, "-": 2 }[key] ?? 1;
  const whole = extent.max - extent.min;
  if ((shift === 0 && factor === 1) || whole <= 0) return undefined;
  const width = Math.min(whole, (max - min) * factor);
  const middle = (min + max) / 2 + shift * (max - min);
  const from = Math.max(extent.min, Math.min(extent.max - width, middle - width / 2));
  return width >= whole ? null : { min: from, max: from + width };
}

function prepared(curve, { isLog, smooth }) {
  const shown = isLog ? curve.y.map((value) => (value !== null && value > 0 ? value : null)) : curve.y;
  return { ...curve, shown, line: curve.low ? shown : smoothed(shown, smooth) }; // a mean is smooth enough
}

/** All curves over one x: uPlot draws null as a gap and looks past undefined. */
function joined(curves, isSmoothed) {
  if (curves.length === 0) return [[]];
  const ys = (curve) =>
    curve.low ? [curve.line, curve.low, curve.high] : isSmoothed ? [curve.shown, curve.line] : [curve.line];
  const tables = curves.map((curve) => [curve.x, ...ys(curve).map((values) => values.map(drawable))]);
  return uPlot.join(
    tables,
    tables.map((table) => table.map(() => 1)),
  );
}

const lastOf = (curve) => {
  const value = curve.line.at(-1);
  return value ?? (curve.missing.length && curve.missing.at(-1) === curve.x.at(-1) ? "NaN" : null);
};

/** The value at the point nearest to `x`; null outside of the curve. */
export function valueAt({ x: xs, line, missing }, x) {
  if (xs.length === 0) return null;
  const margin = (xs.at(-1) - xs[0]) * 0.02 || 0.5;
  if (x < xs[0] - margin || x > xs.at(-1) + margin) return null;
  let low = 0;
  let high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  const nearest = low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
  return line[nearest] ?? (missing.includes(xs[nearest]) ? "NaN" : null);
}

/** Points are shown while there are so few that a line alone could be missed. */
const isSparse = (u, index) =>
  u.data[index].reduce((count, value) => count + (Number.isFinite(value) ? 1 : 0), 0) <= 40;
