// Stopping, pausing and resuming: what a person is asked before, and told after.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import * as format from "./format.js";

const TOAST_MS = 8000;

const GOING_ON = ["queued", "running", "paused"];

/** What can be done with a run. */
export function possible({ status, can_resume: canResume = !GOING_ON.includes(status) }) {
  return {
    stop: GOING_ON.includes(status),
    kill: GOING_ON.includes(status),
    pause: status === "running",
    resume: status === "paused" || canResume,
  };
}

/** Say something for some seconds; problems stay until they are closed. */
export function toast(text, isProblem = false) {
  const message = el("div", { class: `toast${isProblem ? " problem" : ""}` }, el("span", { text: format.visible(text, 600) }),
    el("button", { type: "button", class: "quiet", "aria-label": "Close this message", text: "×", on: { click: () => message.remove() } }));
  byId("toasts").append(message);
  if (!isProblem) setTimeout(() => message.remove(), TOAST_MS);
}

/** A question with one thing to do or to leave; gives the choice's value or null, and what was put into the field. */
function ask({ title, text, choice, field = null }) {
  return new Promise((answer) => {
    const input = field && el("input", { type: "number", min: 0.01, step: "any", inputmode: "decimal", placeholder: field.placeholder });
    // the first button is the one that Enter presses
    const form = el("form", { method: "dialog" },
      el("h2", { text: title }),
      ...text.map((line) => el("p", { text: line })),
      field && el("label", { class: "field" }, el("span", { text: field.label }), input),
      el("div", { class: "buttons" },
        el("button", { value: choice.value, class: `main ${choice.kind ?? ""}`, text: choice.label }),
        el("button", { value: "", text: "Cancel", formnovalidate: "" })));
    const dialog = el("dialog", { "aria-label": title }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      answer({ choice: dialog.returnValue || null, value: input?.value ?? "" });
    });
    document.body.append(dialog);
    dialog.showModal();
    (input ?? form.querySelector(".main")).focus();
  });
}

const called = (run) => `“${format.visible(run.name || run.id, 60)}”`;

async function tell(request) {
  try {
    toast(await request);
  } catch (error) {
    toast(error.message, true);
  }
}

/** Stop gracefully, or at once, after asking. */
export async function stop(run) {
  if (!possible(run).stop) {
    toast(`${format.visible(run.name || run.id, 60)} is ${run.status}: there is nothing to stop.`);
    return;
  }
  const isQueued = run.status === "queued";
  const { choice } = await ask({
    title: isQueued ? `Take ${called(run)} out of the line?` : `Stop ${called(run)}?`,
    text: isQueued
      ? ["It gives up its place and is filed as refused or stopped. It can be resumed, and lines up again at the end."]
      : [
          "It is asked to finish its step, save and exit; a script that does not listen is interrupted as by Ctrl-C. What still lives when its grace is over is killed.",
          "It can be resumed from its newest whole checkpoint.",
        ],
    choice: { value: "stop", label: isQueued ? "Leave the line" : "Stop" },
  });
  if (choice === "stop") await tell(api.stop(run.id, false));
}

export async function kill(run) {
  const { choice } = await ask({
    title: `Kill ${called(run)} now?`,
    text: ["All its processes end at once, without time to save. What it did since its last checkpoint has to be done again."],
    choice: { value: "kill", label: "Kill", kind: "danger" },
  });
  if (choice === "kill") await tell(api.stop(run.id, true));
}

export const pause = (run) => tell(api.pause(run.id));

/** Let a paused run go on, or ask for how long another session may take. */
export async function resume(run) {
  if (!possible(run).resume) {
    toast(`${format.visible(run.name || run.id, 60)} is ${run.status}: it cannot be resumed now.`);
    return;
  }
  if (run.status === "paused") {
    await tell(api.resume(run.id, null));
    return;
  }
  const { choice, value } = await ask({
    title: `Resume ${called(run)}?`,
    text: [
      ...(run.status === "completed" ? ["It has completed. This starts another session."] : []),
      "Another session in the background, from its newest whole checkpoint.",
    ],
    field: { label: "Timebox in minutes", placeholder: run.timebox_s ? `${Number((run.timebox_s / 60).toPrecision(4))}, as before` : "as before" },
    choice: { value: "resume", label: "Resume" },
  });
  if (choice === "resume") await tell(api.resume(run.id, value === "" ? null : Number(value)));
}
