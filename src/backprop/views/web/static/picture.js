// Charts as one picture.

import { ink } from "./palette.js";

const LINE = 20; // height of a line of text, in CSS pixels
const PAD = 12;

/** A PNG Blob of canvases with titles, and a legend below: charts [{title, canvas}], legend [{name, slot}]. */
export function pictureOf(charts, legend) {
  const drawn = charts.filter(({ canvas }) => canvas !== null);
  const scale = devicePixelRatio;
  const width = Math.max(300, ...drawn.map(({ canvas }) => canvas.width / scale)) + 2 * PAD;
  const height =
    drawn.reduce((sum, { canvas }) => sum + LINE + canvas.height / scale, 0) + LINE * legend.length + 2 * PAD;
  const picture = document.createElement("canvas");
  picture.width = width * scale;
  picture.height = height * scale;
  const ctx = picture.getContext("2d");
  ctx.scale(scale, scale);
  const style = getComputedStyle(document.body);
  ctx.fillStyle = getComputedStyle(document.querySelector(".panel")).backgroundColor;
  ctx.fillRect(0, 0, width, height);
  const write = (text, x, y, weight = "") => {
    ctx.font = `${weight} 12px ${style.fontFamily}`;
    ctx.fillStyle = style.color;
    ctx.fillText(text, x, y);
  };
  let y = PAD;
  for (const { title, canvas } of drawn) {
    write(title, PAD, y + 14, "600");
    ctx.drawImage(canvas, PAD, y + LINE, canvas.width / scale, canvas.height / scale);
    y += LINE + canvas.height / scale;
  }
  for (const { name, slot } of legend) {
    const { colour, dash } = ink(slot);
    ctx.strokeStyle = colour;
    ctx.lineWidth = 2.5;
    ctx.setLineDash(dash);
    ctx.beginPath();
    ctx.moveTo(PAD, y + 10);
    ctx.lineTo(PAD + 22, y + 10);
    ctx.stroke();
    write(name, PAD + 30, y + 14);
    y += LINE;
  }
  return new Promise((done) => picture.toBlob(done, "image/png"));
}
