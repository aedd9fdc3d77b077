// One stream of server-sent events for all that is on the screen, opened anew when that changes.
//
// We reconnect ourselves instead of leaving it to EventSource: the address says what the page already has, and
// must say it as it is at that moment.

import * as api from "./api.js";
import { debounced } from "./dom.js";
import { token } from "./key.js";

const EVENTS = ["rows", "table", "machine", "curve", "run", "log", "trouble", "told"];
const RETRY_S = [1, 2, 4, 8];

export class Live {
  #source = null;
  #key = null;
  #failures = 0;
  #timer = 0;

  /**
   * wish(): what is on the screen: {rows: [id], curves: [{run, metric, axis, mark}], details: id, log: {...}, machine}.
   * on: a listener for each of EVENTS, and state(isConnected, problem).
   */
  constructor(wish, on) {
    this.wish = wish;
    this.on = on;
    this.changed = debounced(() => this.#reopenIfOther(), 120);
    document.addEventListener("visibilitychange", () => {
      // a browser allows a host six connections over all its tabs: those that nobody sees give theirs back
      if (document.hidden) this.#close();
      else this.changed();
    });
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    this.#key = null;
  }

  #reopenIfOther() {
    if (document.hidden) return;
    const wish = this.wish();
    const key = JSON.stringify({
      ...wish,
      curves: wish.curves.map(({ run, metric, axis }) => [run, metric, axis]),
      log: wish.log && [wish.log.run, wish.log.source, wish.log.session],
    });
    if (key === this.#key && this.#source) return;
    this.#open(wish, key);
  }

  #open(wish, key) {
    this.#close();
    this.#key = key;
    const source = new EventSource(`/api/events?${parameters(wish)}`);
    this.#source = source;
    source.addEventListener("open", () => {
      this.#failures = 0;
      this.on.state(true, null);
    });
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        if (source === this.#source) this.on[name](JSON.parse(event.data));
      });
    }
    source.addEventListener("error", () => {
      if (source === this.#source) this.#lost();
    });
  }

  #lost(problem = null) {
    this.#close();
    const wait_s = RETRY_S[Math.min(this.#failures, RETRY_S.length - 1)];
    this.#failures += 1;
    // a stream that the server closed in good order comes back at once; only then do we speak of it
    if (this.#failures > 1) this.on.state(false, problem);
    this.#timer = setTimeout(() => this.#retry(), this.#failures === 1 ? 100 : wait_s * 1000);
  }

  async #retry() {
    try {
      await api.machine();
    } catch (error) {
      this.#lost(error.status === 403 ? "denied" : null);
      return;
    }
    this.#reopenIfOther();
  }
}

/** Before the first session there is no place in it. */
const logPlace = ({ run, source, session, end }) => (session === null ? [run, source] : [run, source, session, end]).join(":");

function parameters(wish) {
  const query = new URLSearchParams({ token: token() }); // an EventSource sends no headers
  if (wish.rows.length) query.set("runs", wish.rows.join(","));
  if (wish.curves.length) query.set("curves", JSON.stringify(wish.curves));
  if (wish.details) query.set("details", wish.details);
  if (wish.log) query.set("log", logPlace(wish.log));
  if (wish.machine) query.set("machine", "1");
  return query;
}
