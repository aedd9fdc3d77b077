// One metric of some runs, drawn with uPlot: zoom by dragging, values at the cursor, a mark where there is no number.

import { smoothed } from "./curvedata.js";
import { el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { ink, swatch } from "./palette.js";

const { uPlot } = globalThis; // index.html loads it before the modules

const MOST = Number.MAX_VALUE / 4;
const RAW_ALPHA = "40"; // of the raw curve behind a smoothed one, as hex

export class Chart {
  #plot = null;
  #shape = ""; // of the plot that is there: when it changes, another is made
  #curves = [];
  #options = null;

  /** on: zoom(range or null), remove(run) where curves can be taken away. */
  constructor(metric, on) {
    this.metric = metric;
    this.on = on;
    this.at = el("span", { class: "at" });
    this.canvas = el("div", { class: "plot", role: "img" });
    this.legend = el("ul", { class: "legend" });
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
      this.canvas,
      this.note,
      this.legend,
    );
    this.size = new ResizeObserver(() => {
      if (this.#plot && this.canvas.clientWidth)
        this.#plot.setSize({ width: this.canvas.clientWidth, height: this.canvas.clientHeight });
      else if (this.#options) this.draw(this.#curves, this.#options);
    });
    this.size.observe(this.canvas);
  }

  /**
   * curves: [{run, name, slot, x, y, missing}], options: {axis, isLog, smooth, range, look}.
   * `look` is anything that changes when colours do.
   */
  draw(curves, options) {
    this.#curves = curves.map((curve) => prepared(curve, options));
    this.#options = options;
    this.#drawLegend();
    this.#say();
    if (!this.canvas.clientWidth) return; // not laid out yet: the observer calls again
    const data = joined(this.#curves, options.smooth > 0);
    const shape = JSON.stringify([
      curves.map(({ run, slot }) => [run, slot]),
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

  #say() {
    const points = this.#curves.reduce((sum, curve) => sum + curve.x.length, 0);
    const hidden =
      this.#options.isLog && this.#curves.some((curve) => curve.y.some((value) => value !== null && value <= 0));
    const text = points === 0 ? "no points yet" : hidden ? "values of 0 and below are not shown on a log scale" : "";
    this.note.hidden = text === "";
    setText(this.note, text);
    const told = this.#curves.map((curve) => `${curve.name} ${format.number(lastOf(curve))}`).join(", ");
    setAttribute(
      this.canvas,
      "aria-label",
      `${format.name(this.metric, 80)} by ${this.#options.axis}: last ${told || "none"}`,
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
    const xText = axis === "time" ? timeTick : compact;
    const yText = isLog ? (v) => format.number(Number(v.toPrecision(2))) : format.number;
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
        y: isLog
          ? { distr: 3, range: (_, min, max) => logRange(min, max) }
          : { range: (_, min, max) => yRange(min, max) },
      },
      axes: [
        {
          ...common,
          size: 26,
          gap: 3,
          space: 60,
          values: (_, splits, __, ___, step) => splits.map((v) => (v === null ? "" : xText(v, step))),
        },
        {
          ...common,
          grid: { ...common.grid, filter: (_, splits) => (isLog ? decades(splits) : splits) },
          ticks: { ...common.ticks, filter: (_, splits) => (isLog ? decades(splits) : splits) },
          size: yAxisSize,
          gap: 4,
          space: 34,
          values: (_, splits) => splits.map((v) => (v === null ? "" : yText(v))),
        },
      ],
      series: [
        {},
        ...this.#curves.flatMap((curve) => {
          const { colour, dash } = ink(curve.slot);
          const main = {
            stroke: colour,
            dash,
            width: 1.75,
            points: { show: (u, index) => isSparse(u, index), size: 5, fill: colour },
          };
          const raw = { stroke: colour + RAW_ALPHA, width: 1, points: { show: false } };
          return smooth > 0 ? [raw, main] : [main];
        }),
      ],
      hooks: {
        setSelect: [(u) => this.#selected(u)],
        setCursor: [(u) => this.#showAt(u)],
        draw: [(u) => this.#markMissing(u)],
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
    this.#curves.forEach((curve, position) => {
      const value = x === null ? lastOf(curve) : valueAt(curve, x);
      setText(this.legend.children[position].querySelector(".value"), format.number(value));
    });
  }

  /** A cross at the foot of the plot wherever a value was NaN or infinite. */
  #markMissing(u) {
    const { ctx, bbox } = u;
    const size = 3.5 * devicePixelRatio;
    const y = bbox.top + bbox.height - size - 2;
    ctx.save();
    ctx.lineWidth = 1.5 * devicePixelRatio;
    ctx.beginPath();
    ctx.rect(bbox.left - size, bbox.top, bbox.width + 2 * size, bbox.height);
    ctx.clip();
    for (const curve of this.#curves) {
      ctx.strokeStyle = ink(curve.slot).colour;
      ctx.beginPath();
      let before = -Infinity;
      for (const missing of curve.missing) {
        const x = Math.round(u.valToPos(missing, "x", true));
        if (x - before < size * 1.5) continue; // one mark where several would lie over one another
        before = x;
        ctx.moveTo(x - size, y - size);
        ctx.lineTo(x + size, y + size);
        ctx.moveTo(x + size, y - size);
        ctx.lineTo(x - size, y + size);
      }
      ctx.stroke();
    }
    ctx.restore();
  }

  #drawLegend() {
    const key = JSON.stringify([
      this.#curves.map(({ run, name, slot, missing }) => [run, name, slot, missing.length > 0]),
      this.#options.look,
    ]);
    if (key !== this.legendKey) {
      this.legendKey = key;
      this.legend.replaceChildren(...this.#curves.map((curve) => this.#legendItem(curve)));
    }
    this.#curves.forEach((curve, position) =>
      setText(this.legend.children[position].querySelector(".value"), format.number(lastOf(curve))),
    );
  }

  #legendItem(curve) {
    const name = format.visible(curve.name, 60);
    const gap = curve.missing.length
      ? el("span", { class: "missing", text: "✕ NaN", title: "NaN or infinite values: gaps marked with a cross" })
      : null;
    const remove = this.on.remove
      ? el("button", {
          type: "button",
          class: "quiet remove",
          "aria-label": `Remove the curve of ${name}`,
          text: "×",
          on: { click: () => this.on.remove(curve.run) },
        })
      : null;
    return el(
      "li",
      {},
      swatch(curve.slot),
      el("bdi", { class: "cut", text: name }),
      gap,
      el("span", { class: "value" }),
      remove,
    );
  }

  remove() {
    this.size.disconnect();
    this.#plot?.destroy();
    this.#plot = null;
    this.root.remove();
  }
}

function prepared(curve, { isLog, smooth }) {
  const shown = isLog ? curve.y.map((value) => (value !== null && value > 0 ? value : null)) : curve.y;
  return { ...curve, shown, line: smoothed(shown, smooth) };
}

/** All curves over one x: uPlot draws null as a gap and looks past undefined. */
function joined(curves, isSmoothed) {
  if (curves.length === 0) return [[]];
  const ys = (curve) => (isSmoothed ? [curve.shown, curve.line] : [curve.line]);
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

const compact = (v) =>
  Math.abs(v) >= 1e6
    ? `${format.number(v / 1e6)} M`
    : Math.abs(v) >= 1e5
      ? `${format.number(v / 1e3)} k`
      : format.number(v);

/** A label of the time axis, with as many decimals as the step between two labels needs. */
const timeTick = (v, step) => (step < 0.1 ? `${v.toFixed(step < 0.01 ? 3 : 2)} s` : format.duration(v));

/** Lines of a log scale: powers of ten only where there are many, or the plot is all lines. */
function decades(splits) {
  const isPower = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9;
  return splits.filter(isPower).length > 2 ? splits.map((v) => (isPower(v) ? v : null)) : splits;
}

/** A value within what can be drawn: the span of an axis has to be a number. */
const drawable = (value) => (typeof value === "number" ? Math.max(-MOST, Math.min(MOST, value)) : value);

function yRange(min, max) {
  if (min === null) return [0, 1];
  const pad = (drawable(max) - drawable(min) || Math.abs(max) || 1) * 0.06;
  return [drawable(min >= 0 && min - pad < 0 ? Math.min(min, 0) : min - pad), drawable(max + pad)];
}

const logRange = (min, max) => (min === null || min <= 0 ? [0.1, 1] : [min / 1.15, max * 1.15]);

/** Points are shown while there are so few that a line alone could be missed. */
const isSparse = (u, index) =>
  u.data[index].reduce((count, value) => count + (Number.isFinite(value) ? 1 : 0), 0) <= 40;

/** Room for the longest label. */
function yAxisSize(u, values, axis, cycle) {
  if (cycle > 1) return u.axes[axis]._size;
  const longest = (values ?? []).reduce((most, text) => (text.length > most.length ? text : most), "");
  u.ctx.font = u.axes[axis].font[0];
  return Math.ceil(Math.max(34, u.ctx.measureText(longest).width / devicePixelRatio + 14));
}
