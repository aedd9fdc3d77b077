// The server's token. It comes with the address that the page is opened by, and goes out of the address bar at once,
// where it would be seen, bookmarked and sent to friends. It is kept where only pages of this very server can read it:
// cookies know no ports, and would be shown to every server of this machine.

const PLACE = "backprop-token";
const given = new URLSearchParams(location.search).get("token");

if (given !== null) {
  try {
    localStorage.setItem(PLACE, given);
  } catch {
    // storage is switched off: it is known until the page is closed
  }
  history.replaceState(history.state, "", location.pathname + location.hash);
}

/** The token; "" when there is none. Another tab may have been opened with a newer one. */
export function token() {
  try {
    return localStorage.getItem(PLACE) ?? given ?? "";
  } catch {
    return given ?? "";
  }
}
