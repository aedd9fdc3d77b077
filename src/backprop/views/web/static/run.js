// The page of one run: status, settings, curves, tables and log.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { ALL, CurvesPanel } from "./curves.js";
import { el, setAttribute, setText } from "./dom.js";
import * as format from "./format.js";
import { LogView } from "./log.js";
import { patchSection } from "./patch.js";

export class RunPage {
  #id = null;
  #details = null;
  #received_ms = 0;
  #controller = null;
  #patchOf = null;

  /** on: controls(changes), live(), failed(error), back(). */
  constructor(root, on, linkBack) {
    this.root = root;
    this.on = on;
    this.title = el("h1", { tabindex: -1 });
    this.back = el("a", { class: "back", text: "‹ Runs" });
    this.linkBack = linkBack;
    this.status = el("span", { class: "status" });
    this.id = el("code", { class: "id" });
    this.reason = el("p", { class: "reason" });
    this.time = el("span", { class: "times" });
    this.fill = el("span", { class: "fill" });
    this.bar = el("span", { class: "bar" }, this.fill);
    this.buttons = Object.fromEntries(
      [
        ["stop", "Stop…", (run) => actions.stop(run)],
        ["kill", "Kill…", (run) => actions.kill(run)],
        ["pause", "Pause", (run) => actions.pause(run)],
        ["resume", "Resume…", (run) => actions.resume(run)],
      ].map(([name, label, act]) => [
        name,
        el("button", { type: "button", class: name, text: label, on: { click: () => act(this.#details) } }),
      ]),
    );
    this.facts = el("dl", { class: "facts" });
    this.curvesRoot = el("section", { class: "panel curves", "aria-label": "Curves" });
    this.tables = el("div", { class: "tables" });
    this.notes = el("section", { class: "panel", hidden: true, "aria-label": "Notes" });
    this.patch = el("div");
    this.missing = el("p", { class: "hint", hidden: true });
    this.content = el(
      "div",
      { class: "run" },
      el(
        "div",
        { class: "panel run-head" },
        this.back,
        el(
          "div",
          { class: "line" },
          this.title,
          this.id,
          this.status,
          el("span", { class: "progress" }, this.time, this.bar),
          el("span", { class: "spring" }),
          el("span", { class: "buttons", role: "group", "aria-label": "Actions" }, ...Object.values(this.buttons)),
        ),
        this.reason,
      ),
      this.curvesRoot,
    );
    this.panel = new CurvesPanel(
      this.curvesRoot,
      { controls: on.controls, live: on.live, failed: on.failed, remove: null },
      'No metrics yet. A script reports them as JSON lines on stdout: {"step": 12, "loss": 0.31}',
    );
    this.log = new LogView({ live: on.live, failed: on.failed });
    this.side = el("div", { class: "panel side" }, el("h2", { text: "Run" }), this.facts, this.tables);
    this.content.append(this.side, this.log.root, this.notes, this.patch);
    root.append(this.missing, this.content);
  }

  get details() {
    return this.#details;
  }

  /** Open a run's page, or with null close it. */
  async open(id) {
    if (id === this.#id) return;
    this.#id = id;
    this.#details = null;
    this.#controller?.abort();
    this.content.hidden = true;
    this.missing.hidden = true;
    if (id === null) return;
    this.#controller = new AbortController();
    this.panel.setRuns([]);
    try {
      this.#show(await api.run(id, this.#controller.signal, (message) => this.#id === id && this.#instead(message)));
      this.log.open(id, this.#details.status === "failed");
      this.title.focus({ preventScroll: true });
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404) this.#instead(error.message);
      else this.on.failed(error);
    }
    this.on.live();
  }

  /** Show a message in place of the run. */
  #instead(message) {
    this.content.hidden = true;
    this.missing.hidden = false;
    this.missing.replaceChildren(
      el("bdi", { text: format.visible(message) }),
      " ",
      el("a", { href: this.linkBack(), text: "Back to all runs" }),
    );
  }

  /** Show a newer state of the run. */
  update(details) {
    if (details.id !== this.#id) return;
    const missing = `there is no run '${details.id.slice(0, 80)}' (any more).`; // as the server words it
    if (details.gone) this.#instead(this.#details ? "This run was removed." : missing);
    else this.#show(details);
  }

  #show(details) {
    this.#details = details;
    this.#received_ms = Date.now();
    this.content.hidden = false;
    this.missing.hidden = true;
    const name = format.visible(details.name || details.id, 160);
    document.title = `${name} · ${details.status} · Backprop`;
    this.back.href = this.linkBack();
    setText(this.title, name);
    setAttribute(this.title, "title", format.visible(details.name || details.id, 1000));
    setText(this.id, details.name ? details.id : "");
    setText(this.status, details.status);
    this.status.className = `status is-${details.status}`;
    const why = details.status === "queued" && details.waits_for ? `queued: ${details.waits_for}` : details.reason;
    setText(this.reason, why ? format.visible(why, 1000) : "");
    this.reason.hidden = !why;
    const can = actions.possible(details);
    for (const [action, button] of Object.entries(this.buttons)) button.hidden = !can[action];
    setText(this.buttons.resume, details.status === "paused" ? "Resume" : "Resume…");
    this.tick();
    this.#showFacts(details);
    this.tables.replaceChildren(...tables(details));
    this.#showNotes(details.trainer_notes ?? []);
    const measured = details.measured ?? [];
    const names = [...Object.keys(details.summaries ?? {}), ...measured];
    const run = { id: details.id, name: details.name || details.id, detail: "", isGoingOn: details.is_going_on };
    this.panel.setRuns(names.length ? [run] : []);
    this.panel.setMarks(marksOf(details));
    this.panel.setMetrics(names, details.metric ?? (names.includes("loss") ? "loss" : null), measured);
    this.log.setSessions(details.session_count ?? details.sessions.length);
    if (this.#patchOf !== details.id) {
      this.#patchOf = details.id;
      this.patch.replaceChildren(...(details.has_patch ? [patchSection(details.id, this.on.failed)] : []));
    }
  }

  setControls(state) {
    this.panel.setControls({ ...state, metric: state.metric ?? ALL });
  }

  /** Advance the clock of an active session. */
  tick() {
    const run = this.#details;
    if (!run) return;
    const session = run.sessions.at(-1);
    const elapsed_s = session
      ? session.elapsed_s + (run.status === "running" ? (Date.now() - this.#received_ms) / 1000 : 0)
      : null;
    setText(this.time, format.used(elapsed_s, run.timebox_s).join(""));
    this.fill.style.transform = `scaleX(${elapsed_s === null ? 0 : Math.min(1, elapsed_s / run.timebox_s)})`;
    this.bar.className = `bar is-${run.status}`;
  }

  #showFacts(run) {
    const step =
      run.last_step === null
        ? null
        : `${format.whole(run.last_step)}${run.total_steps ? ` of ${format.whole(run.total_steps)}` : ""} ${run.units}`;
    const { git } = run;
    const rows = [
      ["group", run.group],
      ["tags", run.tags.join(" ")],
      ["parent", run.parent],
      ["decision", run.decision],
      ["archived", run.archived ? "yes" : null],
      ["step", step],
      ["pace", run.pace],
      ["life", run.life_text],
      ["command", run.command_text ?? run.command.join(" ")],
      ["folder", run.cwd],
      ["python", run.python],
      ["created", format.instant(run.created_at)],
      ["ended", run.ended_at ? format.instant(run.ended_at) : null],
      [
        "time",
        `${format.duration(run.elapsed_s)} in ${format.plural(run.session_count ?? run.sessions.length, "session")}`,
      ],
      ...(run.used ?? []).map((line, position) => [position === 0 ? "used" : "", line]),
      ["exit code", run.exit_code === null ? null : String(run.exit_code)],
      [
        "code",
        git &&
          `${(git.commit ?? "no commit").slice(0, 12)} on ${git.branch ?? "no branch"}` +
            (git.dirty ? ", uncommitted changes" : ""),
      ],
      ["host", `${run.host}${run.pid ? `, supervisor ${run.pid}` : ""}`],
      ["run directory", run.run_dir],
      ...run.notes.map((note) => ["note", `${format.instant(note.at)} ${note.by}: ${note.text}`]),
    ].filter(([, text]) => text);
    this.facts.replaceChildren(
      ...rows.flatMap(([label, text]) => [
        el("dt", { text: label }),
        el("dd", {}, el("bdi", { text: format.visible(text, 2000) })),
      ]),
    );
  }

  #showNotes(notes) {
    this.notes.hidden = notes.length === 0;
    if (this.notes.hidden) return;
    this.notes.replaceChildren(
      el("h2", { text: "Notes" }),
      el(
        "ul",
        { class: "notes" },
        ...notes.map((note) =>
          el(
            "li",
            {},
            el("b", { text: format.visible(note.kind, 60) }),
            " ",
            el("bdi", { text: format.visible(note.text, 600) }),
          ),
        ),
      ),
    );
  }
}

/** Where sessions after the first began, and where each was paused, in seconds of training. */
function marksOf({ sessions, session_count: count, status }) {
  if (sessions.length < count) return []; // of more sessions than are listed it is not known where they began
  let x = 0;
  const marks = [];
  for (const { number, elapsed_s: elapsed, pauses, paused_s: all } of sessions) {
    if (number > 1) marks.push({ x, text: `session ${number}` });
    // recorded by a version that did not keep when it was paused
    if (pauses.length === 0 && all >= 1)
      marks.push({ x, text: `session ${number} was paused ${format.duration(all)} in all`, isPause: true });
    for (const { after_s: after, paused_s: paused } of pauses)
      marks.push({ x: x + after, text: `paused ${format.duration(paused)}`, isPause: true });
    x += elapsed;
  }
  if (status === "paused") marks.push({ x, text: "paused now", isPause: true });
  return marks;
}

function* tables(run) {
  const defaults = new Set(run.default_params);
  const all = Object.entries(run.params);
  const given = all.filter(([name]) => !defaults.has(name));
  for (const [title, parameters] of [
    ["Parameters", given],
    ["Default parameters", all.filter(([name]) => defaults.has(name))],
  ]) {
    if (!parameters.length) continue;
    yield el("h2", { text: title });
    yield table(
      title,
      ["name", "value"],
      parameters.map(([name, value]) => [text(format.name(name), name), text(format.value(value))]),
      [false, false],
      "pairs",
    );
  }
  const metrics = Object.entries(run.summaries ?? {});
  if (metrics.length) {
    yield el("h2", { text: "Metrics" });
    yield table(
      "Metrics",
      ["name", "last", "best", "at step", "points"],
      metrics.map(([name, summary]) => [
        text(format.name(name), name),
        format.number(summary.last),
        format.number(summary.best),
        summary.best_step === null ? "–" : format.whole(summary.best_step),
        format.whole(summary.count),
      ]),
      [false, true, true, true, true],
    );
  }
  if (run.sessions.length) {
    yield el("h2", { text: "Sessions" });
    yield table(
      "Sessions",
      ["#", "status", "time", "details"],
      [...run.sessions]
        .reverse()
        .map((session) => [
          String(session.number),
          el("span", { class: `status is-${session.status}`, text: session.status }),
          format.duration(session.elapsed_s),
          text(
            [session.reason, session.job && `Slurm job ${session.job} on ${session.host}`, origin(session)]
              .filter(Boolean)
              .join("; "),
          ),
        ]),
      [true, false, true, false],
    );
  }
  if (run.checkpoints.length) {
    const count = run.checkpoint_count ?? run.checkpoints.length;
    yield el("h2", {
      text:
        count > run.checkpoints.length
          ? `Checkpoints (latest ${run.checkpoints.length} of ${format.whole(count)})`
          : "Checkpoints",
    });
    yield table(
      "Checkpoints",
      ["step", "file", "size", "state"],
      [...run.checkpoints]
        .reverse()
        .map((checkpoint) => [
          checkpoint.step === null ? "–" : format.whole(checkpoint.step),
          text(base(checkpoint.path), checkpoint.path),
          format.size(checkpoint.size_bytes),
          checkpointState(checkpoint),
        ]),
      [true, false, true, false],
    );
  }
}

/** Which checkpoint a session was resumed from or offered. */
function origin({ offered, resumed_from, started_over }) {
  if (resumed_from) return `resumed from ${base(resumed_from)}`;
  if (started_over) return `started over: ${base(offered)} was not read`;
  return offered && `offered ${base(offered)}`;
}

const base = (path) => path.split("/").filter(Boolean).at(-1) ?? path;
const text = (words, title = words) =>
  el("bdi", { class: "cut", text: format.visible(words, 300), title: format.visible(title, 1000) });

function checkpointState({ valid, emergency }) {
  if (!valid)
    return el("span", {
      class: "state bad",
      text: "invalid",
      title: "missing, unreadable, or smaller than when it was reported: resume skips it",
    });
  return emergency
    ? el("span", {
        class: "state kept",
        text: "emergency",
        title: "saved by Backprop because the script did not: resume uses it only on request",
      })
    : el("span", { class: "state good", text: "valid" });
}

function table(label, heads, rows, isNumber, kind = null) {
  const cell = (tag, content, position) =>
    el(tag, { class: isNumber[position] ? "number" : null, scope: tag === "th" ? "col" : null }, content);
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
    el(
      "table",
      { class: kind },
      el("thead", {}, el("tr", {}, ...heads.map((head, position) => cell("th", head, position)))),
      el(
        "tbody",
        {},
        ...rows.map((row) => el("tr", {}, ...row.map((content, position) => cell("td", content, position)))),
      ),
    ),
  );
}
