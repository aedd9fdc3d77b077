// From the values of a column to places on an axis: numbers, on a log scale where they span much, or words in a row.

import * as format from "./format.js";

const LOG_SPAN = 100; // positive numbers that differ by more are drawn on a log scale
const MAX_WORDS = 40;
const TICKS = 5;

export class Scale {
  /** values: numbers, texts and nulls. */
  constructor(values) {
    const known = values.filter((value) => value !== null);
    this.isNumber = known.every((value) => typeof value === "number");
    if (this.isNumber) this.#measure(known);
    else this.words = [...new Set(known.map(String))].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  }

  #measure(numbers) {
    const low = numbers.reduce((least, value) => Math.min(least, value), Infinity);
    const high = numbers.reduce((most, value) => Math.max(most, value), -Infinity);
    this.isLog = low > 0 && high / low > LOG_SPAN;
    const [from, to] = [this.#of(low), this.#of(high)];
    const pad = (to - from) * 0.04 || Math.abs(from) * 0.1 || 1;
    this.from = Number.isFinite(from) ? from - pad : 0;
    this.to = Number.isFinite(to) ? to + pad : 1;
  }

  #of = (value) => (this.isLog ? Math.log10(value) : value);

  /** The place of a value, from 0 to 1; null where it has none. */
  at(value) {
    if (value === null) return null;
    if (this.isNumber) return (this.#of(value) - this.from) / (this.to - this.from);
    return (this.words.indexOf(String(value)) + 0.5) / this.words.length;
  }

  /** [place, text] of some values. */
  ticks() {
    if (!this.isNumber) return this.words.slice(0, MAX_WORDS).map((word) => [this.at(word), format.visible(word, 24)]);
    const span = this.to - this.from;
    const rough = span / TICKS;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const found = [];
    const first = Math.ceil(this.from / step);
    for (let n = first; n * step <= this.to; n += 1) {
      const value = this.isLog ? 10 ** (n * step) : n * step;
      found.push([(n * step - this.from) / span, format.number(Number(value.toPrecision(this.isLog ? 2 : 12)))]);
    }
    return found;
  }
}
