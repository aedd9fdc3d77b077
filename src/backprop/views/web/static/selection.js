// What can be done with the runs that are selected, and how many are selected at once.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";

const NAMED = 5; // runs in a question

export class Selection {
  #runs = []; // [{id, name}]

  /** on: all(), best(count), none(), compare(), png(). */
  constructor(root, on) {
    this.root = root;
    this.count = el("span", { class: "count", role: "status" });
    const button = (text, act, kind = null) => el("button", { type: "button", class: kind, text, on: { click: act } });
    this.acts = el(
      "span",
      { class: "acts", role: "group", "aria-label": "With the selected runs" },
      (this.compare = button("Compare", () => on.compare())),
      button("Stop", () => this.#ask("stop", "Stop", "They are asked to finish their step, save and exit.")),
      button("Pause", () => this.#do("pause")),
      button("Resume", () => this.#ask("resume", "Resume", "Those that have ended get another session.")),
      button("Tag…", () => this.#tag()),
      button("Rename…", () => this.#rename()),
      button("Archive", () => this.#ask("archive", "Archive", "They are hidden from the table. Nothing is deleted.")),
      button(
        "Delete…",
        () => this.#ask("rm", "Delete", "Their records are removed. Checkpoints stay.", "danger"),
        "danger",
      ),
      button("Report", () => this.#file("report", "backprop-report.html")),
      button("CSV", () => this.#file("csv", "backprop-runs.csv")),
      button("PNG", () => on.png()),
    );
    root.append(
      this.count,
      button("All", () => on.all()),
      button("Best 5", () => on.best(5)),
      button("None", () => on.none()),
      el("span", { class: "spring" }),
      this.acts,
    );
  }

  /** Show what is selected; where that is nothing, only how to select. */
  set(runs) {
    this.#runs = runs;
    setText(this.count, runs.length ? `${format.whole(runs.length)} selected` : "select");
    this.acts.hidden = runs.length === 0;
    this.compare.disabled = runs.length < 2;
  }

  #ids = () => this.#runs.map((run) => run.id);

  #named() {
    const names = this.#runs.slice(0, NAMED).map((run) => format.visible(run.name || run.id, 40));
    return names.join(", ") + (this.#runs.length > NAMED ? `, and ${this.#runs.length - NAMED} more` : "");
  }

  async #ask(action, label, text, kind = "") {
    const title = `${label} ${format.plural(this.#runs.length, "run")}?`;
    const { choice } = await actions.ask({ title, text: [this.#named(), text], choice: { value: "yes", label, kind } });
    if (choice === "yes") await this.#do(action);
  }

  #do = (action, words = []) => actions.report(api.many(action, this.#ids(), words));

  async #tag() {
    const { choice, value } = await actions.ask({
      title: `Tag ${format.plural(this.#runs.length, "run")}`,
      text: [this.#named(), "A word gives a tag, one with a minus before it takes it away: baseline -draft"],
      field: { label: "Tags", type: "text", placeholder: "baseline -draft" },
      choice: { value: "tag", label: "Tag" },
    });
    const words = value.split(/\s+/).filter(Boolean);
    if (choice === "tag" && words.length)
      await this.#do(
        "tag",
        words.map((word) => (/^[+-]/.test(word) ? word : `+${word}`)),
      );
  }

  async #rename() {
    const [run, ...others] = this.#runs;
    if (others.length) {
      actions.toast("Select one run to rename it: a name is one run's.", true);
      return;
    }
    const { choice, value } = await actions.ask({
      title: `Rename “${format.visible(run.name || run.id, 60)}”`,
      text: [],
      field: { label: "Name", type: "text", placeholder: run.name || run.id },
      choice: { value: "rename", label: "Rename" },
    });
    if (choice === "rename" && value.trim()) await this.#do("rename", [value.trim()]);
  }

  async #file(kind, name) {
    try {
      save(await api.file(kind, this.#ids()), name);
    } catch (error) {
      actions.toast(error.message, true);
    }
  }
}

/** Give the reader a file. */
export function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
