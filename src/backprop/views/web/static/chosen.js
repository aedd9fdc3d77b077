// The runs and groups that are selected: what is known of them, and what of them is drawn.

import * as actions from "./actions.js";
import * as api from "./api.js";
import * as format from "./format.js";
import { GroupsTable } from "./groups.js";
import { MAX_CHOSEN } from "./route.js";

const DETAILS_EVERY_MS = 5000; // a selected run may report new metrics
const MAX_DRAWN = 20; // of the selected runs

const bandKey = ({ search, within }) => JSON.stringify([search, within]);

export class Chosen {
  #known = new Map(); // id -> {name, params, isGoingOn, metrics, main, asked_ms}
  #bandMetrics = new Map(); // search and filter -> {metrics, main}

  /** route; views: {table, groups, panel, selection} that show it; on: live(), failed(error). */
  constructor(route, views, on) {
    this.route = route;
    this.views = views;
    this.on = on;
  }

  get ids() {
    return this.route.state.runs ?? [];
  }

  nameOf = (id) => this.#known.get(id)?.name ?? this.views.table.nameOf(id);

  choose(id, isChosen) {
    const others = this.ids.filter((other) => other !== id);
    if (isChosen && others.length >= MAX_CHOSEN) {
      actions.toast(`At most ${MAX_CHOSEN} runs can be selected.`, true);
      this.show();
      return;
    }
    this.route.go({ runs: isChosen ? [...others, id] : others });
  }

  /** Instead of what was selected. */
  chooseMany(ids) {
    if (ids.length > MAX_CHOSEN) actions.toast(`${ids.length} runs: the first ${MAX_CHOSEN} are selected.`);
    this.route.go({ runs: ids.slice(0, MAX_CHOSEN) });
  }

  /** Select the first runs of the table, or of another order of it. */
  async chooseFirst(count, order) {
    const { search, filter, sort, desc } = this.route.state;
    const query = { search, filter, sort, descending: desc, columns: [], offset: 0, limit: count, ...order };
    try {
      const { runs } = await api.runs(query);
      this.route.go({ runs: runs.map((run) => run.id) });
    } catch (error) {
      this.on.failed(error);
    }
  }

  chooseBand(filter, isChosen) {
    const others = this.route.state.bands.filter((other) => other !== filter);
    this.route.go({ bands: isChosen ? [...others, filter] : others });
  }

  /** The chosen groups, of the runs that the table shows: its search and filter hold for them, too. */
  #bands() {
    const { bands, search, filter: ofTable } = this.route.state;
    return bands.map((filter) => {
      const within = [ofTable, filter].filter(Boolean).join(" ");
      return { filter, name: GroupsTable.label(filter), search, within };
    });
  }

  /** Show them side by side. */
  compare() {
    if (this.ids.length < 2) actions.toast("Select two runs or more to compare them.", true);
    else this.route.go({ run: null, compare: true });
  }

  async show() {
    const ids = this.ids.slice(0, MAX_DRAWN);
    for (const id of this.#known.keys()) if (!ids.includes(id)) this.#known.delete(id);
    this.#drawSelection();
    await Promise.all([
      ...ids.filter((id) => !this.#known.has(id)).map((id) => this.fetch(id)),
      ...this.#bands()
        .filter((band) => !this.#bandMetrics.has(bandKey(band)))
        .map((band) => this.#fetchBandMetrics(band)),
    ]);
    this.#draw();
  }

  /** Fetch again what rows tell that may have changed. */
  follow(rows) {
    const isDue = ({ asked_ms, metrics }) => Date.now() - asked_ms > (metrics.length ? DETAILS_EVERY_MS : 0);
    const due = rows.filter(({ id }) => this.#known.has(id) && isDue(this.#known.get(id)));
    if (due.length) Promise.all(due.map((row) => this.fetch(row.id))).then(() => this.#draw());
  }

  #draw() {
    const { panel } = this.views;
    const ids = this.ids.filter((id) => this.#known.has(id));
    const known = ids.map((id) => this.#known.get(id));
    const details = differences(known.map((run) => run.params));
    panel.setRuns(
      known.map(({ name, isGoingOn }, place) => ({
        id: ids[place],
        name: name ?? (details[place] || ids[place]),
        detail: name === null ? "" : details[place],
        isGoingOn,
      })),
    );
    const bands = this.#bands();
    panel.setBands(bands);
    this.#drawSelection();
    const all = [...known, ...bands.map((band) => this.#bandMetrics.get(bandKey(band))).filter(Boolean)];
    const main = all.find((one) => one.main !== null)?.main ?? null;
    panel.setMetrics([...new Set(all.flatMap((one) => one.metrics))].sort(), main);
    this.on.live();
  }

  #drawSelection() {
    const { table, groups, panel, selection } = this.views;
    selection.set(this.ids.map((id) => ({ id, name: this.nameOf(id) })));
    table.setChosen(this.ids, (id) => (this.#known.has(id) ? panel.slotOf(id) : null));
    const known = this.#bands().filter((band) => this.#bandMetrics.has(bandKey(band)));
    const drawn = new Set(known.map((band) => band.filter));
    groups.setChosen(this.route.state.bands, (filter) => (drawn.has(filter) ? panel.slotOf(filter) : null));
    panel.setLeftOut(Math.max(0, this.ids.length - MAX_DRAWN));
  }

  async #fetchBandMetrics(band) {
    try {
      const { metrics, metric } = await api.band(band, "", "step");
      this.#bandMetrics.set(bandKey(band), { metrics, main: metric });
    } catch (error) {
      if (error.status === 400 && band.within === band.filter) this.chooseBand(band.filter, false);
      this.on.failed(error);
    }
  }

  /** What the server knows of a run; one that is gone is no longer selected. */
  async fetch(id) {
    try {
      const details = await api.run(id);
      const metrics = Object.keys(details.summaries);
      this.#known.set(id, {
        name: details.name || null,
        params: details.params,
        isGoingOn: details.is_going_on,
        metrics,
        main: details.metric ?? (metrics.includes("loss") ? "loss" : null),
        asked_ms: Date.now(),
      });
    } catch (error) {
      if (error.status === 404) this.route.go({ runs: this.ids.filter((other) => other !== id) });
      else this.on.failed(error);
    }
  }
}

/** What tells runs apart: for each the parameters that are not the same in all, as "lr=0.1 layers=3". */
function differences(all) {
  const names = [...new Set(all.flatMap((params) => Object.keys(params)))];
  const differ = names.filter((name) => new Set(all.map((params) => JSON.stringify(params[name]))).size > 1);
  return all.map((params) =>
    differ
      .filter((name) => name in params)
      .map((name) => `${format.name(name, 40)}=${format.value(params[name])}`)
      .join(" "),
  );
}
