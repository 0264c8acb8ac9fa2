// Elements, made without any markup: what a person or a model writes only ever becomes text.
import { say } from "./words.js";

const SAID = { said: "text", label: "aria-label", hint: "placeholder", tip: "title", head: "data-head" };
const FRAME_MS = 16;
const REST = 3;  // times as long as paced work took is what it then waits
const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "hidden", "inert", "open"]);

/**
 * An element with attributes, listeners (onclick) and children; `said`, `label`, `hint`, `tip` and `head` are said in the chosen language.
 * @param {string} tag
 * @param {Object<string, any>} attributes
 * @param {...any} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in SAID) say(element, SAID[name], value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M15.5 15.5L20 20",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M8 8h8v8H8z",
  sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 15V4M7 9l5-5 5 5M5 20h14",
  copy: "M9 9h10v11H9zM5 15V4h10",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  key: "M8 12a3.5 3.5 0 1 0 0 .01M11.5 12H20v3M16.5 12v2.5",
  people: "M9 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6M3.5 19c.4-3.2 2.6-5 5.5-5s5.1 1.8 5.5 5M15.5 5.3a3 3 0 0 1 0 5.4M17 14.4c2 .6 3.2 2.2 3.5 4.6",
  lock: "M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3",
  leave: "M14 5H6v14h8M11 12h9M16.5 8.5L20 12l-3.5 3.5",
  enter: "M10 5h8v14h-8M4 12h9M9.5 8.5L13 12l-3.5 3.5",
  close: "M6 6l12 12M18 6L6 18",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  check: "M5 12.5l4.5 4.5L19 7.5",
};

/** A picture that screen readers pass over. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** The seal of the project. */
export function seal() { return h("span", { class: "seal", "aria-hidden": "true", lang: "zh-CN" }, "印"); }

/** A button with a picture and, for those who do not see it, words. */
export function iconButton(name, label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "quiet", label, tip: label, onclick, ...attributes }, icon(name));
}

/**
 * A labelled field of a form.
 * @param {import("./words.js").Saying} label
 * @param {HTMLElement} control
 * @param {?import("./words.js").Saying} note
 */
export function field(label, control, note = null) {
  return h("label", { class: "field" }, h("span", { said: label }), control, note && h("small", { said: note }));
}

/**
 * Show a sentence for a while at the edge of the page.
 * @param {import("./words.js").Saying} what
 * @param {"plain" | "problem"} kind
 */
export function notice(what, kind = "plain") {
  const element = h("div", { class: `notice ${kind}`, said: what });
  document.getElementById("notices").append(element);
  setTimeout(() => element.remove(), kind === "problem" ? 9000 : 4000);
}

/** Show a failure as a sentence: in an element, or at the edge of the page. That a session has ended is said where one signs in. */
export function tell(failure, element = null) {
  if (!failure.said) throw failure;
  if (failure.endsSession && element === null) return;
  if (element === null) {
    notice(failure.said, "problem");
  } else {
    element.hidden = false;
    say(element, "text", failure.said);
  }
}

/** Read a text to those who listen. */
export function announce(text) { document.getElementById("announcer").textContent = text; }

/**
 * Work that is done soon, once for all that asked for it meanwhile, and never for more than a quarter of the time.
 * @param {() => void} work
 */
export function paced(work) {
  /** @type {?number} */
  let timer = null;
  let rested = 0;
  const now = () => {
    clearTimeout(timer);
    timer = null;
    const began = performance.now();
    work();
    const ended = performance.now();
    rested = ended + REST * (ended - began);
  };
  return { now, soon: () => { timer ??= setTimeout(now, Math.max(FRAME_MS, rested - performance.now())); } };
}

/** A place for the sentence of a failure in a form. */
export function problemLine() { return h("p", { class: "problem", role: "alert", hidden: true }); }

/** A dialog; resolves when it is closed, with what `close` was given. */
export function dialog(title, build) {
  return new Promise((resolve) => {
    const before = /** @type {?HTMLElement} */ (document.activeElement);
    let result;
    const element = h("dialog", { onclose: () => { element.remove(); before?.focus?.(); resolve(result); } });
    const close = (value) => { result = value; element.close(); };
    const heading = h("h2", { said: title, id: "dialog-title" });
    element.setAttribute("aria-labelledby", "dialog-title");
    element.append(h("header", {}, heading, iconButton("close", "close", () => close())), ...[build(close)].flat());
    document.body.append(element);
    element.showModal();
  });
}

/** Ask before something that cannot be taken back. */
export function sure(title, sentence, action) {
  return dialog(title, (close) => [
    h("p", { said: sentence }),
    h("footer", {},
      h("button", { type: "button", said: "cancel", onclick: () => close(false) }),
      h("button", { type: "button", class: "primary", said: action, onclick: () => close(true) })),
  ]);
}

/** Show a secret this once, with a way to copy it. */
export function showOnce(title, sentence, secret, ...more) {
  return dialog(title, (close) => {
    const shown = h("input", { class: "secret", readonly: true, value: secret, label: title, onfocus: () => shown.select(), autocomplete: "off" });
    return [
      h("p", { said: sentence }),
      h("div", { class: "row" }, shown, h("button", { type: "button", said: "copy", onclick: () => copyText(secret, shown) })),
      ...more,
      h("footer", {}, h("button", { type: "button", class: "primary", said: "close", onclick: () => close() })),
    ];
  });
}

/** Copy a text; where the browser does not allow it (no TLS), out of a field that shows it. */
export async function copyText(text, shown = null) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = shown ?? h("textarea", { class: "hidden", value: text });
    if (!shown) document.body.append(area);
    area.focus();
    area.select();
    document.execCommand("copy");
    if (!shown) area.remove();
  }
  notice("copied");
}

/** Run what a form's button does: once at a time, and a failure as a sentence below. */
export function submitting(form, problem, action) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button[type=submit]");
    if (button.disabled) return;
    button.disabled = true;
    problem.hidden = true;
    try { await action(); } catch (failure) { tell(failure, problem); } finally { button.disabled = false; }
  });
  return form;
}
