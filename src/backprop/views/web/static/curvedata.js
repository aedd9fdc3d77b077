// The points of the curves on the screen: fetched once, then extended by events.

import * as api from "./api.js";

const POINTS = 1500;
export const MAX_CURVES = 100; // that the server gives at once
const MAX_METRIC_NAME = 300; // the server truncates longer names, and does not find them by what is left
const GROWN_TOO_FAR = 3; // at this many times the requested points, fetch a reduced curve again

export const canDraw = (metric) => metric.length <= MAX_METRIC_NAME;
const keyOf = (run, metric) => JSON.stringify([run, metric]);

export class CurveData {
  #curves = new Map(); // run and metric -> whole curve
  #zoomed = new Map(); // run and metric -> curve of the zoomed part
  #axis = "step";
  #controller = null;
  #zoomController = null;

  /** on: changed(), failed(error). */
  constructor(on) {
    this.on = on;
  }

  /** Load these curves; those already loaded are kept, or with `isAnew` shown until they are loaded again. */
  async want(runs, metrics, axis, isAnew = false) {
    if (axis !== this.#axis) this.#curves.clear();
    this.#axis = axis;
    const wanted = new Set(runs.flatMap((run) => metrics.map((metric) => keyOf(run, metric))));
    for (const key of this.#curves.keys()) if (!wanted.has(key)) this.#curves.delete(key);
    const missing = isAnew
      ? runs
      : runs.filter((run) => metrics.some((metric) => !this.#curves.has(keyOf(run, metric))));
    this.#controller?.abort();
    if (missing.length === 0) {
      this.on.changed();
      return;
    }
    this.#controller = new AbortController();
    await this.#fetch({ runs: missing, metrics, axis, points: POINTS }, this.#controller.signal, this.#curves);
  }

  /** Load a part at full resolution. */
  async zoom(runs, metrics, range) {
    this.unzoom();
    if (runs.length === 0) return;
    this.#zoomController = new AbortController();
    const request = { runs, metrics, axis: this.#axis, points: POINTS, range };
    await this.#fetch(request, this.#zoomController.signal, this.#zoomed);
  }

  /** Back to the whole curves. */
  unzoom() {
    this.#zoomController?.abort();
    this.#zoomed = new Map();
    this.on.changed();
  }

  /** Metric by metric, the first ones first, as many at once as the server gives. */
  async #fetch(request, signal, into) {
    const atOnce = Math.max(1, Math.floor(MAX_CURVES / request.runs.length));
    try {
      for (let first = 0; first < request.metrics.length; first += atOnce) {
        const metrics = request.metrics.slice(first, first + atOnce);
        const answer = await api.curves({ ...request, metrics }, signal);
        for (const curve of answer.curves) into.set(keyOf(curve.run, curve.metric), curve);
        this.on.changed();
      }
    } catch (error) {
      if (error.name !== "AbortError") this.on.failed(error);
    }
  }

  /**
   * Apply a curve event: points from `begin` on, or with null all of them. Returns false when the curve has become so
   * long that it should be fetched again, reduced.
   */
  append(event) {
    const key = keyOf(event.run, event.metric);
    const curve = this.#curves.get(key);
    if (!curve || event.axis !== this.#axis) return true;
    if (event.begin === null) this.#curves.set(key, { missing: [], ...event });
    else grow(curve, event);
    const zoomed = this.#zoomed.get(key);
    if (zoomed && event.begin !== null) grow(zoomed, event);
    this.on.changed();
    return this.#curves.get(key).x.length <= POINTS * GROWN_TOO_FAR;
  }

  /** The curve to draw; null when it is not loaded yet. */
  get(run, metric) {
    const key = keyOf(run, metric);
    return this.#zoomed.get(key) ?? this.#curves.get(key) ?? null;
  }

  /** Those of these curves that are loaded, to receive updates of; a mark tells how far each is loaded. */
  subscription(runs, metrics) {
    const keys = metrics.flatMap((metric) => runs.map((run) => keyOf(run, metric)));
    const curves = keys.map((key) => this.#curves.get(key)).filter(Boolean);
    return curves.map(({ run, metric, mark }) => ({ run, metric, axis: this.#axis, mark }));
  }
}

function grow(curve, event) {
  let kept = curve.x.length;
  while (kept > 0 && curve.x[kept - 1] >= event.begin) kept -= 1;
  curve.x.splice(kept, Infinity, ...event.x);
  curve.y.splice(kept, Infinity, ...event.y);
  curve.missing = [...curve.missing.filter((x) => x < event.begin), ...(event.missing ?? [])];
  curve.count = event.count;
  curve.mark = event.mark;
}

/** The exponential moving average of the values, without the bias of its start; a gap stays a gap. */
export function smoothed(values, weight) {
  if (weight === 0) return values;
  let average = 0;
  let share = 0; // of the weights that real values have so far
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    average = average * weight + value * (1 - weight);
    share = share * weight + (1 - weight);
    return average / share;
  });
}
