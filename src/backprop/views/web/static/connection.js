// Whether the page is connected to the server, and the banner over everything that says what is wrong.

import { token } from "./access_token.js";
import { byId, setText } from "./dom.js";
import * as format from "./format.js";

export class Connection {
  #isLost = false;

  /** onFound(): it is connected again. */
  constructor(onFound) {
    this.onFound = onFound;
  }

  /** Show whether there is a connection. problem: "denied" if the token is not valid. */
  set(isConnected, problem) {
    setText(byId("link"), isConnected ? "live" : "not connected");
    byId("link").className = `link ${isConnected ? "on" : "off"}`;
    if (isConnected && this.#isLost) {
      this.banner(null);
      this.onFound();
    } else if (!isConnected) {
      this.banner(
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

  /** Say this over everything; null: nothing. */
  banner(text) {
    byId("banner").hidden = !text;
    setText(byId("banner"), text ? format.visible(text, 600) : "");
  }
}
