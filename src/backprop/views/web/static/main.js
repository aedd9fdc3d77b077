// The page: connects the address, the table, the curves, a run's page, the machine and the event stream.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { Chosen } from "./chosen.js";
import { ComparePage } from "./compare.js";
import { CurvesPanel } from "./curves.js";
import { byId, el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { Connection } from "./connection.js";
import { FindBar } from "./find.js";
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

const FIRST_CHOSEN = 3;
const REFRESH_EVERY_MS = 5000; // of what the server's row events do not bring: chosen columns, groups and their curves

class Page {
  #tableVersion = null;
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
        choose: (row, isChosen) => this.chosen.choose(row.id, isChosen),
        chooseRange: (ids) => this.chosen.chooseMany([...new Set([...this.chosen.ids, ...ids])]),
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
      choose: (filter, isChosen) => this.chosen.chooseBand(filter, isChosen),
      counted: (text) => setText(byId("count"), text),
      problem: (error) => this.#filterProblem(error),
    });
    this.panel = new CurvesPanel(
      byId("curves"),
      {
        ...shared,
        remove: (id) =>
          this.route.state.bands.includes(id) ? this.chosen.chooseBand(id, false) : this.chosen.choose(id, false),
      },
      "Select runs with the check boxes or the x key to compare their curves.",
    );
    this.explorer = new Explorer(byId("explore"), {
      controls: shared.controls,
      choose: (ids) => this.chosen.chooseMany(ids),
      open: (id) => this.route.go({ run: id }),
      failed: shared.failed,
    });
    this.#tabs();
    this.selection = new Selection(byId("selection"), {
      all: () => this.chosen.chooseFirst(MAX_CHOSEN, {}),
      best: (count) => this.chosen.chooseFirst(count, { sort: this.table.bestKey, descending: null }),
      none: () => this.route.go({ runs: [] }),
      compare: () => this.chosen.compare(),
      png: async () => save(await this.panel.picture(), "backprop-curves.png"),
    });
    const views = { table: this.table, groups: this.groups, panel: this.panel, selection: this.selection };
    this.chosen = new Chosen(this.route, views, shared);
    this.find = new FindBar(this.route, this.table);
    this.comparePage = new ComparePage(byId("compare-view"), shared, {
      back: () => this.route.link({ compare: false }),
      to: (id) => this.route.link({ run: id, compare: false }),
      without: (id) => this.route.link({ runs: this.chosen.ids.filter((other) => other !== id) }),
    });
    this.runPage = new RunPage(byId("run-view"), shared, () => this.route.link({ run: null }));
    this.connection = new Connection(() => {
      this.table.retry();
      this.chosen.show(); // whose details could not be fetched
      this.#panel().reload();
      this.comparePage.refresh();
    });
    this.live = new Live(() => this.#subscription(), {
      rows: (rows) => this.#rows(rows),
      table: ({ version }) => this.#tableChanged(version),
      machine: (document_) => this.#machine(document_),
      curve: (event) => this.#panel().append(event),
      run: (details) => this.runPage.update(details),
      log: (event) => this.runPage.log.append(event),
      told: ({ text, error }) => actions.toast(text, error),
      trouble: ({ error }) => this.connection.banner(error),
      state: (isConnected, problem) => this.connection.set(isConnected, problem),
    });
    byId("help").addEventListener("click", () => keys.showHelp());
    this.#keyboard();
    watchTheme(byId("theme"), () => {
      this.panel.relook();
      this.runPage.panel.relook();
      this.explorer.draw();
      this.chosen.show();
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
    const { isOfRuns } = this.route;
    if (isOfRuns) setText(document.querySelector("title"), "Backprop");
    if (!isOfRuns && before?.run === null && !before.compare) this.#scroll = byId("grid").scrollTop;
    byId("runs-view").hidden = !isOfRuns;
    byId("run-view").hidden = state.run === null;
    byId("compare-view").hidden = !state.compare;
    this.find.show(state);
    if (isOfRuns) {
      const found = { search: state.search, filter: state.filter };
      byId("grid").hidden = state.by !== null;
      this.table.setQuery({ ...found, sort: state.sort, descending: state.desc, columns: state.cols });
      this.groups.setQuery({ ...found, by: state.by, metric: state.metric === "*" ? null : state.metric });
      this.#explore();
      if (before?.run || before?.compare) {
        byId("grid").scrollTop = this.#scroll;
        byId("grid").focus({ preventScroll: true });
      }
    }
    this.comparePage.setQuery(state.compare ? { ids: state.runs ?? [], isAll: state.all, code: state.code } : null);
    this.runPage.setControls(state);
    this.runPage.open(state.run);
    this.panel.setControls(state);
    const chosen = (one) =>
      JSON.stringify([one?.runs, one?.bands, one?.bands.length ? [one.search, one.filter] : null]);
    if (chosen(before) !== chosen(state) || !before) this.chosen.show();
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

  // -- events from the server

  #rows(rows) {
    this.table.update(rows);
    if (rows.length) this.#refreshSoon();
    this.chosen.follow(rows);
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
      if (this.route.state.compare) return this.comparePage.refresh();
      if (this.table.hasMetrics()) this.table.refresh();
      this.groups.refresh();
      this.explorer.refresh();
      this.panel.reloadBands();
    }, REFRESH_EVERY_MS);
  }

  #counted({ total, shown, isFirst }) {
    this.find.offerGroups();
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
          el("button", { type: "button", text: "Show all runs", on: { click: () => this.find.clear() } }),
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

  #failed(error) {
    if (error.status === 0 || error.status === 403) this.connection.set(false, error.status === 403 ? "denied" : null);
    else if (error.status === 404 && this.route.state.runs?.length)
      this.chosen.ids.forEach((id) => this.chosen.fetch(id)); // one was removed
    else actions.toast(error.message, true);
  }

  #tick() {
    if (document.hidden) return;
    if (this.route.isOfRuns) this.table.render();
    else this.runPage.tick();
  }

  // -- user input

  #sort(key, isDescending) {
    const { sort, desc } = this.route.state;
    this.route.go(sort === key ? { desc: !desc } : { sort: key, desc: isDescending });
  }

  #subject = () =>
    this.route.state.compare ? null : this.route.state.run === null ? this.table.active : this.runPage.details;

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
        choose: () => this.#withSubject(({ id }) => this.chosen.choose(id, !this.chosen.ids.includes(id))),
        compare: () => this.chosen.compare(),
        search: () => this.find.focus("search"),
        filter: () => this.find.focus("filter"),
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
        back: () => (route.isOfRuns ? false : route.go({ run: null, compare: false })),
        help: () => keys.showHelp(),
      },
      () => route.isOfRuns,
    );
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

new Page();
