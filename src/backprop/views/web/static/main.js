// The page: connects the address, the table, the curves, a run's page, the machine and the event stream.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { chooseColumns, titleOf } from "./columns.js";
import { CurvesPanel } from "./curves.js";
import { byId, debounced, el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { token } from "./access_token.js";
import { GroupsTable } from "./groups.js";
import * as keys from "./keys.js";
import { Live } from "./live.js";
import { Explorer } from "./explore.js";
import { drawMachine } from "./machine.js";
import { MAX_CHOSEN, Route } from "./route.js";
import { RunPage } from "./run.js";
import { Selection, save } from "./selection.js";
import { RunsTable } from "./table.js";
import { watchTheme } from "./themes.js";

const DETAILS_EVERY_MS = 5000; // a selected run may report new metrics
const FIRST_CHOSEN = 3;
const MAX_DRAWN = 20; // of the selected runs
const REFRESH_EVERY_MS = 5000; // of what the server's row events do not bring: chosen columns, groups and their curves

class Page {
  #known = new Map(); // chosen runs: id -> {name, params, isGoingOn, metrics, main, asked_ms}
  #bandMetrics = new Map(); // filter of chosen runs -> {metrics, main}
  #tableVersion = null;
  #isLost = false;
  #scroll = 0;
  #refreshing = null; // a timer

  constructor() {
    this.route = new Route((state, before) => this.#changed(state, before));
    const shared = {
      controls: (changes) => this.route.go(changes),
      live: () => this.live?.changed(),
      failed: (error) => this.#failed(error),
    };
    this.table = new RunsTable(
      byId("grid"),
      {
        open: (row) => this.route.go({ run: row.id }),
        choose: (row, isChosen) => this.#choose(row, isChosen),
        chooseRange: (ids) => this.#chooseMany([...new Set([...(this.route.state.runs ?? []), ...ids])]),
        sort: (key, isDescending) => this.#sort(key, isDescending),
        seen: () => this.live?.changed(),
        counted: (counts) => this.#counted(counts),
        problem: (error) => this.#filterProblem(error),
      },
      (id) => this.route.link({ run: id }),
    );
    this.groups = new GroupsTable(byId("groups"), {
      open: (filter) =>
        this.route.go({ by: null, filter: [this.route.state.filter, filter].filter(Boolean).join(" ") }),
      choose: (filter, isChosen) => this.#chooseBand(filter, isChosen),
      counted: (text) => setText(byId("count"), text),
      problem: (error) => this.#filterProblem(error),
    });
    this.panel = new CurvesPanel(
      byId("curves"),
      {
        ...shared,
        remove: (id) =>
          this.route.state.bands.includes(id) ? this.#chooseBand(id, false) : this.#choose({ id }, false),
      },
      "Select runs with the check boxes or the x key to compare their curves.",
    );
    this.explorer = new Explorer(byId("explore"), {
      controls: shared.controls,
      choose: (ids) => this.#chooseMany(ids),
      open: (id) => this.route.go({ run: id }),
      failed: shared.failed,
    });
    this.#tabs();
    this.selection = new Selection(byId("selection"), {
      all: () => this.#chooseFirst(MAX_CHOSEN, {}),
      best: (count) => this.#chooseFirst(count, { sort: this.table.bestKey, descending: null }),
      none: () => this.route.go({ runs: [] }),
      png: async () => save(await this.panel.picture(), "backprop-curves.png"),
    });
    this.runPage = new RunPage(byId("run-view"), shared, () => this.route.link({ run: null }));
    this.live = new Live(() => this.#subscription(), {
      rows: (rows) => this.#rows(rows),
      table: ({ version }) => this.#tableChanged(version),
      machine: (document_) => this.#machine(document_),
      curve: (event) => this.#panel().append(event),
      run: (details) => this.runPage.update(details),
      log: (event) => this.runPage.log.append(event),
      told: ({ text, error }) => actions.toast(text, error),
      trouble: ({ error }) => this.#banner(error),
      state: (isConnected, problem) => this.#linkState(isConnected, problem),
    });
    this.#fields();
    this.#keyboard();
    watchTheme(byId("theme"), () => {
      this.panel.relook();
      this.runPage.panel.relook();
      this.explorer.draw();
      this.#showChosen();
    });
    setInterval(() => this.#tick(), 1000);
    api.machine().then(
      (document_) => this.#machine(document_),
      (error) => this.#failed(error),
    );
    this.#changed(this.route.state, null);
  }

  // -- what is shown

  #changed(state, before) {
    const isRun = state.run !== null;
    if (!isRun && before?.run) setText(document.querySelector("title"), "Backprop");
    if (isRun && before && !before.run) this.#scroll = byId("grid").scrollTop;
    byId("runs-view").hidden = isRun;
    byId("run-view").hidden = !isRun;
    for (const [id, value] of [
      ["search", state.search],
      ["filter", state.filter],
    ]) {
      if (byId(id) !== document.activeElement) byId(id).value = value;
    }
    if (!isRun) {
      const found = { search: state.search, filter: state.filter };
      byId("grid").hidden = state.by !== null;
      this.table.setQuery({ ...found, sort: state.sort, descending: state.desc, columns: state.cols });
      this.groups.setQuery({ ...found, by: state.by, metric: state.metric === "*" ? null : state.metric });
      this.#offerGroups();
      this.#explore();
      if (before?.run) {
        byId("grid").scrollTop = this.#scroll;
        byId("grid").focus({ preventScroll: true });
      }
    }
    this.runPage.setControls(state);
    this.runPage.open(state.run);
    this.panel.setControls(state);
    const chosen = (one) => JSON.stringify([one?.runs, one?.bands]);
    if (chosen(before) !== chosen(state) || !before) this.#showChosen();
    this.live?.changed();
  }

  #panel = () => (this.route.state.run === null ? this.panel : this.runPage.panel);

  #subscription() {
    const { run, runs } = this.route.state;
    const isRun = run !== null;
    return {
      rows: isRun ? [] : [...new Set([...this.table.visible().map((row) => row.id), ...(runs ?? [])])],
      curves: this.#panel().subscription(),
      details: run,
      log: isRun ? this.runPage.log.subscription() : null,
      machine: true,
    };
  }

  // -- selected runs

  #choose(row, isChosen) {
    const others = (this.route.state.runs ?? []).filter((id) => id !== row.id);
    if (isChosen && others.length >= MAX_CHOSEN) {
      actions.toast(`At most ${MAX_CHOSEN} runs can be selected.`, true);
      this.#showChosen();
      return;
    }
    this.route.go({ runs: isChosen ? [...others, row.id] : others });
  }

  /** Select the first runs of the table, or of another order of it. */
  async #chooseFirst(count, order) {
    const { search, filter, sort, desc } = this.route.state;
    const query = { search, filter, sort, descending: desc, columns: [], offset: 0, limit: count, ...order };
    try {
      const { runs } = await api.runs(query);
      this.route.go({ runs: runs.map((run) => run.id) });
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Instead of what was selected. */
  #chooseMany(ids) {
    if (ids.length > MAX_CHOSEN) actions.toast(`${ids.length} runs: the first ${MAX_CHOSEN} are selected.`);
    this.route.go({ runs: ids.slice(0, MAX_CHOSEN) });
  }

  #tabs() {
    const tab = (view, text) => {
      const button = el("button", {
        type: "button",
        role: "tab",
        "aria-controls": view === null ? "curves" : "explore",
        text,
        on: { click: () => this.route.go({ view }) },
      });
      return [view, button];
    };
    this.tabs = [tab(null, "Curves"), tab("scatter", "Scatter"), tab("parallel", "Parallel coordinates")];
    byId("tabs").append(...this.tabs.map(([, button]) => button));
  }

  #explore() {
    const { search, filter, view, x, y, colour } = this.route.state;
    for (const [of, button] of this.tabs) setAttribute(button, "aria-selected", of === view);
    byId("curves").hidden = view !== null;
    this.explorer.setQuery({ search, filter, kind: view, x, y, colour }, this.table.offered);
  }

  #chooseBand(filter, isChosen) {
    const others = this.route.state.bands.filter((other) => other !== filter);
    this.route.go({ bands: isChosen ? [...others, filter] : others });
  }

  async #showChosen() {
    const ids = (this.route.state.runs ?? []).slice(0, MAX_DRAWN);
    for (const id of this.#known.keys()) if (!ids.includes(id)) this.#known.delete(id);
    this.#drawSelection();
    const { bands } = this.route.state;
    await Promise.all([
      ...ids.filter((id) => !this.#known.has(id)).map((id) => this.#fetchChosen(id)),
      ...bands.filter((filter) => !this.#bandMetrics.has(filter)).map((filter) => this.#fetchBandMetrics(filter)),
    ]);
    this.#drawChosen();
  }

  #drawChosen() {
    const ids = (this.route.state.runs ?? []).filter((id) => this.#known.has(id));
    const known = ids.map((id) => this.#known.get(id));
    const details = differences(known.map((run) => run.params));
    this.panel.setRuns(
      known.map(({ name, isGoingOn }, place) => ({
        id: ids[place],
        name: name ?? (details[place] || ids[place]),
        detail: name === null ? "" : details[place],
        isGoingOn,
      })),
    );
    const { bands } = this.route.state;
    this.panel.setBands(bands.map((filter) => ({ filter, name: GroupsTable.label(filter) })));
    this.#drawSelection();
    this.groups.setChosen(bands, this.panel.slotOf);
    const all = [...known, ...bands.map((filter) => this.#bandMetrics.get(filter)).filter(Boolean)];
    const main = all.find((one) => one.main !== null)?.main ?? null;
    this.panel.setMetrics([...new Set(all.flatMap((one) => one.metrics))].sort(), main);
    this.live?.changed();
  }

  #drawSelection() {
    const ids = this.route.state.runs ?? [];
    this.selection.set(ids.map((id) => ({ id, name: this.#known.get(id)?.name ?? this.table.nameOf(id) })));
    this.table.setChosen(ids, (id) => (this.#known.has(id) ? this.panel.slotOf(id) : null));
    this.panel.setLeftOut(Math.max(0, ids.length - MAX_DRAWN));
  }

  async #fetchBandMetrics(filter) {
    try {
      const { metrics, metric } = await api.band(filter, "", "step");
      this.#bandMetrics.set(filter, { metrics, main: metric });
    } catch (error) {
      if (error.status === 400) this.#chooseBand(filter, false);
      this.#failed(error);
    }
  }

  async #fetchChosen(id) {
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
      if (error.status === 404) this.route.go({ runs: (this.route.state.runs ?? []).filter((other) => other !== id) });
      else this.#failed(error);
    }
  }

  // -- events from the server

  #rows(rows) {
    this.table.update(rows);
    if (rows.length) this.#refreshSoon();
    const due = rows.filter(
      ({ id }) =>
        this.#known.has(id) &&
        Date.now() - this.#known.get(id).asked_ms > (this.#known.get(id).metrics.length ? DETAILS_EVERY_MS : 0),
    );
    if (due.length) Promise.all(due.map((row) => this.#fetchChosen(row.id))).then(() => this.#drawChosen());
  }

  #tableChanged(version) {
    if (version !== this.#tableVersion) {
      this.table.refresh(); // the first, too: the rows may be older
      this.#refreshSoon();
    }
    this.#tableVersion = version;
  }

  /** What row events do not bring, at most every few seconds. */
  #refreshSoon() {
    this.#refreshing ??= setTimeout(() => {
      this.#refreshing = null;
      if (document.hidden || this.route.state.run !== null) return;
      if (this.table.hasMetrics()) this.table.refresh();
      this.groups.refresh();
      this.explorer.refresh();
      this.panel.reloadBands();
    }, REFRESH_EVERY_MS);
  }

  #counted({ total, shown, isFirst }) {
    this.#offerGroups();
    this.#explore();
    if (this.route.state.by === null)
      setText(
        byId("count"),
        shown === total ? format.plural(total, "run") : `${format.whole(shown)} of ${format.plural(total, "run")}`,
      );
    byId("grid").classList.toggle("none", shown === 0);
    byId("empty").hidden = shown > 0;
    if (total === 0) byId("empty").replaceChildren(...welcome());
    else if (shown === 0)
      byId("empty").replaceChildren(
        el(
          "p",
          { text: "No runs match. " },
          el("button", { type: "button", text: "Show all runs", on: { click: () => this.#clear() } }),
        ),
      );
    if (isFirst && this.route.state.runs === null) {
      const first = this.table
        .visible()
        .filter((row) => row.metric !== null)
        .slice(0, FIRST_CHOSEN);
      if (first.length) this.route.go({ runs: first.map((row) => row.id) });
    }
  }

  #filterProblem(error) {
    const isWrong = error?.status === 400;
    byId("filter-problem").hidden = !isWrong;
    setText(byId("filter-problem"), isWrong ? format.visible(error.message, 600) : "");
    if (isWrong) setText(byId("count"), "");
    setAttribute(byId("filter"), "aria-invalid", isWrong ? "true" : null);
    if (error && !isWrong) this.#failed(error);
  }

  #machine(document_) {
    drawMachine(byId("machine"), document_, (id) => this.route.link({ run: id }));
    setText(byId("where"), `${document_.user} on ${document_.host} · ${document_.version}`);
  }

  #linkState(isConnected, problem) {
    setText(byId("link"), isConnected ? "live" : "not connected");
    byId("link").className = `link ${isConnected ? "on" : "off"}`;
    if (isConnected && this.#isLost) {
      this.#banner(null);
      this.table.retry();
      this.#showChosen(); // whose details could not be fetched
      this.#panel().reload();
    } else if (!isConnected) {
      this.#banner(
        problem === "denied"
          ? token() === ""
            ? "This page needs its token: open the whole address that backprop ui printed, including ?token=…"
            : "backprop ui was restarted: this page's token is no longer valid. Open the address that it printed."
          : "The connection to backprop ui is lost. Your runs are not affected. This page keeps trying to reconnect; " +
              "if backprop ui has exited, start it again and open the address that it prints.",
      );
    }
    this.#isLost = !isConnected;
  }

  #banner(text) {
    byId("banner").hidden = !text;
    setText(byId("banner"), text ? format.visible(text, 600) : "");
  }

  #failed(error) {
    if (error.status === 0 || error.status === 403) this.#linkState(false, error.status === 403 ? "denied" : null);
    else if (error.status === 404 && this.route.state.runs?.length)
      this.route.state.runs.forEach((id) => this.#fetchChosen(id)); // one was removed
    else actions.toast(error.message, true);
  }

  #tick() {
    if (document.hidden) return;
    if (this.route.state.run === null) this.table.render();
    else this.runPage.tick();
  }

  // -- user input

  #sort(key, isDescending) {
    const { sort, desc } = this.route.state;
    this.route.go(sort === key ? { desc: !desc } : { sort: key, desc: isDescending });
  }

  /** What runs can be grouped by: their groups, and the parameters they have. */
  #offerGroups() {
    const { by } = this.route.state;
    const params = this.table.offered.filter((key) => key.startsWith("param."));
    const keys = ["", "group", ...new Set([...(by?.startsWith("param.") ? [by] : []), ...params])];
    if (byId("by").dataset.keys !== JSON.stringify(keys)) {
      byId("by").dataset.keys = JSON.stringify(keys);
      const title = (key) => ({ "": "nothing", group: "group" })[key] ?? format.name(titleOf(key), 40);
      byId("by").replaceChildren(...keys.map((key) => el("option", { value: key, text: title(key) })));
    }
    byId("by").value = by ?? "";
  }

  #clear() {
    byId("search").value = "";
    byId("filter").value = "";
    this.route.go({ search: "", filter: "" });
  }

  #fields() {
    const write = debounced(
      () => this.route.go({ search: byId("search").value.trim(), filter: byId("filter").value.trim() }),
      200,
    );
    for (const field of [byId("search"), byId("filter")]) {
      field.addEventListener("input", write);
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== "ArrowDown") return;
        event.preventDefault();
        byId("grid").focus();
      });
    }
    byId("help").addEventListener("click", () => keys.showHelp());
    byId("by").addEventListener("change", () => this.route.go({ by: byId("by").value || null }));
    byId("columns").addEventListener("click", () =>
      chooseColumns({
        offered: this.table.offered,
        shown: this.table.columns.filter((column) => column.kind).map((column) => column.sort),
        chosen: (cols) => this.route.go({ cols }),
      }),
    );
  }

  #subject = () => (this.route.state.run === null ? this.table.active : this.runPage.details);

  #withSubject(act) {
    const run = this.#subject();
    if (run) act(run);
  }

  #keyboard() {
    const { route, table } = this;
    keys.listen(
      {
        down: () => table.move(1),
        up: () => table.move(-1),
        pageDown: () => table.move(table.pageRows()),
        pageUp: () => table.move(-table.pageRows()),
        first: () => table.move(-Infinity),
        last: () => table.move(Infinity),
        open: () => this.#withSubject((row) => route.go({ run: row.id })),
        choose: () => this.#withSubject((row) => this.#choose(row, !(route.state.runs ?? []).includes(row.id))),
        search: () => this.#toField("search"),
        filter: () => this.#toField("filter"),
        stop: () => this.#withSubject(actions.stop),
        pause: () =>
          this.#withSubject((run) =>
            run.status === "running"
              ? actions.pause(run)
              : run.status === "paused"
                ? actions.resume(run)
                : actions.toast(`It is ${run.status}: nothing to pause.`),
          ),
        resume: () => this.#withSubject(actions.resume),
        log: () => route.go({ log: !route.state.log }),
        axis: () => route.go({ axis: route.state.axis === "step" ? "time" : "step" }),
        resetZoom: () => this.#panel().resetButton.click(),
        back: () => (route.state.run === null ? false : route.go({ run: null })),
        help: () => keys.showHelp(),
      },
      () => route.state.run === null,
    );
  }

  #toField(id) {
    if (this.route.state.run !== null) this.route.go({ run: null });
    byId(id).focus();
    byId(id).select();
  }
}

function welcome() {
  return [
    el("h2", { text: "No runs yet" }),
    el("p", { text: "Start one in a terminal, and it appears here:" }),
    el("pre", { text: "backprop run train.py" }),
    el("p", { text: "Your script needs no changes. JSON lines that it prints on stdout become curves:" }),
    el("pre", { text: '{"step": 12, "loss": 0.31}' }),
  ];
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

new Page();
