// Light, dark, or the system's theme. theme.js has set the one chosen last time before the first paint.

import { setText } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const LABELS = { auto: "Auto", light: "Light", dark: "Dark" };

/** Let `button` cycle through the themes; `onChange` is called whenever the colours change. */
export function watchTheme(button, onChange) {
  const root = document.documentElement;
  const show = () => {
    const chosen = root.dataset.theme ?? "auto";
    setText(button, LABELS[chosen]);
    button.setAttribute("aria-label", `Colours: ${LABELS[chosen]}. Change them`);
    button.title = "Colours: as the system says, light, dark";
  };
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem("backprop-theme", next);
    } catch {
      // storage is switched off: it holds until the page is closed
    }
    show();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  show();
}
