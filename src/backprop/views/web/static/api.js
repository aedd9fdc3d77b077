// Requests to the server. Every failure is an ApiError with a readable message.

import { token } from "./access_token.js";

export class ApiError extends Error {
  constructor(message, status, again_s = 0) {
    super(message);
    this.status = status; // 0: the server cannot be reached
    this.again_s = again_s; // when to retry; 0: the server does not say
  }
}

async function ask(path, { headers = {}, ...options } = {}) {
  let response;
  try {
    response = await fetch(path, {
      ...options,
      headers: { ...headers, "X-Backprop-Token": token() },
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `backprop ui` still running?", 0);
  }
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    const text = await response.text();
    message = response.headers.get("content-type")?.includes("json") ? JSON.parse(text).error : text || message;
  } catch {
    // the status is all there is to show
  }
  throw new ApiError(message, response.status, Number(response.headers.get("retry-after")));
}

/** GET, retried as long as the server sends Retry-After; `waits(message)` is called each time. */
async function get(path, signal, waits = () => {}) {
  for (;;) {
    try {
      return await ask(path, { signal });
    } catch (error) {
      if (!(error.again_s > 0)) throw error;
      waits(error.message);
      await new Promise((done) => setTimeout(done, error.again_s * 1000)); // the next request sees an abort
    }
  }
}

const getJson = async (path, signal, waits) => (await get(path, signal, waits)).json();
const of = (id) => `/api/runs/${encodeURIComponent(id)}`;

/** columns: the keys of those that are wanted, or null for the usual ones. */
export function runs({ search, filter, sort, descending, offset, limit, columns }, signal) {
  const way = descending === null ? "" : descending ? "1" : "0"; // null: as the key is usually wanted
  const query = new URLSearchParams({ search, filter, sort, descending: way, offset, limit });
  for (const key of columns?.length === 0 ? [""] : (columns ?? [])) query.append("column", key);
  return getJson(`/api/runs?${query}`, signal);
}

export const groups = ({ search, filter, by, metric }, signal) =>
  getJson(`/api/groups?${new URLSearchParams({ search, filter, by, metric: metric ?? "" })}`, signal);

/** Columns of the newest runs: {ids, names, values: a list for each column, total, importance: for the column `of`}. */
export function values({ search, filter, columns, of }, signal) {
  const query = new URLSearchParams({ search, filter, of });
  for (const key of columns) query.append("column", key);
  return getJson(`/api/values?${query}`, signal);
}

/** Mean and spread of the curves of the runs that a filter finds. */
/** band: {search, within}, which find its runs. */
export const band = ({ search, within }, metric, axis, signal) =>
  getJson(`/api/bands?${new URLSearchParams({ search, filter: within, metric, axis })}`, signal);

const named = (ids) => new URLSearchParams(ids.map((id) => ["run", id]));

/** Runs side by side: {runs, rows, left_out, over_seeds}. */
export const compare = ({ ids, isAll }, signal) => getJson(`/api/compare?${named(ids)}&all=${isAll ? 1 : 0}`, signal);

/** How the code of two runs differs: {notes, files, files_left_out, is_cut}. */
export const codeDifference = (ids, signal) => getJson(`/api/compare/code?${named(ids)}`, signal);

export const run = (id, signal, waits) => getJson(of(id), signal, waits);
export const machine = (signal) => getJson("/api/machine", signal);
export const patch = async (id, signal) => (await get(`${of(id)}/patch`, signal)).text();

/** The whole lines that end at `end` (null: the file's end); `session` null: the last. */
export function log(id, { source, session = null, end = null, bytes = 65536 }, signal) {
  const query = new URLSearchParams({ source, bytes });
  if (session !== null) query.set("session", session);
  if (end !== null) query.set("end", end);
  return getJson(`${of(id)}/log?${query}`, signal);
}

/** Curves of runs, reduced to `points` by the server; `range`: only x from its `min` to its `max`. */
export function curves({ runs: ids, metrics, axis, points, range = null }, signal) {
  const query = new URLSearchParams({ axis, points });
  for (const id of ids) query.append("run", id);
  for (const metric of metrics) query.append("metric", metric);
  if (range) {
    query.set("begin", range.min);
    query.set("end", range.max);
  }
  return getJson(`/api/curves?${query}`, signal);
}

async function post(path, body) {
  const response = await ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return (await response.json()).said;
}

export const many = (action, runs, words) => post("/api/many", { action, runs, words });

/** A file about these runs, as a Blob; kind: "csv", a row for each, or "report", one HTML file. */
export async function file(kind, ids) {
  const query = new URLSearchParams();
  for (const id of ids) query.append("run", id);
  return (await ask(`/api/${kind}?${query}`)).blob();
}

export const stop = (id, now) => post(`${of(id)}/stop`, { now });
export const pause = (id) => post(`${of(id)}/pause`, {});
export const resume = (id, minutes) => post(`${of(id)}/resume`, { minutes });
