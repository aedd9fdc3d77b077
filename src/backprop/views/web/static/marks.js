// What is drawn over the curves of a chart: instants that are marked, values that are no numbers, and outliers.

import { ink } from "./palette.js";

/** A cross at the foot of the plot wherever a value was NaN or infinite. */
export function drawMissing(u, curves) {
  const { ctx, bbox } = u;
  const size = 3.5 * devicePixelRatio;
  const y = bbox.top + bbox.height - size - 2;
  ctx.save();
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  ctx.rect(bbox.left - size, bbox.top, bbox.width + 2 * size, bbox.height);
  ctx.clip();
  for (const curve of curves) {
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

/** A line for each mark, with its text at the top where there is room: pauses in their own colour, solid and wider. */
export function drawMarks(u, marks, style) {
  const { ctx, bbox } = u;
  const unit = devicePixelRatio;
  let free = -Infinity;
  ctx.save();
  ctx.font = `${10 * unit}px ${style.fontFamily}`;
  ctx.textAlign = "left"; // the axes leave another
  ctx.textBaseline = "alphabetic";
  for (const { x, text, isPause } of marks) {
    const place = Math.round(u.valToPos(x, "x", true));
    if (place < bbox.left || place > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = style.getPropertyValue(isPause ? "--pause-ink" : "--axis-text");
    ctx.setLineDash(isPause ? [] : [3 * unit, 3 * unit]);
    ctx.lineWidth = (isPause ? 2 : 1) * unit;
    ctx.beginPath();
    ctx.moveTo(place, bbox.top);
    ctx.lineTo(place, bbox.top + bbox.height);
    ctx.stroke();
    const width = ctx.measureText(text).width;
    const isAtEnd = place + width + 4 * unit > bbox.left + bbox.width; // then before the line
    const begin = isAtEnd ? place - width - 4 * unit : place + 4 * unit;
    if (begin < free) continue;
    ctx.fillText(text, begin, bbox.top + 9 * unit);
    free = Math.max(place, begin + width) + 6 * unit;
  }
  ctx.restore();
}

/** A triangle at the edge where a curve goes beyond it. */
export function drawSpikes(u, spikes) {
  const { ctx, bbox } = u;
  const size = 4 * devicePixelRatio;
  ctx.save();
  for (const { slot, x, isAbove } of spikes) {
    const [middle, edge] = [u.valToPos(x, "x", true), isAbove ? bbox.top : bbox.top + bbox.height];
    const foot = edge + (isAbove ? 2 * size : -2 * size);
    ctx.fillStyle = ink(slot).colour;
    ctx.beginPath();
    ctx.moveTo(middle, edge);
    ctx.lineTo(middle - size, foot);
    ctx.lineTo(middle + size, foot);
    ctx.fill();
  }
  ctx.restore();
}
