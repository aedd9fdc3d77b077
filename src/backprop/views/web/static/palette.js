// Colours that are distinct with any colour vision (Okabe and Ito, 2008), then dashes: 28 different curves.

const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07800", "#3aa0dc", "#555555"];
const DARK = ["#56b4e9", "#f28544", "#2cc295", "#e39bc2", "#e6b33c", "#f0e442", "#c8c8c8"];
export const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

export const isDark = () => getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";

/** Colour and dash pattern of the curve in a slot. */
export function ink(slot) {
  const colours = isDark() ? DARK : LIGHT;
  return { colour: colours[slot % colours.length], dash: DASHES[Math.floor(slot / colours.length) % DASHES.length] };
}

/** Every run keeps its colour as long as it is selected. */
export class Slots {
  #taken = new Map();

  /** Give slots to these runs: those that have one keep it, the others get the lowest that is free. */
  assign(ids) {
    for (const id of [...this.#taken.keys()]) if (!ids.includes(id)) this.#taken.delete(id);
    for (const id of ids) {
      if (this.#taken.has(id)) continue;
      const used = new Set(this.#taken.values());
      let slot = 0;
      while (used.has(slot)) slot += 1;
      this.#taken.set(id, slot);
    }
  }

  of(id) {
    return this.#taken.get(id) ?? 0;
  }
}

/** A short piece of the curve's line, for legends and rows. */
export function swatch(slot) {
  const { colour, dash } = ink(slot);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 22 8");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ x1: 1, x2: 21, y1: 4, y2: 4, stroke: colour, "stroke-width": 2.5 })) {
    line.setAttribute(name, value);
  }
  if (dash.length) line.setAttribute("stroke-dasharray", dash.map((d) => d / 1.5).join(" "));
  svg.append(line);
  return svg;
}
