// Chats as files: saved, and taken in again.
import { call, Failure } from "./api.js";
import { h, icon, notice, tell } from "./dom.js";

const MAX_FILE = 64 * 2 ** 20;  // bytes of a file that is read at all
const MAX_CHAT = 2 ** 20;  // bytes of a request
const bytes = new TextEncoder();

/** A link that saves a file, once it is known that the session still allows it: a browser tells no reason. */
export function saveLink(path, name, word, kind = null) {
  const save = async (event) => {
    event.preventDefault();
    try {
      await call("GET", "/api/me");
      h("a", { href: path, download: name }).click();
    } catch (failure) {
      tell(failure);
    }
  };
  return h("a", { class: kind, href: path, download: name, onclick: save }, icon("download"), h("span", { said: word }));
}

/** A button that takes in chats of files; `ondone(chats)` is given the new ones. */
export function importButton(ondone) {
  const input = h("input", { type: "file", accept: ".json,.jsonl,application/json", multiple: true, hidden: true });
  const button = h("button", { type: "button", onclick: () => input.click() }, icon("upload"), h("span", { said: "importChats" }));
  input.addEventListener("change", async () => {
    const made = [];
    button.disabled = true;
    try {
      for (const file of input.files) await takeIn(file, made);
      notice(["imported", { count: made.length }]);
    } catch (failure) {
      tell(failure);
      if (made.length > 0) notice(["importedBefore", { count: made.length }], "problem");
    } finally {
      input.value = "";
      button.disabled = false;
    }
    if (made.length > 0) ondone(made);
  });
  return [button, input];
}

async function takeIn(file, made) {
  if (file.size > MAX_FILE) throw problem(["importLarge", { name: file.name }]);
  const chats = read(await textOf(file));
  if (chats.length === 0) throw problem(["importNone", { name: file.name }]);
  for (const chat of chats) {
    const body = { title: chat.title ?? "", messages: chat.messages };
    if (bytes.encode(JSON.stringify(body)).length > MAX_CHAT) throw problem(["importLongChat", { title: body.title }]);
    made.push(await call("POST", "/api/chats/import", body));
  }
}

/** What a file has; a browser reads none that has changed since it was chosen. */
async function textOf(file) {
  try { return await file.text(); } catch { throw problem(["importUnreadable", { name: file.name }]); }
}

/** The chats in the text of a file: one, or one a line; none where a part of it is no chat. */
function read(text) {
  const whole = parsed(text);
  const found = whole === null ? text.split("\n").filter((line) => line.trim()).map(parsed) : [whole];
  return found.every((chat) => Array.isArray(chat?.messages)) ? found : [];
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return null; }
}

function problem(said) { return new Failure(0, "import", said); }
