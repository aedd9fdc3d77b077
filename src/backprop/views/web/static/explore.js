// Parameters against metrics, over all runs of the table: scatter plot and parallel coordinates. Dragging selects runs.

import * as api from "./api.js";
import { titleOf } from "./columns.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { isDark } from "./palette.js";
import { Scale } from "./scales.js";

const MAX_AXES = 8;
const MARGIN = { left: 64, right: 24, top: 26, bottom: 38 };
const NEAR_PX = 12;
// Viridis, from https://github.com/BIDS/colormap (CC0)
const COLOURS = ["#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725"];
const NO_COLOUR = "#88888866";
const FAINT = "#88888822";

export class Explorer {
  #query = null; // {search, filter, kind, x, y, colour}; kind null: nothing is shown
  #offered = [];
  #answer = null; // {ids, names, columns: Map key -> values, total}
  #brushes = new Map(); // axis -> [from, to], of places
  #drag = null;
  #controller = null;

  /** on: controls(changes), choose(ids), open(id), failed(error). */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    const field = (name, label) =>
      el("label", { class: "check" }, label, (this[name] = el("select", { on: { change: () => this.#chosen(name) } })));
    this.xLabel = field("x", "across");
    this.controls = el("div", { class: "controls" }, this.xLabel, field("y", "up"), field("colour", "colour"));
    this.count = el("span", { class: "faint", role: "status" });
    this.controls.append(this.count);
    this.controls.hidden = true; // until there is something to choose from
    this.canvas = el("canvas", { class: "explore", tabindex: 0, role: "img" });
    this.told = el("p", { class: "plot-note faint" });
    root.append(this.controls, this.canvas, this.told);
    this.canvas.addEventListener("pointerdown", (event) => this.#down(event));
    this.canvas.addEventListener("pointermove", (event) => this.#moved(event));
    this.canvas.addEventListener("pointerup", (event) => this.#up(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  #chosen(name) {
    this.on.controls({ [name]: this[name].value });
  }

  /** query: {search, filter, kind: "scatter" or "parallel" or null, x, y, colour}, keys of columns or null. */
  async setQuery(query, offered) {
    const isSame = JSON.stringify([query, offered]) === JSON.stringify([this.#query, this.#offered]);
    this.root.hidden = query.kind === null;
    if (isSame) return;
    this.#query = query;
    this.#offered = offered;
    this.#brushes.clear();
    await this.refresh();
  }

  /** What is drawn: of each kind of key the first ones, where none was chosen. */
  #axes() {
    const params = this.#offered.filter((key) => key.startsWith("param."));
    const metric = this.#offered.find((key) => key.startsWith("best.")) ?? this.#offered[0];
    const { x, y, colour, kind } = this.#query;
    const shownY = y ?? metric;
    const shownX = x ?? params[0] ?? shownY;
    const shownColour = colour ?? (kind === "parallel" ? shownY : (params[1] ?? shownY));
    return { x: shownX, y: shownY, colour: shownColour, all: [...params.slice(0, MAX_AXES - 1), shownY] };
  }

  async refresh() {
    if (this.root.hidden || this.#offered.length === 0) return;
    const { x, y, colour, all } = this.#axes();
    const keys = [...new Set(this.#query.kind === "parallel" ? [...all, colour] : [x, y, colour])];
    this.#controller?.abort();
    this.#controller = new AbortController();
    const { search, filter } = this.#query;
    try {
      const answer = await api.values({ search, filter, columns: keys, of: y }, this.#controller.signal);
      this.#answer = { ...answer, columns: new Map(keys.map((key, place) => [key, answer.values[place]])) };
    } catch (error) {
      if (error.name !== "AbortError") this.on.failed(error);
      return;
    }
    const differs = (key) => tellsApart(this.#answer.columns.get(key));
    this.#shown = this.#query.kind === "parallel" ? all.filter((key) => key === y || differs(key)) : [];
    this.#offer({ x, y, colour });
    this.draw();
  }

  #offer(shown) {
    this.controls.hidden = false;
    this.xLabel.hidden = this.#query.kind === "parallel";
    for (const name of ["x", "y", "colour"]) {
      const keys = [...new Set([shown[name], ...this.#offered])];
      this[name].replaceChildren(...keys.map((key) => el("option", { value: key, text: labelOf(key) })));
      this[name].value = shown[name];
    }
    const { ids, total } = this.#answer;
    setText(
      this.count,
      ids.length < total ? `the newest ${format.whole(ids.length)} of ${format.plural(total, "run")}` : "",
    );
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.#answer === null || this.root.hidden || !width) return;
    this.canvas.width = width * devicePixelRatio;
    this.canvas.height = height * devicePixelRatio;
    const ctx = this.canvas.getContext("2d");
    ctx.scale(devicePixelRatio, devicePixelRatio);
    const style = getComputedStyle(this.root);
    ctx.font = `11px ${style.fontFamily}`;
    const paper = {
      ctx,
      text: style.getPropertyValue("--axis-text"),
      line: style.getPropertyValue("--axis-ink"),
      left: MARGIN.left,
      top: MARGIN.top,
      width: width - MARGIN.left - MARGIN.right,
      height: height - MARGIN.top - MARGIN.bottom,
    };
    this.#paper = paper;
    const { colour } = this.#axes();
    const scale = new Scale(this.#answer.columns.get(colour));
    this.#colours = this.#answer.columns.get(colour).map((value) => colourAt(scale.at(value)));
    if (this.#query.kind === "parallel") this.#drawParallel(paper);
    else this.#drawScatter(paper);
    this.root.dataset.drawn = this.#places.length;
  }

  #paper = null;
  #colours = [];
  #places = []; // [run's number, x, y] of points, or [run's number, [y of each axis]] of lines

  #drawScatter(paper) {
    const { x, y, colour } = this.#axes();
    const { ctx, left, top, width, height } = paper;
    const [xs, ys] = [this.#answer.columns.get(x), this.#answer.columns.get(y)];
    const [across, up] = [new Scale(xs), new Scale(ys)];
    this.#axis(paper, across, true, labelOf(x));
    this.#axis(paper, up, false, labelOf(y));
    this.#places = [];
    const size = xs.length > 2000 ? 1.5 : 3.5;
    xs.forEach((_, run) => {
      const [at, high] = [across.at(xs[run]), up.at(ys[run])];
      if (at === null || high === null) return;
      const place = [run, left + at * width, top + (1 - high) * height];
      this.#places.push(place);
      ctx.fillStyle = this.#colours[run];
      ctx.beginPath();
      ctx.arc(place[1], place[2], size, 0, 2 * Math.PI);
      ctx.fill();
    });
    if (this.#drag) this.#drawBox(paper);
    const what = `${labelOf(y)} by ${labelOf(x)}`;
    this.#say(`${format.plural(this.#places.length, "run")}: ${what}, ${this.#legend(colour)}; drag to select`);
  }

  #drawParallel(paper) {
    const { colour } = this.#axes();
    const all = this.#shown;
    const { ctx, left, top, width, height } = paper;
    const xs = all.map((_, place) => left + (all.length === 1 ? 0 : (place / (all.length - 1)) * width));
    const scales = all.map((key) => new Scale(this.#answer.columns.get(key)));
    const lines = this.#answer.ids.map((_, run) => [
      run,
      all.map((key, place) => scales[place].at(this.#answer.columns.get(key)[run])),
    ]);
    this.#places = lines.filter(([, ats]) => ats.filter((at) => at !== null).length > 1);
    const isIn = ([, ats]) => [...this.#brushes].every(([axis, [from, to]]) => ats[axis] >= from && ats[axis] <= to);
    ctx.lineWidth = 1;
    for (const shown of [false, true])
      for (const line of this.#places) {
        if (isIn(line) !== shown) continue;
        ctx.strokeStyle = shown ? this.#colours[line[0]] : FAINT;
        ctx.beginPath();
        line[1].forEach((at, place) => {
          if (at === null) return;
          ctx.lineTo(xs[place], top + (1 - at) * height);
        });
        ctx.stroke();
      }
    all.forEach((key, place) => {
      this.#axis({ ...paper, left: xs[place] }, scales[place], false, labelOf(key), true);
      const brush = this.#brushes.get(place);
      if (!brush) return;
      ctx.fillStyle = FAINT;
      ctx.strokeStyle = paper.text;
      ctx.fillRect(xs[place] - 6, top + (1 - brush[1]) * height, 12, (brush[1] - brush[0]) * height);
      ctx.strokeRect(xs[place] - 6, top + (1 - brush[1]) * height, 12, (brush[1] - brush[0]) * height);
    });
    this.#within = this.#places.filter(isIn).map(([run]) => run);
    const count = format.plural(this.#places.length, "run");
    this.#say(`${count}, ${this.#legend(colour)}${this.#mattered()}; drag along an axis to select`);
  }

  #shown = []; // keys of the axes of parallel coordinates
  #within = []; // numbers of the runs within all brushes

  /** How much each parameter matters for the metric, by the ranks of its values. */
  #mattered() {
    const found = Object.entries(this.#answer.importance ?? {}).filter(([, share]) => share >= 0.01);
    const shares = found.map(([key, share]) => `${labelOf(key)} ${Math.round(100 * share)} %`);
    return shares.length ? `; what mattered for ${labelOf(this.#axes().y)}: ${shares.join(", ")}` : "";
  }

  #legend(key) {
    const values = this.#answer.columns.get(key).filter((value) => value !== null);
    if (values.length === 0 || !values.every(Number.isFinite)) return `coloured by ${labelOf(key)}`;
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    return `coloured by ${labelOf(key)} from ${format.number(low)} (dark) to ${format.number(high)} (light)`;
  }

  #say(text) {
    setText(this.told, text);
    this.canvas.setAttribute("aria-label", text);
  }

  #axis({ ctx, text, line, left, top, width, height }, scale, isAcross, title, isTitleAbove = false) {
    ctx.strokeStyle = line;
    ctx.fillStyle = text;
    ctx.beginPath();
    ctx.moveTo(left, top + (isAcross ? height : 0));
    ctx.lineTo(left + (isAcross ? width : 0), top + height);
    ctx.stroke();
    ctx.textAlign = isAcross ? "center" : "right";
    let free = -Infinity;
    for (const [at, word] of scale.ticks()) {
      if (isAcross) {
        const half = ctx.measureText(word).width / 2;
        if (left + at * width - half < free) continue;
        free = left + at * width + half + 6;
        ctx.fillText(word, left + at * width, top + height + 14);
      } else ctx.fillText(word, left - 6, top + (1 - at) * height + 4);
    }
    const name = scale.isLog ? `${title} (log)` : title;
    const isAtEnd = left + ctx.measureText(name).width / 2 > this.canvas.clientWidth;
    ctx.textAlign = isAcross ? "center" : isTitleAbove ? (isAtEnd ? "right" : "center") : "left";
    if (isAcross) ctx.fillText(name, left + width / 2, top + height + 31);
    else ctx.fillText(name, isTitleAbove ? (isAtEnd ? this.canvas.clientWidth - 4 : left) : 6, 14);
  }

  #drawBox({ ctx, text }) {
    const { from, to } = this.#drag;
    ctx.strokeStyle = text;
    ctx.strokeRect(from[0], from[1], to[0] - from[0], to[1] - from[1]);
  }

  // -- the pointer

  #at = (event) => [event.offsetX, event.offsetY];

  #down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.#drag = { from: this.#at(event), to: this.#at(event) };
  }

  #moved(event) {
    if (this.#drag) {
      this.#drag.to = this.#at(event);
      if (this.#query.kind === "scatter") this.draw();
      return;
    }
    const found = this.#query?.kind === "scatter" ? this.#nearest(this.#at(event)) : null;
    this.canvas.title = found === null ? "" : this.#describe(found);
  }

  #up(event) {
    const { from, to } = this.#drag ?? { from: this.#at(event), to: this.#at(event) };
    this.#drag = null;
    const isClick = Math.hypot(to[0] - from[0], to[1] - from[1]) < 4;
    if (this.#query.kind === "parallel") this.#brush(from, to, isClick);
    else if (isClick) {
      const run = this.#nearest(to);
      if (run !== null) this.on.open(this.#answer.ids[run]);
    } else {
      const inside = ([, x, y]) =>
        x >= Math.min(from[0], to[0]) &&
        x <= Math.max(from[0], to[0]) &&
        y >= Math.min(from[1], to[1]) &&
        y <= Math.max(from[1], to[1]);
      this.on.choose(this.#places.filter(inside).map(([run]) => this.#answer.ids[run]));
    }
    this.draw();
  }

  #brush(from, to, isClick) {
    const { left, width, top, height } = this.#paper;
    const count = this.#shown.length;
    const axis = Math.max(0, Math.min(count - 1, Math.round(((from[0] - left) / width) * (count - 1))));
    const place = (y) => 1 - (y - top) / height;
    if (isClick) this.#brushes.delete(axis);
    else this.#brushes.set(axis, [place(Math.max(from[1], to[1])), place(Math.min(from[1], to[1]))]);
    this.draw();
    this.on.choose(this.#brushes.size ? this.#within.map((run) => this.#answer.ids[run]) : []);
  }

  #nearest([x, y]) {
    let best = null;
    let least = NEAR_PX;
    for (const [run, px, py] of this.#places) {
      const far = Math.hypot(px - x, py - y);
      if (far < least) [best, least] = [run, far];
    }
    return best;
  }

  #describe(run) {
    const values = [...this.#answer.columns].map(([key, column]) => `${labelOf(key)}: ${format.value(column[run])}`);
    return [format.visible(this.#answer.names[run] ?? this.#answer.ids[run], 80), ...values].join("\n");
  }
}

/** Whether these values say something of the runs: they differ, and are not a text of each run's own, as its folder. */
function tellsApart(values) {
  const { size } = new Set(values);
  return size > 1 && (size < values.length || values.length < 3 || !values.every((value) => typeof value === "string"));
}

const labelOf = (key) =>
  key.startsWith("best.") ? `best ${format.name(titleOf(key), 40)}` : format.name(titleOf(key), 40);

function colourAt(at) {
  if (at === null) return NO_COLOUR;
  const seen = isDark() ? 0.25 + 0.75 * at : 0.9 * at; // without what is near the colour of the ground
  const place = seen * (COLOURS.length - 1);
  return COLOURS[Math.max(0, Math.min(COLOURS.length - 1, Math.round(place)))];
}
