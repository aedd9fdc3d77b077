// How the code of two of the compared runs differs, by file.

import * as api from "./api.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import { showLines } from "./patch.js";

const OPEN_LINES = 400; // files are open as long as they have no more lines in all

export class CodeDifference {
  #runs = []; // [{id, name}]
  #pair = null; // [id, id], of what is shown
  #offered = ""; // the lists to choose the two from
  #controller = null;

  /** on: controls({code: [from, to]}). */
  constructor(root, on) {
    const field = (label, name) =>
      el("label", { class: "check" }, label, (this[name] = el("select", { on: { change: () => this.#chosen(on) } })));
    this.fields = el("span", { class: "controls" }, field("from", "from"), field("to", "to"));
    this.told = el("div", { role: "status" });
    this.files = el("div", { class: "files" });
    root.append(
      el("div", { class: "controls" }, el("h2", { text: "Code difference" }), this.fields),
      this.told,
      this.files,
    );
  }

  #chosen(on) {
    on.controls({ code: [this.from.value, this.to.value] });
  }

  /** The runs that are compared, and which two of them in code; null: the first two. */
  setRuns(runs, pair) {
    this.#runs = runs;
    const ids = runs.map((run) => run.id);
    const isThere = pair !== null && pair[0] !== pair[1] && pair.every((id) => ids.includes(id));
    const shown = isThere ? pair : ids.slice(0, 2);
    const offered = JSON.stringify([shown, runs.map(({ id, name }) => [id, name])]);
    for (const [place, select] of offered === this.#offered ? [] : [this.from, this.to].entries()) {
      select.replaceChildren(
        ...runs
          .filter(({ id }) => id !== shown[1 - place])
          .map(({ id, name }) => el("option", { value: id, text: format.visible(name || id, 60) })),
      );
      select.value = shown[place];
    }
    this.#offered = offered; // a list that is open stays so
    this.fields.hidden = runs.length < 3;
    if (JSON.stringify(shown) === JSON.stringify(this.#pair)) return;
    this.#pair = shown;
    this.#fetch();
  }

  close() {
    this.#controller?.abort();
    this.#pair = null;
  }

  async #fetch() {
    this.#controller?.abort();
    this.#controller = new AbortController();
    this.files.replaceChildren();
    this.#say(["comparing…"]);
    try {
      this.#show(await api.codeDifference(this.#pair, this.#controller.signal));
    } catch (error) {
      if (error.name !== "AbortError") this.#say([error.message]);
    }
  }

  #say(notes) {
    this.told.replaceChildren(...notes.map((note) => el("p", { class: "faint", text: format.visible(note, 2000) })));
  }

  #show({ notes, files, files_left_out: left, is_cut: isCut }) {
    const whole = files.reduce((sum, file) => sum + file.added + file.removed, 0);
    const changed = files.length
      ? [`${format.plural(files.length + left, "file")} ${isCut ? "and more " : ""}changed`]
      : [];
    const command = `backprop compare ${this.#pair.join(" ")} --diff`;
    const isWhole = !isCut && left === 0 && files.every((file) => file.lines_left_out === 0);
    const missing = [
      ...(left ? [`${format.plural(left, "more file")} not shown.`] : []),
      ...(isCut ? ["The difference is larger than what is read for this page."] : []),
      ...(isWhole ? [] : [`This prints all of it: ${command}`]),
    ];
    this.#say([...changed, ...notes, ...missing]);
    this.files.replaceChildren(...files.map((file) => fileSection(file, whole <= OPEN_LINES)));
  }
}

/** A file's part of the patch, which is drawn when it is opened. */
function fileSection({ name, added, removed, text, lines_left_out: left }, isOpen) {
  const shownName = format.visible(name, 300);
  const lines = el("pre", { class: "patch", tabindex: 0, role: "group", "aria-label": `Changes of ${shownName}` });
  const section = el(
    "details",
    { open: isOpen },
    el(
      "summary",
      {},
      el("bdi", { class: "mono", text: shownName, title: format.visible(name, 1000) }),
      el("span", { class: "counts" }, el("span", { class: "plus", text: `+${format.whole(added)}` }), " "),
    ),
    lines,
  );
  section.querySelector(".counts").append(el("span", { class: "minus", text: `−${format.whole(removed)}` }));
  if (left) section.append(el("p", { class: "left-out faint", text: `${format.plural(left, "more line")} not shown` }));
  const draw = () => section.open && !lines.childElementCount && showLines(lines, text.split("\n"));
  section.addEventListener("toggle", draw);
  draw();
  return section;
}
