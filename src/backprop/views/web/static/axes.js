// The ranges and labels of a chart's axes.

import * as format from "./format.js";

const MOST = Number.MAX_VALUE / 4;
const COUNTED = 8; // fewer values have no outliers
const MANY = 100;
// As in plots/model.py: a value is an outlier if its distance from the inner values is this multiple of their span: a
// small one of the inner 98 %, a large one of the inner 60 %, because a loss may fall steeply at first.
const REACHES = [
  [0.01, 4],
  [0.2, 20],
];

/** A value within what can be drawn: the span of an axis has to be a number. */
export const drawable = (value) => (typeof value === "number" ? Math.max(-MOST, Math.min(MOST, value)) : value);

/** The range in which curves are readable: a few outliers do not flatten the rest. On a log scale none is left out. */
export function ySpan(curves, isLog) {
  const found = Float64Array.from(curves.flatMap(({ ys }) => ys.filter(Number.isFinite).map(drawable))).sort();
  if (found.length === 0) return isLog ? [0.1, 1] : [0, 1];
  let low = found[0];
  let high = found.at(-1);
  if (isLog) return [low / 1.15, high * 1.15];
  if (found.length >= COUNTED) {
    for (const [share, reach] of found.length >= MANY ? REACHES : REACHES.slice(1)) {
      const at = (part) => found[Math.floor(part * (found.length - 1))];
      const [innerLow, innerHigh] = [at(share), at(1 - share)];
      const far = reach * Math.max(innerHigh - innerLow, Math.abs(at(0.5)) / 4);
      low = Math.max(
        low,
        found.find((y) => y >= innerLow - far),
      );
      high = Math.min(
        high,
        found.findLast((y) => y <= innerHigh + far),
      );
    }
  }
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  return [drawable(low >= 0 && low - pad < 0 ? Math.min(low, 0) : low - pad), drawable(high + pad)];
}

/** The farthest point of each part of a curve that is outside of the range: [{x, y, isAbove}]. */
export function spikes({ xs, ys }, [low, high]) {
  const found = [];
  let farthest = null;
  xs.forEach((x, position) => {
    const y = ys[position];
    const isOutside = Number.isFinite(y) && (y < low || y > high);
    if (isOutside && (farthest === null || Math.abs(y) > Math.abs(farthest.y))) farthest = { x, y, isAbove: y > high };
    if ((!isOutside || position === xs.length - 1) && farthest !== null) {
      found.push(farthest);
      farthest = null;
    }
  });
  return found;
}

/** A label of the step axis. */
export const stepTick = (v) =>
  Math.abs(v) >= 1e6
    ? `${format.number(v / 1e6)} M`
    : Math.abs(v) >= 1e5
      ? `${format.number(v / 1e3)} k`
      : format.number(v);

/** A label of the time axis, with as many decimals as the step between two labels needs. */
export const timeTick = (v, step) => (step < 0.1 ? `${v.toFixed(step < 0.01 ? 3 : 2)} s` : format.duration(v));

/** Lines of a log scale: powers of ten only where there are many, or the plot is all lines. */
export function decades(splits) {
  const isPower = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9;
  return splits.filter(isPower).length > 2 ? splits.map((v) => (isPower(v) ? v : null)) : splits;
}

/** Room for the longest label. */
export function yAxisSize(u, values, axis, cycle) {
  if (cycle > 1) return u.axes[axis]._size;
  const longest = (values ?? []).reduce((most, text) => (text.length > most.length ? text : most), "");
  u.ctx.font = u.axes[axis].font[0];
  return Math.ceil(Math.max(34, u.ctx.measureText(longest).width / devicePixelRatio + 14));
}
