// The curves of the selected runs: one chart per metric, and the controls that all charts share.

import * as api from "./api.js";
import { Chart } from "./chart.js";
import { CurveData, MAX_CURVES, canDraw } from "./curvedata.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { pictureOf } from "./picture.js";
import { Legend } from "./legend.js";
import { Slots, isDark } from "./palette.js";

const FIRST_CHARTS = 12;
const TOTAL_STEPS = "total_steps"; // a target, not a measurement
const EPOCH = "epoch"; // progress: listed last
export const ALL = "*";

const bandKey = (filter, metric) => JSON.stringify([filter, metric]);

export class CurvesPanel {
  #charts = new Map(); // metric -> Chart
  #slots = new Slots();
  #runs = []; // [{id, name, detail, isGoingOn}]
  #bands = []; // [{filter, name, search, within}]
  #bandCurves = new Map(); // filter and metric -> {xs, mean, low, high}
  #bandController = null;
  #marks = [];
  main = null; // the main metric of these runs; a name may be empty
  #metrics = []; // that these runs have
  #most = FIRST_CHARTS;
  #range = null;
  #scheduled = false;
  #look = 0;
  #controls = { metric: null, axis: "step", log: false, smooth: 0 };

  /** on: controls(changes), live(), remove(run) or null, failed(error). `hint`: shown while no run is selected. */
  constructor(root, on, hint) {
    this.root = root;
    this.on = on;
    this.data = new CurveData({ changed: () => this.redraw(), failed: (error) => on.failed(error) });
    Object.assign(
      this,
      controlsOf(on, () => this.#zoom(null)),
    );
    this.hint = el("p", { class: "hint", text: hint });
    this.legend = new Legend({ remove: on.remove });
    this.charts = el("div", { class: "charts" });
    this.leftOut = el("p", { class: "plot-note faint", hidden: true });
    this.more = el("button", {
      type: "button",
      class: "more",
      hidden: true,
      on: {
        click: () => {
          this.#most += FIRST_CHARTS;
          this.#load();
        },
      },
    });
    this.bar.hidden = this.hint.hidden = true; // until it is known whether there are runs
    root.append(this.bar, this.hint, this.legend.root, this.leftOut, this.charts, this.more);
  }

  slotOf = (id) => this.#slots.of(id);

  /** Show these runs: [{id, name, detail, isGoingOn}]; `detail` tells one from others. See also `setMetrics`. */
  setRuns(runs) {
    const before = this.#runs.map((run) => run.id).join();
    this.#runs = runs;
    this.#assignSlots();
    if (before === runs.map((run) => run.id).join()) this.redraw();
    else if (runs.length + this.#bands.length === 0) this.#setRange(null);
    this.#load();
  }

  /** Draw mean and spread of the runs of these filters: [{filter, name}]. */
  setBands(bands) {
    const isSame = JSON.stringify(bands) === JSON.stringify(this.#bands);
    this.#bands = bands;
    this.#assignSlots();
    if (!isSame) this.#load();
  }

  /** Instants on the time axis that are marked: [{x, text, isPause}], x in seconds of training. */
  setMarks(marks) {
    this.#marks = marks;
    this.redraw();
  }

  /** How many selected runs are not drawn. */
  setLeftOut(count) {
    this.leftOut.hidden = count === 0;
    setText(this.leftOut, `${format.plural(count, "more selected run")} not drawn; a group's mean shows them all`);
  }

  /** All charts below one another, with the legend, as a PNG Blob. */
  picture() {
    const charts = [...this.#charts.values()];
    return pictureOf(
      charts.map((chart) => ({ title: chart.metric, canvas: chart.canvas.querySelector("canvas") })),
      [...this.#runs.map((run) => [run.name, run.id]), ...this.#bands.map((band) => [band.name, band.filter])].map(
        ([name, key]) => ({ name: format.visible(name, 80), slot: this.#slots.of(key) }),
      ),
    );
  }

  reloadBands() {
    if (this.#bands.length) this.#load();
  }

  #assignSlots() {
    this.#slots.assign([...this.#runs.map((run) => run.id), ...this.#bands.map((band) => band.filter)]);
    const isEmpty = this.#runs.length + this.#bands.length === 0;
    this.hint.hidden = !isEmpty;
    this.bar.hidden = isEmpty;
    this.root.classList.toggle("bare", isEmpty);
  }

  /** Which metrics there are, which is the main one, and which were measured: those come last. */
  setMetrics(names, main, measured = []) {
    const drawn = names.filter((name) => canDraw(name) && name !== TOTAL_STEPS);
    this.main =
      main !== null && drawn.includes(main) ? main : (drawn.find((name) => name !== EPOCH) ?? drawn[0] ?? null);
    const rank = (name) => (name === this.main ? 0 : name === EPOCH ? 2 : measured.includes(name) ? 3 : 1);
    const metrics = drawn.sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
    if (metrics.join("\u0000") !== this.#metrics.join("\u0000")) {
      this.#metrics = metrics;
      this.metricField.replaceChildren(
        ...metrics.map((name) => el("option", { value: name, text: format.name(name, 48) })),
        el("option", { value: ALL, text: `all metrics (${metrics.length})` }),
      );
    }
    this.#load();
  }

  setControls({ metric, axis, log, smooth }) {
    const before = this.#controls;
    this.#controls = { metric, axis, log, smooth };
    this.axisField.value = axis;
    this.logField.checked = log;
    this.smoothField.value = smooth;
    setText(this.smoothText, smooth === 0 ? "off" : smooth.toFixed(2));
    if (before.axis !== axis) this.#setRange(null);
    if (before.metric !== metric || before.axis !== axis) this.#load();
    else this.redraw();
  }

  /** The metrics that are currently drawn. */
  shown() {
    const { metric } = this.#controls;
    if (metric === ALL) return this.#metrics.slice(0, this.#most);
    const one = metric !== null && this.#metrics.includes(metric) ? metric : this.main;
    return one === null ? [] : [one];
  }

  /** The curves to receive updates of: of charts in sight, and of runs that go on before others. */
  subscription() {
    const ids = (isGoingOn) => this.#runs.filter((run) => run.isGoingOn === isGoingOn).map((run) => run.id);
    const metrics = this.shown().filter((metric) => this.#charts.get(metric)?.isInSight);
    return [true, false].flatMap((isGoingOn) => this.data.subscription(ids(isGoingOn), metrics)).slice(0, MAX_CURVES);
  }

  append(event) {
    if (!this.data.append(event)) this.reload();
  }

  /** Fetch everything that is shown again. */
  reload() {
    this.#load(true);
  }

  async #load(isAnew = false) {
    const metrics = this.shown();
    this.metricField.value = this.#controls.metric === ALL ? ALL : (metrics[0] ?? "");
    const left = this.#controls.metric === ALL ? this.#metrics.length - metrics.length : 0;
    this.more.hidden = left <= 0;
    setText(this.more, `Show more (${format.plural(left, "metric")} left)`);
    this.#placeCharts(metrics);
    this.#loadBands(metrics);
    await this.data.want(this.#ids(), metrics, this.#controls.axis, isAnew);
    if (this.#range) await this.data.zoom(this.#ids(), this.#zoomable(), this.#range);
    this.on.live();
  }

  async #loadBands(metrics) {
    const { axis } = this.#controls;
    this.#bandController?.abort();
    const { signal } = (this.#bandController = new AbortController());
    const found = new Map();
    try {
      for (const metric of metrics)
        for (const band of this.#bands)
          found.set(bandKey(band.filter, metric), await api.band(band, metric, axis, signal));
    } catch (error) {
      if (error.name !== "AbortError") this.on.failed(error);
      return;
    }
    this.#bandCurves = found;
    this.redraw();
  }

  #ids = () => this.#runs.map((run) => run.id);

  #placeCharts(metrics) {
    const wanted = this.#runs.length + this.#bands.length ? metrics : [];
    for (const [metric, chart] of this.#charts) {
      if (wanted.includes(metric)) continue;
      chart.remove();
      this.#charts.delete(metric);
    }
    for (const metric of wanted) {
      if (!this.#charts.has(metric)) {
        const on = {
          range: () => this.#range,
          zoom: (range) => this.#zoom(range, metric),
          values: (values) => this.legend.setValues(this.#charts.size === 1 ? values : new Map()),
          sight: () => this.on.live(),
        };
        this.#charts.set(metric, new Chart(metric, on));
      }
      this.charts.append(this.#charts.get(metric).root);
    }
    this.charts.classList.toggle("several", wanted.length > 1);
  }

  #setRange(range) {
    this.#range = range;
    this.resetButton.hidden = range === null;
    this.root.dataset.zoomed = range === null ? "no" : "yes";
    if (range === null) this.data.unzoom();
  }

  async #zoom(range, metric = null) {
    if (range === null ? this.#range === null : !this.#zoomable().includes(metric)) return;
    this.#setRange(range);
    if (range !== null) await this.data.zoom(this.#ids(), this.#zoomable(), range);
  }

  /** The axis of a chart: what was measured has no steps, and is drawn over time. */
  #over = (metric) => this.#runs.map(({ id }) => this.data.get(id, metric)?.over).find(Boolean) ?? this.#controls.axis;

  /** The charts that share a range. */
  #zoomable = () => this.shown().filter((metric) => this.#over(metric) === this.#controls.axis);

  /** Redraw after the colours may have changed. */
  relook() {
    this.#look += 1;
    this.redraw();
  }

  /** Draw once in the next frame, however often this is called. */
  redraw() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    const { axis, log, smooth } = this.#controls;
    const look = `${this.#look}${isDark()}`;
    const options = { isLog: log, smooth, look };
    this.legend.draw(
      [...this.#runs.map((run) => this.#inLegend(run)), ...this.#bands.map((band) => this.#bandInLegend(band))],
      look,
    );
    for (const [metric, chart] of this.#charts) {
      const over = this.#over(metric);
      const curves = this.#runs.flatMap(({ id, name }) => {
        const curve = this.data.get(id, metric);
        return curve ? [{ ...curve, run: id, name, slot: this.#slots.of(id) }] : [];
      });
      const bands = this.#bands.flatMap(({ filter, name }) => {
        const band = this.#bandCurves.get(bandKey(filter, metric));
        return band?.xs.length ? [{ ...band, run: filter, name, slot: this.#slots.of(filter) }] : [];
      });
      const marks = over === "time" ? this.#marks : [];
      chart.draw(curves, bands, { ...options, axis: over, range: over === axis ? this.#range : null, marks });
    }
    // for tests: how many points all charts hold
    this.root.dataset.points = [...this.#charts.keys()].reduce(
      (sum, metric) => sum + this.#runs.reduce((n, { id }) => n + (this.data.get(id, metric)?.count ?? 0), 0),
      0,
    );
  }

  #bandInLegend({ filter, name }) {
    const runs = [...this.#charts.keys()].map((metric) => this.#bandCurves.get(bandKey(filter, metric))?.runs_of)[0];
    const detail = runs === undefined ? "" : `mean ± sd of ${format.plural(runs, "run")}`;
    return { id: filter, name, detail, slot: this.#slots.of(filter), hasMissing: false };
  }

  #inLegend({ id, name, detail }) {
    const hasMissing = [...this.#charts.keys()].some((metric) => this.data.get(id, metric)?.missing.length > 0);
    return { id, name, detail, slot: this.#slots.of(id), hasMissing };
  }
}

/** The fields over the charts, and the bar that holds them. */
function controlsOf(on, resetZoom) {
  const metricField = el("select", {
    "aria-label": "Metric",
    class: "metric",
    on: { change: () => on.controls({ metric: metricField.value }) },
  });
  const axisField = el(
    "select",
    {
      "aria-label": "Horizontal axis",
      class: "axis",
      on: { change: () => on.controls({ axis: axisField.value }) },
    },
    el("option", { value: "step", text: "by step" }),
    el("option", { value: "time", text: "by time" }),
  );
  const logField = el("input", {
    type: "checkbox",
    class: "log-scale",
    on: { change: () => on.controls({ log: logField.checked }) },
  });
  const smoothField = el("input", {
    type: "range",
    min: 0,
    max: 0.99,
    step: 0.01,
    class: "smooth",
    on: { input: () => on.controls({ smooth: Number(smoothField.value) }) },
  });
  const smoothText = el("output", { class: "number" });
  const resetButton = el("button", {
    type: "button",
    class: "reset-zoom",
    text: "Reset zoom",
    hidden: true,
    on: { click: resetZoom },
  });
  const bar = el(
    "div",
    { class: "controls" },
    metricField,
    axisField,
    el("label", { class: "check" }, logField, "log scale"),
    el("label", { class: "check" }, "smooth", smoothField, smoothText),
    resetButton,
  );
  return { metricField, axisField, logField, smoothField, smoothText, resetButton, bar };
}
