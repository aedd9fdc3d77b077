// The state of the page is in the address, behind the #: a link shows the same, and Back returns to the last screen.
//
//   #/?search=digits&filter=lr>1e-4&sort=loss&desc=0&runs=abc,def&metric=loss&axis=time&log=1&smooth=0.6
//   #/?cols=param.lr,best.loss&by=group&band=group="lr"
//   #/run/abc?metric=...
//   #/compare?runs=abc,def&all=1&code=abc,def

const DEFAULTS = Object.freeze({
  run: null, // id of the run whose page is open
  compare: false, // the selected runs are compared
  all: false, // also what is the same in all of them
  code: null, // the two whose code is compared; null: the first ones
  search: "",
  filter: "",
  sort: "created",
  desc: true,
  runs: null, // selected runs; null: nothing was selected yet
  cols: null, // columns of the table that were chosen; null: the usual ones
  by: null, // what runs are grouped by: "group" or "param.NAME"; null: each run is a row
  view: null, // below the table: null for curves, "scatter" or "parallel"
  x: null, // columns of these plots; null: the first ones
  y: null,
  colour: null,
  bands: [], // filters, of whose runs mean and spread are drawn
  metric: null, // null: the main one; "*": all
  axis: "step",
  log: false,
  smooth: 0,
});

export const MAX_CHOSEN = 200;
const MAX_BANDS = 10;
const VIEWS = ["scatter", "parallel"];

const list = (text) => (text === "" ? [] : text.split(",").map(decoded));
const joined = (words) => words.map(encodeURIComponent).join(",");

/** The state of an address. Unknown parts are ignored. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const asked = new URLSearchParams(query);
  const smooth = Number(asked.get("smooth"));
  const ids = asked.get("runs");
  return {
    run: path.startsWith("/run/") ? decoded(path.slice(5)) : null,
    compare: path === "/compare",
    all: asked.get("all") === "1",
    code: pair(asked.get("code")),
    search: asked.get("search") ?? "",
    filter: asked.get("filter") ?? "",
    sort: asked.get("sort") || DEFAULTS.sort,
    desc: asked.get("desc") !== "0",
    runs: ids === null ? null : [...new Set(ids.split(",").filter(Boolean))].slice(0, MAX_CHOSEN),
    cols: asked.has("cols") ? list(asked.get("cols")) : null,
    by: asked.get("by") || null,
    bands: asked.getAll("band").slice(0, MAX_BANDS),
    view: VIEWS.includes(asked.get("view")) ? asked.get("view") : null,
    x: asked.get("x"),
    y: asked.get("y"),
    colour: asked.get("colour"),
    metric: asked.get("metric"),
    axis: asked.get("axis") === "time" ? "time" : "step",
    log: asked.get("log") === "1",
    smooth: smooth >= 0 && smooth < 1 ? smooth : 0,
  };
}

function pair(text) {
  const ids = (text ?? "").split(",").filter(Boolean);
  return ids.length === 2 ? ids : null;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The address of a state; defaults are left out. */
export function address(state) {
  const query = new URLSearchParams();
  if (state.search) query.set("search", state.search);
  if (state.filter) query.set("filter", state.filter);
  if (state.sort !== DEFAULTS.sort) query.set("sort", state.sort);
  if (!state.desc) query.set("desc", "0");
  if (state.runs !== null) query.set("runs", state.runs.join(","));
  if (state.cols !== null) query.set("cols", joined(state.cols));
  if (state.by !== null) query.set("by", state.by);
  for (const name of ["view", "x", "y", "colour"]) if (state[name] !== null) query.set(name, state[name]);
  for (const filter of state.bands) query.append("band", filter);
  if (state.metric !== null) query.set("metric", state.metric);
  if (state.axis !== DEFAULTS.axis) query.set("axis", state.axis);
  if (state.log) query.set("log", "1");
  if (state.smooth > 0) query.set("smooth", String(state.smooth));
  if (state.all) query.set("all", "1");
  if (state.code !== null) query.set("code", state.code.join(","));
  const path = state.run !== null ? `/run/${encodeURIComponent(state.run)}` : state.compare ? "/compare" : "/";
  const text = query.toString().replaceAll("%2C", ",").replaceAll("%2A", "*");
  return `#${path}${text ? `?${text}` : ""}`;
}

/** Holds the state, writes it into the address and calls `listener(state, before)` on every change. */
export class Route {
  constructor(listener) {
    this.listener = listener;
    this.state = parse(location.hash);
    addEventListener("hashchange", () => this.#take(parse(location.hash)));
  }

  /** Change some of the state. Another screen is a step in the history; anything else replaces the address. */
  go(changes) {
    const next = { ...this.state, ...changes };
    const url = address(next);
    if (next.run !== this.state.run || next.compare !== this.state.compare) history.pushState(null, "", url);
    else history.replaceState(null, "", url);
    this.#take(next);
  }

  /** Whether the table of runs is shown. */
  get isOfRuns() {
    return this.state.run === null && !this.state.compare;
  }

  /** The address with some changes, for a link. */
  link(changes) {
    return address({ ...this.state, ...changes });
  }

  #take(next) {
    const before = this.state;
    this.state = next;
    this.listener(next, before);
  }
}
