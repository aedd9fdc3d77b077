// One stream of server-sent events for everything on the screen, reopened when that changes.
//
// We reconnect ourselves instead of leaving it to EventSource: the address contains what the page already has at that
// moment.

import * as api from "./api.js";
import { debounced } from "./dom.js";
import { token } from "./access_token.js";

const EVENTS = ["rows", "table", "machine", "curve", "run", "log", "trouble", "told"];
const RETRY_S = [1, 2, 4, 8];

export class Live {
  #source = null;
  #key = null;
  #failures = 0;
  #timer = 0;

  /**
   * subscription(): what is on the screen:
   * {rows: [id], curves: [{run, metric, axis, mark}], details: id, log: {...}, machine}.
   * on: a listener for each of EVENTS, and state(isConnected, problem).
   */
  constructor(subscription, on) {
    this.subscription = subscription;
    this.on = on;
    this.changed = debounced(() => this.#reopenIfOther(), 120);
    document.addEventListener("visibilitychange", () => {
      // a browser allows six connections per host over all its tabs: hidden tabs release theirs
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
    const subscription = this.subscription();
    const key = JSON.stringify({
      ...subscription,
      curves: subscription.curves.map(({ run, metric, axis }) => [run, metric, axis]),
      log: subscription.log && [subscription.log.run, subscription.log.source, subscription.log.session],
    });
    if (key === this.#key && this.#source) return;
    this.#open(subscription, key);
  }

  #open(subscription, key) {
    this.#close();
    this.#key = key;
    const source = new EventSource(`/api/events?${parameters(subscription)}`);
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
    // a stream that the server closed cleanly reopens at once: report only the second failure
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

/** Before the first session there is no offset. */
const logPlace = ({ run, source, session, end }) =>
  (session === null ? [run, source] : [run, source, session, end]).join(":");

function parameters(subscription) {
  const query = new URLSearchParams({ token: token() }); // an EventSource sends no headers
  if (subscription.rows.length) query.set("runs", subscription.rows.join(","));
  if (subscription.curves.length) query.set("curves", JSON.stringify(subscription.curves));
  if (subscription.details) query.set("details", subscription.details);
  if (subscription.log) query.set("log", logPlace(subscription.log));
  if (subscription.machine) query.set("machine", "1");
  return query;
}
