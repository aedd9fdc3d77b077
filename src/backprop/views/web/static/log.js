// The live log of a run.

import * as api from "./api.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";

const MAX_CHARACTERS = 1_000_000; // kept on the page; older text can be fetched again
const NEAR_END_PX = 40;

export class LogView {
  #run = null;
  #source = "out";
  #session = null; // that is shown
  #isLast = true; // whether to switch to newer sessions
  #begin = 0;
  #end = null;
  #controller = null;

  /** on: live(), failed(error). */
  constructor(on) {
    this.on = on;
    this.sourceField = el(
      "select",
      {
        "aria-label": "Output",
        on: { change: () => this.#choose(this.sourceField.value, this.#isLast ? null : this.#session) },
      },
      el("option", { value: "out", text: "stdout" }),
      el("option", { value: "err", text: "stderr" }),
    );
    this.sessionField = el("select", {
      "aria-label": "Session",
      on: {
        change: () =>
          this.#choose(this.#source, this.sessionField.value === "" ? null : Number(this.sessionField.value)),
      },
    });
    this.followField = el("input", { type: "checkbox", checked: true, on: { change: () => this.#toEnd() } });
    this.info = el("span", { class: "faint number" });
    this.earlier = el("button", {
      type: "button",
      text: "Earlier lines",
      hidden: true,
      on: { click: () => this.#showEarlier() },
    });
    this.text = el("pre", { class: "log", tabindex: 0, role: "group", "aria-label": "Log" });
    this.text.addEventListener(
      "scroll",
      () => {
        const isAtEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < NEAR_END_PX;
        this.followField.checked = isAtEnd;
      },
      { passive: true },
    );
    this.root = el(
      "section",
      { class: "panel log-panel", "aria-label": "Log" },
      el(
        "div",
        { class: "controls" },
        el("h2", { text: "Log" }),
        this.sourceField,
        this.sessionField,
        el("label", { class: "check" }, this.followField, "follow"),
        el("span", { class: "spring" }),
        this.earlier,
        this.info,
      ),
      this.text,
    );
  }

  /** Of a run that failed the errors are shown, if there are any: that is where a traceback is. */
  async open(run, hasFailed) {
    this.#run = run;
    if (hasFailed) await this.#choose("err", null);
    if (this.#run === run && (!hasFailed || this.text.textContent === "")) await this.#choose("out", null);
  }

  /** How many sessions there are to choose from. */
  setSessions(count) {
    if (this.sessionField.childElementCount === count + 1) return;
    const numbers = Array.from({ length: count }, (_, position) => count - position);
    this.sessionField.replaceChildren(
      el("option", { value: "", text: "latest session" }),
      ...numbers.map((n) => el("option", { value: n, text: `session ${n}` })),
    );
    this.sessionField.value = this.#isLast ? "" : String(this.#session);
  }

  async #choose(source, session) {
    this.#source = source;
    this.#isLast = session === null;
    this.#end = null;
    this.sourceField.value = source;
    this.#controller?.abort();
    this.#controller = new AbortController();
    try {
      const piece = await api.log(this.#run, { source, session }, this.#controller.signal);
      this.#session = piece.session;
      this.#begin = piece.begin;
      this.#end = piece.end;
      this.text.replaceChildren(this.#piece(piece.text));
      this.followField.checked = true;
      this.#shown();
      this.#toEnd();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.text.replaceChildren();
      if (error.status !== 404) this.on.failed(error);
      this.#shown();
    }
    this.on.live();
  }

  #piece(text) {
    return document.createTextNode(format.visibleLog(text));
  }

  async #showEarlier() {
    const piece = await api
      .log(this.#run, { source: this.#source, session: this.#session, end: this.#begin }, this.#controller.signal)
      .catch((error) => {
        if (error.name !== "AbortError") this.on.failed(error);
        return null;
      });
    if (!piece || piece.end !== this.#begin) return;
    const fromEnd = this.text.scrollHeight - this.text.scrollTop;
    this.#begin = piece.begin;
    this.text.prepend(this.#piece(piece.text));
    this.text.scrollTop = this.text.scrollHeight - fromEnd;
    this.#shown();
  }

  /** Append what was written to the file. */
  append(event) {
    if (event.run !== this.#run || event.source !== this.#source) return;
    if (event.session !== this.#session || event.begin !== this.#end) {
      if (event.session >= (this.#session ?? 0) && this.#isLast) this.#choose(this.#source, null);
      return;
    }
    this.#end = event.end;
    this.text.append(this.#piece(event.text));
    while (this.text.textContent.length > MAX_CHARACTERS && this.text.childNodes.length > 1) {
      // characters are not bytes: dropped text cannot be fetched as "earlier lines", but the file has it
      this.text.firstChild.remove();
      this.#begin = null;
    }
    this.#shown();
    this.#toEnd();
  }

  #shown() {
    this.earlier.hidden = !(this.#begin > 0);
    setText(this.info, this.#end === null ? "" : format.size(this.#end));
    this.text.classList.toggle("nothing", this.text.textContent === "");
  }

  #toEnd() {
    if (this.followField.checked) this.text.scrollTop = this.text.scrollHeight;
  }

  /** The log to receive updates of; null while nothing is known. */
  subscription() {
    return this.#end === null ? null : { run: this.#run, source: this.#source, session: this.#session, end: this.#end };
  }
}
