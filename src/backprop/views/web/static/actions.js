// Stopping, pausing and resuming: the question before, and the message after.

import * as api from "./api.js";
import { byId, el } from "./dom.js";
import * as format from "./format.js";

const TOAST_MS = 8000;

const ACTIVE = ["queued", "running", "paused"];

/** What can be done with a run. */
export function possible({ status, can_resume: canResume = !ACTIVE.includes(status) }) {
  return {
    stop: ACTIVE.includes(status),
    kill: ACTIVE.includes(status),
    pause: status === "running",
    resume: status === "paused" || canResume,
  };
}

/** Show a message for some seconds; errors stay until they are closed. */
export function toast(text, isProblem = false) {
  const message = el(
    "div",
    { class: `toast${isProblem ? " problem" : ""}` },
    el("span", { text: format.visible(text, 600) }),
    el("button", {
      type: "button",
      class: "quiet",
      "aria-label": "Close this message",
      text: "×",
      on: { click: () => message.remove() },
    }),
  );
  byId("toasts").append(message);
  if (!isProblem) setTimeout(() => message.remove(), TOAST_MS);
}

/** Ask for confirmation; returns the choice's value or null, and the content of the field, a number or a text. */
export function ask({ title, text, choice, field = null }) {
  return new Promise((answer) => {
    const input =
      field &&
      (field.type === "text"
        ? el("input", { type: "text", placeholder: field.placeholder, autocomplete: "off" })
        : el("input", {
            type: "number",
            min: 0.01,
            step: "any",
            inputmode: "decimal",
            placeholder: field.placeholder,
          }));
    // the first button is the one that Enter presses
    const form = el(
      "form",
      { method: "dialog" },
      el("h2", { text: title }),
      ...text.map((line) => el("p", { text: line })),
      field && el("label", { class: "field" }, el("span", { text: field.label }), input),
      el(
        "div",
        { class: "buttons" },
        el("button", { value: choice.value, class: `main ${choice.kind ?? ""}`, text: choice.label }),
        el("button", { value: "", text: "Cancel", formnovalidate: "" }),
      ),
    );
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

const quoted = (run) => `“${format.visible(run.name || run.id, 60)}”`;

/** Show what a request comes to. */
export async function report(request) {
  try {
    toast(await request);
  } catch (error) {
    toast(error.message, true);
  }
}

/** Stop gracefully, after confirmation. */
export async function stop(run) {
  if (!possible(run).stop) {
    toast(`${format.visible(run.name || run.id, 60)} is ${run.status}: nothing to stop.`);
    return;
  }
  const isQueued = run.status === "queued";
  const { choice } = await ask({
    title: isQueued ? `Remove ${quoted(run)} from the queue?` : `Stop ${quoted(run)}?`,
    text: isQueued
      ? ["It loses its place and is recorded as refused or stopped. You can resume it: it is then requeued at the end."]
      : [
          "It is asked to finish its step, save and exit. If it ignores the request, it is interrupted as by Ctrl-C. " +
            "Anything still running after the grace period is killed.",
          "You can resume it from its latest valid checkpoint.",
        ],
    choice: { value: "stop", label: isQueued ? "Remove" : "Stop" },
  });
  if (choice === "stop") await report(api.stop(run.id, false));
}

export async function kill(run) {
  const { choice } = await ask({
    title: `Kill ${quoted(run)} now?`,
    text: ["All its processes are killed at once, without time to save. Progress since its last checkpoint is lost."],
    choice: { value: "kill", label: "Kill", kind: "danger" },
  });
  if (choice === "kill") await report(api.stop(run.id, true));
}

export const pause = (run) => report(api.pause(run.id));

/** Resume a paused run, or ask for the timebox of another session and start it. */
export async function resume(run) {
  if (!possible(run).resume) {
    toast(`${format.visible(run.name || run.id, 60)} is ${run.status}: it cannot be resumed now.`);
    return;
  }
  if (run.status === "paused") {
    await report(api.resume(run.id, null));
    return;
  }
  const { choice, value } = await ask({
    title: `Resume ${quoted(run)}?`,
    text: [
      ...(run.status === "completed" ? ["It has already completed."] : []),
      "Starts another session in the background, from the latest valid checkpoint.",
    ],
    field: {
      label: "Timebox in minutes",
      placeholder: run.timebox_s ? `${Number((run.timebox_s / 60).toPrecision(4))}, as before` : "as before",
    },
    choice: { value: "resume", label: "Resume" },
  });
  if (choice === "resume") await report(api.resume(run.id, value === "" ? null : Number(value)));
}
