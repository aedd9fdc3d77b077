// Numbers and untrusted text for people. The rules are those of views/terminal/formatting.py.

const MINUS = "−";

/** 9.4 s, 4:05, 2:03:20, 3 d 4 h; "–" for null. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)}`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** How much of a limit, in two parts and one unit: 2.4 / 600 s, 4.6 / 10 min, – / 10 min. */
export function used(elapsed_s, limit_s) {
  if (!Number.isFinite(limit_s)) return ["–", ""];
  const isKnown = elapsed_s !== null && elapsed_s !== undefined;
  const inSeconds = (isKnown ? Math.min(elapsed_s, limit_s) : limit_s) < 60;
  const [divisor, unit] = inSeconds ? [1, "s"] : [60, "min"];
  const value = Math.max(0, elapsed_s / divisor);
  const digits = value < (inSeconds ? 9.95 : 99.95) ? 1 : 0;
  const fixed = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  const limit = inSeconds && limit_s < 60 ? Number(limit_s.toPrecision(3)) : limit_s / divisor;
  return [
    isKnown ? value.toLocaleString("en-US", fixed) : "–",
    ` / ${limit.toLocaleString("en-US", { maximumFractionDigits: inSeconds && limit_s < 60 ? 9 : 2 })} ${unit}`,
  ];
}

/** How long ago, in one unit. */
export function age(iso, now_ms) {
  const seconds = Math.max(0, (now_ms - Date.parse(iso)) / 1000);
  for (const [size, unit] of [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return Number.isNaN(seconds) ? "–" : `${Math.floor(seconds)} s`;
}

/** An instant in the reader's own time zone. */
export function instant(iso) {
  const date = new Date(iso);
  if (!iso || Number.isNaN(date.getTime())) return "–";
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** 1.2 GB, in powers of 1000. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let value = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.95) return unit === "B" ? `${Math.round(value)} B` : `${value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

/** Four significant digits; the words NaN and ±∞ for what JSON carries as strings; "–" for null. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === "NaN") return "NaN";
  if (value === "Infinity") return "∞";
  if (value === "-Infinity") return `${MINUS}∞`;
  if (typeof value !== "number") return visible(String(value), 60);
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1e6 || size < 1e-4 ? value.toExponential(3).replace(/\.?0+e/, "e") : String(Number(value.toPrecision(4)));
  return text.replace(/-/g, MINUS);
}

/** What a run used, in its unit; without one as a number. */
export function figure(value, unit) {
  if (unit?.startsWith("B")) return `${size(value)}${unit.slice(1)}`; // bytes, or bytes a second
  return unit ? `${number(value)} ${unit}` : number(value);
}

/** 2,640 as in the terminal; "–" for null. */
export const whole = (value) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en-US");

// C0 and C1 controls, and what turns the direction of text or cannot be seen
// eslint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
// eslint-disable-next-line no-control-regex
const UNSEEN_IN_LOG =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

function escaped(character) {
  const code = character.charCodeAt(0);
  const named = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
  if (named) return named;
  return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

/** The text on one line, cut, with what cannot be seen shown as an escape. */
export function visible(text, most = 300) {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.replace(UNSEEN, escaped);
}

/** The name of a metric or parameter as it can be seen: in quotes where there is nothing but blanks. */
export const name = (text, most = 300) => visible(text.trim() === "" ? `"${text}"` : text, most);

/** A log's text: lines stay lines, a progress bar's carriage returns become lines, the rest is shown as escapes. */
export function visibleLog(text) {
  return text.replace(/\r+\n/g, "\n").replace(/\r/g, "\n").replace(UNSEEN_IN_LOG, escaped);
}

/** A parameter's value on one line. */
export function value(any) {
  if (typeof any === "string") return visible(any);
  if (typeof any === "number") return number(any);
  return visible(JSON.stringify(any) ?? "–");
}

export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
