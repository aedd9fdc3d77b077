// Elements from plain values. Text is only ever set as text: nothing that a run says is parsed as HTML.

/** An element: `attributes` are set as attributes, except `on` (listeners), `text`, and booleans (properties). */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on")
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (typeof value === "boolean" && name in element) element[name] = value;
    else element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set an element's text only when it differs, so that selections and screen readers are left in peace. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

export const byId = (id) => document.getElementById(id);

/** Calls `action` once, `wait_ms` after the last time it was asked to. */
export function debounced(action, wait_ms) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), wait_ms);
  };
}

/** True while the person is writing somewhere, so that letters are letters. */
export function isWriting(target) {
  return (
    target instanceof HTMLElement &&
    target.closest("input:not([type=checkbox]):not([type=range]), textarea, select") !== null
  );
}
