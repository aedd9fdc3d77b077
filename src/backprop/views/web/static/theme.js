// Before the first paint: the theme chosen last time. Not a module, so that nothing is drawn in the wrong one.
"use strict";
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("backprop-theme");
  } catch {
    // storage is switched off: the system's theme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
