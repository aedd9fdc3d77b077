// Above the table: what it is searched for, filtered and grouped by, and its columns.

import { chooseColumns, titleOf } from "./columns.js";
import { byId, debounced, el } from "./dom.js";
import * as format from "./format.js";

export class FindBar {
  constructor(route, table) {
    this.route = route;
    this.table = table;
    const write = debounced(
      () => route.go({ search: byId("search").value.trim(), filter: byId("filter").value.trim() }),
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
    byId("by").addEventListener("change", () => route.go({ by: byId("by").value || null }));
    byId("columns").addEventListener("click", () =>
      chooseColumns({
        offered: table.offered,
        shown: table.columns.filter((column) => column.kind).map((column) => column.sort),
        chosen: (cols) => route.go({ cols }),
      }),
    );
  }

  /** Show what is asked for; a field in which somebody writes is left alone. */
  show({ search, filter }) {
    for (const [id, value] of Object.entries({ search, filter })) {
      if (byId(id) !== document.activeElement) byId(id).value = value;
    }
    this.offerGroups();
  }

  /** What runs can be grouped by: their groups, and the parameters they have. */
  offerGroups() {
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

  clear() {
    byId("search").value = "";
    byId("filter").value = "";
    this.route.go({ search: "", filter: "" });
  }

  /** Go to one of the two fields. */
  focus(id) {
    if (!this.route.isOfRuns) this.route.go({ run: null, compare: false });
    byId(id).focus();
    byId(id).select();
  }
}
