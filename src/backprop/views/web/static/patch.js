// The uncommitted changes that a run was started with, coloured.

import * as api from "./api.js";
import { el } from "./dom.js";
import * as format from "./format.js";

const FIRST_LINES = 2000;
const MAX_LINE = 2000;

/** A folded section; the patch is fetched when it is opened. */
export function patchSection(run, onFailed) {
  const text = el("pre", { class: "patch", tabindex: 0, role: "group", "aria-label": "Code patch" });
  const section = el("details", { class: "panel" }, el("summary", {}, el("h2", { text: "Uncommitted changes" })), text);
  section.addEventListener("toggle", async () => {
    if (!section.open || text.childElementCount) return;
    try {
      showLines(text, (await api.patch(run)).split("\n"));
    } catch (error) {
      onFailed(error);
    }
  });
  return section;
}

/** Lines of a patch, coloured; many only on request. */
export function showLines(root, lines) {
  root.replaceChildren(...lines.slice(0, FIRST_LINES).map(line));
  const left = lines.length - FIRST_LINES;
  if (left <= 0) return;
  const more = el("button", {
    type: "button",
    text: `Show ${format.plural(left, "line")} more`,
    on: { click: () => more.replaceWith(...lines.slice(FIRST_LINES).map(line)) },
  });
  root.append(more);
}

const line = (text) => el("span", { class: kind(text), text: format.visible(text.replaceAll("\t", "    "), MAX_LINE) });

function kind(text) {
  if (/^(diff |index |--- |\+\+\+ |new file|deleted file|rename |similarity )/.test(text)) return "file";
  if (text.startsWith("@@")) return "hunk";
  if (text.startsWith("+")) return "added";
  if (text.startsWith("-")) return "removed";
  return "same";
}
